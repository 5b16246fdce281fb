//! Kinds of load, their names and their callers.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use bytes::Bytes;

use super::{Failure, drive, http1, http2, socket, tcp};

/// The limit on HTTP/2 connections of a shape. More requests in flight are streams on these.
const SESSIONS: usize = 16;

/// The protocol of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1 on connections that are kept alive.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC with a call for each message, which the server echoes.
    GrpcUnary,
    /// gRPC with all messages on bidirectional calls.
    GrpcStream,
    /// Messages over TCP, which the server echoes.
    Tcp,
    /// HTTP/1.1 with a new connection for each request.
    NewConnection,
}

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The protocol.
    pub protocol: Protocol,
    /// The length of a response's body or of a message; over TCP at least one byte.
    pub body: usize,
    /// The number of requests in flight, each on a connection of its own. Over HTTP/2 and gRPC, more than 16 are streams on 16
    /// connections.
    pub connections: usize,
}

impl Shape {
    pub(super) fn callers(&self, target: SocketAddr, authority: &str) -> Result<Vec<AnyCaller>> {
        let scratch = socket::scratch();
        match self.protocol {
            Protocol::Http1 | Protocol::NewConnection => {
                let keep = self.protocol == Protocol::Http1;
                let request = http1::request(authority, self.body, keep);
                let caller =
                    || Ok(AnyCaller::Http1(http1::Http1Caller::new(target, &request, self.body, keep, &scratch)));
                self.each(|_| caller())
            }
            Protocol::Tcp => {
                let message = Bytes::from(vec![b'x'; self.body.max(1)]);
                self.each(|_| Ok(AnyCaller::Tcp(tcp::TcpCaller::new(target, message.clone(), &scratch))))
            }
            Protocol::Http2 | Protocol::GrpcUnary | Protocol::GrpcStream => {
                let sessions: Vec<_> = (0..self.sessions()).map(|_| http2::Session::new(target)).collect();
                let caller: fn(&Rc<http2::Session>, &str, usize) -> Result<http2::Http2Caller> = match self.protocol {
                    Protocol::GrpcUnary => http2::Http2Caller::unary,
                    Protocol::GrpcStream => http2::Http2Caller::stream,
                    _ => http2::Http2Caller::get,
                };
                self.each(|number| {
                    Ok(AnyCaller::Http2(caller(&sessions[number % sessions.len()], authority, self.body)?))
                })
            }
        }
    }

    fn each(&self, caller: impl FnMut(usize) -> Result<AnyCaller>) -> Result<Vec<AnyCaller>> {
        (0..self.connections).map(caller).collect()
    }

    fn sessions(&self) -> usize {
        self.connections.min(SESSIONS)
    }
}

/// A caller of any protocol.
pub(super) enum AnyCaller {
    Http1(http1::Http1Caller),
    Http2(http2::Http2Caller),
    Tcp(tcp::TcpCaller),
}

impl drive::Caller for AnyCaller {
    async fn exchange(&mut self) -> Result<u64, Failure> {
        match self {
            Self::Http1(caller) => caller.exchange().await,
            Self::Http2(caller) => caller.exchange().await,
            Self::Tcp(caller) => caller.exchange().await,
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
        write!(f, "{name}, {}, ", ByteSize(body))?;
        match protocol {
            Protocol::NewConnection => write!(f, "{connections} at a time"),
            Protocol::Http2 | Protocol::GrpcUnary | Protocol::GrpcStream if connections > SESSIONS => {
                write!(f, "{connections} streams on {}", ConnectionCount(self.sessions()))
            }
            _ => write!(f, "{}", ConnectionCount(connections)),
        }
    }
}

/// A number of bytes.
struct ByteSize(usize);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(usize, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.iter().find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// A number of connections.
struct ConnectionCount(usize);

impl fmt::Display for ConnectionCount {
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
