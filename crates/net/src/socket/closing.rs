//! Closing a listener without resetting a connection.
//!
//! What waits in a listener's queue is reset when it is closed, also where other sockets listen on the same port, and
//! between the last look into the queue and the close another connection may come. So new handshakes are kept out first:
//! the client sends its SYN again a second later, to whoever listens there then, or is refused; either way nothing of what
//! it wants to say is lost.

use std::io;
use std::os::fd::AsFd;

use socket2::{Domain, SockFilter, SockRef};

use super::set_option;

/// Where a TCP header has its flags.
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// From now on the kernel drops what would begin another connection to this listener. Handshakes that have begun are
/// finished; what they lead to has to be accepted for some round trips more, before the listener is closed.
///
/// Where this process may not attach a filter, by the number of hops that packets may still go: more than any has that was
/// routed or comes from a host with usual settings (64 or 128). A SYN with all 255 still gets in.
pub fn refuse_new(listener: &impl AsFd) -> io::Result<()> {
    match refuse_by_filter(listener) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => refuse_by_hops(listener),
        refused => refused,
    }
}

fn refuse_by_filter(listener: &impl AsFd) -> io::Result<()> {
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

/// The kernel compares the TTL of a SYN with the listener's least (RFC 5082), but not that of the ACK which ends a handshake,
/// and of connections only with their own, which they took from the listener when they began.
fn refuse_by_hops(listener: &impl AsFd) -> io::Result<()> {
    const ALL: libc::c_int = 255;
    set_option(listener, libc::IPPROTO_IP, libc::IP_MINTTL, ALL)?;
    match SockRef::from(listener).domain()? {
        Domain::IPV6 => set_option(listener, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, ALL),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    fn serves_who_has_connected_and_nobody_else(bind: &str, refuse: fn(&TcpListener) -> io::Result<()>) {
        let listener = TcpListener::bind(bind).unwrap();
        let address = std::net::SocketAddr::new([127, 0, 0, 1].into(), listener.local_addr().unwrap().port());
        let mut before = TcpStream::connect(address).unwrap();
        refuse(&listener).unwrap();
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

    #[test]
    fn what_has_connected_is_served_and_nobody_else_gets_in() {
        serves_who_has_connected_and_nobody_else("127.0.0.1:0", refuse_new);
        serves_who_has_connected_and_nobody_else("[::]:0", refuse_new);
    }

    #[test]
    fn the_same_without_the_right_to_filter() {
        serves_who_has_connected_and_nobody_else("127.0.0.1:0", refuse_by_hops);
        serves_who_has_connected_and_nobody_else("[::]:0", refuse_by_hops);
    }
}
