//! Connections of one target that requests share: idle HTTP/1.1 connections and HTTP/2 sessions.
//!
//! A pool belongs to one worker. It is emptied at once when a connection to its target fails, because the others most
//! likely lead nowhere as well, and dropped when discovery no longer names the target.

use std::cell::{OnceCell, RefCell};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::{Request, Response};
use identity::Peer;
use telemetry::istio::Party;

use super::{Opened, http1, http2};
use crate::failure::ConnectError;
use crate::http::{BoxError, Incoming, Outgoing};
use crate::io::Io;

/// The most that one connection buffers each way (hyper's own limit is some 400 KB).
pub const BUFFER: usize = 64 * 1024;

/// The HTTP version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

/// What is known of a connection.
#[derive(Debug)]
pub struct Line {
    /// Our end.
    pub local: Option<SocketAddr>,
    /// Who is at the other end.
    pub peer: Option<Arc<Peer>>,
    /// Who answers, to metrics; known with the first response.
    party: OnceCell<Rc<Party>>,
    /// The socket once more, to ask the kernel about it; closed when the connection is.
    socket: RefCell<Option<OwnedFd>>,
}

impl Line {
    /// Who answers, to metrics: found out once.
    pub fn party(&self, find_out: impl FnOnce() -> Rc<Party>) -> Rc<Party> {
        self.party.get_or_init(find_out).clone()
    }

    /// Whether the peer has not acknowledged what was sent although it was sent again so many times.
    pub fn unheard(&self, retransmits: u8) -> bool {
        let socket = self.socket.borrow();
        let progress = socket.as_ref().and_then(|socket| net::tcp_info::progress(socket).ok());
        progress.is_some_and(|progress| progress.is_unanswered(retransmits))
    }

    /// The connection has ended.
    pub(super) fn closed(&self) {
        self.socket.take();
    }
}

/// The connections of one target.
#[derive(Debug, Default)]
pub struct Pool {
    idle: http1::Idle,
    sessions: http2::Sessions,
}

/// A connection taken for one request.
#[derive(Debug)]
pub struct Lease {
    way: Way,
    /// What is known of it.
    pub line: Rc<Line>,
    /// It has carried requests before, so the peer may be closing it this moment.
    pub reused: bool,
}

#[derive(Debug)]
enum Way {
    Http1 { connection: http1::Connection, pool: Rc<Pool> },
    Http2(http2::Stream),
}

/// A request that got no response.
#[derive(Debug)]
pub struct Unsent {
    /// Nothing of it reached the peer's application.
    pub unprocessed: bool,
    /// What happened.
    pub error: Sent,
}

/// How sending ended without a response.
#[derive(Debug, thiserror::Error)]
pub enum Sent {
    /// The connection failed.
    #[error("{0}")]
    Connection(#[from] hyper::Error),
    /// The HTTP/2 session or the request's stream failed.
    #[error("{0}")]
    Stream(#[from] h2::Error),
    /// It had ended before.
    #[error("the connection was closed")]
    Closed,
    /// The peer acknowledges nothing any more.
    #[error("the peer no longer acknowledges what is sent")]
    Unheard,
}

impl Pool {
    /// A connection that is open already.
    pub async fn take(self: &Rc<Self>, version: Version) -> Option<Lease> {
        Some(match version {
            Version::Http1 => Lease::http1(self.idle.take()?, self, true),
            Version::Http2 => Lease::http2(self.sessions.take().await?, true),
        })
    }

    /// The next connection of HTTP/1.1 that a request has done with and that nobody else takes first.
    pub async fn freed(self: &Rc<Self>) -> Lease {
        Lease::http1(self.idle.freed().await, self, true)
    }

    /// The right to open a connection: at once for HTTP/1.1, and for an HTTP/2 session once nobody else opens one, so that
    /// many requests at once open one and not many. Or a place on what was opened meanwhile.
    pub async fn open_or_take(&self, version: Version) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, Lease> {
        match version {
            Version::Http1 => Ok(None),
            Version::Http2 => match self.sessions.open_or_take().await {
                Ok(opening) => Ok(Some(opening)),
                Err(stream) => Err(Lease::http2(stream, true)),
            },
        }
    }

    /// Puts a new connection to use.
    pub async fn adopt(self: &Rc<Self>, opened: Opened, version: Version) -> Result<Lease, ConnectError> {
        let socket = opened.io.socket().as_fd().try_clone_to_owned().ok();
        let line = Rc::new(Line {
            local: opened.local,
            peer: opened.peer,
            party: OnceCell::new(),
            socket: RefCell::new(socket),
        });
        Ok(match version {
            Version::Http1 => Lease::http1(self.idle.adopt(opened.io, line).await?, self, false),
            Version::Http2 => Lease::http2(self.sessions.adopt(opened.io, line).await?, false),
        })
    }

    /// Closes what is idle and lets nothing that is in use come back.
    pub fn clear(&self) {
        self.idle.clear();
        self.sessions.clear();
    }

    /// Closes what was not used for long.
    pub fn sweep(&self) {
        self.idle.sweep();
        self.sessions.sweep();
    }

    /// Closes idle connections that their peer has closed: where one was, there may be many.
    pub fn prune(&self) {
        self.idle.prune();
    }

    /// Connections kept, for people: idle ones and sessions.
    pub fn kept(&self) -> (usize, usize) {
        (self.idle.kept(), self.sessions.kept())
    }
}

impl Lease {
    fn http1(connection: http1::Connection, pool: &Rc<Pool>, reused: bool) -> Self {
        let line = connection.line().clone();
        Self { way: Way::Http1 { connection, pool: pool.clone() }, line, reused }
    }

    fn http2(stream: http2::Stream, reused: bool) -> Self {
        Self { line: stream.line().clone(), way: Way::Http2(stream), reused }
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, Unsent> {
        match &mut self.way {
            Way::Http1 { connection, .. } => connection.send(request).await,
            Way::Http2(stream) => stream.send(request).await,
        }
    }

    /// Reads the response's body. A connection of HTTP/1.1 does nothing unless this is asked.
    pub fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.way {
            Way::Http1 { connection, .. } => connection.poll_body(body, cx),
            Way::Http2(_) => Pin::new(body).poll_frame(cx),
        }
    }

    /// From here on the request is sent beside the response, whether somebody reads that or not.
    pub fn set_free(&mut self) {
        if let Way::Http1 { connection, .. } = &mut self.way {
            connection.set_free();
        }
    }

    /// The bytes below, after a response that ends HTTP. `None` where the connection has failed.
    pub async fn into_upgraded(self) -> Option<Io> {
        match self.way {
            Way::Http1 { connection, .. } => connection.into_upgraded().await,
            Way::Http2(_) => None,
        }
    }

    /// Gives the connection back for other requests. Only after the response's end, and if all of the request was sent.
    pub fn release(self) {
        if let Way::Http1 { connection, pool } = self.way {
            pool.idle.put_back(connection);
        }
    }
}
