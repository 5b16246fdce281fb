//! Compares two builds of `isthmus` in one table, in about ten minutes: instructions and allocations per request, memory,
//! start-up, and propagation of a change.
//!
//! callgrind counts instructions and allocations of the real processes, so other load on the machine hardly affects them. The
//! rest is measured in turns (before, after, after, before), and depends on the machine as in every scenario.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::chain::{Chain, ensure_none_failed};
use crate::control_plane;
use crate::failover::Lab;
use crate::finding::{Finding, Metric, Recorder};
use crate::gateway;
use crate::load::{self, Edge, Protocol, Shape, Timing};
use crate::mesh::Mesh;
use crate::process::Process;
use crate::report::{BUILDS, Comparison};
use crate::rig::Rig;
use crate::setup;
use crate::sidecar::{self, AUTHORITY, isthmus};

mod callgrind;

const MIB: f64 = (1 << 20) as f64;
/// The loads whose instructions are counted, on one connection.
const SHAPES: [(Protocol, &str); 4] = [
    (Protocol::Http1, "HTTP/1.1 request"),
    (Protocol::NewConnection, "HTTP/1.1 request on a new connection"),
    (Protocol::GrpcUnary, "gRPC unary request"),
    (Protocol::Tcp, "TCP exchange"),
];

/// Options of `compare`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The program before the change
    before: PathBuf,
    /// The program after the change
    after: PathBuf,
    /// Measure these parts only
    #[arg(long, value_delimiter = ',')]
    only: Vec<ComparePart>,
    /// Print the table in Markdown
    #[arg(long)]
    pub markdown: bool,
}

/// A part of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ComparePart {
    /// Instructions and allocations per request, under callgrind.
    Instructions,
    /// Resident memory of idle proxies.
    Memory,
    /// Time until processes and a lab are ready.
    StartUp,
    /// Time until proxies have an endpoint change, and the controller's costs.
    Propagation,
}

impl ComparePart {
    const ALL: [Self; 4] = [Self::Instructions, Self::Memory, Self::StartUp, Self::Propagation];
}

/// Measures both builds. A part that fails is left out of the table.
///
/// # Errors
///
/// Returns an error if a program does not exist.
pub fn run(options: &Options, turns: usize, quick: bool) -> Result<(Comparison, Vec<anyhow::Error>)> {
    let rig = |build: usize| Rig::of(options.program(build), turns, quick);
    let rigs = [rig(0)?, rig(1)?];
    let parts = if options.only.is_empty() { ComparePart::ALL.to_vec() } else { options.only.clone() };
    let mut recorder = Recorder::new("compare");
    let mut failures = Vec::new();
    for part in parts {
        // Instructions are the same in each turn.
        let order = if part == ComparePart::Instructions { vec![0, 1] } else { rigs[0].order(rigs.len()) };
        for build in order {
            let mut found = |name: &str, unit: &str, value: f64| {
                eprintln!("compare: {}: {name} {value:.1} {unit}", BUILDS[build]);
                recorder.add("", BUILDS[build], Metric::cost(name, unit), value);
            };
            // Each turn has a directory of its own, so that no state is left of an earlier one.
            if let Err(error) = rig(build).and_then(|rig| part.measure(&rig, &mut found)) {
                failures.push(error.context(format!("{}, {part:?}", options.program(build).display())));
            }
        }
    }
    Ok((Comparison::new(recorder.findings()), failures))
}

impl ComparePart {
    fn measure(self, rig: &Rig, found: Found<'_>) -> Result<()> {
        match self {
            Self::Instructions => instructions(rig, found),
            Self::Memory => memory(rig, found),
            Self::StartUp => start_up(rig, found),
            Self::Propagation => propagation(rig, found),
        }
    }
}

impl Options {
    fn program(&self, build: usize) -> &PathBuf {
        [&self.before, &self.after][build]
    }
}

/// Records a value: name, unit, value.
type Found<'a> = &'a mut dyn FnMut(&str, &str, f64);

fn instructions(rig: &Rig, found: Found<'_>) -> Result<()> {
    let counted = Rig::of(&callgrind::wrapper(rig)?, 1, rig.quick)?;
    {
        let _server = sidecar::server(rig)?;
        let mesh = Mesh::start(counted.directory())?;
        let chain = isthmus::start(&mesh, &counted)?;
        for (protocol, name) in SHAPES {
            let shape = Shape { protocol, body: 1024, connections: 1 };
            count(rig, &chain.processes, &format!("{name}, both sidecars"), found, &mut |timing, edge| {
                load::closed_loop(chain.entry(protocol), AUTHORITY, shape, timing, edge)
            })?;
        }
    }
    let gateway = gateway::IsthmusGateway::start(&counted)?;
    let name = "new connection, gateway";
    count(rig, std::slice::from_ref(gateway.process()), name, found, &mut |timing, edge| {
        gateway.new_connections(timing, edge)
    })
}

/// Sends a load, and calls back at the edges of its window.
type SendLoad<'a> = &'a mut dyn FnMut(Timing, &mut dyn FnMut(Edge)) -> Result<load::Outcome>;

/// Counts instructions and allocations per request. Work besides requests, such as timers, must not matter, so the window has
/// many requests, and is longer if needed.
fn count(rig: &Rig, processes: &[Process], name: &str, found: Found<'_>, load: SendLoad<'_>) -> Result<()> {
    const ENOUGH: u64 = 1000;
    const LONGEST: Duration = Duration::from_secs(40);
    let mut duration = Duration::from_secs(if rig.quick { 1 } else { 5 });
    let (outcome, counts) = loop {
        let timing = Timing { warm_up: Duration::from_secs(1), duration };
        let mut counts = Vec::new();
        let outcome = load(timing, &mut |edge| match edge {
            Edge::Begin => counts.extend(processes.iter().map(|of| callgrind::zero(rig, of).map(|()| None))),
            Edge::End => counts.extend(processes.iter().map(|of| callgrind::dump(rig, of).map(Some))),
        })?;
        ensure_none_failed(&outcome)?;
        if rig.quick || outcome.requests >= ENOUGH || duration * 2 > LONGEST {
            let counts = counts.into_iter().collect::<Result<Vec<_>>>()?;
            break (outcome, counts.into_iter().flatten().collect::<Vec<callgrind::Counts>>());
        }
        duration *= 2;
    };
    let per_request = |sum: u64| sum as f64 / outcome.requests as f64;
    found(&format!("instructions per {name}"), "", per_request(counts.iter().map(|count| count.instructions).sum()));
    // Symbols may be missing.
    if let Some(allocations) = counts.iter().map(|count| count.allocations).sum::<Option<u64>>() {
        found(&format!("allocations per {name}"), "", per_request(allocations));
    }
    Ok(())
}

fn memory(rig: &Rig, found: Found<'_>) -> Result<()> {
    let rest = Duration::from_secs(if rig.quick { 1 } else { 12 });
    {
        let _server = sidecar::server(rig)?;
        let mesh = Mesh::start(rig.directory())?;
        let chain = isthmus::start(&mesh, rig)?;
        thread::sleep(rest);
        resident_pair(&chain, "at rest", found)?;
        let shape = Shape { protocol: Protocol::Http1, body: 64 << 10, connections: 64 };
        let timing = Timing { warm_up: Duration::ZERO, duration: Duration::from_secs(2) };
        load::closed_loop(chain.entry(shape.protocol), AUTHORITY, shape, timing, &mut |_| {})?;
        thread::sleep(rest);
        resident_pair(&chain, "at rest after a burst", found)?;
    }
    let gateway = gateway::IsthmusGateway::start(rig)?;
    thread::sleep(rest / 4);
    resident(gateway.process(), "gateway, memory at rest", found)
}

fn resident_pair(chain: &Chain, when: &str, found: Found<'_>) -> Result<()> {
    for (process, side) in chain.processes.iter().zip(["outbound", "inbound"]) {
        resident(process, &format!("{side} sidecar, memory {when}"), found)?;
    }
    Ok(())
}

/// Records resident memory, and that without pages of the program's file, which depend on the state of the page cache.
fn resident(process: &Process, name: &str, found: Found<'_>) -> Result<()> {
    found(name, "MiB", process.resident()? as f64 / MIB);
    found(&format!("{name}, its own"), "MiB", process.resident_own()? as f64 / MIB);
    Ok(())
}

fn start_up(rig: &Rig, found: Found<'_>) -> Result<()> {
    {
        let _server = sidecar::server(rig)?;
        let mesh = Mesh::start(rig.directory())?;
        for _ in 0..if rig.quick { 1 } else { 5 } {
            let began = Instant::now();
            let processes = isthmus::ready(&mesh, rig)?;
            found("start until both sidecars are ready", "ms", millis(began.elapsed()));
            drop(processes);
        }
    }
    for _ in 0..if rig.quick { 1 } else { 5 } {
        let gateway = gateway::IsthmusGateway::start(rig)?;
        found("start until the gateway forwards", "ms", millis(gateway.started));
    }
    let began = Instant::now();
    let lab = Lab::up(rig, &setup::repository().join("topologies/primary-remote.yaml"))?;
    found("start until a lab of two clusters is ready", "ms", millis(began.elapsed()));
    drop(lab);
    Ok(())
}

fn propagation(rig: &Rig, found: Found<'_>) -> Result<()> {
    const WANTED: [&str; 9] = [
        "resident memory without objects",
        "resident memory after a start",
        "anonymous memory per endpoint after a start",
        "time from start until in sync",
        "CPU from start until in sync",
        "change to arrival, p50",
        "change to arrival, p99",
        "CPU of the controller per change",
        "bytes received by all streams per change",
    ];
    let wanted = |finding: &&Finding| WANTED.iter().any(|start| finding.metric.name.starts_with(start));
    for finding in control_plane::run_small(rig)?.iter().filter(wanted) {
        let Metric { name, unit, .. } = &finding.metric;
        found(&format!("controller: {name}"), unit, finding.spread.median);
    }
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
