//! An hour of mixed load through both sidecars at a moderate rate, to find growth, leaks and rare failures.
//!
//! Memory and open files are read every few seconds. The first tenth of the time fills caches, pools and the allocator. Of the
//! rest, the medians of memory in the first and the last quarter are compared, so that a burst at one reading does not
//! matter. Under load the number of open files varies with that of connections. Leaks are found afterwards: once the load
//! has ended and idle connections are closed, no more files may be open than before.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::chain::Chain;
use crate::finding::{Finding, Metric, Recorder, median};
use crate::load::{self, Outcome, Protocol, Shape, Timing};
use crate::mesh::Mesh;
use crate::process::Process;
use crate::rig::Rig;
use crate::sidecar::{self, AUTHORITY};

/// The interval between readings.
const EVERY: Duration = Duration::from_secs(5);
/// The difference between the medians of the first and the last quarter that is no growth: pages that the allocator keeps or
/// returns.
const NOISE: f64 = 0.5 * (1 << 20) as f64;
/// The time before the load, in which proxies close the connections of their start.
const SETTLE: Duration = Duration::from_secs(90);
/// The time after the load, in which proxies close idle connections.
const REST: Duration = Duration::from_secs(180);
/// The limit on a request's latency, which detects requests that hang. Requests in flight at the end count with their wait
/// until then.
const MAX_LATENCY: Duration = Duration::from_secs(5);

/// The mixed load: protocol, length, connections, requests per second.
const MIX: [(Protocol, usize, usize, f64); 9] = [
    (Protocol::Http1, 1024, 16, 150.0),
    (Protocol::Http1, 64 * 1024, 4, 20.0),
    (Protocol::Http1, 1 << 20, 2, 2.0),
    (Protocol::NewConnection, 1024, 4, 20.0),
    (Protocol::Http2, 1024, 16, 50.0),
    (Protocol::GrpcUnary, 1024, 16, 50.0),
    (Protocol::GrpcStream, 64, 4, 100.0),
    (Protocol::Tcp, 1024, 4, 50.0),
    (Protocol::Tcp, 64 * 1024, 2, 5.0),
];

/// Options of `soak`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Duration of the load in minutes, of which the first tenth is warm-up; the scenario takes up to five minutes more
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Multiple of the usual rates, to find growth per request sooner
    #[arg(long, default_value_t = 1.0)]
    pace: f64,
}

/// Memory and open files of one process over time.
#[derive(Clone, Debug, Default)]
struct Readings {
    resident: Vec<f64>,
    files: Vec<f64>,
}

/// The medians of the first and the last quarter.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Trend {
    first: f64,
    last: f64,
}

/// The open files of one idle process, before and after the load.
#[derive(Clone, Copy, Debug)]
struct OpenFiles {
    before: usize,
    after: usize,
}

/// Runs the scenario. Returns an error if a request failed, a file leaked or memory grew.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let pace = options.pace;
    ensure!((0.01..=100.0).contains(&pace), "--pace {pace} is out of range: expected a number from 0.01 to 100");
    let minutes = if rig.quick { 0.05 } else { options.minutes.clamp(0.05, 24.0 * 60.0) };
    let whole = Duration::from_secs_f64(minutes * 60.0);
    let timing = Timing { warm_up: whole / 10, duration: whole - whole / 10 };
    let every = EVERY.min(timing.duration / 20);

    let _server = sidecar::server(rig)?;
    let mesh = Mesh::start(rig.directory())?;
    let mut chain = sidecar::isthmus::start(&mesh, rig)?;
    if !rig.quick {
        thread::sleep(SETTLE);
    }
    let before = files(&chain.processes)?;
    let entry = |protocol| chain.entry(protocol);
    let loads: Vec<_> = MIX
        .into_iter()
        .map(|(protocol, body, connections, rate)| {
            let (shape, target) = (Shape { protocol, body, connections }, entry(protocol));
            let name = shape.to_string();
            let rate = rate * pace;
            let run = move || load::open_loop(target, AUTHORITY, shape, rate, timing, &mut |_| {});
            (name, thread::spawn(run))
        })
        .collect();
    let readings = watch(&mut chain, rig, timing, every)?;
    let mut outcomes = Vec::new();
    for (name, load) in loads {
        let outcome = load.join().map_err(|_| anyhow::anyhow!("the generator panicked"));
        outcomes.push((name.clone(), outcome.and_then(|outcome| outcome).with_context(|| name)?));
    }
    let load = match pace {
        1.0 => format!("mixed, {minutes} minutes"),
        pace => format!("mixed, {minutes} minutes, {pace} times the usual rates"),
    };
    let after = if rig.quick { before.clone() } else { at_rest(&chain.processes, &before, REST)? };
    let files: Vec<_> = before.into_iter().zip(after).map(|(before, after)| OpenFiles { before, after }).collect();
    judge(&chain, &readings, &files, &outcomes, &load, rig.quick)
}

/// The number of open files of each process.
fn files(processes: &[Process]) -> Result<Vec<usize>> {
    processes.iter().map(Process::files).collect()
}

/// The number of open files of each process, as soon as all have at most as many as `before`, or else after `within`.
fn at_rest(processes: &[Process], before: &[usize], within: Duration) -> Result<Vec<usize>> {
    let start = Instant::now();
    loop {
        let files = files(processes)?;
        if files.iter().zip(before).all(|(files, before)| files <= before) || start.elapsed() > within {
            return Ok(files);
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// Reads memory and open files of all processes until the load ends.
fn watch(chain: &mut Chain, rig: &Rig, timing: Timing, every: Duration) -> Result<Vec<Readings>> {
    let mut readings = vec![Readings::default(); chain.processes.len()];
    let start = Instant::now();
    thread::sleep(timing.warm_up + every);
    while start.elapsed() + every < timing.warm_up + timing.duration {
        chain.ensure_running(rig)?;
        for (reading, process) in readings.iter_mut().zip(&chain.processes) {
            reading.resident.push(process.resident()? as f64);
            reading.files.push(process.files()? as f64);
        }
        let latest = readings.iter().map(|reading| reading.resident.last().copied().unwrap_or_default());
        let latest: Vec<String> = latest.map(|bytes| format!("{:.1} MiB", bytes / f64::from(1 << 20))).collect();
        if readings[0].resident.len().is_multiple_of(12) {
            eprintln!("soak: {:.0} s, {}", start.elapsed().as_secs_f64(), latest.join(", "));
        }
        thread::sleep(every);
    }
    Ok(readings)
}

fn judge(
    chain: &Chain,
    readings: &[Readings],
    files_at_rest: &[OpenFiles],
    outcomes: &[(String, Outcome)],
    load: &str,
    quick: bool,
) -> Result<Vec<Finding>> {
    let mut recorder = Recorder::new("soak");
    let requests: u64 = outcomes.iter().map(|(_, outcome)| outcome.requests).sum();
    let failed: u64 = outcomes.iter().map(|(_, outcome)| outcome.failed).sum();
    recorder.add(load, "isthmus", Metric::gain("requests", ""), requests as f64);
    recorder.add(load, "isthmus", Metric::cost("failed requests", ""), failed as f64);
    for (name, outcome) in outcomes {
        let latency = outcome.latency_at(0.999).as_secs_f64() * 1e3;
        recorder.add(name, "isthmus", Metric::cost("latency p99.9", "ms"), latency);
    }
    let mut wrong = Vec::new();
    for (name, outcome) in outcomes {
        let longest = outcome.latency_at(1.0);
        if outcome.failed > 0 || longest > MAX_LATENCY {
            wrong.push(format!("{name}: {} failed {:?}, longest {longest:?}", outcome.failed, outcome.errors));
        }
    }
    for ((process, reading), rest) in chain.processes.iter().zip(readings).zip(files_at_rest) {
        let (resident, files) = (Trend::of(&reading.resident)?, Trend::of(&reading.files)?);
        let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
        let mut add = |metric, value| recorder.add(load, &process.name, metric, value);
        add(Metric::cost("resident memory, first quarter", "MiB"), mebibytes(resident.first));
        add(Metric::cost("resident memory, last quarter", "MiB"), mebibytes(resident.last));
        add(Metric::cost("open files, first quarter", ""), files.first);
        add(Metric::cost("open files, last quarter", ""), files.last);
        add(Metric::cost("open files, before", ""), rest.before as f64);
        add(Metric::cost("open files, idle afterwards", ""), rest.after as f64);
        // A few seconds are too short to detect growth.
        let memory = (!quick).then(|| resident.growth()).flatten();
        wrong.extend(memory.into_iter().chain(rest.leak()).map(|what| format!("{}: {what}", process.name)));
    }
    if !wrong.is_empty() {
        bail!("after {requests} requests:\n{}", wrong.join("\n"));
    }
    Ok(recorder.findings())
}

impl Trend {
    fn of(values: &[f64]) -> Result<Self> {
        let quarter = values.len() / 4;
        ensure!(quarter > 0, "too few readings to compare: {}", values.len());
        Ok(Self { first: median(&values[..quarter]), last: median(&values[values.len() - quarter..]) })
    }

    /// Describes growth of memory; `None` if there is none.
    fn growth(self) -> Option<String> {
        (self.last - self.first > NOISE).then(|| format!("resident memory grew from {self} bytes"))
    }
}

impl OpenFiles {
    /// Describes a leak; `None` if there is none.
    fn leak(self) -> Option<String> {
        let Self { before, after } = self;
        (after > before).then(|| format!("{after} files are open after the load, {before} were before"))
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} to {:.0}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    #[test]
    fn a_burst_is_no_growth() {
        let mut values = vec![10.0; 40];
        values[39] = 1000.0;
        assert_eq!(Trend::of(&values).unwrap(), Trend { first: 10.0, last: 10.0 });
        let growing: Vec<f64> = (0..40).map(f64::from).collect();
        assert_eq!(Trend::of(&growing).unwrap(), Trend { first: 4.5, last: 34.5 });
        assert!(Trend::of(&values[..3]).is_err());
    }

    #[test]
    fn growth_differs_from_noise() {
        let mebibyte = f64::from(1 << 20);
        let change = |last| Trend { first: 10.0 * mebibyte, last: last * mebibyte };
        assert_eq!(change(10.4).growth(), None);
        assert_eq!(change(9.0).growth(), None);
        assert!(change(10.6).growth().unwrap().contains("grew from 10485760 to 11114906 bytes"));
    }

    #[test]
    fn a_file_that_stays_open_is_a_leak_and_one_that_is_closed_late_is_none() {
        // Each process stops itself when it is ready: while a program is loaded, its libraries are open as well.
        let shell = |script: &str| {
            let log = tempfile::NamedTempFile::new().unwrap();
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            let mut process = Process::start("sh", command, log.path()).unwrap();
            let (status, start) = (format!("/proc/{}/status", process.pid()), Instant::now());
            while !fs::read_to_string(&status).unwrap().contains("State:\tT") {
                process.ensure_running(log.path()).unwrap();
                assert!(start.elapsed() < Duration::from_secs(30), "{script}");
                thread::sleep(Duration::from_millis(1));
            }
            process
        };
        // Standard input, output and error, and descriptors that the test's process inherited.
        let usual = shell("kill -STOP $$").files().unwrap();
        let leaking = shell("exec 5</dev/null; kill -STOP $$");
        let late = shell("exec 5</dev/null; kill -STOP $$; exec 5<&-; kill -STOP $$");
        let goes_on = Pid::from_raw(late.pid() as i32).unwrap();
        let (processes, before) = ([late, leaking], [usual; 2]);
        assert_eq!(files(&processes).unwrap(), [usual + 1; 2]);
        let after = thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(1500));
                kill_process(goes_on, Signal::CONT).unwrap();
            });
            at_rest(&processes, &before, Duration::from_secs(5)).unwrap()
        });
        assert_eq!(after, [usual, usual + 1]);
        let leaks: Vec<_> =
            before.into_iter().zip(after).map(|(before, after)| OpenFiles { before, after }.leak()).collect();
        assert_eq!(leaks[0], None);
        assert_eq!(leaks[1], Some(format!("{} files are open after the load, {usual} were before", usual + 1)));
    }
}
