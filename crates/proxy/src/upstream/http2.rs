//! HTTP/2 sessions of one target. Each carries many requests at once.
//!
//! Over h2 itself and not over hyper's client: a request goes from its own task to its stream, without a channel and a
//! task in between, and small frames are dealt with as [`crate::http::Incoming`] says.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong, Reason};
use http_body::Body;
use hyper::{Request, Response};
use tokio::sync::{Mutex, MutexGuard};

use super::pool::{Line, Sent, Unsent};
use crate::failure::ConnectError;
use crate::http::http2::{self, Outbox};
use crate::http::{Frames, Incoming, Outgoing, Pump, Upload};
use crate::io::Io;

/// Streams on one session before another is opened: one session cannot use more than one core at the far end, and what
/// one stream sends delays the others.
const STREAMS: u32 = 100;
/// Sessions of one target and worker. Beyond it they take as many streams as the peer allows.
const MOST: usize = 16;
/// Streams that wait for credit at once from which on others go elsewhere: it takes several to use up the session's.
const BLOCKED: u32 = http2::CONNECTION_WINDOW / http2::STREAM_WINDOW;
/// A session's first credit is small, until the peer has said how much it gives.
const SETTLED: Duration = Duration::from_millis(250);
/// A session without streams for so long is closed.
const UNUSED: Duration = Duration::from_secs(60);
/// How often a peer of the mesh is asked whether it is still there, while requests are on the session, and how long it
/// may take to say so. Keep-alive of TCP asks its kernel, which also answers for a process that hangs.
const ASK: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(20);

/// The sessions that are open.
#[derive(Debug, Default)]
pub struct Sessions {
    open: RefCell<Vec<Rc<Session>>>,
    /// Held while a session is opened, so that many requests at once open one and not many.
    opening: Mutex<()>,
}

#[derive(Debug)]
struct Session {
    sender: SendRequest<Bytes>,
    line: Rc<Line>,
    streams: Cell<u32>,
    /// Streams whose requests wait for credit.
    blocked: Rc<Cell<u32>>,
    begun: Instant,
    /// Since when there have been no streams.
    unused: Cell<Instant>,
    ended: Cell<bool>,
}

/// A session's place for one request.
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
            self.session.unused.set(Instant::now());
        }
    }
}

impl Sessions {
    /// A place on a session that is open already: the fullest that has room, so that few are kept and each write carries
    /// much. While another is being opened, nobody waits for it as long as a peer takes more.
    pub async fn take(&self) -> Option<Stream> {
        match self.place(Self::roomy).await {
            None if self.opening.try_lock().is_err() || self.open.borrow().len() >= MOST => {
                self.place(Self::emptiest).await
            }
            place => place,
        }
    }

    /// The right to open a session, once nobody else does, or a place on one that was opened meanwhile.
    pub async fn open_or_take(&self) -> Result<MutexGuard<'_, ()>, Stream> {
        let opening = self.opening.lock().await;
        match self.place(Self::roomy).await {
            Some(stream) => Err(stream),
            None => Ok(opening),
        }
    }

    async fn place(&self, choose: impl Fn(&Self) -> Option<Rc<Session>>) -> Option<Stream> {
        loop {
            let mut stream = choose(self)?.stream();
            // Says at once whether the peer takes more; GOAWAY is noticed here.
            if poll_fn(|cx| stream.sender.poll_ready(cx)).await.is_ok() {
                return Some(stream);
            }
            stream.session.ended.set(true);
        }
    }

    fn roomy(&self) -> Option<Rc<Session>> {
        let mut open = self.open.borrow_mut();
        open.retain(|session| !session.ended.get());
        open.iter().filter(|session| session.has_room()).max_by_key(|session| session.streams.get()).cloned()
    }

    fn emptiest(&self) -> Option<Rc<Session>> {
        let mut open = self.open.borrow_mut();
        open.retain(|session| !session.ended.get());
        open.iter().filter(|session| session.takes_more()).min_by_key(|session| session.streams.get()).cloned()
    }

    /// Begins a session on a new connection.
    pub async fn adopt(&self, io: Io, line: Rc<Line>) -> Result<Stream, ConnectError> {
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
        // Servers outside of the mesh may take being asked for an attack (gRPC's do).
        let ask = if line.peer.is_some() { connection.ping_pong() } else { None };
        let session = Rc::new(Session {
            sender,
            line,
            streams: Cell::new(0),
            blocked: Rc::default(),
            begun: Instant::now(),
            unused: Cell::new(Instant::now()),
            ended: Cell::new(false),
        });
        let stream = session.stream();
        tokio::task::spawn_local(drive(connection, outbox, ask, Rc::downgrade(&session), session.line.clone()));
        self.open.borrow_mut().push(session);
        Ok(stream)
    }

    /// Lets nothing new begin on what is open.
    pub fn clear(&self) {
        self.open.take();
    }

    /// Closes what was not used for long, and forgets what has ended.
    pub fn sweep(&self) {
        self.open.borrow_mut().retain(|session| {
            let unused = session.streams.get() == 0 && session.unused.get().elapsed() >= UNUSED;
            !unused && !session.ended.get()
        });
    }

    /// Sessions kept, for people.
    pub fn kept(&self) -> usize {
        self.open.borrow().len()
    }
}

impl Session {
    fn stream(self: &Rc<Self>) -> Stream {
        self.streams.set(self.streams.get() + 1);
        Stream { sender: self.sender.clone(), session: self.clone() }
    }

    fn has_room(&self) -> bool {
        let blocked = self.blocked.get() >= BLOCKED && self.begun.elapsed() >= SETTLED;
        self.streams.get() < STREAMS && !blocked && self.takes_more()
    }

    fn takes_more(&self) -> bool {
        (self.streams.get() as usize) < self.sender.current_max_send_streams()
    }
}

impl Stream {
    /// What is known of the session.
    pub fn line(&self) -> &Rc<Line> {
        &self.session.line
    }

    /// Sends a request and waits for the head of its response. Its body is sent meanwhile, and what is left of it then by
    /// a task of its own, which ends with the response.
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, Unsent> {
        let (mut head, body) = request.into_parts();
        http2::announce_length(&mut head.headers, body.size_hint().exact().filter(|length| *length > 0));
        let ends = body.is_end_stream();
        let failed = |unprocessed, error| Unsent { unprocessed, error: Sent::Stream(error) };
        let begun = self.sender.send_request(Request::from_parts(head, ()), ends);
        let (response, stream) = begun.map_err(|error| failed(true, error))?;
        let mut sending = (!ends).then(|| Pump::new(body, stream, Some(self.session.blocked.clone())));
        let mut response = pin!(response);
        let response = poll_fn(|cx| {
            if sending.as_mut().is_some_and(|sending| Pin::new(sending).poll(cx).is_ready()) {
                // Where it broke off, the response says what that means.
                sending = None;
            }
            response.as_mut().poll(cx)
        })
        .await
        .map_err(|error| failed(refused(&error), error))?;
        let upload = sending.map(Upload::begin);
        let length = http2::content_length(response.headers());
        Ok(response.map(|stream| Incoming::Http2(Frames::new(stream, length, upload))))
    }
}

/// HTTP/2's own words for "your request was not looked at" (RFC 9113 §8.7).
fn refused(error: &h2::Error) -> bool {
    error.reason() == Some(Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR))
}

/// Runs a session to its end.
async fn drive(
    connection: impl Future<Output = Result<(), h2::Error>>,
    outbox: Outbox<Io>,
    ask: Option<PingPong>,
    session: std::rc::Weak<Session>,
    line: Rc<Line>,
) {
    let silent = async {
        let Some(mut ask) = ask else { return std::future::pending().await };
        loop {
            tokio::time::sleep(ASK).await;
            if session.upgrade().is_some_and(|session| session.streams.get() > 0)
                && tokio::time::timeout(PATIENCE, ask.ping(Ping::opaque())).await.is_err()
            {
                return;
            }
        }
    };
    let mut connection = pin!(connection);
    tokio::select! {
        // Its error is told to the requests that were on it.
        _ = outbox.drive(|cx| connection.as_mut().poll(cx)) => {}
        () = silent => tracing::debug!(local = ?line.local, "a peer no longer answers on its session"),
    }
    line.closed();
    if let Some(session) = session.upgrade() {
        session.ended.set(true);
    }
}
