//! Accepting that does not end: a connection that is gone before it is accepted is skipped, a shortage of descriptors
//! or memory is waited out instead of spun on.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// First wait after a shortage; doubled up to [`LONGEST_WAIT`] while it lasts.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A listener and its present back-off.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    wait: Option<Duration>,
}

impl Acceptor {
    /// Takes a non-blocking listener, as [`listen`](super::listen) makes it, into the current runtime.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::from_std(listener)?, wait: None })
    }

    /// The listener's own address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection. Cancel-safe. An error is returned only where the listener itself
    /// is broken.
    pub async fn next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.wait = None;
                    return Ok((stream, peer));
                }
                Err(error) => match accept_back_off(&error, self.wait) {
                    Some(Duration::ZERO) => {}
                    Some(wait) => {
                        tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "cannot accept connections, waiting");
                        self.wait = Some(wait);
                        tokio::time::sleep(wait).await;
                    }
                    None => return Err(error),
                },
            }
        }
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// How long to wait before accepting again after `error`, given the wait before; `None` where accepting again is
/// pointless.
pub fn accept_back_off(error: &io::Error, before: Option<Duration>) -> Option<Duration> {
    match error.raw_os_error()? {
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
            Some(before.map_or(FIRST_WAIT, |wait| (wait * 2).min(LONGEST_WAIT)))
        }
        libc::EBADF | libc::EFAULT | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP => None,
        // accept(2): errors of the new connection are to be treated as if it had never been there.
        _ => Some(Duration::ZERO),
    }
}
