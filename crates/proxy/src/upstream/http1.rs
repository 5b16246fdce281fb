//! HTTP/1.1 connections to one target: the idle ones, the most recently used first.
//!
//! A connection has no task. The task of the request that uses it drives it: until the head of the response arrives, then
//! while the response's body is read. Nothing is handed over between tasks, and no other task is woken. An idle connection is
//! not driven: that its peer has closed it is detected at the next use, before anything is sent, or by the next sweep.

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
use tokio::task::AbortHandle;

use super::answer_first::AnswerFirst;
use super::pool::{ConnectionInfo, SendError, SendErrorCause};
use super::wake_relay::WakeRelay;
use crate::failure::ConnectError;
use crate::http::{AttemptBody, BUFFER, BoxError, Incoming, RequestBody};
use crate::io::{Io, Prefixed};
use crate::mesh::ConnectionPool;

/// The number of sweeps after which an idle connection is closed. Sweeps are ten seconds apart.
const MAX_IDLE_SWEEPS: u8 = 6;
/// The maximum number of idle connections per target and worker.
const MAX_IDLE: usize = 256;

/// The idle connections to one target.
#[derive(Debug, Default)]
pub struct Idle {
    waiting: RefCell<Vec<IdleConnection>>,
    /// Grows when the list is cleared: connections of earlier generations do not return.
    generation: Cell<u64>,
    /// Notifies one waiting request of a connection that was released.
    released: Notify,
}

#[derive(Debug)]
struct IdleConnection {
    driven: Box<Driven>,
    /// The number of sweeps since the last use.
    sweeps: u8,
}

/// A connection for one request.
#[derive(Debug)]
pub struct Connection {
    driven: Box<Driven>,
    generation: u64,
}

impl Idle {
    /// Takes an idle connection.
    pub fn take(&self, policy: &ConnectionPool) -> Option<Connection> {
        loop {
            let IdleConnection { driven, .. } = self.waiting.borrow_mut().pop()?;
            if !driven.info.is_spent(policy) {
                return Some(Connection { driven, generation: self.generation.get() });
            }
        }
    }

    /// Closes the connection that has been idle for longest. Returns whether there was one.
    pub fn close_one(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let oldest = if waiting.is_empty() { None } else { Some(waiting.remove(0)) };
        drop(waiting);
        oldest.is_some()
    }

    /// Waits for a connection that is released.
    pub async fn released(&self, policy: &ConnectionPool) -> Connection {
        loop {
            self.released.notified().await;
            if let Some(connection) = self.take(policy) {
                return connection;
            }
        }
    }

    /// Wraps a new connection.
    pub async fn adopt(&self, io: Io, info: Rc<ConnectionInfo>) -> Result<Connection, ConnectError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(AnswerFirst::new(io, info.clone())))
            .await
            .map_err(|error| ConnectError::Http(Arc::new(error)))?;
        let driven = Box::new(Driven::new(Halves { sender, connection }, info));
        Ok(Connection { driven, generation: self.generation.get() })
    }

    /// Takes back a connection whose response has ended and whose request was sent in full.
    pub fn put_back(&self, connection: Connection, policy: &ConnectionPool) {
        let Connection { mut driven, generation } = connection;
        let mut waiting = self.waiting.borrow_mut();
        let keeps = generation == self.generation.get() && waiting.len() < MAX_IDLE && !driven.info.is_spent(policy);
        if keeps && driven.rest() {
            driven.info.note_idle(policy);
            waiting.push(IdleConnection { driven, sweeps: 0 });
            self.released.notify_one();
        }
    }

    /// Closes idle connections, and keeps leased ones from returning.
    pub fn clear(&self) {
        self.generation.set(self.generation.get() + 1);
        self.waiting.take();
    }

    /// Closes connections that have been idle for long or that the peer has closed.
    pub fn sweep(&self, policy: &ConnectionPool) {
        let max = if policy.http_idle_timeout.is_some() { u8::MAX } else { MAX_IDLE_SWEEPS };
        self.waiting.borrow_mut().retain_mut(|waiting| {
            waiting.sweeps = waiting.sweeps.saturating_add(1);
            waiting.sweeps <= max && !waiting.driven.info.is_spent(policy) && waiting.driven.check()
        });
    }

    /// Closes connections that the peer has closed.
    pub fn prune(&self) {
        self.waiting.borrow_mut().retain_mut(|waiting| waiting.driven.check());
    }

    /// Returns the number of idle connections.
    pub fn kept(&self) -> usize {
        self.waiting.borrow().len()
    }
}

impl Connection {
    /// Returns information on the connection.
    pub fn info(&self) -> &Rc<ConnectionInfo> {
        &self.driven.info
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<AttemptBody>) -> Result<Response<Incoming>, SendError> {
        let driven = &mut *self.driven;
        let Some(halves) = &mut driven.halves else {
            return Err(SendError { unprocessed: true, cause: SendErrorCause::Closed });
        };
        let mut response = pin!(halves.sender.try_send_request(request));
        // The response arrives while the connection is polled here, so no waker is needed.
        let response =
            poll_fn(|cx| driven.drive(cx, |_, _| response.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        response.await.map(|response| response.map(Incoming::from)).map_err(|mut error| {
            let unprocessed = error.take_message().is_some();
            SendError { unprocessed, cause: SendErrorCause::Connection(error.into_error()) }
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

    /// Moves the connection to a task of its own, which sends the rest of a request whose response has begun: a downstream
    /// that reads slowly must still be able to send. The connection does not return to the pool.
    pub fn detach(&mut self, request: Rc<RequestBody>) {
        // A body that the peer did not ask for is not sent, so its connection ends with the response.
        let refused = request.refuse();
        let (connection, info) = (self.driven.halves.take().map(|halves| halves.connection), self.driven.info.clone());
        let task = tokio::task::spawn_local(async move {
            if let Some(connection) = connection {
                let _ = connection.await;
                info.closed();
            }
            request.drain().await;
        });
        if refused {
            self.driven.detached = Some(AbortOnDrop(task.abort_handle()));
        }
    }

    /// Returns the byte stream after a response that ended HTTP, or `None` if the connection has failed.
    pub async fn into_upgraded(mut self) -> Option<Io> {
        poll_fn(|cx| self.driven.drive(cx, |_, ended| if ended { Poll::Ready(()) } else { Poll::Pending })).await;
        let parts = self.driven.halves.take()?.connection.into_parts();
        let (unread, stream) = parts.io.into_inner().into_inner().into_parts();
        let mut ahead = BytesMut::from(parts.read_buf);
        ahead.extend_from_slice(&unread);
        Some(Prefixed::new(ahead, stream))
    }
}

/// hyper's connection: the half that takes requests, and the half that does the work.
struct Halves {
    sender: http1::SendRequest<AttemptBody>,
    connection: http1::Connection<TokioIo<AnswerFirst>, AttemptBody>,
}

/// A connection with the state to drive it.
struct Driven {
    /// `None` if the connection is closed or detached.
    halves: Option<Halves>,
    /// HTTP has ended on the connection.
    ended: bool,
    relay: Arc<WakeRelay>,
    /// The relay as a waker.
    waker: Waker,
    info: Rc<ConnectionInfo>,
    /// The task of a detached connection that ends with the response.
    detached: Option<AbortOnDrop>,
}

/// Ends a task.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Driven {
    fn new(halves: Halves, info: Rc<ConnectionInfo>) -> Self {
        let relay = Arc::<WakeRelay>::default();
        let waker = Waker::from(relay.clone());
        Self { halves: Some(halves), ended: false, relay, waker, info, detached: None }
    }

    /// Polls the connection until `step` is ready. `step` receives whether HTTP has ended.
    fn drive<T>(&mut self, cx: &Context<'_>, mut step: impl FnMut(&mut Context<'_>, bool) -> Poll<T>) -> Poll<T> {
        /// The number of rounds before other tasks run. hyper's halves need two to agree.
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
                // The request that uses the connection receives its error.
                self.ended = halves.connection.poll_without_shutdown(inner).is_ready();
            }
            if let Poll::Ready(done) = step(inner, self.ended) {
                self.relay.end();
                return Poll::Ready(done);
            }
            if self.ended && self.halves.take().is_some() {
                // The request that waits for it receives the end.
                self.info.closed();
            } else if !self.relay.was_woken() {
                self.relay.end();
                return Poll::Pending;
            }
        }
        self.relay.end();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Prepares the connection for being idle. Returns whether it can take another request.
    fn rest(&mut self) -> bool {
        let ready = self.is_ready() || self.check();
        self.relay.forget();
        ready
    }

    /// Polls an idle connection. Returns whether it can take a request.
    fn check(&mut self) -> bool {
        let _: Poll<()> = self.drive(&Context::from_waker(Waker::noop()), |_, _| Poll::Pending);
        self.is_ready()
    }

    fn is_ready(&self) -> bool {
        !self.ended && !self.info.is_broken() && self.halves.as_ref().is_some_and(|halves| halves.sender.is_ready())
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if let Some(Halves { sender, mut connection }) = self.halves.take() {
            drop(sender);
            // Closes gracefully, as far as that needs no waiting.
            let _ = Pin::new(&mut connection).poll(&mut Context::from_waker(Waker::noop()));
            self.info.closed();
        }
    }
}

impl std::fmt::Debug for Driven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driven").field("info", &self.info).field("ended", &self.ended).finish_non_exhaustive()
    }
}
