//! Whether an HTTP/1.1 connection is in use, idle, or waits for the rest of a head, for its listener's admission.
//!
//! A head that has begun and is not complete makes the connection pending, whether it is the first or a later one: it holds
//! memory, and only its client can end that. Costs a head that arrives at once a few loads and stores.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll};

use runtime::admission::{Admitted, Use};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::request_lines::RequestLines;
use crate::io::Io;

/// The state of a connection.
pub(super) struct Heads {
    admitted: Rc<Admitted>,
    stage: Arc<Stage>,
    /// The connection is pending for its admission.
    pending: Cell<bool>,
}

/// What a connection waits for, shared with its stream. Atomic only because hyper wants a stream that can change threads.
#[derive(Debug)]
struct Stage(AtomicU8);

/// Nothing has arrived of the next head.
const BETWEEN: u8 = 0;
/// A head has begun.
const READING: u8 = 1;
/// A request without a body is in progress.
const SERVING: u8 = 2;
/// A request with a body is in progress.
const RECEIVING: u8 = 3;
/// A request is in progress, and something has arrived of the next head.
const AHEAD: u8 = 4;

impl Stage {
    fn get(&self) -> u8 {
        self.0.load(Relaxed)
    }

    fn set(&self, stage: u8) {
        self.0.store(stage, Relaxed);
    }

    /// Notes that bytes have arrived. Returns whether they begin a head.
    fn arrived(&self) -> bool {
        match self.get() {
            BETWEEN => self.set(READING),
            SERVING => self.set(AHEAD),
            _ => return false,
        }
        true
    }
}

/// A connection's stream, which notices the beginnings of heads, and escapes their first lines.
pub(super) struct Watched {
    io: Io,
    stage: Arc<Stage>,
    lines: RequestLines,
}

/// A request in progress.
pub(super) struct Served(Use<OfAdmitted>);

/// Refers to the admitted connection.
struct OfAdmitted(Rc<Heads>);

impl Deref for OfAdmitted {
    type Target = Admitted;

    fn deref(&self) -> &Admitted {
        &self.0.admitted
    }
}

impl Heads {
    /// Creates the state of a connection. `proven` is whether it has proven itself, by a TLS handshake.
    pub(super) fn new(admitted: Rc<Admitted>, proven: bool) -> Rc<Self> {
        Rc::new(Self { admitted, stage: Arc::new(Stage(AtomicU8::new(BETWEEN))), pending: Cell::new(!proven) })
    }

    /// Returns the stream for hyper.
    pub(super) fn watch(&self, io: Io) -> Watched {
        Watched { io, stage: self.stage.clone(), lines: RequestLines::default() }
    }

    /// Begins a request: its head is complete.
    pub(super) fn complete(self: &Rc<Self>, has_body: bool) -> Served {
        if self.pending.take() {
            self.admitted.prove();
        }
        self.stage.set(if has_body { RECEIVING } else { SERVING });
        Served(Use::of(OfAdmitted(self.clone())))
    }

    /// To be called when the connection waits for its client.
    pub(super) fn waits(&self) {
        if self.stage.get() == READING && !self.pending.replace(true) {
            self.admitted.suspect();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let stage = &self.0.holder().0.stage;
        stage.set(if stage.get() == AHEAD { READING } else { BETWEEN });
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, stage, lines } = &mut *self;
        lines.poll_read(io, || stage.arrived(), cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
