//! Sockets that a process was given by its parent, by number.
//!
//! A listening socket stays in the network namespace in which it was made. So a process inside a lab's namespace can serve an address of
//! the host's loopback, if its parent made the socket there and passed it on.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd};

/// Takes over an inherited listening TCP socket. Each number may be taken once: the caller names only descriptors that its parent
/// passed for this purpose and that nothing else in this process owns.
///
/// # Errors
/// `InvalidInput` for the standard streams, and for a descriptor that is no listening TCP socket.
pub fn tcp_listener(fd: RawFd) -> io::Result<TcpListener> {
    let refuse = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("file descriptor {fd} {why}"));
    if fd <= 2 {
        return Err(refuse("is a standard stream"));
    }
    // SAFETY: fcntl with F_GETFD only asks whether the descriptor is open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(refuse("is not open"));
    }
    // SAFETY: the descriptor is open (checked above), is none of the standard streams, and by this function's contract belongs to
    // nobody else in this process.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let listens = rustix::net::sockopt::socket_acceptconn(owned.as_fd()).unwrap_or(false);
    let stream =
        rustix::net::sockopt::socket_type(owned.as_fd()).is_ok_and(|kind| kind == rustix::net::SocketType::STREAM);
    if !listens || !stream {
        // Not ours after all: left open for whoever it belongs to.
        std::mem::forget(owned);
        return Err(refuse("is no listening TCP socket"));
    }
    Ok(TcpListener::from(owned))
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd as _;

    use super::*;

    #[test]
    fn takes_over_listeners_only() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("bound");
        let taken = tcp_listener(listener.into_raw_fd()).expect("listens");
        assert_eq!(taken.local_addr().expect("bound"), address);
        assert!(tcp_listener(0).is_err());
        assert!(tcp_listener(9999).is_err());
        let file = std::fs::File::open("/dev/null").expect("opens");
        assert!(tcp_listener(std::os::fd::AsRawFd::as_raw_fd(&file)).is_err());
    }
}
