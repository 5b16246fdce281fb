//! What a proxy holds in memory: at rest in meshes of different sizes, for connections that do nothing, and after a burst.
//!
//! All numbers are of resident memory, as `kubectl top` and an out-of-memory killer see it, pages of the program's file
//! included. Whatever is measured has had time to rest before: allocators and proxies give memory back by and by.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::chain::{Chain, Speaks, ensure_none_failed};
use crate::finding::{Finding, Metric, Recorder};
use crate::load::{self, Edge, Protocol, Shape, Timing};
use crate::mesh::Mesh;
use crate::peers::envoy;
use crate::process::Process;
use crate::rig::Rig;
use crate::sidecar::{self, AUTHORITY, System, isthmus};

mod held;
mod services;

/// The systems that have the same jobs, and where their inbound proxies are.
const SYSTEMS: [(System, Ipv4Addr); 2] = [(System::Isthmus, isthmus::SERVER_POD), (System::Envoy, envoy::SERVER_POD)];
const MIB: f64 = (1 << 20) as f64;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
}

/// A part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Sidecars in meshes of different sizes.
    Services,
    /// Connections that do nothing.
    Idle,
    /// A burst of load.
    Burst,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Services of a mesh, one mesh after the other.
    services: &'static [usize],
    /// Of which a sidecar uses so many.
    used: usize,
    /// Connections that do nothing.
    idle: usize,
    /// Connections of a burst.
    burst: usize,
    /// How long it takes.
    bursting: Duration,
    /// Before what is resident counts as what stays: longer than allocators hesitate, and than proxies here take to see
    /// that they rest.
    rest: Duration,
}

impl Size {
    fn of(rig: &Rig) -> Self {
        if rig.quick {
            let short = Duration::from_millis(300);
            return Self { services: &[20], used: 3, idle: 50, burst: 8, bursting: short, rest: short };
        }
        let (bursting, rest) = (Duration::from_secs(5), Duration::from_secs(16));
        Self { services: &[100, 1_000, 10_000], used: 10, idle: 10_000, burst: 256, bursting, rest }
    }
}

/// Measures.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let size = Size::of(rig);
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut found = Found(Recorder::new("memory"));
    if wanted(Part::Idle) || wanted(Part::Burst) {
        let _server = sidecar::server(rig)?;
        let mesh = Mesh::start(rig.directory())?;
        let mut chains = SYSTEMS.map(|(system, _)| system.start(&mesh, rig)).into_iter().collect::<Result<Vec<_>>>()?;
        thread::sleep(size.rest);
        for chain in &chains {
            found.resident("at rest, one service used", chain)?;
        }
        if wanted(Part::Idle) {
            for (chain, (_, inbound)) in chains.iter_mut().zip(SYSTEMS) {
                idle_http(&mut found, rig, &mesh, chain, inbound, size)
                    .with_context(|| format!("idle HTTP, {}", chain.name))?;
                idle_tcp(&mut found, rig, chain, size).with_context(|| format!("idle TCP, {}", chain.name))?;
            }
        }
        if wanted(Part::Burst) {
            burst(&mut found, rig, &mut chains, size).context("a burst")?;
        }
    }
    if wanted(Part::Services) {
        services::measure(&mut found, rig, size).context("meshes of different sizes")?;
    }
    Ok(found.0.findings())
}

/// What was found so far.
#[derive(Debug)]
struct Found(Recorder);

impl Found {
    fn add(&mut self, load: &str, system: &str, metric: Metric, value: f64) {
        eprintln!("memory: {load}, {system}: {} {value:.2} {}", metric.name, metric.unit);
        self.0.add(load, system, metric, value);
    }

    /// Of both proxies.
    fn resident(&mut self, load: &str, chain: &Chain) -> Result<()> {
        for (process, side) in chain.processes.iter().zip(["outbound", "inbound"]) {
            let metric = Metric::cost(&format!("resident memory, {side}"), "MiB");
            self.add(load, chain.name, metric, process.resident()? as f64 / MIB);
        }
        Ok(())
    }
}

/// Mutual-TLS connections of other proxies, each of which has carried a request.
fn idle_http(found: &mut Found, rig: &Rig, mesh: &Mesh, chain: &mut Chain, ip: Ipv4Addr, size: Size) -> Result<()> {
    let load = format!("{} idle mutual-TLS connections, HTTP/1.1", size.idle);
    let inbound = chain.processes.get(1).context("an inbound proxy")?;
    let before = inbound.resident()?;
    let connections = held::open(mesh, Speaks::Http1.at(ip), size.idle)?;
    thread::sleep(size.rest);
    let open = inbound.resident()?;
    held::ask(connections)?;
    chain.lives(rig)?;
    let each = (open as f64 - before as f64) / size.idle as f64;
    found.add(&load, chain.name, Metric::cost("memory per connection, inbound", "bytes"), each);
    thread::sleep(size.rest);
    found.resident(&format!("{load}, closed again"), chain)
}

/// TCP connections of applications through both proxies: each has a mutual-TLS connection of its own between them.
fn idle_tcp(found: &mut Found, rig: &Rig, chain: &mut Chain, size: Size) -> Result<()> {
    // Each takes two descriptors of a proxy, and 20,000 is a usual limit.
    let count = size.idle / 2;
    let load = format!("{count} idle TCP connections");
    let resident = |chain: &Chain| chain.processes.iter().map(Process::resident).collect::<Result<Vec<_>>>();
    let before = resident(chain)?;
    let shape = Shape { protocol: Protocol::Tcp, body: 1024, connections: count };
    let connections = load::idle(chain.entry(Protocol::Tcp), AUTHORITY, shape)?;
    thread::sleep(size.rest);
    let open = resident(chain)?;
    let there = connections.count()?;
    ensure!(there == count, "{there} of {count} connections were still there");
    chain.lives(rig)?;
    for ((open, before), side) in open.into_iter().zip(before).zip(["outbound", "inbound"]) {
        let each = (open as f64 - before as f64) / count as f64;
        found.add(&load, chain.name, Metric::cost(&format!("memory per connection, {side}"), "bytes"), each);
    }
    thread::sleep(size.rest);
    found.resident(&format!("{load}, closed again"), chain)
}

/// As much as they bear; then the connections are closed.
fn burst(found: &mut Found, rig: &Rig, chains: &mut [Chain], size: Size) -> Result<()> {
    let shape = Shape { protocol: Protocol::Http1, body: 64 << 10, connections: size.burst };
    let timing = Timing { warm_up: Duration::ZERO, duration: size.bursting };
    for chain in &mut *chains {
        let mut highest = Ok(0);
        let mut edge = |_: Edge| highest = chain.resident();
        let outcome = load::closed_loop(chain.entry(shape.protocol), AUTHORITY, shape, timing, &mut edge)?;
        ensure_none_failed(&outcome).with_context(|| chain.name)?;
        chain.lives(rig)?;
        let metric = Metric::cost("resident memory at its end, both", "MiB");
        found.add(&format!("a burst: {shape}"), chain.name, metric, highest? as f64 / MIB);
    }
    thread::sleep(size.rest * 2);
    for chain in &*chains {
        found.resident(&format!("{} s after a burst: {shape}", size.rest.as_secs() * 2), chain)?;
    }
    Ok(())
}
