//! HTTP/2 sessions of one target. Each carries many requests at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Mutex, MutexGuard};

use super::pool::{Line, Sent, Unsent};
use crate::failure::ConnectError;
use crate::http::{Local, Outgoing};
use crate::io::Io;

/// Streams on one session before another is opened: one session cannot use more than one core at the far end.
const STREAMS: u32 = 100;
/// Flow-control windows. They differ, so that one response that nobody reads cannot use up the session's credit.
const STREAM_WINDOW: u32 = 1 << 20;
/// See [`STREAM_WINDOW`].
const SESSION_WINDOW: u32 = 4 << 20;

/// The sessions that are open.
#[derive(Debug, Default)]
pub struct Sessions {
    open: RefCell<Vec<Session>>,
    /// Held while a session is opened, so that many requests at once open one and not many.
    opening: Mutex<()>,
}

#[derive(Debug)]
struct Session {
    sender: http2::SendRequest<Outgoing>,
    line: Rc<Line>,
    streams: Rc<Cell<u32>>,
}

/// A session's place for one request.
#[derive(Debug)]
pub struct Stream {
    sender: http2::SendRequest<Outgoing>,
    /// What is known of the session.
    pub line: Rc<Line>,
    _counted: Counted,
}

/// One of a session's streams.
#[derive(Debug)]
struct Counted(Rc<Cell<u32>>);

impl Counted {
    fn new(streams: &Rc<Cell<u32>>) -> Self {
        streams.set(streams.get() + 1);
        Self(streams.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Sessions {
    /// A place on a session that is open already.
    pub async fn take(&self) -> Option<Stream> {
        loop {
            let mut stream = {
                let mut open = self.open.borrow_mut();
                open.retain(|session| !session.sender.is_closed());
                let session = open.iter().filter(|s| s.streams.get() < STREAMS).min_by_key(|s| s.streams.get())?;
                session.stream()
            };
            if stream.sender.ready().await.is_ok() {
                return Some(stream);
            }
        }
    }

    /// Held while opening a session. Take again after waiting for it: another may have opened one.
    pub async fn opening(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().await
    }

    /// Begins a session on a new connection.
    pub async fn adopt(&self, io: Io, line: Rc<Line>) -> Result<Stream, ConnectError> {
        let (sender, connection) = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(SESSION_WINDOW)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| ConnectError::Http(Arc::new(error)))?;
        let closing = line.clone();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            closing.closed();
        });
        let session = Session { sender, line, streams: Rc::default() };
        let stream = session.stream();
        self.open.borrow_mut().push(session);
        Ok(stream)
    }

    /// Lets nothing new begin on what is open.
    pub fn clear(&self) {
        self.open.take();
    }

    /// Forgets sessions that have ended.
    pub fn sweep(&self) {
        self.open.borrow_mut().retain(|session| !session.sender.is_closed());
    }

    /// Sessions kept, for people.
    pub fn kept(&self) -> usize {
        self.open.borrow().len()
    }
}

impl Session {
    fn stream(&self) -> Stream {
        Stream { sender: self.sender.clone(), line: self.line.clone(), _counted: Counted::new(&self.streams) }
    }
}

impl Stream {
    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, Unsent> {
        self.sender.try_send_request(request).await.map_err(|mut error| {
            let returned = error.take_message().is_some();
            let error = error.into_error();
            Unsent { unprocessed: returned || refused(&error), error: Sent::Connection(error) }
        })
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
