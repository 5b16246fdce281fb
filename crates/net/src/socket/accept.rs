//! Accepting connections. Connections that are closed before they are accepted are skipped; a lack of file descriptors
//! or memory leads to a backoff.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// The first backoff. It doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A listener with its current backoff.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    backoff: Option<Duration>,
}

impl Acceptor {
    /// Registers a non-blocking listener, such as one from [`listen`](super::listen), with the current runtime.
    ///
    /// # Errors
    /// Returns an error if the runtime refuses the descriptor.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::from_std(listener)?, backoff: None })
    }

    /// Returns the listener's address.
    ///
    /// # Errors
    /// Returns an error if the socket is invalid.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts the next connection. Cancel-safe.
    ///
    /// # Errors
    /// Returns an error only if the listener itself is unusable.
    pub async fn next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.backoff = None;
                    return Ok((stream, peer));
                }
                Err(error) => match accept_backoff(&error, self.backoff) {
                    Some(Duration::ZERO) => {}
                    Some(wait) => {
                        tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "cannot accept connections; waiting");
                        self.backoff = Some(wait);
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

/// Returns the wait before the next accept after an error, given the previous wait; `None` if the listener is unusable.
pub fn accept_backoff(error: &io::Error, previous: Option<Duration>) -> Option<Duration> {
    match error.raw_os_error()? {
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
            Some(previous.map_or(FIRST_WAIT, |wait| (wait * 2).min(LONGEST_WAIT)))
        }
        libc::EBADF | libc::EFAULT | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP => None,
        // Errors of the new connection are ignored, as accept(2) recommends.
        _ => Some(Duration::ZERO),
    }
}
