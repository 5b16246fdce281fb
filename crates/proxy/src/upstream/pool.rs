//! Connection pools: the idle HTTP/1.1 connections and HTTP/2 sessions to one target.
//!
//! A pool belongs to one worker. It is cleared when a connection to its target fails, because the others are most likely dead
//! as well, and dropped when the target is removed.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::{StatusCode, header};
use http_body::{Body, Frame};
use hyper::{Request, Response};
use identity::Peer;
use runtime::admission::Dialled;
use runtime::limits::Permit;
use telemetry::istio::Party;

use super::{OpenConnection, http1, http2};
use crate::failure::ConnectError;
use crate::http::{AttemptBody, BoxError, Incoming, RequestBody, Version, is_chunked};
use crate::io::Io;
use crate::mesh::{Connection, ConnectionPool};

/// Information on a connection.
pub struct ConnectionInfo {
    /// The local address.
    pub local: Option<SocketAddr>,
    /// The peer.
    pub peer: Option<Arc<Peer>>,
    /// The peer as a party to metrics; known with the first response.
    party: OnceCell<Rc<Party>>,
    /// A write failed: the peer has closed the connection.
    broken: Cell<bool>,
    /// A duplicate of the socket, for queries to the kernel. Closed with the connection.
    socket: RefCell<Option<OwnedFd>>,
    dialled: Cell<Option<Dialled>>,
    place: Cell<Option<Connection>>,
    opened: Instant,
    /// The number of requests that were sent.
    requests: Cell<u32>,
    /// When the connection was last released, if that matters.
    idle_since: Cell<Option<Instant>>,
}

impl std::fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionInfo").field("local", &self.local).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl ConnectionInfo {
    /// Returns the peer as a party to metrics; `find` is called once.
    pub fn party(&self, find: impl FnOnce() -> Rc<Party>) -> Rc<Party> {
        self.party.get_or_init(find).clone()
    }

    /// Returns whether sent data remains unacknowledged after this many retransmissions.
    pub fn is_unacknowledged(&self, retransmits: u8) -> bool {
        let socket = self.socket.borrow();
        let progress = socket.as_ref().and_then(|socket| net::tcp_info::progress(socket).ok());
        progress.is_some_and(|progress| progress.is_unanswered(retransmits))
    }

    /// Notes that a write failed.
    pub(super) fn note_broken(&self) {
        self.broken.set(true);
    }

    /// Returns whether a write has failed.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Notes the end of the connection.
    pub(super) fn closed(&self) {
        self.socket.take();
        self.dialled.take();
        self.place.take();
    }

    /// Counts a request.
    pub(super) fn note_request(&self) {
        self.requests.set(self.requests.get().saturating_add(1));
    }

    /// Notes that the connection is idle from now on.
    pub(super) fn note_idle(&self, policy: &ConnectionPool) {
        if policy.http_idle_timeout.is_some() {
            self.idle_since.set(Some(Instant::now()));
        }
    }

    /// Returns whether the policy allows no further request: the connection has carried as many as it may, or has been open
    /// or idle for as long.
    pub(super) fn is_spent(&self, policy: &ConnectionPool) -> bool {
        let exceeds = |limit: Option<Duration>, since: Option<Instant>| {
            limit.zip(since).is_some_and(|(limit, since)| since.elapsed() >= limit)
        };
        policy.max_requests_per_connection.is_some_and(|max| self.requests.get() >= max)
            || exceeds(policy.max_connection_duration, Some(self.opened))
            || exceeds(policy.http_idle_timeout, self.idle_since.get())
    }
}

/// The connections to one target.
#[derive(Debug, Default)]
pub struct Pool {
    idle: http1::Idle,
    sessions: http2::Sessions,
    policy: Rc<ConnectionPool>,
}

/// A connection that is leased for one request.
#[derive(Debug)]
pub struct Lease {
    carrier: Carrier,
    /// Information on the connection.
    pub info: Rc<ConnectionInfo>,
    /// The connection has carried requests before, so the peer may be closing it at this moment.
    pub reused: bool,
    /// The place among the requests in progress of the cluster.
    pub(super) permit: Option<Permit>,
}

#[derive(Debug)]
enum Carrier {
    Http1 { connection: http1::Connection, pool: Rc<Pool> },
    Http2(http2::Stream),
}

/// A failure to receive a response.
#[derive(Debug)]
pub struct SendError {
    /// No part of the request reached the peer's application.
    pub unprocessed: bool,
    /// The cause.
    pub cause: SendErrorCause,
}

/// The cause of a failure to receive a response.
#[derive(Debug, thiserror::Error)]
pub enum SendErrorCause {
    /// The connection failed.
    #[error("{0}")]
    Connection(#[from] hyper::Error),
    /// The HTTP/2 session or the request's stream failed.
    #[error("{0}")]
    Stream(#[from] h2::Error),
    /// The connection had ended before.
    #[error("the connection was closed")]
    Closed,
    /// The peer does not acknowledge sent data.
    #[error("the peer does not acknowledge sent data")]
    Unacknowledged,
    /// The response cannot be passed on: its readers could understand it differently.
    #[error("{0}")]
    Invalid(&'static str),
}

impl SendErrorCause {
    /// Returns whether the peer's response is not valid.
    pub fn is_invalid_response(&self) -> bool {
        match self {
            Self::Invalid(_) => true,
            Self::Connection(error) => error.is_parse(),
            // Found by this side, not reported by the peer.
            Self::Stream(error) => {
                let reasons = [
                    Reason::PROTOCOL_ERROR,
                    Reason::FRAME_SIZE_ERROR,
                    Reason::COMPRESSION_ERROR,
                    Reason::FLOW_CONTROL_ERROR,
                ];
                error.is_library() && error.reason().is_some_and(|reason| reasons.contains(&reason))
            }
            Self::Closed | Self::Unacknowledged => false,
        }
    }

    /// Returns whether the peer closed the connection without any part of a response.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Connection(error) => {
                error.is_incomplete_message() || error.is_canceled() || io_kind(error).is_some_and(is_end)
            }
            Self::Stream(_) | Self::Unacknowledged | Self::Invalid(_) => false,
        }
    }
}

fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    let source = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    Some(source.kind())
}

fn is_end(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
}

impl Pool {
    /// Creates a pool with limits on its connections.
    pub fn new(policy: Rc<ConnectionPool>) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Takes an open connection.
    pub async fn take(self: &Rc<Self>, version: Version) -> Option<Lease> {
        Some(match version {
            Version::Http1 => Lease::http1(self.idle.take(&self.policy)?, self, true),
            Version::Http2 => Lease::http2(self.sessions.take(&self.policy).await?, true),
        })
    }

    /// Takes an open connection even if another one would be better.
    pub async fn take_any(self: &Rc<Self>, version: Version) -> Option<Lease> {
        Some(match version {
            Version::Http1 => Lease::http1(self.idle.take(&self.policy)?, self, true),
            Version::Http2 => Lease::http2(self.sessions.take_any(&self.policy).await?, true),
        })
    }

    /// Closes a connection that carries no request. Returns whether there was one.
    pub fn close_idle(&self) -> bool {
        self.idle.close_one() || self.sessions.close_idle()
    }

    /// Waits for an HTTP/1.1 connection that another request releases.
    pub async fn released(self: &Rc<Self>) -> Lease {
        Lease::http1(self.idle.released(&self.policy).await, self, true)
    }

    /// Acquires the right to open a connection: at once for HTTP/1.1; for HTTP/2 when no other session is being opened, so
    /// that many requests at a time open one session. Returns a lease instead if a session was opened in the meantime.
    pub async fn open_or_take(&self, version: Version) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, Lease> {
        match version {
            Version::Http1 => Ok(None),
            Version::Http2 => match self.sessions.open_or_take(&self.policy).await {
                Ok(opening) => Ok(Some(opening)),
                Err(stream) => Err(Lease::http2(stream, true)),
            },
        }
    }

    /// Adds a new connection and leases it.
    pub async fn adopt(self: &Rc<Self>, opened: OpenConnection, version: Version) -> Result<Lease, ConnectError> {
        let socket = opened.io.socket().as_fd().try_clone_to_owned().ok();
        let info = Rc::new(ConnectionInfo {
            local: opened.local,
            peer: opened.peer,
            party: OnceCell::new(),
            broken: Cell::new(false),
            socket: RefCell::new(socket),
            dialled: Cell::new(opened.dialled),
            place: Cell::new(opened.place),
            opened: Instant::now(),
            requests: Cell::new(0),
            idle_since: Cell::new(None),
        });
        Ok(match version {
            Version::Http1 => Lease::http1(self.idle.adopt(opened.io, info).await?, self, false),
            Version::Http2 => Lease::http2(self.sessions.adopt(opened.io, info, &self.policy).await?, false),
        })
    }

    /// Closes idle connections, and keeps leased ones from returning.
    pub fn clear(&self) {
        self.idle.clear();
        self.sessions.clear();
    }

    /// Closes connections that have been idle for long.
    pub fn sweep(&self) {
        self.idle.sweep(&self.policy);
        self.sessions.sweep(&self.policy);
    }

    /// Closes idle connections that the peer has closed: if one was, many may be.
    pub fn prune(&self) {
        self.idle.prune();
    }

    /// Returns the numbers of idle connections and sessions.
    pub fn kept(&self) -> (usize, usize) {
        (self.idle.kept(), self.sessions.kept())
    }
}

impl Lease {
    fn http1(connection: http1::Connection, pool: &Rc<Pool>, reused: bool) -> Self {
        let info = connection.info().clone();
        info.note_request();
        Self { carrier: Carrier::Http1 { connection, pool: pool.clone() }, info, reused, permit: None }
    }

    fn http2(stream: http2::Stream, reused: bool) -> Self {
        stream.info().note_request();
        Self { info: stream.info().clone(), carrier: Carrier::Http2(stream), reused, permit: None }
    }

    /// Sends a request and waits for the head of its response. `upgrades` is whether the request asks for an upgrade to
    /// WebSocket.
    pub async fn send(
        &mut self,
        request: Request<AttemptBody>,
        upgrades: bool,
    ) -> Result<Response<Incoming>, SendError> {
        let response = match &mut self.carrier {
            Carrier::Http1 { connection, .. } => connection.send(request).await?,
            Carrier::Http2(stream) => stream.send(request).await?,
        };
        match invalid(&response, upgrades) {
            None => Ok(response),
            Some(error) => Err(SendError { unprocessed: false, cause: SendErrorCause::Invalid(error) }),
        }
    }

    /// Reads the response's body. Only this drives an HTTP/1.1 connection.
    pub fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.carrier {
            Carrier::Http1 { connection, .. } => connection.poll_body(body, cx),
            Carrier::Http2(_) => Pin::new(body).poll_frame(cx),
        }
    }

    /// Sends the rest of the request independently of whether the response is read.
    pub fn detach(&mut self, request: &Rc<RequestBody>) {
        if let Carrier::Http1 { connection, .. } = &mut self.carrier {
            connection.detach(request.clone());
        }
    }

    /// Returns the byte stream after a response that ended HTTP, or `None` if the connection has failed.
    pub async fn into_upgraded(self) -> Option<Io> {
        match self.carrier {
            Carrier::Http1 { connection, .. } => connection.into_upgraded().await,
            Carrier::Http2(_) => None,
        }
    }

    /// Returns the connection to its pool. To be called only after the end of the response, and if the request was sent in
    /// full.
    pub fn release(self) {
        if let Carrier::Http1 { connection, pool } = self.carrier {
            pool.idle.put_back(connection, &pool.policy);
        }
    }
}

/// Returns why a response cannot be passed on, if so.
fn invalid(response: &Response<Incoming>, upgrades: bool) -> Option<&'static str> {
    let headers = response.headers();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let to = headers.get(header::UPGRADE);
        let agrees = upgrades && to.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        return (!agrees).then_some("the response switches to a protocol that the request did not ask for");
    }
    // A body of known length has no transfer coding.
    if !matches!(response.body(), Incoming::Http1(body) if body.size_hint().exact().is_none())
        || !headers.contains_key(header::TRANSFER_ENCODING)
    {
        None
    } else if headers.contains_key(header::CONTENT_LENGTH) {
        Some("the response has both Content-Length and Transfer-Encoding")
    } else {
        (!is_chunked(headers)).then_some("the response has a transfer coding other than chunked")
    }
}
