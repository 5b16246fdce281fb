//! The socket on the host's loopback at which a cluster's API server listens.
//!
//! A socket stays in the network namespace that it was made in, so the lab's first process, which is in another one, cannot
//! make it anew. It keeps the socket, closes it while no API server runs, and opens it for the next one at the same port.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::Shutdown;

/// Length of the queue of new connections, as of the standard library's listeners.
const BACKLOG: i32 = 128;

/// A listener that can be closed and opened.
#[derive(Debug)]
pub struct HostListener(TcpListener);

impl HostListener {
    /// Keeps a listener that is open.
    #[must_use]
    pub fn new(listener: OwnedFd) -> Self {
        Self(listener.into())
    }

    /// Returns a handle of the socket for the process that accepts its connections.
    ///
    /// # Errors
    /// Returns an error if no file descriptor is left.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        self.0.try_clone().map(OwnedFd::from)
    }

    /// Refuses connections, those that wait as well. The port stays reserved.
    ///
    /// # Errors
    /// Returns an error if another process has taken the port in between.
    pub fn close(&self) -> io::Result<()> {
        let address = self.0.local_addr()?;
        rustix::net::shutdown(&self.0, Shutdown::Both)?;
        // The kernel releases a port that it chose itself when the socket stops listening, and none that was bound by number.
        match rustix::net::bind(&self.0, &address) {
            Err(Errno::INVAL) => Ok(()),
            bound => Ok(bound?),
        }
    }

    /// Accepts connections into the queue again.
    ///
    /// # Errors
    /// Returns an error if another process has taken the port.
    pub fn open(&self) -> io::Result<()> {
        Ok(rustix::net::listen(&self.0, BACKLOG)?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_closed_listener_refuses_and_an_opened_one_has_the_same_port() {
        let listener = HostListener::new(TcpListener::bind("127.0.0.1:0").expect("a listener").into());
        let address = listener.0.local_addr().expect("its address");
        let _waits = TcpStream::connect(address).expect("open");
        for _ in 0..3 {
            listener.close().expect("closed");
            let error = TcpStream::connect(address).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            listener.open().expect("opened");
            let _client = TcpStream::connect(address).expect("accepted");
            let server = TcpListener::from(listener.handle().expect("a handle"));
            assert_eq!(server.local_addr().ok(), Some(address));
            server.accept().expect("a connection");
        }
    }
}
