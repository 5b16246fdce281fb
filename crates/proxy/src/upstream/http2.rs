//! HTTP/2 sessions to one target. Each carries many requests at a time.
//!
//! Uses h2 directly instead of hyper's client: a request goes from its own task to its stream without a channel and a task in
//! between, and small frames are handled as [`crate::http::Incoming`] describes.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong, Reason};
use http::StatusCode;
use http_body::Body;
use hyper::{Request, Response};
use tokio::sync::{Mutex, MutexGuard};

use super::pool::{ConnectionInfo, SendError, SendErrorCause};
use crate::failure::ConnectError;
use crate::http::http2::{self, Outbox};
use crate::http::{AttemptBody, Http2Body, Incoming, Pump, Upload};
use crate::io::Io;
use crate::mesh::ConnectionPool;

/// The number of streams on a session from which another is opened: a session cannot use more than one core of the peer, and
/// the data of one stream delays the others.
const MAX_STREAMS: u32 = 100;
/// The maximum number of sessions per target and worker. At the limit, sessions take as many streams as the peer allows.
const MAX_SESSIONS: usize = 16;
/// The number of streams waiting for flow-control credit from which a session takes no more: several are needed to use up the
/// session's window.
const MAX_BLOCKED: u32 = http2::CONNECTION_WINDOW / http2::STREAM_WINDOW;
/// How long a new session is not judged by its blocked streams: its window is small until the peer's settings arrive.
const SETTLING: Duration = Duration::from_millis(250);
/// How long a session without streams stays open.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// How often a peer of the mesh is pinged while requests are in progress, and how long it may take to answer. TCP keep-alive
/// probes the peer's kernel, which answers for a process that hangs as well.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The open sessions to one target.
#[derive(Debug, Default)]
pub struct Sessions {
    open: RefCell<Vec<Rc<Session>>>,
    /// Held while a session is being opened, so that many requests at a time open one session.
    opening: Mutex<()>,
}

#[derive(Debug)]
struct Session {
    sender: SendRequest<Bytes>,
    info: Rc<ConnectionInfo>,
    streams: Cell<u32>,
    /// The number of streams whose requests wait for flow-control credit.
    blocked: Rc<Cell<u32>>,
    begun: Instant,
    /// When the last stream ended.
    idle_since: Cell<Instant>,
    ended: Cell<bool>,
}

/// A stream of a session, for one request.
#[derive(Debug)]
pub struct Stream {
    sender: SendRequest<Bytes>,
    session: Rc<Session>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let streams = self.session.streams.get().saturating_sub(1);
        self.session.streams.set(streams);
        if streams == 0 {
            self.session.idle_since.set(Instant::now());
        }
    }
}

impl Sessions {
    /// Takes a stream on an open session: the fullest that has room, so that there are few sessions and each write carries
    /// much. While another session is being opened, a request uses the emptiest one instead of waiting, if the peer allows.
    pub async fn take(&self, policy: &ConnectionPool) -> Option<Stream> {
        match self.place(policy, Self::roomy).await {
            None if self.opening.try_lock().is_err() || self.open.borrow().len() >= MAX_SESSIONS => {
                self.take_any(policy).await
            }
            place => place,
        }
    }

    /// Takes a stream on the emptiest session, if the peer allows.
    pub async fn take_any(&self, policy: &ConnectionPool) -> Option<Stream> {
        self.place(policy, Self::emptiest).await
    }

    /// Closes a session without streams. Returns whether there was one.
    pub fn close_idle(&self) -> bool {
        let mut open = self.open.borrow_mut();
        let idle = open.iter().position(|session| session.streams.get() == 0).map(|at| open.swap_remove(at));
        drop(open);
        idle.is_some()
    }

    /// Acquires the right to open a session when no other is being opened, or a stream on one that was opened in the meantime.
    pub async fn open_or_take(&self, policy: &ConnectionPool) -> Result<MutexGuard<'_, ()>, Stream> {
        let opening = self.opening.lock().await;
        match self.place(policy, Self::roomy).await {
            Some(stream) => Err(stream),
            None => Ok(opening),
        }
    }

    async fn place(
        &self,
        policy: &ConnectionPool,
        choose: impl Fn(&[Rc<Session>], u32) -> Option<&Rc<Session>>,
    ) -> Option<Stream> {
        loop {
            let session = {
                let mut open = self.open.borrow_mut();
                open.retain(|session| !session.ended.get() && !session.info.is_spent(policy));
                choose(&open, policy.max_concurrent_streams.unwrap_or(u32::MAX))?.clone()
            };
            let mut stream = session.stream();
            // Ready at once; detects GOAWAY.
            if poll_fn(|cx| stream.sender.poll_ready(cx)).await.is_ok() {
                return Some(stream);
            }
            stream.session.ended.set(true);
        }
    }

    fn roomy(open: &[Rc<Session>], max: u32) -> Option<&Rc<Session>> {
        open.iter().filter(|session| session.has_room(max)).max_by_key(|session| session.streams.get())
    }

    fn emptiest(open: &[Rc<Session>], max: u32) -> Option<&Rc<Session>> {
        open.iter().filter(|session| session.takes_more(max)).min_by_key(|session| session.streams.get())
    }

    /// Starts a session on a new connection.
    pub async fn adopt(
        &self,
        io: Io,
        info: Rc<ConnectionInfo>,
        policy: &ConnectionPool,
    ) -> Result<Stream, ConnectError> {
        let (paced, outbox) = http2::paced(io);
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(http2::STREAM_WINDOW)
            .initial_connection_window_size(http2::CONNECTION_WINDOW)
            .max_frame_size(http2::FRAME)
            .max_header_list_size(http2::HEAD)
            .max_send_buffer_size(http2::SEND_BUFFER)
            .data_frame_budget(http2::DATA_FRAME_BUDGET)
            .enable_push(false)
            .handshake::<_, Bytes>(paced)
            .await
            .map_err(|error| ConnectError::Http(Arc::new(error)))?;
        // Servers outside the mesh may treat pings as an attack (gRPC's do), unless the user asks for them.
        let intervals = policy.http2_keepalive.or(info.peer.as_ref().map(|_| (PING_INTERVAL, PING_TIMEOUT)));
        let ping = intervals.and_then(|intervals| Some((connection.ping_pong()?, intervals)));
        let session = Rc::new(Session {
            sender,
            info,
            streams: Cell::new(0),
            blocked: Rc::default(),
            begun: Instant::now(),
            idle_since: Cell::new(Instant::now()),
            ended: Cell::new(false),
        });
        let stream = session.stream();
        tokio::task::spawn_local(drive(connection, outbox, ping, Rc::downgrade(&session), session.info.clone()));
        self.open.borrow_mut().push(session);
        Ok(stream)
    }

    /// Keeps new streams off the open sessions.
    pub fn clear(&self) {
        self.open.take();
    }

    /// Closes sessions that have been idle for long, and drops those that have ended.
    pub fn sweep(&self, policy: &ConnectionPool) {
        let max = policy.http_idle_timeout.unwrap_or(MAX_IDLE);
        self.open.borrow_mut().retain(|session| {
            let idle = session.streams.get() == 0 && session.idle_since.get().elapsed() >= max;
            !idle && !session.ended.get() && !session.info.is_spent(policy)
        });
    }

    /// Returns the number of sessions.
    pub fn kept(&self) -> usize {
        self.open.borrow().len()
    }
}

impl Session {
    fn stream(self: &Rc<Self>) -> Stream {
        self.streams.set(self.streams.get() + 1);
        Stream { sender: self.sender.clone(), session: self.clone() }
    }

    fn has_room(&self, max: u32) -> bool {
        let blocked = self.blocked.get() >= MAX_BLOCKED && self.begun.elapsed() >= SETTLING;
        self.streams.get() < MAX_STREAMS && !blocked && self.takes_more(max)
    }

    fn takes_more(&self, max: u32) -> bool {
        let streams = self.streams.get();
        streams < max && (streams as usize) < self.sender.current_max_send_streams()
    }
}

impl Stream {
    /// Returns information on the session's connection.
    pub fn info(&self) -> &Rc<ConnectionInfo> {
        &self.session.info
    }

    /// Sends a request and waits for the head of its response. The body is sent at the same time; a task of its own sends the
    /// rest, and ends with the response.
    pub async fn send(&mut self, request: Request<AttemptBody>) -> Result<Response<Incoming>, SendError> {
        let (mut head, body) = request.into_parts();
        http2::announce_length(&mut head.headers, body.size_hint().exact().filter(|length| *length > 0));
        let ends = body.is_end_stream();
        let gate = body.gate().cloned();
        let failed = |unprocessed, error| SendError { unprocessed, cause: SendErrorCause::Stream(error) };
        let begun = self.sender.send_request(Request::from_parts(head, ()), ends);
        let (response, stream) = begun.map_err(|error| failed(true, error))?;
        let mut sending = (!ends).then(|| Pump::new(body, stream, Some(self.session.blocked.clone())));
        let mut response = pin!(response);
        let response = poll_fn(|cx| {
            if sending.as_mut().is_some_and(|sending| Pin::new(sending).poll(cx).is_ready()) {
                // If the body failed, the response tells what that means.
                sending = None;
            }
            if let Some(gate) = &gate
                && let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx)
                && interim.status() == StatusCode::CONTINUE
            {
                gate.open();
            }
            response.as_mut().poll(cx)
        })
        .await
        .map_err(|error| failed(is_unprocessed(&error), error))?;
        let upload = sending.map(Upload::begin);
        let length = http2::content_length(response.headers());
        Ok(response.map(|stream| Incoming::Http2(Http2Body::new(stream, length, upload, None))))
    }
}

/// Returns whether the peer reports that it did not process the request (RFC 9113 §8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    error.reason() == Some(Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR))
}

/// Drives a session until it ends.
async fn drive(
    connection: impl Future<Output = Result<(), h2::Error>>,
    outbox: Outbox<Io>,
    ping: Option<(PingPong, (Duration, Duration))>,
    session: std::rc::Weak<Session>,
    info: Rc<ConnectionInfo>,
) {
    let unresponsive = async {
        let Some((mut ping, (interval, timeout))) = ping else { return std::future::pending().await };
        loop {
            tokio::time::sleep(interval).await;
            if session.upgrade().is_some_and(|session| session.streams.get() > 0)
                && tokio::time::timeout(timeout, ping.ping(Ping::opaque())).await.is_err()
            {
                return;
            }
        }
    };
    let mut connection = pin!(connection);
    tokio::select! {
        // The requests on the session receive its error.
        _ = outbox.drive(|cx| connection.as_mut().poll(cx)) => {}
        () = unresponsive => tracing::debug!(local = ?info.local, "the peer does not answer pings; closing the session"),
    }
    info.closed();
    if let Some(session) = session.upgrade() {
        session.ended.set(true);
    }
}
