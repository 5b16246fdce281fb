//! What both sides' HTTP/2 connections have in common: windows, bounds, and how much is read and written at a time.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
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
/// What is gathered at most before it is written. h2 writes, and flushes, after each DATA frame of 256 bytes and more: a
/// system call and a TLS record for each. Copying a kilobyte takes 20 ns, a write several microseconds.
const GATHERED: usize = 64 * 1024;
/// Of more than this, all the space that there may be is taken at once, and kept for as long as so much is sent each time:
/// growing by and by copies what is there each time.
const MUCH: usize = 8 * 1024;

/// The bytes of one connection, as h2 has them: reading pauses after each [`TURN`], and what is written is gathered until
/// [`Outbox::drive`] sends it.
#[derive(Debug)]
pub struct Paced<S>(Rc<RefCell<Turn<S>>>);

/// Sends what h2 has written, each time that it has nothing left to write.
#[derive(Debug)]
pub struct Outbox<S>(Rc<RefCell<Turn<S>>>);

#[derive(Debug)]
struct Turn<S> {
    stream: S,
    /// Bytes that may be read until the next pause.
    left: usize,
    gathered: Vec<u8>,
    /// How much of that is sent.
    sent: usize,
    /// h2 waits until there is room to gather in.
    full: bool,
}

/// Paces and gathers a connection's bytes.
pub fn paced<S>(stream: S) -> (Paced<S>, Outbox<S>) {
    let turn = Rc::new(RefCell::new(Turn { stream, left: TURN, gathered: Vec::new(), sent: 0, full: false }));
    (Paced(turn.clone()), Outbox(turn))
}

impl<S: AsyncWrite + Unpin> Outbox<S> {
    /// Waits for `step`, which does something with h2's connection, and sends what that has written.
    ///
    /// # Errors
    /// Where it cannot be sent. h2 learns of it when it writes next.
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
        if self.sent <= MUCH && self.gathered.capacity() > MUCH {
            self.gathered = Vec::new();
        }
        self.gathered.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Gathers all of `bufs`, whose length is `count`; what does not fit goes through.
    fn poll_gather(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>], count: usize) -> Poll<io::Result<usize>> {
        if self.gathered.len() + count > GATHERED {
            self.full = true;
            ready!(self.poll_empty(cx))?;
            self.full = false;
            if count > GATHERED {
                return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
            }
        }
        let much = self.gathered.len() + count > MUCH;
        self.gathered.reserve(if much { GATHERED - self.gathered.len() } else { count });
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

    /// Whatever the stream says: gathering takes all slices alike.
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

#[cfg(test)]
mod tests {
    use super::*;

    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_written_in_a_step_is_sent_at_once_after_it() {
        let (stream, mut peer) = tokio::io::duplex(1 << 20);
        let (mut paced, outbox) = paced(stream);
        let (mut heard, mut steps) = ([0; 64], 0);
        let written = outbox.drive(|cx| {
            for piece in [&b"one "[..], b"two ", b"three"] {
                assert!(Pin::new(&mut paced).poll_write(cx, piece).is_ready());
                assert!(Pin::new(&mut paced).poll_flush(cx).is_ready());
            }
            let read = Pin::new(&mut peer).poll_read(cx, &mut ReadBuf::new(&mut heard));
            steps += 1;
            assert_eq!(read.is_ready(), steps == 2, "gathered in the first step, and sent after it");
            read
        });
        written.await.unwrap().unwrap();
        assert_eq!(&heard[..13], b"one two three");
    }

    #[tokio::test]
    async fn a_slow_reader_is_not_gathered_for_without_end() {
        let (stream, mut peer) = tokio::io::duplex(1024);
        let (mut paced, outbox) = paced(stream);
        let cx = &mut Context::from_waker(Waker::noop());
        let (chunk, mut taken) = (vec![7; 10_000], 0);
        while let Poll::Ready(count) = Pin::new(&mut paced).poll_write(cx, &chunk) {
            taken += count.unwrap();
            assert!(taken <= GATHERED + 1024, "{taken} bytes");
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
        woken.await.expect("who waits for room hears of it");
        paced.write_all(&vec![8; GATHERED + 1]).await.unwrap();
        paced.write_all(b"end").await.unwrap();
        paced.shutdown().await.unwrap();
        let all = reading.await.unwrap().unwrap();
        assert_eq!(all.len(), taken + GATHERED + 1 + 3);
        assert!(all.ends_with(b"\x08end") && all[..taken].iter().all(|byte| *byte == 7));
    }
}
