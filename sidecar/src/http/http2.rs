//! What both sides' HTTP/2 connections have in common: windows, bounds, and how much is read at a time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderValue, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Credit for one stream: a megabyte is 160 Mbit/s over 50 ms. Fixed: probing costs a ping for each burst, and a mesh's
/// paths are known to be short or, between clusters, steady.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// Credit for all streams of a connection. Several times that of one, so that a response that nobody reads does not
/// stop the others.
pub const CONNECTION_WINDOW: u32 = 4 << 20;
/// The largest frame that peers may send: no message waits for more than this of another.
pub const FRAME: u32 = 16 * 1024;
/// The largest head; hyper's HTTP/1.1 buffer is as large.
pub const HEAD: u32 = 64 * 1024;
/// What may wait to be written, per stream.
pub const SEND_BUFFER: usize = 256 * 1024;
/// h2 bounds what the small DATA frames in its queues may cost: each of less than 256 bytes counts for what it lacks, and
/// beyond the budget the connection ends with `ENHANCE_YOUR_CALM`. Its default, half of the connection's window, is
/// eleven thousand messages of 64 bytes that wait for a reader: one stalled gRPC stream. Here nothing waits in those
/// queues ([`super::Incoming::hold`]), so the budget has to cover what is read in one turn ([`TURN`]: at most 1.6 MiB,
/// of one-byte frames) and the few readers that cannot hold, HTTP/1.1 clients of HTTP/2 services.
pub const DATA_FRAME_BUDGET: usize = CONNECTION_WINDOW as usize;
/// Bytes that a connection reads before its streams get to run, so that none of them finds more than this at once.
const TURN: usize = 64 * 1024;

/// A stream that pauses after each [`TURN`].
#[derive(Debug)]
pub struct Paced<S> {
    stream: S,
    left: usize,
}

impl<S> Paced<S> {
    /// Paces a stream.
    pub fn new(stream: S) -> Self {
        Self { stream, left: TURN }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.left = TURN;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &read {
            Poll::Pending => self.left = TURN,
            Poll::Ready(_) => self.left = self.left.saturating_sub(buf.filled().len() - before),
        }
        Poll::Ready(ready!(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The length that a head announces. h2 refuses bodies of another.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Announces a length that is known.
pub fn announce_length(headers: &mut HeaderMap, length: Option<u64>) {
    if let Some(length) = length
        && !headers.contains_key(header::CONTENT_LENGTH)
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}
