//! The memory of proxies: idle in meshes of different sizes, with idle connections, and after a burst.
//!
//! All numbers are resident memory, as `kubectl top` and the out-of-memory killer see it, including pages of the program's
//! file. Processes are idle for some time before each reading, because allocators and proxies return memory gradually.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::chain::{Chain, PortProtocol, ensure_none_failed};
use crate::finding::{Finding, Metric, Recorder};
use crate::load::{self, Edge, Protocol, Shape, Timing};
use crate::mesh::Mesh;
use crate::peers::envoy;
use crate::process::Process;
use crate::rig::Rig;
use crate::sidecar::{self, AUTHORITY, SidecarSystem, isthmus};

mod held;
mod services;

/// The compared systems, and the addresses of their inbound proxies.
const SYSTEMS: [(SidecarSystem, Ipv4Addr); 2] =
    [(SidecarSystem::Isthmus, isthmus::SERVER_POD), (SidecarSystem::Envoy, envoy::SERVER_POD)];
const MIB: f64 = (1 << 20) as f64;

/// Options of `memory`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Measure these parts only
    #[arg(long, value_delimiter = ',')]
    only: Vec<MemoryPart>,
}

/// A part of the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum MemoryPart {
    /// Sidecars in meshes of different sizes.
    Services,
    /// A sidecar that uses none of many ServiceEntries.
    Entries,
    /// Idle connections.
    Idle,
    /// A burst of load.
    Burst,
}

/// The size of the scenario.
#[derive(Clone, Copy, Debug)]
struct MemorySize {
    /// The numbers of services, one mesh after the other.
    services: &'static [usize],
    /// The number of services that a sidecar uses.
    used: usize,
    /// The number of ServiceEntries.
    entries: usize,
    /// The number of idle connections.
    idle: usize,
    /// The number of connections of a burst.
    burst: usize,
    /// The duration of a burst.
    bursting: Duration,
    /// The time before resident memory is read: longer than allocators delay, and than proxies need to detect that they are idle.
    rest: Duration,
}

impl MemorySize {
    fn of(rig: &Rig) -> Self {
        if rig.quick {
            let short = Duration::from_millis(300);
            return Self { services: &[20], used: 3, entries: 20, idle: 50, burst: 8, bursting: short, rest: short };
        }
        let (bursting, rest) = (Duration::from_secs(5), Duration::from_secs(16));
        Self { services: &[100, 1_000, 10_000], used: 10, entries: 10_000, idle: 10_000, burst: 256, bursting, rest }
    }
}

/// Runs the scenario.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let size = MemorySize::of(rig);
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut recorder = MemoryRecorder(Recorder::new("memory"));
    if wanted(MemoryPart::Idle) || wanted(MemoryPart::Burst) {
        let _server = sidecar::server(rig)?;
        let mesh = Mesh::start(rig.directory())?;
        let mut chains = SYSTEMS.map(|(system, _)| system.start(&mesh, rig)).into_iter().collect::<Result<Vec<_>>>()?;
        thread::sleep(size.rest);
        for chain in &chains {
            recorder.resident("idle, one service used", chain)?;
        }
        if wanted(MemoryPart::Idle) {
            for (chain, (_, inbound)) in chains.iter_mut().zip(SYSTEMS) {
                idle_http(&mut recorder, rig, &mesh, chain, inbound, size)
                    .with_context(|| format!("idle HTTP, {}", chain.name))?;
                idle_tcp(&mut recorder, rig, chain, size).with_context(|| format!("idle TCP, {}", chain.name))?;
            }
        }
        if wanted(MemoryPart::Burst) {
            burst(&mut recorder, rig, &mut chains, size).context("a burst")?;
        }
    }
    if wanted(MemoryPart::Services) {
        services::measure(&mut recorder, rig, size).context("meshes of different sizes")?;
    }
    if wanted(MemoryPart::Entries) {
        services::measure_entries(&mut recorder, rig, size).context("ServiceEntries that are not used")?;
    }
    Ok(recorder.0.findings())
}

/// A recorder that prints progress.
#[derive(Debug)]
struct MemoryRecorder(Recorder);

impl MemoryRecorder {
    fn add(&mut self, load: &str, system: &str, metric: Metric, value: f64) {
        eprintln!("memory: {load}, {system}: {} {value:.2} {}", metric.name, metric.unit);
        self.0.add(load, system, metric, value);
    }

    /// Records the resident memory of both proxies.
    fn resident(&mut self, load: &str, chain: &Chain) -> Result<()> {
        for (process, side) in chain.processes.iter().zip(["outbound", "inbound"]) {
            let metric = Metric::cost(&format!("resident memory, {side}"), "MiB");
            self.add(load, chain.name, metric, process.resident()? as f64 / MIB);
        }
        Ok(())
    }
}

/// Measures idle mutual-TLS connections of other proxies, each of which has carried one request.
fn idle_http(
    recorder: &mut MemoryRecorder,
    rig: &Rig,
    mesh: &Mesh,
    chain: &mut Chain,
    ip: Ipv4Addr,
    size: MemorySize,
) -> Result<()> {
    let load = format!("{} idle mutual-TLS connections, HTTP/1.1", size.idle);
    let inbound = chain.processes.get(1).context("an inbound proxy")?;
    let before = inbound.resident()?;
    let connections = held::open(mesh, PortProtocol::Http1.at(ip), size.idle)?;
    thread::sleep(size.rest);
    let open = inbound.resident()?;
    held::request_and_close(connections)?;
    chain.ensure_running(rig)?;
    let each = (open as f64 - before as f64) / size.idle as f64;
    recorder.add(&load, chain.name, Metric::cost("memory per connection, inbound", "bytes"), each);
    thread::sleep(size.rest);
    recorder.resident(&format!("{load}, closed again"), chain)
}

/// Measures idle TCP connections through both proxies, each with a mutual-TLS connection of its own between them.
fn idle_tcp(recorder: &mut MemoryRecorder, rig: &Rig, chain: &mut Chain, size: MemorySize) -> Result<()> {
    // Each connection needs two descriptors of a proxy, and 20,000 is a usual limit.
    let count = size.idle / 2;
    let load = format!("{count} idle TCP connections");
    let resident = |chain: &Chain| chain.processes.iter().map(Process::resident).collect::<Result<Vec<_>>>();
    let before = resident(chain)?;
    let shape = Shape { protocol: Protocol::Tcp, body: 1024, connections: count };
    let connections = load::idle(chain.entry(Protocol::Tcp), AUTHORITY, shape)?;
    thread::sleep(size.rest);
    let open = resident(chain)?;
    let there = connections.count()?;
    ensure!(there == count, "{there} of {count} idle connections still work");
    chain.ensure_running(rig)?;
    for ((open, before), side) in open.into_iter().zip(before).zip(["outbound", "inbound"]) {
        let each = (open as f64 - before as f64) / count as f64;
        recorder.add(&load, chain.name, Metric::cost(&format!("memory per connection, {side}"), "bytes"), each);
    }
    thread::sleep(size.rest);
    recorder.resident(&format!("{load}, closed again"), chain)
}

/// Measures a burst of as many requests as possible, and the time after it.
fn burst(recorder: &mut MemoryRecorder, rig: &Rig, chains: &mut [Chain], size: MemorySize) -> Result<()> {
    let shape = Shape { protocol: Protocol::Http1, body: 64 << 10, connections: size.burst };
    let timing = Timing { warm_up: Duration::ZERO, duration: size.bursting };
    for chain in &mut *chains {
        let mut highest = Ok(0);
        let mut edge = |_: Edge| highest = chain.resident();
        let outcome = load::closed_loop(chain.entry(shape.protocol), AUTHORITY, shape, timing, &mut edge)?;
        ensure_none_failed(&outcome).with_context(|| chain.name)?;
        chain.ensure_running(rig)?;
        let metric = Metric::cost("resident memory of both at its end", "MiB");
        recorder.add(&format!("a burst: {shape}"), chain.name, metric, highest? as f64 / MIB);
    }
    thread::sleep(size.rest * 2);
    for chain in &*chains {
        recorder.resident(&format!("{} s after a burst: {shape}", size.rest.as_secs() * 2), chain)?;
    }
    Ok(())
}
