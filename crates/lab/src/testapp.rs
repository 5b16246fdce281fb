//! The test application: a server that says who answered and what it saw, and a client that tells when what answered.
//!
//! It speaks HTTP/1.1 with WebSocket upgrades, HTTP/2 without TLS and gRPC on its HTTP ports (told apart by the first
//! bytes), and opaque TCP: an echo, and a port where the server speaks first. It can be told to be slow or to fail, by
//! request or until told otherwise. `GET /` lists what it does.
//!
//! As a client (`--call`, or `GET /fetch?url=…` to have it call from where it runs) it sends at a fixed rate, whether or
//! not answers come, and returns the time line that a failover is judged by.

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

mod answer;
mod app;
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

pub use client::{Protocol, Target};
pub use load::{Plan, Timeline};

use answer::Who;
use app::App;
use duration::duration;
use switches::Switches;

/// How to run the test application.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Ports that speak HTTP/1.1, HTTP/2 and gRPC.
    #[arg(long, env = "PORT", value_delimiter = ',', default_value = "9080")]
    pub port: Vec<u16>,
    /// Ports that echo bytes.
    #[arg(long, env = "TCP_PORT", value_delimiter = ',', default_value = "9090")]
    pub tcp_port: Vec<u16>,
    /// Ports where the server speaks first, then echoes.
    #[arg(long, env = "BANNER_PORT", value_delimiter = ',', default_value = "9091")]
    pub banner_port: Vec<u16>,
    /// The address to listen on.
    #[arg(long, env = "LISTEN_ADDRESS", default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    pub address: IpAddr,
    /// Milliseconds after SIGTERM during which connections are still taken, while others hear that this pod leaves.
    #[arg(long, env = "DRAIN_MILLISECONDS", default_value_t = 500)]
    pub drain: u64,
    /// Be a client: call this URL (http://, ws://, tcp:// with the bytes to be echoed as its path, or banner:// for a server that speaks
    /// first) and print the time line.
    #[arg(long, value_name = "URL")]
    pub call: Option<Target>,
    /// With --call: requests per second.
    #[arg(long, default_value_t = 10.0, requires = "call")]
    pub rate: f64,
    /// With --call: how long, as in 5s or 500ms.
    #[arg(long, default_value = "5s", value_parser = duration, requires = "call")]
    pub duration: Duration,
    /// With --call: how long one request may take.
    #[arg(long, default_value = "5s", value_parser = duration, requires = "call")]
    pub timeout: Duration,
    /// With --call: how to speak to an http:// URL.
    #[arg(long, value_enum, default_value_t = Protocol::Http1, requires = "call")]
    pub protocol: Protocol,
    /// With --call: how to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text, requires = "call")]
    pub output: Output,
}

/// How to print a time line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people: what answered when.
    Text,
    /// Everything.
    Json,
}

/// Runs the application until SIGTERM, or the client until it is done.
pub fn run(options: Options) -> ExitCode {
    let ran = match &options.call {
        Some(target) => control::run(call(target.clone(), &options)),
        None => control::run(serve(&options)),
    };
    match ran.map_err(anyhow::Error::from).and_then(|ran| ran) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("isthmus testapp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn call(target: Target, options: &Options) -> anyhow::Result<ExitCode> {
    let count = (options.rate * options.duration.as_secs_f64()).ceil() as usize;
    let plan = Plan { target, protocol: options.protocol, count, rate: options.rate, timeout: options.timeout };
    plan.check().map_err(anyhow::Error::msg)?;
    let timeline = plan.run().await;
    match options.output {
        Output::Text => print!("{}", timeline.text()),
        Output::Json => println!("{}", serde_json::to_string(&timeline)?),
    }
    Ok(if timeline.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn serve(options: &Options) -> anyhow::Result<ExitCode> {
    let app = Arc::new(App {
        who: Who::from_environment(),
        switches: Switches::default(),
        registry: telemetry::metrics::Registry::new(),
    });
    let (signal, watch, mut drained) = drain::channel();
    // All ports are bound before any is served.
    let http = bind(options.address, &options.port)?;
    let echo = bind(options.address, &options.tcp_port)?;
    let banner = bind(options.address, &options.banner_port)?;
    http.into_iter().for_each(|port| drop(tokio::spawn(serve::http(port, Arc::clone(&app), watch.clone()))));
    echo.into_iter().for_each(|port| drop(tokio::spawn(tcp::serve(port, None, watch.clone()))));
    banner.into_iter().for_each(|port| drop(tokio::spawn(tcp::serve(port, Some(Arc::clone(&app)), watch.clone()))));
    eprintln!("testapp {} listens on {:?}", app.who.pod, options.port);

    control::asked_to_stop().await?;
    app.switches.leave();
    tokio::time::sleep(Duration::from_millis(options.drain)).await;
    signal.begin();
    drained.within(Duration::from_secs(5)).await;
    Ok(ExitCode::SUCCESS)
}

fn bind(address: IpAddr, ports: &[u16]) -> anyhow::Result<Vec<Acceptor>> {
    let listen = |port: u16| {
        let listener = net::listen(SocketAddr::new(address, port), &Listen::default()).or_else(|error| {
            // The wildcard address stands for both families, and for IPv4 alone where the machine has no IPv6.
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
