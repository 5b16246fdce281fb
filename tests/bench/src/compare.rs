//! Compares two builds of `isthmus`: instructions and allocations per request, memory, start-up, and propagation of a change,
//! in one table, in some eight minutes.
//!
//! Instructions and allocations are counted by callgrind on the real processes, so they hardly depend on what else runs. The rest is
//! measured in turns (before, after, after, before), and depends on the machine as in every scenario.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::chain::{Chain, ensure_none_failed};
use crate::control_plane;
use crate::failover::Lab;
use crate::finding::{Finding, Metric, Recorder};
use crate::gateway;
use crate::load::{self, Edge, Protocol, Shape, Timing};
use crate::mesh::Mesh;
use crate::process::Process;
use crate::report::Comparison;
use crate::rig::Rig;
use crate::setup;
use crate::sidecar::{self, AUTHORITY, isthmus};

mod callgrind;

/// The names of the two builds, which are the columns of the table.
pub const BUILDS: [&str; 2] = ["before", "after"];
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
    only: Vec<Part>,
    /// Print the table in Markdown
    #[arg(long)]
    pub markdown: bool,
}

/// A part of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Instructions and allocations per request, under callgrind.
    Instructions,
    /// Resident memory of idle proxies.
    Memory,
    /// Time until processes and a lab are ready.
    StartUp,
    /// An endpoint change until proxies have it, and what the controller needs.
    Propagation,
}

impl Part {
    const ALL: [Self; 4] = [Self::Instructions, Self::Memory, Self::StartUp, Self::Propagation];
}

/// Measures both builds.
pub fn run(options: &Options, turns: usize, quick: bool) -> Result<Comparison> {
    let rigs = [&options.before, &options.after].map(|program| Rig::of(program, turns, quick));
    let rigs = rigs.into_iter().collect::<Result<Vec<_>>>()?;
    let parts = if options.only.is_empty() { Part::ALL.to_vec() } else { options.only.clone() };
    let mut recorder = Recorder::new("compare");
    for part in parts {
        // Instructions are the same in each turn.
        let order = if part == Part::Instructions { vec![0, 1] } else { rigs[0].order(rigs.len()) };
        for build in order {
            let mut found = |name: &str, unit: &str, value: f64| {
                eprintln!("compare: {}: {name} {value:.1} {unit}", BUILDS[build]);
                recorder.add("", BUILDS[build], Metric::cost(name, unit), value);
            };
            let rig = &rigs[build];
            let measured = match part {
                Part::Instructions => instructions(rig, &mut found),
                Part::Memory => memory(rig, &mut found),
                Part::StartUp => start_up(rig, &mut found),
                Part::Propagation => propagation(rig, &mut found),
            };
            measured.with_context(|| format!("{}, {part:?}", options.program(build).display()))?;
        }
    }
    Ok(Comparison::new(recorder.findings()))
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
    let gateway = gateway::Alone::start(&counted)?;
    let name = "new connection, gateway";
    count(rig, std::slice::from_ref(gateway.process()), name, found, &mut |timing, edge| {
        gateway.new_connections(timing, edge)
    })
}

/// Counts what processes do for a load, per request. What they do besides, as timers are due, must not count, so there are many
/// requests in the window, if need be in a longer one.
fn count(
    rig: &Rig,
    processes: &[Process],
    name: &str,
    found: Found<'_>,
    load: &mut dyn FnMut(Timing, &mut dyn FnMut(Edge)) -> Result<load::Outcome>,
) -> Result<()> {
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
    let gateway = gateway::Alone::start(rig)?;
    thread::sleep(rest / 4);
    resident(gateway.process(), "gateway, memory at rest", found)
}

fn resident_pair(chain: &Chain, when: &str, found: Found<'_>) -> Result<()> {
    for (process, side) in chain.processes.iter().zip(["outbound", "inbound"]) {
        resident(process, &format!("{side} sidecar, memory {when}"), found)?;
    }
    Ok(())
}

/// Resident memory, and that without pages of the program's file: those depend on how the file came into the page cache.
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
        let gateway = gateway::Alone::start(rig)?;
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
        "the same without the program's own pages, after a start",
        "time from start until all is known",
        "CPU from start until all is known",
        "change to arrival, p50",
        "change to arrival, p99",
        "controller's CPU per change",
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
