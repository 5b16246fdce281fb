//! Kinds of load, their names and their lanes.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use bytes::Bytes;

use super::{Failure, drive, http1, http2, socket, tcp};

/// On so many connections of HTTP/2 the streams of a shape are spread, if it has more than these.
const SESSIONS: usize = 16;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1 on connections that stay.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, a call for each message, which the server sends back.
    GrpcUnary,
    /// gRPC, all messages on calls with streams both ways.
    GrpcStream,
    /// Messages over TCP, which the server sends back.
    Tcp,
    /// HTTP/1.1 with a new connection for each request.
    NewConnection,
}

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What is spoken.
    pub protocol: Protocol,
    /// The length of a response's body, or of a message, which over TCP has one byte at least.
    pub body: usize,
    /// How many requests are under way at most: each on a connection of its own; of HTTP/2 and gRPC, beyond 16, each on a
    /// stream of one of 16 connections.
    pub connections: usize,
}

impl Shape {
    pub(super) fn lanes(&self, target: SocketAddr, authority: &str) -> Result<Vec<Lane>> {
        let scratch = socket::scratch();
        match self.protocol {
            Protocol::Http1 | Protocol::NewConnection => {
                let keep = self.protocol == Protocol::Http1;
                let request = http1::request(authority, self.body, keep);
                let lane = || Ok(Lane::Http1(http1::Lane::new(target, &request, self.body, keep, &scratch)));
                self.each(|_| lane())
            }
            Protocol::Tcp => {
                let message = Bytes::from(vec![b'x'; self.body.max(1)]);
                self.each(|_| Ok(Lane::Tcp(tcp::Lane::new(target, message.clone(), &scratch))))
            }
            Protocol::Http2 | Protocol::GrpcUnary | Protocol::GrpcStream => {
                let sessions: Vec<_> = (0..self.sessions()).map(|_| http2::Session::new(target)).collect();
                let lane: fn(&Rc<http2::Session>, &str, usize) -> Result<http2::Lane> = match self.protocol {
                    Protocol::GrpcUnary => http2::Lane::unary,
                    Protocol::GrpcStream => http2::Lane::stream,
                    _ => http2::Lane::get,
                };
                self.each(|number| Ok(Lane::Http2(lane(&sessions[number % sessions.len()], authority, self.body)?)))
            }
        }
    }

    fn each(&self, lane: impl FnMut(usize) -> Result<Lane>) -> Result<Vec<Lane>> {
        (0..self.connections).map(lane).collect()
    }

    fn sessions(&self) -> usize {
        self.connections.min(SESSIONS)
    }
}

/// A lane of any protocol.
pub(super) enum Lane {
    Http1(http1::Lane),
    Http2(http2::Lane),
    Tcp(tcp::Lane),
}

impl drive::Lane for Lane {
    async fn exchange(&mut self) -> Result<u64, Failure> {
        match self {
            Self::Http1(lane) => lane.exchange().await,
            Self::Http2(lane) => lane.exchange().await,
            Self::Tcp(lane) => lane.exchange().await,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, body, connections } = *self;
        let name = match protocol {
            Protocol::Http1 => "HTTP/1.1 keep-alive",
            Protocol::Http2 => "HTTP/2",
            Protocol::GrpcUnary => "gRPC unary",
            Protocol::GrpcStream => "gRPC stream",
            Protocol::Tcp => "TCP",
            Protocol::NewConnection => "HTTP/1.1 new connection per request",
        };
        write!(f, "{name}, {}, ", Size(body))?;
        match protocol {
            Protocol::NewConnection => write!(f, "{connections} at a time"),
            Protocol::Http2 | Protocol::GrpcUnary | Protocol::GrpcStream if connections > SESSIONS => {
                write!(f, "{connections} streams on {}", Count(self.sessions()))
            }
            _ => write!(f, "{}", Count(connections)),
        }
    }
}

/// A number of bytes.
struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(usize, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.iter().find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// A number of connections.
struct Count(usize);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connection{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::{Protocol, Shape};

    #[test]
    fn names() {
        let name = |protocol, body, connections| Shape { protocol, body, connections }.to_string();
        assert_eq!(name(Protocol::Http1, 1024, 16), "HTTP/1.1 keep-alive, 1 KiB, 16 connections");
        assert_eq!(name(Protocol::Http2, 0, 256), "HTTP/2, 0 B, 256 streams on 16 connections");
        assert_eq!(name(Protocol::GrpcStream, 64, 1), "gRPC stream, 64 B, 1 connection");
        assert_eq!(
            name(Protocol::NewConnection, 1 << 20, 16),
            "HTTP/1.1 new connection per request, 1 MiB, 16 at a time"
        );
    }
}
