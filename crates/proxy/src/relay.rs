//! Relaying bytes both ways until both directions have ended, with half-close.
//!
//! An idle connection owns no buffer: reads go into one buffer per thread, and only data that the other side does not accept
//! at once is kept. Ten thousand idle connections cost their sockets and their futures.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The size of a read: four TLS records. Larger reads did not change throughput on loopback.
const READ_SIZE: usize = 64 * 1024;
/// The number of bytes that one direction moves before other tasks run.
const BUDGET: usize = 512 * 1024;

thread_local! {
    /// Allocated with the first relayed byte, so an idle proxy does not have it.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The number of bytes relayed so far; readable while the relay runs and after it failed.
#[derive(Debug, Default)]
pub struct RelayedBytes {
    /// From the first stream to the second.
    pub there: Cell<u64>,
    /// From the second to the first.
    pub back: Cell<u64>,
}

/// The side that failed.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The first stream failed.
    #[error("downstream connection: {0}")]
    First(#[source] io::Error),
    /// The second stream failed.
    #[error("upstream connection: {0}")]
    Second(#[source] io::Error),
}

/// Relays between two streams until both directions have ended.
pub async fn both_ways<A, B>(first: &mut A, second: &mut B, moved: &RelayedBytes) -> Result<(), RelayError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Direction::default(), Direction::default());
    poll_fn(|cx| {
        let one = there.poll(cx, first, second, &moved.there).map_err(|(side, error)| match side {
            Side::Reader => RelayError::First(error),
            Side::Writer => RelayError::Second(error),
        })?;
        let two = back.poll(cx, second, first, &moved.back).map_err(|(side, error)| match side {
            Side::Reader => RelayError::Second(error),
            Side::Writer => RelayError::First(error),
        })?;
        if one.is_ready() && two.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

enum Side {
    Reader,
    Writer,
}

/// One direction. `pending` is data that was read and not yet written.
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
                    // A failing shutdown does not affect the data that was relayed.
                    let _ = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                    self.stage = Stage::Done;
                    return Poll::Ready(Ok(()));
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
            if self.pending.capacity() > 0 {
                self.pending = BytesMut::new();
            }
            if turn >= BUDGET {
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

    /// Reads once, and writes as much as the other side accepts.
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
                *buffer = vec![0; READ_SIZE];
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
    async fn relays_both_directions_with_half_close() {
        let (mut client, mut inner) = duplex(100);
        let (mut outer, mut server) = duplex(70_000);
        let relayed_bytes = RelayedBytes::default();
        let relay = both_ways(&mut inner, &mut outer, &relayed_bytes);
        let request: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let exchange = async {
            let sent = request.clone();
            let sending = async {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
                let mut response = Vec::new();
                client.read_to_end(&mut response).await.unwrap();
                response
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
        let (relayed, (response, received)) = tokio::join!(relay, exchange);
        relayed.unwrap();
        assert_eq!(response, b"thanks");
        assert!(received == request);
        assert_eq!((relayed_bytes.there.get(), relayed_bytes.back.get()), (300_000, 6));
    }

    #[tokio::test]
    async fn reports_the_side_that_failed() {
        let (mut client, mut inner) = duplex(100);
        let (mut outer, server) = duplex(100);
        drop(server);
        client.write_all(b"hello").await.unwrap();
        let relayed_bytes = RelayedBytes::default();
        let broken = both_ways(&mut inner, &mut outer, &relayed_bytes).await;
        assert!(matches!(broken, Err(RelayError::Second(_))), "{broken:?}");
    }
}
