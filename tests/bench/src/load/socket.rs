//! Sockets of clients that count received bytes without examining them.

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

/// The read buffer that all callers of a generator share: idle connections need no buffer, and the shared one stays in the
/// processor's cache.
pub type Scratch = Rc<RefCell<Box<[u8]>>>;

/// The largest read.
const SCRATCH: usize = 256 * 1024;
/// The number of missing bytes from which on they are discarded in the kernel instead of copied.
pub const WORTH_DISCARDING: u64 = 16 * 1024;

/// Creates a read buffer.
pub fn scratch() -> Scratch {
    Rc::new(RefCell::new(vec![0; SCRATCH].into()))
}

/// Opens a connection, and disables Nagle's algorithm.
pub async fn connect(target: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(target).await.map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Connect)?;
    Ok(stream)
}

/// Reads once and passes the received bytes to `take`; none at the connection's end.
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

/// Discards up to `at_most` received bytes in the kernel without copying them (`MSG_TRUNC`, tcp(7)). Returns their number; 0 at the
/// connection's end.
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
