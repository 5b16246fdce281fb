//! Passes open sockets to a child process over a Unix socket that is the child's standard input.
//!
//! The launcher creates the listeners on the host's loopback, and the lab's processes use them: a socket keeps the
//! network namespace that it was created in. When the launcher ends, the socket reads as closed.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Most sockets of one message: those of nine API servers, and of 16 ports of nine ingress gateways. The kernel allows 253.
const MOST: usize = 160;
/// Longest message, in bytes.
const LONGEST: u32 = 1 << 20;

/// Sends `message` with `files`.
///
/// # Errors
/// Returns an error if the peer has closed the socket.
pub fn send(socket: &mut UnixStream, message: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let length = u32::try_from(message.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| io::Error::other("the message is too long"))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many files"));
    }
    rustix::net::sendmsg(&*socket, &[IoSlice::new(&length.to_be_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    socket.write_all(message)
}

/// Receives a message and its files.
///
/// # Errors
/// Returns an error if the peer has closed the socket.
pub fn receive(socket: &mut UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let received = rustix::net::recvmsg(&*socket, &mut [IoSliceMut::new(&mut length)], &mut control, flags)?;
    if received.bytes != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::Error::other("the message is too long"));
    }
    let mut message = vec![0; usize::try_from(length).unwrap_or(0)];
    socket.read_exact(&mut message)?;
    Ok((message, files))
}

/// Returns the socket that is this process's standard input.
///
/// # Errors
/// Returns an error if standard input is closed.
pub fn from_parent() -> io::Result<UnixStream> {
    Ok(UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_with_their_files() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        send(&mut ours, b"first", &[listener.as_fd(), listener.as_fd()]).expect("sent");
        send(&mut ours, b"", &[]).expect("sent");
        let (message, files) = receive(&mut theirs).expect("received");
        assert_eq!((message.as_slice(), files.len()), (b"first".as_slice(), 2));
        let address = std::net::TcpListener::from(files.into_iter().next().expect("a file")).local_addr();
        assert_eq!(address.ok(), listener.local_addr().ok());
        assert_eq!(receive(&mut theirs).expect("received").0, b"");
        drop(ours);
        assert!(receive(&mut theirs).is_err(), "a closed socket is an error");
    }
}
