//! One load by hand: `isthmus-bench part load --help`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

use super::passthrough::{self, Payload};
use super::{Edge, Protocol, Shape, Timing, closed_loop, open_loop, tls};

/// Options of `part load`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address of the server or of the proxy in front of it
    #[arg(long)]
    target: SocketAddr,
    /// Host of the requests
    #[arg(long, default_value = "backend")]
    authority: String,
    /// Protocol of the requests
    #[arg(long, value_enum, default_value = "http1")]
    protocol: Protocol,
    /// Length of a response or message in bytes
    #[arg(long, default_value_t = 1024)]
    body: usize,
    /// Number of requests in flight
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests per second [default: as many as possible]
    #[arg(long)]
    rate: Option<f64>,
    /// Duration in seconds
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Warm-up in seconds
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Open new TLS connections with this server name, to a backend's `--tls`
    #[arg(long, requires = "root")]
    server_name: Option<String>,
    /// File with the root certificate of the server
    #[arg(long)]
    root: Option<PathBuf>,
    /// Send plain bytes after the ClientHello, to a backend's `--behind-hello`
    #[arg(long, requires = "server_name")]
    raw: bool,
    /// Transfer bytes without end instead of opening new connections
    #[arg(long, requires = "server_name")]
    bulk: bool,
}

/// Sends the load and prints its outcome and the generator's own CPU time.
pub fn run(options: &Options) -> Result<()> {
    let Options { target, ref authority, protocol, body, connections, rate, .. } = *options;
    let shape = Shape { protocol, body, connections };
    let seconds = |number| Duration::try_from_secs_f64(number).context("a duration");
    let timing = Timing { warm_up: seconds(options.warm_up)?, duration: seconds(options.duration)? };
    let mut own = [Duration::ZERO; 2];
    let mut edge = |edge: Edge| own[edge as usize] = processor_time();
    let outcome = match (options.payload()?, rate) {
        (None, None) => closed_loop(target, authority, shape, timing, &mut edge)?,
        (None, Some(rate)) => open_loop(target, authority, shape, rate, timing, &mut edge)?,
        (Some(payload), _) if options.bulk => passthrough::bulk(target, &payload, connections, timing, &mut edge)?,
        (Some(payload), rate) => passthrough::new_connections(target, &payload, connections, rate, timing, &mut edge)?,
    };
    let cost = (own[1] - own[0]).as_secs_f64() * 1e6 / outcome.requests.max(1) as f64;
    let load = options.server_name.as_ref().map_or_else(|| shape.to_string(), |name| format!("connections to {name}"));
    println!("{load}: {:.0} requests/s, {:.1} MiB/s", outcome.rate(), outcome.throughput() / f64::from(1 << 20));
    let at = |share| outcome.latency_at(share);
    println!("p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}", at(0.5), at(0.99), at(0.999), at(1.0));
    println!(
        "{} failed, {} unanswered; {cost:.2} µs of the generator's CPU per request",
        outcome.failed, outcome.unanswered
    );
    for (error, count) in outcome.errors {
        println!("{count} × {error}");
    }
    Ok(())
}

impl Options {
    /// The payload of connections by server name; `None` for requests.
    fn payload(&self) -> Result<Option<Payload>> {
        let (Some(name), Some(root)) = (&self.server_name, &self.root) else { return Ok(None) };
        let client = tls::TlsClient::new(root, name)?;
        Ok(Some(if self.raw { Payload::Raw(client.hello()?) } else { Payload::Tls(client) }))
    }
}

/// The CPU time of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
