//! A byte stream whose writes do not fail while the peer's answer may still be read.
//!
//! A server may answer a request before it has read all of it, and close (413 to a large upload). The rest of the request then
//! cannot be written, but the answer has arrived. What cannot be written is dropped, and reading shows what came of the
//! connection: the answer, its end, or the error.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pool::ConnectionInfo;
use crate::io::Io;

/// A connection to an upstream.
#[derive(Debug)]
pub(super) struct AnswerFirst {
    io: Io,
    info: Rc<ConnectionInfo>,
}

impl AnswerFirst {
    /// Wraps a connection. That a write failed is noted in `info`.
    pub(super) fn new(io: Io, info: Rc<ConnectionInfo>) -> Self {
        Self { io, info }
    }

    /// Returns the connection.
    pub(super) fn into_inner(self) -> Io {
        self.io
    }

    /// Returns the result of a write of `length` bytes.
    fn written<T>(&self, written: Poll<io::Result<T>>, dropped: T) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.info.note_broken();
                Poll::Ready(Ok(dropped))
            }
            written => written,
        }
    }
}

impl AsyncRead for AnswerFirst {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for AnswerFirst {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.info.is_broken() {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = || bufs.iter().map(|buf| buf.len()).sum();
        if self.info.is_broken() {
            return Poll::Ready(Ok(length()));
        }
        match Pin::new(&mut self.io).poll_write_vectored(cx, bufs) {
            Poll::Ready(Err(error)) => self.written(Poll::Ready(Err(error)), length()),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.info.is_broken() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.written(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
