//! The proxies between a client and a server: two, or none.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::load::Protocol;
use crate::process::{Process, Usage};
use crate::rig::Rig;

/// The declared protocol of a port. Each protocol has a port of its own in every system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque TCP.
    Tcp,
}

impl PortProtocol {
    /// All protocols.
    pub const ALL: [Self; 4] = [Self::Http1, Self::Http2, Self::Grpc, Self::Tcp];

    /// The declared protocol for a load.
    pub fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 | Protocol::NewConnection => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::GrpcUnary | Protocol::GrpcStream => Self::Grpc,
            Protocol::Tcp => Self::Tcp,
        }
    }

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// Returns whether proxies parse requests.
    pub fn is_http(self) -> bool {
        self != Self::Tcp
    }

    /// Returns whether the protocol is HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// The port of the outbound and the inbound proxy, and of the service.
    pub fn port(self) -> u16 {
        9080 + self as u16
    }

    /// The listen address of a proxy at `ip`.
    pub fn at(self, ip: Ipv4Addr) -> SocketAddr {
        SocketAddr::new(ip.into(), self.port())
    }

    /// The server's listen address.
    pub fn server(self) -> SocketAddr {
        SocketAddr::new(SERVER.into(), self.port())
    }
}

/// The name of the service and of its service account.
pub const SERVER_ACCOUNT: &str = "server";
/// The client's service account.
pub const CLIENT: &str = "client";
/// The server's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 1);

/// Another listen address of the server for HTTP: Istio's sidecars send to loopback only.
pub const LOCAL_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9080);

/// The proxies of one system.
#[derive(Debug)]
pub struct Chain {
    /// The system's name in tables.
    pub name: &'static str,
    /// The outbound proxy's address; the server's if there is no proxy.
    pub ip: Ipv4Addr,
    /// The outbound and the inbound proxy's process.
    pub processes: Vec<Process>,
}

impl Chain {
    /// The system without proxies.
    pub fn none() -> Self {
        Self { name: "none", ip: SERVER, processes: Vec::new() }
    }

    /// The address that clients connect to.
    pub fn entry(&self, protocol: Protocol) -> SocketAddr {
        PortProtocol::of(protocol).at(self.ip)
    }

    /// The resources that each process used so far.
    pub fn usage(&self) -> Result<Vec<Usage>> {
        self.processes.iter().map(Process::usage).collect()
    }

    /// The sum of the processes' resident memory, in bytes.
    pub fn resident(&self) -> Result<u64> {
        self.processes.iter().map(Process::resident).sum()
    }

    /// Returns an error if one of the processes has ended.
    pub fn ensure_running(&mut self, rig: &Rig) -> Result<()> {
        for process in &mut self.processes {
            let log = rig.log(&process.name);
            process.ensure_running(&log)?;
        }
        Ok(())
    }
}

/// Sends a GET on a new connection and returns the response, as text.
pub fn answer(address: SocketAddr, host: &str, path: &str) -> Result<String> {
    const WITHIN: Duration = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Sends a GET on a new connection and returns the response's status.
pub fn status(address: SocketAddr, path: &str) -> Result<u16> {
    let answer = answer(address, &address.to_string(), path)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let first = answer.lines().next().unwrap_or_default();
    status.with_context(|| format!("{address} sent a malformed response: {first:?}"))
}

/// Waits until a GET is answered with a status.
pub fn await_status(address: SocketAddr, path: &str, wanted: u16, process: &mut Process, rig: &Rig) -> Result<()> {
    await_answer(process, rig, &format!("{path} at {address} with {wanted}"), || match status(address, path)? {
        status if status == wanted => Ok(()),
        status => bail!("status {status}"),
    })
}

/// Waits until a GET of `/bytes/1024` is answered with success, and with a header that a route adds.
pub fn await_routed(address: SocketAddr, host: &str, header: &str, process: &mut Process, rig: &Rig) -> Result<()> {
    let wanted = format!("requests for {host} at {address} with 200 and {header}");
    await_answer(process, rig, &wanted, || {
        let answer = answer(address, host, "/bytes/1024")?;
        let head = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(head, _)| head);
        ensure!(head.starts_with("HTTP/1.1 200") && head.lines().any(|line| line == header), "{head:?}");
        Ok(())
    })
}

/// Waits until a GET is refused by an authorization policy.
pub fn await_refused(address: SocketAddr, host: &str, path: &str, process: &mut Process, rig: &Rig) -> Result<()> {
    await_answer(process, rig, &format!("{path} of {host} at {address} with 403"), || {
        let answer = answer(address, host, path)?;
        ensure!(answer.starts_with("HTTP/1.1 403") && answer.contains("RBAC: access denied"), "{answer:?}");
        Ok(())
    })
}

/// Waits until a check succeeds.
fn await_answer(process: &mut Process, rig: &Rig, wanted: &str, check: impl Fn() -> Result<()>) -> Result<()> {
    const WITHIN: Duration = Duration::from_secs(30);
    let (start, log) = (Instant::now(), rig.log(&process.name));
    loop {
        let Err(last) = check() else { return Ok(()) };
        process.ensure_running(&log)?;
        if start.elapsed() > WITHIN {
            bail!("{} did not answer {wanted}, but: {last:#}; its log: {}", process.name, log.display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The socket address of an IPv4 address and a port.
pub fn address(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip), port)
}

/// Returns an error if requests failed or none succeeded: only working systems are measured.
pub fn ensure_none_failed(outcome: &crate::load::Outcome) -> Result<()> {
    ensure!(outcome.failed == 0, "{} requests failed: {:?}", outcome.failed, outcome.errors);
    ensure!(outcome.requests > 0, "no request was answered within the window");
    Ok(())
}
