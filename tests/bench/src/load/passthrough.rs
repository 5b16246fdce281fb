//! Load through a gateway that routes connections by the server name in their ClientHello.
//!
//! By default ([`Payload::Raw`]) a client sends a real ClientHello and then plain bytes. A gateway cannot see the difference, and
//! the cryptography of client and server, which would take most of the shared processors, is left out.
//! [`Payload::Tls`] is complete TLS 1.3.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::drive::{self, Pace};
use super::socket::{self, Scratch};
use super::{Edge, Failure, Outcome, Timing, tls};

/// The length of a short response.
const SHORT: usize = 64;

/// What a connection carries.
#[derive(Clone)]
pub enum Payload {
    /// This ClientHello, then plain bytes, to a backend's `behind_hello`.
    Raw(Vec<u8>),
    /// TLS 1.3, to a backend's `tls`.
    Tls(tls::TlsClient),
}

/// Transfers as many bytes as possible from the server to the client on each connection. Of the outcome, bytes and failures
/// matter; a "request" is one read.
///
/// # Errors
///
/// Returns an error as [`super::closed_loop`] does.
pub fn bulk(
    target: SocketAddr,
    payload: &Payload,
    connections: usize,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    drive::drive(|| Ok(callers(target, payload, Traffic::Bulk, connections)), Pace::Closed, timing, edge)
}

/// Opens connections, each for a handshake and a short exchange: `rate` per second in an open loop, or as many as possible with
/// `concurrency` at a time.
///
/// # Errors
///
/// Returns an error as [`super::closed_loop`] does.
pub fn new_connections(
    target: SocketAddr,
    payload: &Payload,
    concurrency: usize,
    rate: Option<f64>,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    ensure!(rate.is_none_or(|rate| rate > 0.0 && rate.is_finite()), "the rate must be a positive number");
    let pace = rate.map_or(Pace::Closed, Pace::Open);
    drive::drive(|| Ok(callers(target, payload, Traffic::Once, concurrency)), pace, timing, edge)
}

/// Runs as many short exchanges as possible on connections that stay open.
///
/// # Errors
///
/// Returns an error as [`super::closed_loop`] does.
pub fn exchanges(
    target: SocketAddr,
    payload: &Payload,
    connections: usize,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    drive::drive(|| Ok(callers(target, payload, Traffic::Kept, connections)), Pace::Closed, timing, edge)
}

/// The exchanges on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A transfer without end.
    Bulk,
    /// One short exchange, after which the connection is closed.
    Once,
    /// Short exchanges without end.
    Kept,
}

/// Creates callers.
pub fn callers(target: SocketAddr, payload: &Payload, traffic: Traffic, count: usize) -> Vec<PassthroughCaller> {
    let (scratch, payload) = (socket::scratch(), Rc::new(payload.clone()));
    let caller = || PassthroughCaller {
        target,
        payload: Rc::clone(&payload),
        traffic,
        scratch: Rc::clone(&scratch),
        stream: None,
    };
    std::iter::repeat_with(caller).take(count).collect()
}

/// A caller through a gateway, with one connection or successive ones.
pub struct PassthroughCaller {
    target: SocketAddr,
    payload: Rc<Payload>,
    traffic: Traffic,
    scratch: Scratch,
    stream: Option<PayloadStream>,
}

enum PayloadStream {
    Raw(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl drive::Caller for PassthroughCaller {
    async fn exchange(&mut self) -> Result<u64, Failure> {
        let wanted = if self.traffic == Traffic::Bulk { u64::MAX } else { SHORT as u64 };
        let mut stream = match self.stream.take() {
            Some(mut stream) => {
                if self.traffic == Traffic::Kept {
                    stream.write(&wanted.to_be_bytes()).await?;
                }
                stream
            }
            None => self.open(&wanted.to_be_bytes()).await?,
        };
        let arrived = match self.traffic {
            Traffic::Bulk => stream.drop_some(&self.scratch).await?,
            Traffic::Once | Traffic::Kept => stream.read_short().await?,
        };
        if self.traffic != Traffic::Once {
            self.stream = Some(stream);
        }
        Ok(arrived)
    }
}

impl PassthroughCaller {
    async fn open(&self, request: &[u8]) -> Result<PayloadStream, Failure> {
        let mut stream = match &*self.payload {
            Payload::Raw(hello) => {
                let mut stream = PayloadStream::Raw(socket::connect(self.target).await?);
                stream.write(hello).await?;
                stream
            }
            Payload::Tls(client) => PayloadStream::Tls(Box::new(client.connect(self.target).await?)),
        };
        stream.write(request).await?;
        Ok(stream)
    }
}

impl PayloadStream {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = match self {
            Self::Raw(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => match stream.write_all(bytes).await {
                Ok(()) => stream.flush().await,
                error => error,
            },
        };
        written.map_err(Failure::Connection)
    }

    async fn read_short(&mut self) -> Result<u64, Failure> {
        let mut bytes = [0; SHORT];
        let read = match self {
            Self::Raw(stream) => stream.read_exact(&mut bytes).await,
            Self::Tls(stream) => stream.read_exact(&mut bytes).await,
        };
        read.map(|read| read as u64).map_err(Failure::Connection)
    }

    async fn drop_some(&mut self, scratch: &Scratch) -> Result<u64, Failure> {
        let dropped = match self {
            Self::Raw(stream) => socket::discard(stream, scratch, u64::MAX).await,
            Self::Tls(stream) => socket::read_with(stream, scratch, |bytes| bytes.len() as u64).await,
        };
        match dropped.map_err(Failure::Connection)? {
            0 => Err(Failure::Closed),
            dropped => Ok(dropped),
        }
    }
}
