//! Load through what routes connections by the server name in their ClientHello, and sees nothing else of them.
//!
//! By default ([`Way::Raw`]) a client sends a real hello and then plain bytes: no router can know, and what is measured on
//! a machine that all share is the router, not two ends' cryptography, which would take most of the processor.
//! [`Way::Tls`] is the whole of TLS 1.3.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::drive::{self, Pace};
use super::socket::{self, Scratch};
use super::{Edge, Failure, Outcome, Timing, tls};

/// How much a short exchange asks for.
const SHORT: usize = 64;

/// How the ends talk.
#[derive(Clone)]
pub enum Way {
    /// This ClientHello, then plain bytes; to a backend's `behind_hello`.
    Raw(Vec<u8>),
    /// TLS 1.3; to a backend's `tls`.
    Tls(tls::Client),
}

/// As many bytes as can be, from the server to the client on each of the connections. Of the outcome, bytes and failures
/// count; a "request" is what arrived at a time.
///
/// # Errors
/// As [`super::closed_loop`].
pub fn bulk(
    target: SocketAddr,
    way: &Way,
    connections: usize,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    drive::drive(|| Ok(lanes(target, way, Use::Bulk, connections)), Pace::Closed, timing, edge)
}

/// New connections, each with a handshake, a short exchange and a close: at `rate` per second as an open loop, else as many
/// as can be with `concurrency` at a time.
///
/// # Errors
/// As [`super::closed_loop`].
pub fn new_connections(
    target: SocketAddr,
    way: &Way,
    concurrency: usize,
    rate: Option<f64>,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    ensure!(rate.is_none_or(|rate| rate > 0.0 && rate.is_finite()), "a rate of {rate:?}/s");
    let pace = rate.map_or(Pace::Closed, Pace::Open);
    drive::drive(|| Ok(lanes(target, way, Use::Once, concurrency)), pace, timing, edge)
}

/// Short exchanges on connections that stay, as many as can be.
///
/// # Errors
/// As [`super::closed_loop`].
pub fn exchanges(
    target: SocketAddr,
    way: &Way,
    connections: usize,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    drive::drive(|| Ok(lanes(target, way, Use::Kept, connections)), Pace::Closed, timing, edge)
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Bytes without end.
    Bulk,
    /// One short exchange.
    Once,
    /// Short exchanges.
    Kept,
}

/// So many lanes.
pub fn lanes(target: SocketAddr, way: &Way, purpose: Use, count: usize) -> Vec<Lane> {
    let (scratch, way) = (socket::scratch(), Rc::new(way.clone()));
    let lane = || Lane { target, way: Rc::clone(&way), purpose, scratch: Rc::clone(&scratch), stream: None };
    std::iter::repeat_with(lane).take(count).collect()
}

/// A connection, or one after another.
pub struct Lane {
    target: SocketAddr,
    way: Rc<Way>,
    purpose: Use,
    scratch: Scratch,
    stream: Option<Stream>,
}

enum Stream {
    Raw(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl drive::Lane for Lane {
    async fn exchange(&mut self) -> Result<u64, Failure> {
        let wanted = if self.purpose == Use::Bulk { u64::MAX } else { SHORT as u64 };
        let mut stream = match self.stream.take() {
            Some(mut stream) => {
                if self.purpose == Use::Kept {
                    stream.write(&wanted.to_be_bytes()).await?;
                }
                stream
            }
            None => self.open(&wanted.to_be_bytes()).await?,
        };
        let arrived = match self.purpose {
            Use::Bulk => stream.drop_some(&self.scratch).await?,
            Use::Once | Use::Kept => stream.read_short().await?,
        };
        if self.purpose != Use::Once {
            self.stream = Some(stream);
        }
        Ok(arrived)
    }
}

impl Lane {
    async fn open(&self, request: &[u8]) -> Result<Stream, Failure> {
        let mut stream = match &*self.way {
            Way::Raw(hello) => {
                let mut stream = Stream::Raw(socket::connect(self.target).await?);
                stream.write(hello).await?;
                stream
            }
            Way::Tls(client) => Stream::Tls(Box::new(client.connect(self.target).await?)),
        };
        stream.write(request).await?;
        Ok(stream)
    }
}

impl Stream {
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
