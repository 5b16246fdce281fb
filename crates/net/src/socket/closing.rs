//! Closing a listener without resetting a connection.
//!
//! What waits in a listener's queue is reset when it is closed, also where other sockets listen on the same port, and
//! between the last look into the queue and the close another connection may come. So new handshakes are kept out first:
//! the client sends its SYN again a second later, to whoever listens there then, or is refused; either way nothing of what
//! it wants to say is lost.

use std::io;
use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef};

/// Where a TCP header has its flags.
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// From now on the kernel drops what would begin another connection to this listener. Handshakes that have begun are
/// finished; what they lead to has to be accepted for some round trips more, before the listener is closed.
pub fn refuse_new(listener: &impl AsFd) -> io::Result<()> {
    let op = |code: u32, k: u32, jump_false: u8| SockFilter::new(code as u16, 0, jump_false, k);
    let program = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS, 0),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, SYN, 1),
        op(libc::BPF_RET | libc::BPF_K, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
    ];
    SockRef::from(listener).attach_filter(&program)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    fn what_has_connected_is_served_and_nobody_else_gets_in() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut before = TcpStream::connect(address).unwrap();
        refuse_new(&listener).unwrap();
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(200));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (mut accepted, _) = listener.accept().unwrap();
        drop(listener);
        before.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        accepted.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
