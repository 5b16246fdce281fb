//! Sockets of clients that look at how much arrives, not at what.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::ready;

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::Failure;

/// What all lanes of a generator read into, one after another: an idle connection holds no buffer, and the one that there
/// is stays in the processor's cache.
pub type Scratch = Rc<RefCell<Box<[u8]>>>;

/// The most that one call reads.
const SCRATCH: usize = 256 * 1024;
/// From how many missing bytes on they are discarded in the kernel instead of copied.
pub const WORTH_DISCARDING: u64 = 16 * 1024;

/// An empty one.
pub fn scratch() -> Scratch {
    Rc::new(RefCell::new(vec![0; SCRATCH].into()))
}

/// A connection without Nagle's algorithm.
pub async fn connect(target: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(target).await.map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Connect)?;
    Ok(stream)
}

/// Reads once and has `take` look at what arrived, which is nothing at the connection's end.
pub async fn read_with<T>(
    stream: &mut (impl AsyncRead + Unpin),
    scratch: &Scratch,
    mut take: impl FnMut(&[u8]) -> T,
) -> io::Result<T> {
    poll_fn(|context| {
        let mut bytes = scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
        Ok(take(buffer.filled())).into()
    })
    .await
}

/// Has the kernel drop up to `at_most` bytes that arrive, without copying them here (`MSG_TRUNC`, tcp(7)). Returns how many
/// those were: none at the connection's end.
pub async fn discard(stream: &TcpStream, scratch: &Scratch, at_most: u64) -> io::Result<u64> {
    stream
        .async_io(Interest::READABLE, || {
            let mut bytes = scratch.borrow_mut();
            let length = usize::try_from(at_most).unwrap_or(usize::MAX).min(bytes.len());
            let (_, dropped) = rustix::net::recv(stream, &mut bytes[..length], RecvFlags::TRUNC)?;
            Ok(dropped as u64)
        })
        .await
}
