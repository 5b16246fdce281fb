//! What stands between a client and a server: two proxies, or nothing.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::load::Protocol;
use crate::process::{Process, Usage};
use crate::rig::Rig;

/// What a port is declared to speak: each has a port of its own in every system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

impl Speaks {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Http1, Self::Http2, Self::Grpc, Self::Tcp];

    /// What a load speaks.
    pub fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 | Protocol::NewConnection => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::GrpcUnary | Protocol::GrpcStream => Self::Grpc,
            Protocol::Tcp => Self::Tcp,
        }
    }

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// Whether requests are understood.
    pub fn is_http(self) -> bool {
        self != Self::Tcp
    }

    /// Whether that is HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// The port of the outbound and the inbound proxy, and of the service.
    pub fn port(self) -> u16 {
        9080 + self as u16
    }

    /// Where a proxy at `ip` takes connections.
    pub fn at(self, ip: Ipv4Addr) -> SocketAddr {
        SocketAddr::new(ip.into(), self.port())
    }

    /// Where the server takes them.
    pub fn server(self) -> SocketAddr {
        SocketAddr::new(SERVER.into(), self.port())
    }
}

/// The service's name, and its service account's.
pub const SERVER_ACCOUNT: &str = "server";
/// The client's service account.
pub const CLIENT: &str = "client";
/// The server's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 1);

/// One system.
#[derive(Debug)]
pub struct Chain {
    /// What tables call it.
    pub name: &'static str,
    /// The outbound proxy's address; where there is none, the server's.
    pub ip: Ipv4Addr,
    /// The outbound and the inbound proxy.
    pub processes: Vec<Process>,
}

impl Chain {
    /// No proxy.
    pub fn none() -> Self {
        Self { name: "none", ip: SERVER, processes: Vec::new() }
    }

    /// Where clients connect to.
    pub fn entry(&self, protocol: Protocol) -> SocketAddr {
        Speaks::of(protocol).at(self.ip)
    }

    /// What its processes have used so far, in order.
    pub fn usage(&self) -> Result<Vec<Usage>> {
        self.processes.iter().map(Process::usage).collect()
    }

    /// Resident memory of its processes together, in bytes.
    pub fn resident(&self) -> Result<u64> {
        self.processes.iter().map(Process::resident).sum()
    }

    /// Fails if one of its processes has ended.
    pub fn lives(&mut self, rig: &Rig) -> Result<()> {
        for process in &mut self.processes {
            let log = rig.log(&process.name);
            process.lives(&log)?;
        }
        Ok(())
    }
}

/// The status of a GET without a body, on a connection of its own.
pub fn status(address: SocketAddr, path: &str) -> Result<u16> {
    const WITHIN: Duration = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = String::from_utf8_lossy(&answer);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.with_context(|| format!("{address} answered {:?}", head.lines().next().unwrap_or_default()))
}

/// Waits until a GET is answered with this status.
pub fn await_status(address: SocketAddr, path: &str, wanted: u16, process: &mut Process, rig: &Rig) -> Result<()> {
    const WITHIN: Duration = Duration::from_secs(30);
    let (start, log) = (Instant::now(), rig.log(&process.name));
    loop {
        let last = match status(address, path) {
            Ok(status) if status == wanted => return Ok(()),
            Ok(status) => format!("status {status}"),
            Err(error) => format!("{error:#}"),
        };
        process.lives(&log)?;
        if start.elapsed() > WITHIN {
            bail!(
                "{} did not answer {path} at {address} with {wanted}, but: {last}; its log: {}",
                process.name,
                log.display()
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An address and a port, as text and as proxies' configurations have it.
pub fn address(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip), port)
}

/// Fails where requests failed: nothing that did not work is measured.
pub fn ensure_none_failed(outcome: &crate::load::Outcome) -> Result<()> {
    ensure!(outcome.failed == 0, "{} requests failed: {:?}", outcome.failed, outcome.errors);
    ensure!(outcome.requests > 0, "no request was answered within the window");
    Ok(())
}
