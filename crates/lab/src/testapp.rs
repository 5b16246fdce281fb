//! The test application: a server that describes itself and the request, and a client that records which instance
//! answered when.
//!
//! HTTP ports serve HTTP/1.1 with WebSocket upgrades, HTTP/2 without TLS and gRPC (detected by the first bytes). Other
//! ports serve opaque TCP: an echo, and a port where the server speaks first. Requests can be slow or fail, each on
//! request or all until further notice. `GET /` lists the functions. It can be an external authorization server as well
//! (`--authz-port`).
//!
//! As a client (`--call`, or `GET /fetch?url=…` to call from the application's pod) it sends requests at a fixed rate,
//! independent of responses, and returns a timeline, by which a failover is judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use net::Listen;
use net::socket::Acceptor;
use runtime::control;
use runtime::drain;

use crate::console::{print, print_stderr};

mod answer;
mod app;
mod authorizer;
mod client;
mod duration;
mod grpc;
mod load;
mod pages;
mod response;
mod serve;
mod switches;
mod tcp;
#[cfg(test)]
mod tests;
mod websocket;

pub use client::{CallHeader, CallProtocol, CallTarget};
pub use load::{CallPlan, Timeline};

use answer::Instance;
use app::App;
use duration::duration;
use serve::HttpPort;
use switches::FaultSwitches;

/// Options of the test application.
#[derive(Args, Clone, Debug)]
pub struct TestappOptions {
    /// Ports of HTTP/1.1, HTTP/2 and gRPC
    #[arg(long, env = "PORT", value_delimiter = ',', default_value = "9080")]
    pub port: Vec<u16>,
    /// Ports that echo bytes
    #[arg(long, env = "TCP_PORT", value_delimiter = ',', default_value = "9090")]
    pub tcp_port: Vec<u16>,
    /// Ports where the server speaks first, then echoes
    #[arg(long, env = "BANNER_PORT", value_delimiter = ',', default_value = "9091")]
    pub banner_port: Vec<u16>,
    /// Ports of an external authorization server, by HTTP and gRPC (ext_authz), which allows what has the header
    /// x-ext-authz: allow
    #[arg(long, env = "AUTHZ_PORT", value_delimiter = ',')]
    pub authz_port: Vec<u16>,
    /// Listen address
    #[arg(long, env = "LISTEN_ADDRESS", default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    pub address: IpAddr,
    /// Milliseconds to accept connections after SIGTERM, while the pod is unready
    #[arg(long, env = "DRAIN_MILLISECONDS", default_value_t = 500)]
    pub drain: u64,
    /// Call this URL as a client (http://, ws://, tcp:// with the number of bytes to echo as its path, or banner:// for
    /// a server that speaks first) and print the timeline
    #[arg(long, value_name = "URL")]
    pub call: Option<CallTarget>,
    /// Requests per second, with --call
    #[arg(long, default_value_t = 10.0, requires = "call")]
    pub rate: f64,
    /// Duration of the calls, such as 5s or 500ms, with --call
    #[arg(long, default_value = "5s", value_parser = duration, requires = "call")]
    pub duration: Duration,
    /// Timeout of one request, with --call
    #[arg(long, default_value = "5s", value_parser = duration, requires = "call")]
    pub timeout: Duration,
    /// Protocol of http:// URLs, with --call
    #[arg(long, value_enum, default_value_t = CallProtocol::Http1, requires = "call")]
    pub protocol: CallProtocol,
    /// Header of requests over HTTP/1.1, such as 'authorization: Bearer …'; may be repeated, with --call
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = client::header, requires = "call")]
    pub headers: Vec<CallHeader>,
    /// Output format, with --call
    #[arg(short, long, value_enum, default_value_t = TimelineFormat::Text, requires = "call")]
    pub output: TimelineFormat,
}

/// Output format of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TimelineFormat {
    /// Summary: which cluster answered when
    Text,
    /// Every request, as JSON
    Json,
}

/// Runs the server until SIGTERM, or the client until it is done.
pub fn run(options: TestappOptions) -> ExitCode {
    let ran = match &options.call {
        Some(target) => control::run(call(target.clone(), &options)),
        None => control::run(serve(&options)),
    };
    match ran.map_err(anyhow::Error::from).and_then(|ran| ran) {
        Ok(code) => code,
        Err(error) => {
            print_stderr(&format!("isthmus testapp: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn call(target: CallTarget, options: &TestappOptions) -> anyhow::Result<ExitCode> {
    let count = (options.rate * options.duration.as_secs_f64()).ceil() as usize;
    let plan = CallPlan {
        target,
        protocol: options.protocol,
        headers: options.headers.clone(),
        count,
        rate: options.rate,
        timeout: options.timeout,
    };
    plan.check().map_err(anyhow::Error::msg)?;
    let timeline = plan.run().await;
    match options.output {
        TimelineFormat::Text => print(&timeline.text())?,
        TimelineFormat::Json => print(&format!("{}\n", serde_json::to_string(&timeline)?))?,
    }
    Ok(if timeline.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn serve(options: &TestappOptions) -> anyhow::Result<ExitCode> {
    let app = Arc::new(App {
        who: Instance::from_environment(),
        switches: FaultSwitches::default(),
        registry: telemetry::metrics::Registry::new(),
    });
    let (signal, watch, mut drained) = drain::channel();
    // Every port is bound before one is served.
    let http = bind(options.address, &options.port)?;
    let echo = bind(options.address, &options.tcp_port)?;
    let banner = bind(options.address, &options.banner_port)?;
    let authz = bind(options.address, &options.authz_port)?;
    let http = http.into_iter().map(|port| (HttpPort::Application, port));
    let authz = authz.into_iter().map(|port| (HttpPort::Authorizer, port));
    for (kind, port) in http.chain(authz) {
        tokio::spawn(serve::http(kind, port, Arc::clone(&app), watch.clone()));
    }
    echo.into_iter().for_each(|port| drop(tokio::spawn(tcp::serve(port, None, watch.clone()))));
    banner.into_iter().for_each(|port| drop(tokio::spawn(tcp::serve(port, Some(Arc::clone(&app)), watch.clone()))));
    print_stderr(&format!("testapp {} listens on {:?}", app.who.pod, options.port));

    control::shutdown_signal().await?;
    app.switches.leave();
    tokio::time::sleep(Duration::from_millis(options.drain)).await;
    signal.begin();
    drained.within(Duration::from_secs(5)).await;
    Ok(ExitCode::SUCCESS)
}

fn bind(address: IpAddr, ports: &[u16]) -> anyhow::Result<Vec<Acceptor>> {
    let listen = |port: u16| {
        let listener = net::listen(SocketAddr::new(address, port), &Listen::default()).or_else(|error| {
            // The wildcard address covers both families, or IPv4 only on a machine without IPv6.
            if address == Ipv6Addr::UNSPECIFIED && error.kind() != std::io::ErrorKind::AddrInUse {
                net::listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), &Listen::default())
            } else {
                Err(error)
            }
        });
        listener.and_then(Acceptor::new).with_context(|| format!("listening on port {port}"))
    };
    ports.iter().filter(|port| **port != 0).map(|port| listen(*port)).collect()
}
