//! Measures systems in turns: a closed loop for throughput and costs, then an open loop at one rate for latency.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::calls;
use super::rows::{self, LoadRow};
use crate::chain::{Chain, ensure_none_failed};
use crate::finding::{Metric, Recorder, median};
use crate::load::{self, Edge, Shape, Timing};
use crate::process::Usage;
use crate::rig::Rig;

/// The rate at which latencies are compared, as a share of the slowest system's throughput.
const SHARE: f64 = 0.3;

/// The average number of responses per connection that the window of a closed loop must have.
const ENOUGH: usize = 2;
/// The longest window.
const LONGEST: Duration = Duration::from_secs(8);

/// The readings of a closed loop's window.
struct LoadWindow {
    requests: u64,
    rate: f64,
    /// The resources that each process used.
    used: Vec<Usage>,
    resident: u64,
}

/// Systems that take turns under one load after the other.
pub struct SidecarBench<'a> {
    /// The rig.
    pub rig: &'a Rig,
    /// The systems.
    pub chains: Vec<Chain>,
    /// The values so far.
    pub recorder: Recorder,
    /// The authority of requests.
    pub authority: &'static str,
    /// The length of each window in seconds; by load if there is none.
    pub seconds: Option<f64>,
}

impl SidecarBench<'_> {
    /// Measures all systems under one load.
    pub fn row(&mut self, row: LoadRow) -> Result<()> {
        let (closed, open) = (self.timing(row.closed), self.timing(row.open));
        let (shape, load) = (row.shape, row.shape.to_string());
        let measured: Vec<usize> = (0..self.chains.len()).filter(|at| row.measures(self.chains[*at].name)).collect();
        let order: Vec<usize> = self.rig.order(measured.len()).into_iter().map(|turn| measured[turn]).collect();
        let mut rates = vec![Some(Vec::new()); self.chains.len()];
        for &at in &order {
            if let Some(measured) = &mut rates[at] {
                match self.closed(at, shape, closed, &load) {
                    Ok(rate) => measured.push(rate),
                    Err(error) => {
                        self.leave_out(at, &load, error.context("closed loop"))?;
                        rates[at] = None;
                    }
                }
            }
        }
        let carries: Vec<bool> =
            rates.iter().map(|rates| rates.as_ref().is_some_and(|rates| !rates.is_empty())).collect();
        let rates = rates.iter().flatten().filter(|rates| !rates.is_empty());
        let rate = SHARE * rates.map(|rates| median(rates)).fold(f64::INFINITY, f64::min);
        for &at in order.iter().filter(|at| carries[**at]) {
            let name = self.chains[at].name;
            self.open(at, shape, open, rate, &load).with_context(|| format!("{name} at {rate:.0}/s"))?;
        }
        if row.counts_calls {
            for at in (0..self.chains.len()).filter(|at| carries[*at]) {
                let name = self.chains[at].name;
                self.calls(at, shape, &load).with_context(|| format!("{name}, counting system calls"))?;
            }
        }
        for chain in &self.chains {
            if let Some(progress) = self.recorder.progress(&load, chain.name) {
                eprintln!("{progress}");
            }
        }
        Ok(())
    }

    fn timing(&self, windows: f64) -> Timing {
        let usual = rows::WINDOW.mul_f64(windows);
        let duration = self.seconds.map_or(usual, |seconds| Duration::from_secs_f64(seconds.clamp(0.01, 600.0)));
        Timing { warm_up: duration / 4, duration }
    }

    /// Leaves a system out of a row because it failed. A failure of our system ends the run; that of a peer or the floor is
    /// reported.
    fn leave_out(&mut self, at: usize, load: &str, error: anyhow::Error) -> Result<()> {
        let system = self.chains[at].name;
        if system == "isthmus" || system == "none" {
            return Err(error.context(system));
        }
        eprintln!("{load}: {system} is left out: {error:#}");
        self.recorder.discard(load, system);
        self.add(at, load, Metric::cost("failed under this load", ""), 1.0);
        Ok(())
    }

    /// Runs a closed loop and returns its requests per second. Large bodies on many connections take turns, so within a short
    /// window most are incomplete, and their cost would count for the few that are complete. If connections have fewer than
    /// [`ENOUGH`] responses on average, the load is measured again, for longer.
    fn closed(&mut self, at: usize, shape: Shape, timing: Timing, load: &str) -> Result<f64> {
        let mut timing = timing;
        loop {
            let window = self.closed_within(at, shape, timing)?;
            let longer = Timing { warm_up: timing.warm_up * 4, duration: timing.duration * 4 };
            if window.requests < (ENOUGH * shape.connections) as u64 && longer.duration <= LONGEST {
                timing = longer;
                continue;
            }
            ensure!(window.requests > 0, "no request was answered within {:?}", timing.duration);
            return Ok(self.add_window(at, load, &window));
        }
    }

    fn closed_within(&mut self, at: usize, shape: Shape, timing: Timing) -> Result<LoadWindow> {
        let chain = &mut self.chains[at];
        let mut edges: Vec<Result<Vec<Usage>>> = Vec::with_capacity(2);
        let mut edge = |_: Edge| edges.push(chain.usage());
        let outcome = load::closed_loop(chain.entry(shape.protocol), self.authority, shape, timing, &mut edge)?;
        chain.ensure_running(self.rig)?;
        if outcome.requests > 0 || outcome.failed > 0 {
            ensure_none_failed(&outcome)?;
        }
        let (end, begin) = (edges.pop().context("no end")??, edges.pop().context("no beginning")??);
        let used = end.into_iter().zip(begin).map(|(end, begin)| end - begin).collect();
        Ok(LoadWindow { requests: outcome.requests, rate: outcome.rate(), used, resident: chain.resident()? })
    }

    fn add_window(&mut self, at: usize, load: &str, window: &LoadWindow) -> f64 {
        let LoadWindow { requests, rate, used, resident } = window;
        let requests = *requests as f64;
        self.add(at, load, Metric::gain("throughput", "/s"), *rate);
        if !used.is_empty() {
            let cpu: Duration = used.iter().map(|used| used.cpu).sum();
            let switches = used.iter().map(|used| used.switches).max().unwrap_or_default();
            let waits = used.iter().map(|used| used.waits).max().unwrap_or_default();
            self.add(at, load, Metric::cost("CPU per request", "µs"), cpu.as_secs_f64() * 1e6 / requests);
            self.add(at, load, Metric::cost("context switches per request", ""), switches as f64 / requests);
            self.add(at, load, Metric::cost("voluntary context switches per request", ""), waits as f64 / requests);
            self.add(at, load, Metric::cost("resident memory", "MiB"), *resident as f64 / f64::from(1 << 20));
        }
        *rate
    }

    fn open(&mut self, at: usize, shape: Shape, timing: Timing, rate: f64, load: &str) -> Result<()> {
        let chain = &mut self.chains[at];
        let outcome = load::open_loop(chain.entry(shape.protocol), self.authority, shape, rate, timing, &mut |_| {})?;
        chain.ensure_running(self.rig)?;
        ensure_none_failed(&outcome)?;
        for (name, share) in [("latency p50", 0.5), ("latency p99", 0.99), ("latency p99.9", 0.999)] {
            // A quantile needs enough requests beyond it.
            if outcome.requests as f64 * (1.0 - share) >= 1.0 {
                let latency = outcome.latency_at(share).as_secs_f64() * 1e6;
                self.add(at, load, Metric::cost(name, "µs"), latency);
            }
        }
        Ok(())
    }

    /// Records the system calls of the process that makes more of them, and prints those of each by name to standard error.
    fn calls(&mut self, at: usize, shape: Shape, load: &str) -> Result<()> {
        let timing = Timing { warm_up: rows::WINDOW / 4, duration: rows::WINDOW };
        let chain = &self.chains[at];
        let mut most: Option<f64> = None;
        for process in &chain.processes {
            let calls = calls::per_request(process, chain.entry(shape.protocol), self.authority, shape, timing)?;
            let sum: f64 = calls.values().sum();
            let mut named: Vec<_> = calls.iter().filter(|(_, count)| **count >= 0.005).collect();
            named.sort_by(|one, other| other.1.total_cmp(one.1));
            let named: Vec<_> = named.iter().map(|(name, count)| format!("{name} {count:.2}")).collect();
            eprintln!("{load}, {}: {sum:.2} system calls: {}", process.name, named.join(", "));
            most = Some(most.map_or(sum, |most| most.max(sum)));
        }
        if let Some(most) = most {
            self.add(at, load, Metric::cost("system calls per request", ""), most);
        }
        Ok(())
    }

    fn add(&mut self, at: usize, load: &str, metric: Metric, value: f64) {
        self.recorder.add(load, self.chains[at].name, metric, value);
    }
}
