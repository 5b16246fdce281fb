//! Carrying opaque bytes both ways until both sides are done, with half-close.
//!
//! A connection that waits owns no buffer: reads go into one scratch buffer per thread, and only what the other side
//! would not take at once is kept. Ten thousand idle connections then cost their sockets and their futures.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of one read. Four TLS records; larger reads did not change throughput on loopback.
const SCRATCH: usize = 64 * 1024;
/// Bytes that one direction moves before others get their turn on this thread.
const TURN: usize = 512 * 1024;

thread_local! {
    /// Taken when the first byte is relayed, so a proxy at rest does not have it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes moved so far; readable while the relay runs and after it failed.
#[derive(Debug, Default)]
pub struct Moved {
    /// From the first stream to the second.
    pub there: Cell<u64>,
    /// From the second to the first.
    pub back: Cell<u64>,
}

/// Which side ended a relay that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The first stream failed.
    #[error("the first side failed: {0}")]
    First(#[source] io::Error),
    /// The second stream failed.
    #[error("the second side failed: {0}")]
    Second(#[source] io::Error),
}

/// Relays until both directions are at their end.
pub async fn both_ways<A, B>(first: &mut A, second: &mut B, moved: &Moved) -> Result<(), Broken>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Direction::default(), Direction::default());
    poll_fn(|cx| {
        let one = there.poll(cx, first, second, &moved.there).map_err(|(side, error)| match side {
            Side::Reader => Broken::First(error),
            Side::Writer => Broken::Second(error),
        })?;
        let two = back.poll(cx, second, first, &moved.back).map_err(|(side, error)| match side {
            Side::Reader => Broken::Second(error),
            Side::Writer => Broken::First(error),
        })?;
        if one.is_ready() && two.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

enum Side {
    Reader,
    Writer,
}

/// One direction. `pending` is what was read and not yet written.
#[derive(Default)]
struct Direction {
    pending: BytesMut,
    unflushed: bool,
    stage: Stage,
}

#[derive(Default, PartialEq)]
enum Stage {
    #[default]
    Copying,
    Closing,
    Done,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &Cell<u64>,
    ) -> Poll<Result<(), (Side, io::Error)>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut turn = 0;
        loop {
            while !self.pending.is_empty() {
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, &self.pending));
                let written = written.and_then(at_least_one).map_err(writing)?;
                self.pending.advance(written);
            }
            match self.stage {
                Stage::Copying => {}
                Stage::Closing => {
                    // A peer that is gone cannot be told; that is no failure of what was carried.
                    let _ = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                    self.stage = Stage::Done;
                    return Poll::Ready(Ok(()));
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
            if self.pending.capacity() > 0 {
                self.pending = BytesMut::new();
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.step(cx, reader, writer)? {
                Poll::Ready(0) => self.stage = Stage::Closing,
                Poll::Ready(count) => {
                    moved.set(moved.get() + count as u64);
                    turn += count;
                    self.unflushed = true;
                }
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(writing)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// One read, and as much of it written as the other side takes.
    fn step<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Result<Poll<usize>, (Side, io::Error)>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                *buffer = vec![0; SCRATCH];
            }
            let mut read = ReadBuf::new(buffer);
            match Pin::new(reader).poll_read(cx, &mut read) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(result) => result.map_err(|error| (Side::Reader, error))?,
            }
            let mut left = read.filled();
            let count = left.len();
            while !left.is_empty() {
                match Pin::new(&mut *writer).poll_write(cx, left) {
                    Poll::Ready(written) => left = &left[written.and_then(at_least_one).map_err(writing)?..],
                    Poll::Pending => {
                        self.pending.extend_from_slice(left);
                        break;
                    }
                }
            }
            Ok(Poll::Ready(count))
        })
    }
}

fn writing(error: io::Error) -> (Side, io::Error) {
    (Side::Writer, error)
}

fn at_least_one(written: usize) -> io::Result<usize> {
    if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn carries_both_ways_with_half_close() {
        let (mut client, mut inner) = duplex(100);
        let (mut outer, mut server) = duplex(70_000);
        let moved = Moved::default();
        let relay = both_ways(&mut inner, &mut outer, &moved);
        let request: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let talk = async {
            let sent = request.clone();
            let sending = async {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                answer
            };
            let serving = async {
                let mut all = Vec::new();
                server.read_to_end(&mut all).await.unwrap();
                // The other direction is still open after the end of this one.
                server.write_all(b"thanks").await.unwrap();
                server.shutdown().await.unwrap();
                all
            };
            tokio::join!(sending, serving)
        };
        let (relayed, (answer, received)) = tokio::join!(relay, talk);
        relayed.unwrap();
        assert_eq!(answer, b"thanks");
        assert!(received == request);
        assert_eq!((moved.there.get(), moved.back.get()), (300_000, 6));
    }

    #[tokio::test]
    async fn says_which_side_broke() {
        let (mut client, mut inner) = duplex(100);
        let (mut outer, server) = duplex(100);
        drop(server);
        client.write_all(b"hello").await.unwrap();
        let moved = Moved::default();
        let broken = both_ways(&mut inner, &mut outer, &moved).await;
        assert!(matches!(broken, Err(Broken::Second(_))), "{broken:?}");
    }
}
