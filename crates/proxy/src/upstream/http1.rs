//! HTTP/1.1 connections of one target: those that wait for a request, the newest first.
//!
//! A connection has no task. Whoever has a request on it drives it: the request's task until the head of the response is
//! there, then whoever reads the response's body. Between tasks nothing has to be handed over and nobody to be woken.
//! Nobody drives an idle connection: that its peer has closed it is noticed when it is used next, before anything is
//! sent, or when idle ones are looked over.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;

use super::pool::{BUFFER, Line, Sent, Unsent};
use super::relay::Relay;
use crate::failure::ConnectError;
use crate::http::{BoxError, Incoming, Outgoing};
use crate::io::{Io, Prefixed};

/// A connection that was idle for so many looks in a row is closed; they are looked over every ten seconds.
const UNUSED: u8 = 6;
/// Idle connections kept per target and worker.
const MOST: usize = 256;

/// The connections that no request is on.
#[derive(Debug, Default)]
pub struct Idle {
    waiting: RefCell<Vec<Waiting>>,
    /// Grows when the list is emptied: what was taken before does not come back.
    generation: Cell<u64>,
    /// Tells one of those who wait for a connection that one has come back.
    came_back: Notify,
}

#[derive(Debug)]
struct Waiting {
    driven: Box<Driven>,
    /// Times that it was looked at since it was used.
    looks: u8,
}

/// A connection for one request.
#[derive(Debug)]
pub struct Connection {
    driven: Box<Driven>,
    generation: u64,
}

impl Idle {
    /// A connection that is open already.
    pub fn take(&self) -> Option<Connection> {
        let Waiting { driven, .. } = self.waiting.borrow_mut().pop()?;
        Some(Connection { driven, generation: self.generation.get() })
    }

    /// The next connection that comes back.
    pub async fn freed(&self) -> Connection {
        loop {
            self.came_back.notified().await;
            if let Some(connection) = self.take() {
                return connection;
            }
        }
    }

    /// Puts a new connection to use.
    pub async fn adopt(&self, io: Io, line: Rc<Line>) -> Result<Connection, ConnectError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| ConnectError::Http(Arc::new(error)))?;
        let driven = Box::new(Driven::new(Halves { sender, connection }, line));
        Ok(Connection { driven, generation: self.generation.get() })
    }

    /// Takes a connection back whose response has ended, and whose request was sent whole.
    pub fn put_back(&self, connection: Connection) {
        let Connection { mut driven, generation } = connection;
        let mut waiting = self.waiting.borrow_mut();
        if generation == self.generation.get() && waiting.len() < MOST && driven.rest() {
            waiting.push(Waiting { driven, looks: 0 });
            self.came_back.notify_one();
        }
    }

    /// Closes what is idle and lets nothing that is in use come back.
    pub fn clear(&self) {
        self.generation.set(self.generation.get() + 1);
        self.waiting.take();
    }

    /// Closes what was not used for long, and what its peer has closed.
    pub fn sweep(&self) {
        self.waiting.borrow_mut().retain_mut(|waiting| {
            waiting.looks += 1;
            waiting.looks <= UNUSED && waiting.driven.look()
        });
    }

    /// Closes what its peer has closed.
    pub fn prune(&self) {
        self.waiting.borrow_mut().retain_mut(|waiting| waiting.driven.look());
    }

    /// Connections kept, for people.
    pub fn kept(&self) -> usize {
        self.waiting.borrow().len()
    }
}

impl Connection {
    /// What is known of it.
    pub fn line(&self) -> &Rc<Line> {
        &self.driven.line
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, Unsent> {
        let driven = &mut *self.driven;
        let Some(halves) = &mut driven.halves else {
            return Err(Unsent { unprocessed: true, error: Sent::Closed });
        };
        let mut answered = pin!(halves.sender.try_send_request(request));
        // The answer comes while the connection is polled here, so nobody has to be woken for it.
        let answered =
            poll_fn(|cx| driven.drive(cx, |_, _| answered.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        answered.await.map(|response| response.map(Incoming::from)).map_err(|mut error| {
            let unprocessed = error.take_message().is_some();
            Unsent { unprocessed, error: Sent::Connection(error.into_error()) }
        })
    }

    /// Reads the response's body.
    pub fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.driven.drive(cx, |cx, _| Pin::new(&mut *body).poll_frame(cx))
    }

    /// Gives the connection a task of its own, which sends the rest of a request whose response has begun: who reads a
    /// response slowly must not be kept from sending. It does not go back to the idle ones.
    pub fn set_free(&mut self) {
        let Some(Halves { connection, .. }) = self.driven.halves.take() else { return };
        let line = self.driven.line.clone();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            line.closed();
        });
    }

    /// The bytes below, after a response that ends HTTP. `None` where the connection has failed.
    pub async fn into_upgraded(mut self) -> Option<Io> {
        poll_fn(|cx| self.driven.drive(cx, |_, ended| if ended { Poll::Ready(()) } else { Poll::Pending })).await;
        let parts = self.driven.halves.take()?.connection.into_parts();
        let (unread, stream) = parts.io.into_inner().into_parts();
        let mut ahead = BytesMut::from(parts.read_buf);
        ahead.extend_from_slice(&unread);
        Some(Prefixed::new(ahead, stream))
    }
}

/// hyper's connection: what takes requests, and what does the work.
struct Halves {
    sender: http1::SendRequest<Outgoing>,
    connection: http1::Connection<TokioIo<Io>, Outgoing>,
}

/// A connection and what is needed to drive it.
struct Driven {
    /// `None` where another has it, or when it was closed.
    halves: Option<Halves>,
    /// HTTP is over here.
    ended: bool,
    relay: Arc<Relay>,
    /// The relay as a waker.
    waker: Waker,
    line: Rc<Line>,
}

impl Driven {
    fn new(halves: Halves, line: Rc<Line>) -> Self {
        let relay = Arc::<Relay>::default();
        let waker = Waker::from(relay.clone());
        Self { halves: Some(halves), ended: false, relay, waker, line }
    }

    /// Polls the connection until `step` has what it waits for. `step` is given whether the connection has ended.
    fn drive<T>(&mut self, cx: &Context<'_>, mut step: impl FnMut(&mut Context<'_>, bool) -> Poll<T>) -> Poll<T> {
        /// Rounds before others get their turn. hyper's halves need two to agree.
        const ROUNDS: usize = 8;
        let inner = &mut Context::from_waker(&self.waker);
        self.relay.begin(cx.waker());
        for _ in 0..ROUNDS {
            if let Poll::Ready(done) = step(inner, self.ended) {
                self.relay.end();
                return Poll::Ready(done);
            }
            self.relay.was_woken();
            if let Some(halves) = &mut self.halves
                && !self.ended
            {
                // Its error is told to the request that is on it.
                self.ended = halves.connection.poll_without_shutdown(inner).is_ready();
            }
            if let Poll::Ready(done) = step(inner, self.ended) {
                self.relay.end();
                return Poll::Ready(done);
            }
            if self.ended && self.halves.take().is_some() {
                // Who waits for it is told by its end.
                self.line.closed();
            } else if !self.relay.was_woken() {
                self.relay.end();
                return Poll::Pending;
            }
        }
        self.relay.end();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Prepares for waiting without anybody who drives it. Says whether it can take another request.
    fn rest(&mut self) -> bool {
        let ready = self.is_ready() || self.look();
        self.relay.forget();
        ready
    }

    /// Notices what has happened to an idle connection. Says whether it can take a request.
    fn look(&mut self) -> bool {
        let _: Poll<()> = self.drive(&Context::from_waker(Waker::noop()), |_, _| Poll::Pending);
        self.is_ready()
    }

    fn is_ready(&self) -> bool {
        !self.ended && self.halves.as_ref().is_some_and(|halves| halves.sender.is_ready())
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if let Some(Halves { sender, mut connection }) = self.halves.take() {
            drop(sender);
            // Says goodbye, as far as that needs no waiting.
            let _ = Pin::new(&mut connection).poll(&mut Context::from_waker(Waker::noop()));
            self.line.closed();
        }
    }
}

impl std::fmt::Debug for Driven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driven").field("line", &self.line).field("ended", &self.ended).finish_non_exhaustive()
    }
}
