//! HTTP/2 settings of both sides, and pacing of reads and writes.
//!
//! The reasons are in `docs/decisions/http2-frames.md`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderValue, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The flow-control window of a stream: a megabyte is 160 Mbit/s over 50 ms. The window is fixed: probing costs a ping for
/// each burst, and a mesh's paths are short or, between clusters, steady.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// The flow-control window of a connection. Several times that of a stream, so that a response that is not read does not
/// block the others.
pub const CONNECTION_WINDOW: u32 = 4 << 20;
/// The window of a stream for what downstreams send, which waits here while an upstream does not take it. 256 KiB are
/// 40 Mbit/s for one upload over 50 ms.
pub const UPLOAD_STREAM_WINDOW: u32 = STREAM_WINDOW / 4;

/// Returns the window of a connection for what downstreams send: the most that one connection makes a proxy hold. A sidecar's
/// session carries the requests of many, also over long paths. A client without TLS is a pod nearby, and there may be many.
pub fn upload_connection_window(tls: bool) -> u32 {
    if tls { CONNECTION_WINDOW / 4 } else { UPLOAD_STREAM_WINDOW }
}
/// The maximum frame size: a message waits for no more than this of another.
pub const FRAME: u32 = 16 * 1024;
/// The maximum size of a head, as large as the HTTP/1.1 buffer ([`super::BUFFER`]).
pub const HEAD: u32 = 64 * 1024;
/// The maximum of data that waits to be written, per stream.
pub const SEND_BUFFER: usize = 256 * 1024;
/// The budget for small DATA frames. h2 charges a frame of less than 256 bytes in its queues with the bytes that it lacks,
/// and ends the connection with `ENHANCE_YOUR_CALM` beyond the budget. h2's default, half of the connection's window, is
/// eleven thousand queued messages of 64 bytes: one stalled gRPC stream. Here nothing waits in those queues
/// ([`super::Incoming::hold`]), so the budget covers what one turn reads ([`TURN`]: at most 1.6 MiB, of one-byte frames) and
/// the readers that cannot hold, HTTP/1.1 clients of HTTP/2 services.
pub const DATA_FRAME_BUDGET: usize = CONNECTION_WINDOW as usize;
/// The number of bytes that a connection reads before its streams run, so that none finds more than this at once.
const TURN: usize = 64 * 1024;
/// The maximum of data that is gathered for one write. h2 writes and flushes after each DATA frame of 256 bytes or more:
/// a system call and a TLS record for each. Copying a kilobyte takes 20 ns, a write several microseconds.
const GATHERED: usize = 64 * 1024;
/// Beyond this size the buffer is allocated in full at once, and kept while as much is sent each time: growing in steps
/// would copy the data each time.
const LARGE: usize = 8 * 1024;

/// A connection's byte stream as h2 sees it: reading pauses after each [`TURN`], and written data is gathered until
/// [`Outbox::drive`] sends it.
#[derive(Debug)]
pub struct Paced<S>(Rc<RefCell<Turn<S>>>);

/// Sends the data that h2 has written whenever h2 has nothing left to write.
#[derive(Debug)]
pub struct Outbox<S>(Rc<RefCell<Turn<S>>>);

#[derive(Debug)]
struct Turn<S> {
    stream: S,
    /// The number of bytes that may be read until the next pause.
    left: usize,
    gathered: Vec<u8>,
    /// The number of gathered bytes that are sent.
    sent: usize,
    /// h2 waits for space in the buffer.
    full: bool,
}

/// Splits a connection into the stream for h2 and the sender of its data.
pub fn paced<S>(stream: S) -> (Paced<S>, Outbox<S>) {
    let turn = Rc::new(RefCell::new(Turn { stream, left: TURN, gathered: Vec::new(), sent: 0, full: false }));
    (Paced(turn.clone()), Outbox(turn))
}

impl<S: AsyncWrite + Unpin> Outbox<S> {
    /// Polls `step`, which drives h2's connection, and sends the data that it has written.
    ///
    /// # Errors
    /// Returns an error if sending fails. h2 receives the error with its next write.
    pub async fn drive<T>(&self, mut step: impl FnMut(&mut Context<'_>) -> Poll<T>) -> io::Result<T> {
        poll_fn(|cx| match step(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => match self.0.borrow_mut().poll_send(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            },
        })
        .await
    }
}

impl<S: AsyncWrite + Unpin> Turn<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty() {
            ready!(self.poll_empty(cx))?;
        }
        if std::mem::take(&mut self.full) {
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        if self.sent <= LARGE && self.gathered.capacity() > LARGE {
            self.gathered = Vec::new();
        }
        self.gathered.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Gathers all of `bufs`, whose total length is `count`. Data that does not fit is written through.
    fn poll_gather(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>], count: usize) -> Poll<io::Result<usize>> {
        if self.gathered.len() + count > GATHERED {
            self.full = true;
            ready!(self.poll_empty(cx))?;
            self.full = false;
            if count > GATHERED {
                return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
            }
        }
        let large = self.gathered.len() + count > LARGE;
        self.gathered.reserve(if large { GATHERED - self.gathered.len() } else { count });
        bufs.iter().for_each(|buf| self.gathered.extend_from_slice(buf));
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let turn = &mut *self.0.borrow_mut();
        if turn.left == 0 {
            turn.left = TURN;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut turn.stream).poll_read(cx, buf);
        match &read {
            Poll::Pending => turn.left = TURN,
            Poll::Ready(_) => turn.left = turn.left.saturating_sub(buf.filled().len() - before),
        }
        Poll::Ready(ready!(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(cx, &[IoSlice::new(buf)], buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = bufs.iter().map(|buf| buf.len()).sum();
        self.0.borrow_mut().poll_gather(cx, bufs, count)
    }

    /// Always true: gathering copies all slices.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done by [`Outbox::drive`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let turn = &mut *self.0.borrow_mut();
        ready!(turn.poll_send(cx))?;
        Pin::new(&mut turn.stream).poll_shutdown(cx)
    }
}

/// Returns the `content-length` of a head. h2 rejects bodies of another length.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Adds a `content-length` if the length is known.
pub fn announce_length(headers: &mut HeaderMap, length: Option<u64>) {
    if let Some(length) = length
        && !headers.contains_key(header::CONTENT_LENGTH)
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn data_written_in_one_step_is_sent_together_after_the_step() {
        let (stream, mut peer) = tokio::io::duplex(1 << 20);
        let (mut paced, outbox) = paced(stream);
        let (mut received, mut steps) = ([0; 64], 0);
        let written = outbox.drive(|cx| {
            for piece in [&b"one "[..], b"two ", b"three"] {
                assert!(Pin::new(&mut paced).poll_write(cx, piece).is_ready());
                assert!(Pin::new(&mut paced).poll_flush(cx).is_ready());
            }
            let read = Pin::new(&mut peer).poll_read(cx, &mut ReadBuf::new(&mut received));
            steps += 1;
            assert_eq!(read.is_ready(), steps == 2, "the data is sent after the first step");
            read
        });
        written.await.unwrap().unwrap();
        assert_eq!(&received[..13], b"one two three");
    }

    #[tokio::test]
    async fn data_for_a_slow_reader_is_bounded() {
        let (stream, mut peer) = tokio::io::duplex(1024);
        let (mut paced, outbox) = paced(stream);
        let cx = &mut Context::from_waker(Waker::noop());
        let (chunk, mut accepted) = (vec![7; 10_000], 0);
        while let Poll::Ready(count) = Pin::new(&mut paced).poll_write(cx, &chunk) {
            accepted += count.unwrap();
            assert!(accepted <= GATHERED + 1024, "{accepted} bytes");
        }
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).await.map(|_| all)
        });
        let mut steps = 0;
        let woken = outbox.drive(|_| {
            steps += 1;
            if steps == 1 { Poll::Pending } else { Poll::Ready(()) }
        });
        woken.await.expect("a waiting writer is woken when there is space");
        paced.write_all(&vec![8; GATHERED + 1]).await.unwrap();
        paced.write_all(b"end").await.unwrap();
        paced.shutdown().await.unwrap();
        let all = reading.await.unwrap().unwrap();
        assert_eq!(all.len(), accepted + GATHERED + 1 + 3);
        assert!(all.ends_with(b"\x08end") && all[..accepted].iter().all(|byte| *byte == 7));
    }
}
