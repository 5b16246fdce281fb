//! HTTP/1.1 connections of one target: those that wait for a request, the newest first.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::pool::{BUFFER, Line, Sent, Unsent};
use crate::failure::ConnectError;
use crate::http::{Incoming, Outgoing};
use crate::io::Io;

/// A connection that was not used for so long is closed.
const UNUSED: Duration = Duration::from_secs(60);
/// Idle connections kept per target and worker.
const MOST: usize = 256;

/// The connections that no request is on.
#[derive(Debug, Default)]
pub struct Idle {
    waiting: RefCell<Vec<Waiting>>,
    /// Grows when the list is emptied: what was taken before does not come back.
    generation: Cell<u64>,
}

#[derive(Debug)]
struct Waiting {
    sender: http1::SendRequest<Outgoing>,
    line: Rc<Line>,
    since: Instant,
}

/// A connection for one request.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<Outgoing>,
    /// What is known of it.
    pub line: Rc<Line>,
    generation: u64,
}

impl Idle {
    /// A connection that is open already.
    pub async fn take(&self) -> Option<Connection> {
        loop {
            let Waiting { mut sender, line, since } = self.waiting.borrow_mut().pop()?;
            // A connection whose last response just ended may have to run once before it takes the next request.
            if since.elapsed() < UNUSED && !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(Connection { sender, line, generation: self.generation.get() });
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
        let closing = line.clone();
        tokio::task::spawn_local(async move {
            // Its error is told to the request that was on it.
            let _ = connection.with_upgrades().await;
            closing.closed();
        });
        Ok(Connection { sender, line, generation: self.generation.get() })
    }

    /// Takes a connection back whose response has ended, and whose request was sent whole.
    pub fn put_back(&self, connection: Connection) {
        let Connection { sender, line, generation } = connection;
        let mut waiting = self.waiting.borrow_mut();
        if generation == self.generation.get() && !sender.is_closed() && waiting.len() < MOST {
            waiting.push(Waiting { sender, line, since: Instant::now() });
        }
    }

    /// Closes what is idle and lets nothing that is in use come back.
    pub fn clear(&self) {
        self.generation.set(self.generation.get() + 1);
        self.waiting.take();
    }

    /// Closes what was not used for long.
    pub fn sweep(&self) {
        self.waiting.borrow_mut().retain(|waiting| waiting.since.elapsed() < UNUSED && !waiting.sender.is_closed());
    }

    /// Connections kept, for people.
    pub fn kept(&self) -> usize {
        self.waiting.borrow().len()
    }
}

impl Connection {
    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, Unsent> {
        self.sender.try_send_request(request).await.map(|response| response.map(Incoming::from)).map_err(|mut error| {
            let unprocessed = error.take_message().is_some();
            Unsent { unprocessed, error: Sent::Connection(error.into_error()) }
        })
    }
}
