//! One load, for people who look into something: `isthmus-bench part load --help`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

use super::passthrough::{self, Way};
use super::{Edge, Protocol, Shape, Timing, closed_loop, open_loop, tls};

/// What to load and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The server, or what is in front of it
    #[arg(long)]
    target: SocketAddr,
    /// The host that is asked for
    #[arg(long, default_value = "backend")]
    authority: String,
    /// What to speak
    #[arg(long, value_enum, default_value = "http1")]
    protocol: Protocol,
    /// Bytes of a response or message
    #[arg(long, default_value_t = 1024)]
    body: usize,
    /// Requests under way at most
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests per second; as many as can be if not given
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Instead, new connections with this server name in their ClientHello, to a backend's `--tls`
    #[arg(long, requires = "root")]
    server_name: Option<String>,
    /// A file with the root that the server's certificate is signed under
    #[arg(long)]
    root: Option<PathBuf>,
    /// Plain bytes behind the hello, to a backend's `--behind-hello`
    #[arg(long, requires = "server_name")]
    raw: bool,
    /// Bytes without end instead of new connections
    #[arg(long, requires = "server_name")]
    bulk: bool,
}

/// Runs it and prints what came of it, and what the generator itself cost.
pub fn run(options: &Options) -> Result<()> {
    let Options { target, ref authority, protocol, body, connections, rate, .. } = *options;
    let shape = Shape { protocol, body, connections };
    let seconds = |number| Duration::try_from_secs_f64(number).context("a duration");
    let timing = Timing { warm_up: seconds(options.warm_up)?, duration: seconds(options.duration)? };
    let mut own = [Duration::ZERO; 2];
    let mut edge = |edge: Edge| own[edge as usize] = processor_time();
    let outcome = match (options.way()?, rate) {
        (None, None) => closed_loop(target, authority, shape, timing, &mut edge)?,
        (None, Some(rate)) => open_loop(target, authority, shape, rate, timing, &mut edge)?,
        (Some(way), _) if options.bulk => passthrough::bulk(target, &way, connections, timing, &mut edge)?,
        (Some(way), rate) => passthrough::new_connections(target, &way, connections, rate, timing, &mut edge)?,
    };
    let cost = (own[1] - own[0]).as_secs_f64() * 1e6 / outcome.requests.max(1) as f64;
    let load = options.server_name.as_ref().map_or_else(|| shape.to_string(), |name| format!("connections to {name}"));
    println!("{load}: {:.0} requests/s, {:.1} MiB/s", outcome.rate(), outcome.throughput() / f64::from(1 << 20));
    let at = |share| outcome.latency_at(share);
    println!("p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}", at(0.5), at(0.99), at(0.999), at(1.0));
    println!("{} failed, {} unanswered; the generator took {cost:.2} µs a request", outcome.failed, outcome.unanswered);
    for (error, count) in outcome.errors {
        println!("{count} × {error}");
    }
    Ok(())
}

impl Options {
    /// How to talk, if by server name.
    fn way(&self) -> Result<Option<Way>> {
        let (Some(name), Some(root)) = (&self.server_name, &self.root) else { return Ok(None) };
        let client = tls::Client::new(root, name)?;
        Ok(Some(if self.raw { Way::Raw(client.hello()?) } else { Way::Tls(client) }))
    }
}

/// What this process has had of the processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
