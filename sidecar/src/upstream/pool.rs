//! Connections of one target that requests share: idle HTTP/1.1 connections, the newest first, and HTTP/2 sessions.
//!
//! A pool belongs to one worker. It is emptied at once when a connection to its target fails, because the others most
//! likely lead nowhere as well, and dropped when discovery no longer names the target.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::Peer;
use telemetry::istio::Party;

use super::Opened;
use crate::failure::ConnectError;
use crate::http::{Local, Outgoing};

/// An HTTP/1.1 connection that was not used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Idle HTTP/1.1 connections kept per target and worker.
const MOST_IDLE: usize = 256;
/// Streams on one HTTP/2 session before another is opened: one session cannot use more than one core at the far end.
const STREAMS: u32 = 100;
/// The most that one connection buffers each way (hyper's own limit is some 400 KB).
pub const BUFFER: usize = 64 * 1024;
/// Flow-control windows. They differ, so that one response that nobody reads cannot use up the session's credit.
const STREAM_WINDOW: u32 = 1 << 20;
/// See [`STREAM_WINDOW`].
const SESSION_WINDOW: u32 = 4 << 20;

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
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<Outgoing>,
    line: Rc<Line>,
    since: Instant,
}

#[derive(Debug)]
struct Session {
    sender: http2::SendRequest<Outgoing>,
    line: Rc<Line>,
    streams: Rc<Cell<u32>>,
}

/// The connections of one target.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<Vec<Idle>>,
    sessions: RefCell<Vec<Session>>,
    /// Held while a session is opened, so that many requests at once open one and not many.
    opening: tokio::sync::Mutex<()>,
    /// Grows when the pool is emptied: what was taken before does not come back.
    generation: Cell<u64>,
}

/// A connection taken for one request.
#[derive(Debug)]
pub struct Lease {
    sender: Sender,
    /// What is known of it.
    pub line: Rc<Line>,
    /// It has carried requests before, so the peer may be closing it this moment.
    pub reused: bool,
}

#[derive(Debug)]
enum Sender {
    Http1 { sender: http1::SendRequest<Outgoing>, pool: Rc<Pool>, generation: u64 },
    Http2 { sender: http2::SendRequest<Outgoing>, _stream: Stream },
}

/// One of a session's streams.
#[derive(Debug)]
struct Stream(Rc<Cell<u32>>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
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
    /// The peer acknowledges nothing any more.
    #[error("the peer no longer acknowledges what is sent")]
    Unheard,
}

impl Pool {
    /// A connection that is open already.
    pub async fn take(self: &Rc<Self>, version: Version) -> Option<Lease> {
        match version {
            Version::Http1 => self.take_idle().await,
            Version::Http2 => self.take_session().await,
        }
    }

    /// Held while opening a session. Take again after waiting for it: another may have opened one.
    pub async fn opening(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.opening.lock().await
    }

    async fn take_idle(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let Idle { mut sender, line, since } = self.idle.borrow_mut().pop()?;
            // A connection whose last response just ended may have to run once before it takes the next request.
            if since.elapsed() < IDLE && !sender.is_closed() && sender.ready().await.is_ok() {
                let sender = Sender::Http1 { sender, pool: self.clone(), generation: self.generation.get() };
                return Some(Lease { sender, line, reused: true });
            }
        }
    }

    async fn take_session(&self) -> Option<Lease> {
        loop {
            let (mut sender, line, stream) = {
                let mut sessions = self.sessions.borrow_mut();
                sessions.retain(|session| !session.sender.is_closed());
                let session = sessions.iter().filter(|s| s.streams.get() < STREAMS).min_by_key(|s| s.streams.get())?;
                session.streams.set(session.streams.get() + 1);
                (session.sender.clone(), session.line.clone(), Stream(session.streams.clone()))
            };
            if sender.ready().await.is_ok() {
                return Some(Lease { sender: Sender::Http2 { sender, _stream: stream }, line, reused: true });
            }
        }
    }

    /// Puts a new connection to use.
    pub async fn adopt(self: &Rc<Self>, opened: Opened, version: Version) -> Result<Lease, ConnectError> {
        let failed = |error| ConnectError::Http(Arc::new(error));
        let socket = opened.io.socket().as_fd().try_clone_to_owned().ok();
        let line = Rc::new(Line {
            local: opened.local,
            peer: opened.peer,
            party: OnceCell::new(),
            socket: RefCell::new(socket),
        });
        let io = TokioIo::new(opened.io);
        let sender = match version {
            Version::Http1 => {
                let (sender, connection) =
                    http1::Builder::new().max_buf_size(BUFFER).handshake(io).await.map_err(failed)?;
                let line = line.clone();
                tokio::task::spawn_local(async move {
                    // Its error is told to the request that was on it.
                    let _ = connection.with_upgrades().await;
                    line.socket.take();
                });
                Sender::Http1 { sender, pool: self.clone(), generation: self.generation.get() }
            }
            Version::Http2 => {
                let (sender, connection) = http2::Builder::new(Local)
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(SESSION_WINDOW)
                    .handshake(io)
                    .await
                    .map_err(failed)?;
                let closing = line.clone();
                tokio::task::spawn_local(async move {
                    let _ = connection.await;
                    closing.socket.take();
                });
                let streams = Rc::new(Cell::new(1));
                let session = Session { sender: sender.clone(), line: line.clone(), streams: streams.clone() };
                self.sessions.borrow_mut().push(session);
                Sender::Http2 { sender, _stream: Stream(streams) }
            }
        };
        Ok(Lease { sender, line, reused: false })
    }

    /// Closes what is idle and lets nothing that is in use come back.
    pub fn clear(&self) {
        self.generation.set(self.generation.get() + 1);
        self.idle.take();
        self.sessions.take();
    }

    /// Closes what was not used for long.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain(|idle| idle.since.elapsed() < IDLE && !idle.sender.is_closed());
        self.sessions.borrow_mut().retain(|session| !session.sender.is_closed());
    }

    /// Connections kept, for people: idle ones and sessions.
    pub fn kept(&self) -> (usize, usize) {
        (self.idle.borrow().len(), self.sessions.borrow().len())
    }
}

impl Lease {
    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, Unsent> {
        let result = match &mut self.sender {
            Sender::Http1 { sender, .. } => sender.try_send_request(request).await,
            Sender::Http2 { sender, .. } => sender.try_send_request(request).await,
        };
        result.map_err(|mut error| {
            let returned = error.take_message().is_some();
            let error = error.into_error();
            Unsent { unprocessed: returned || refused(&error), error: Sent::Connection(error) }
        })
    }

    /// Gives the connection back for other requests. Only after the response's end, and if all of the request was sent.
    pub fn release(self) {
        if let Sender::Http1 { sender, pool, generation } = self.sender
            && pool.generation.get() == generation
            && !sender.is_closed()
        {
            let mut idle = pool.idle.borrow_mut();
            if idle.len() < MOST_IDLE {
                idle.push(Idle { sender, line: self.line, since: Instant::now() });
            }
        }
    }
}

/// HTTP/2's own words for "your request was not looked at" (RFC 9113 §8.7).
fn refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM)
                || (error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR));
        }
        source = cause.source();
    }
    false
}
