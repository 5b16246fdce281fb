//! Routing by server name: client → gateway → server, with our gateway beside HAProxy, nginx, Envoy and the floor.
//!
//! All systems have one worker and route one name to one server. They take turns with the same loads: bulk transfer, new
//! connections, small exchanges on open connections, idle connections. Clients send a real ClientHello and then plain bytes,
//! so that cryptography of client and server takes no CPU from the gateway.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::finding::{Finding, Metric, Recorder};
use crate::load::passthrough;
use crate::load::{self, Edge, Outcome, Timing};
use crate::process::{Process, Usage};
use crate::rig::Rig;

mod systems;

use systems::{GatewayBench, RunningGateway};
pub use systems::{GatewaySystem, IsthmusGateway};

/// The numbers of connections.
const CONNECTIONS: [usize; 3] = [1, 16, 256];
/// The longest window.
const LONGEST: Duration = Duration::from_secs(8);
const GIB: f64 = (1_u64 << 30) as f64;

/// Options of `gateway`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Measure these systems only
    #[arg(long, value_delimiter = ',')]
    pub systems: Vec<GatewaySystem>,
    /// Measure these loads only
    #[arg(long, value_delimiter = ',')]
    pub loads: Vec<GatewayLoad>,
    /// Measure with these numbers of connections only, if a load has several
    #[arg(long, value_delimiter = ',')]
    pub connections: Vec<usize>,
}

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GatewayLoad {
    /// Bulk transfer.
    Bulk,
    /// A new connection for each exchange.
    NewConnections,
    /// Small exchanges on open connections.
    Exchanges,
    /// System calls per new connection.
    SystemCalls,
    /// Ten thousand idle connections.
    Idle,
}

/// Runs the scenario.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let bench = GatewayBench::new(rig)?;
    let systems = chosen(&options.systems, &GatewaySystem::ALL);
    let loads = chosen(&options.loads, &GatewayLoad::ALL);
    let numbers = chosen(&options.connections, if rig.quick { &CONNECTIONS[1..2] } else { &CONNECTIONS });
    let mut recorder = Recorder::new("gateway");
    let mut running = systems.iter().map(|system| bench.start(*system)).collect::<Result<Vec<_>>>()?;
    for load in &loads {
        let rows: &[usize] = match load {
            GatewayLoad::Bulk | GatewayLoad::NewConnections => &numbers,
            GatewayLoad::Exchanges | GatewayLoad::SystemCalls => &[16],
            GatewayLoad::Idle => continue,
        };
        for connections in rows {
            let order =
                if *load == GatewayLoad::SystemCalls { (0..running.len()).collect() } else { rig.order(running.len()) };
            let row = load.row(*connections);
            for at in order {
                let system = &mut running[at];
                eprintln!("gateway: {row}, {}", system.name());
                let measured = bench.measure(*load, *connections, system);
                let measured = measured.with_context(|| format!("{}, {row}", system.name()))?;
                measured.into_iter().for_each(|(metric, value)| recorder.add(&row, system.name(), metric, value));
                system.process.ensure_running(&rig.log(system.name()))?;
            }
        }
    }
    drop(running);
    if loads.contains(&GatewayLoad::Idle) {
        let count = if rig.quick { 500 } else { idle_connections()? };
        let row = GatewayLoad::Idle.row(count);
        for system in systems {
            // A new process, so that memory is that of these connections alone.
            let system = bench.start(system)?;
            eprintln!("gateway: {row}, {}", system.name());
            let measured = bench.idle(count, &system).with_context(|| format!("{}, {row}", system.name()))?;
            measured.into_iter().for_each(|(metric, value)| recorder.add(&row, system.name(), metric, value));
        }
    }
    Ok(recorder.findings())
}

fn chosen<T: Clone>(given: &[T], all: &[T]) -> Vec<T> {
    if given.is_empty() { all.to_vec() } else { given.to_vec() }
}

impl GatewayLoad {
    const ALL: [Self; 5] = [Self::Bulk, Self::NewConnections, Self::Exchanges, Self::SystemCalls, Self::Idle];

    fn row(self, connections: usize) -> String {
        let plural = if connections == 1 { "" } else { "s" };
        match self {
            Self::Bulk => format!("bulk transfer, {connections} connection{plural}"),
            Self::NewConnections => format!("new connections, {connections} at a time"),
            Self::Exchanges => format!("exchanges of 64 B, {connections} connection{plural}"),
            Self::SystemCalls => "system calls".into(),
            Self::Idle => format!("{connections} idle connections"),
        }
    }
}

impl GatewayBench<'_> {
    fn measure(&self, load: GatewayLoad, connections: usize, system: &RunningGateway) -> Result<Vec<(Metric, f64)>> {
        let quick = self.rig.quick;
        let timing = Timing {
            warm_up: Duration::from_millis(if quick { 50 } else { 400 }),
            duration: Duration::from_millis(if quick { 200 } else { 1500 }),
        };
        let (gateway, payload) = (system.route.gateway, &self.payload);
        match load {
            GatewayLoad::Bulk => {
                let (outcome, used) = meter(&system.process, timing, |timing, edge| {
                    passthrough::bulk(gateway, payload, connections, timing, edge)
                })?;
                let gibibytes = outcome.bytes as f64 / GIB;
                let mut measured = costs(used, gibibytes, "GiB", 1.0, "s")?;
                measured.push((Metric::gain("throughput", "GiB/s"), outcome.throughput() / GIB));
                Ok(measured)
            }
            GatewayLoad::NewConnections => {
                let (outcome, used) = meter(&system.process, timing, |timing, edge| {
                    passthrough::new_connections(gateway, payload, connections, None, timing, edge)
                })?;
                let mut measured = costs(used, outcome.requests as f64, "connection", 1e6, "µs")?;
                measured.push((Metric::gain("connections", "1/s"), outcome.rate()));
                for (name, share) in [("time to the response, p50", 0.5), ("time to the response, p99", 0.99)] {
                    measured.push((Metric::cost(name, "µs"), outcome.latency_at(share).as_secs_f64() * 1e6));
                }
                Ok(measured)
            }
            GatewayLoad::Exchanges => {
                let (outcome, used) = meter(&system.process, timing, |timing, edge| {
                    passthrough::exchanges(gateway, payload, connections, timing, edge)
                })?;
                let mut measured = costs(used, outcome.requests as f64, "exchange", 1e6, "µs")?;
                measured.push((Metric::gain("exchanges", "1/s"), outcome.rate()));
                Ok(measured)
            }
            GatewayLoad::SystemCalls => {
                let timing = Timing { warm_up: Duration::ZERO, duration: Duration::from_millis(500) };
                let (outcome, calls) = system.process.system_calls(|| {
                    passthrough::new_connections(gateway, payload, connections, None, timing, &mut |_| {})
                })?;
                right(&outcome)?;
                // The tracer also counts connections before and after the window, so they are counted by their accept calls.
                let all = calls.values().sum::<u64>() as f64;
                let connections = calls.get("accept4").or(calls.get("accept")).copied().unwrap_or(0) as f64;
                ensure!(connections > 0.0, "no connection was accepted under strace");
                Ok(vec![(Metric::cost("system calls per new connection", ""), all / connections)])
            }
            GatewayLoad::Idle => unreachable!("has processes of its own"),
        }
    }

    fn idle(&self, count: usize, system: &RunningGateway) -> Result<Vec<(Metric, f64)>> {
        let process = &system.process;
        let (resident, files) = (process.resident()?, process.files()?);
        let held = load::idle_passthrough(system.route.gateway, &self.payload, count)?;
        std::thread::sleep(Duration::from_millis(500));
        let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / count as f64;
        let resident = each(resident, process.resident()?) / 1024.0;
        let files = each(files as u64, process.files()? as u64);
        let before = process.usage()?;
        std::thread::sleep(Duration::from_secs(1));
        let used = process.usage()? - before;
        let there = held.count()?;
        ensure!(there == count, "{there} of {count} idle connections still work at the end");
        Ok(vec![
            (Metric::cost("resident memory per connection", "KiB"), resident),
            (Metric::cost("files per connection", ""), files),
            (Metric::cost("CPU per second", "ms"), used.cpu.as_secs_f64() * 1000.0),
        ])
    }
}

/// Runs a load, and returns its outcome and the resources that the process used within the window. A window in which nothing
/// arrived, as on a busy machine, is measured again, four times as long.
fn meter(
    process: &Process,
    mut timing: Timing,
    load: impl Fn(Timing, &mut dyn FnMut(Edge)) -> Result<Outcome>,
) -> Result<(Outcome, Usage)> {
    loop {
        let mut readings = Vec::with_capacity(2);
        let outcome = load(timing, &mut |_| readings.push(process.usage()))?;
        right(&outcome)?;
        let longer = Timing { warm_up: timing.warm_up * 4, duration: timing.duration * 4 };
        if outcome.bytes == 0 && longer.duration <= LONGEST {
            timing = longer;
            continue;
        }
        let mut readings = readings.into_iter();
        let (Some(begin), Some(end)) = (readings.next(), readings.next()) else { bail!("the load had no window") };
        return Ok((outcome, end? - begin?));
    }
}

fn right(outcome: &Outcome) -> Result<()> {
    ensure!(outcome.failed == 0, "{} of {} failed: {:?}", outcome.failed, outcome.requests, outcome.errors);
    Ok(())
}

/// CPU and context switches for each of `count` units.
fn costs(used: Usage, count: f64, unit: &str, scale: f64, time: &str) -> Result<Vec<(Metric, f64)>> {
    ensure!(count > 0.0, "no {unit} was completed within the window");
    Ok(vec![
        (Metric::cost(&format!("CPU per {unit}"), time), used.cpu.as_secs_f64() * scale / count),
        (Metric::cost(&format!("context switches per {unit}"), ""), used.switches as f64 / count),
    ])
}

/// Ten thousand, or as many as the limit on open files allows: each connection takes two files of a gateway.
fn idle_connections() -> Result<usize> {
    const OTHER_FILES: u64 = 400;
    let files = net::socket::raise_open_files_limit()?;
    Ok(usize::try_from(files.saturating_sub(OTHER_FILES) / 2)?.min(10_000))
}
