//! Closing a listener without resetting connections.
//!
//! Closing a listener resets the connections in its queue, even if other sockets listen on the same port, and a
//! connection may arrive between the last accept and the close. So the kernel first drops new handshakes. The client
//! retransmits its SYN a second later and reaches another listener or is refused; no data of a connection is lost.

use std::io;
use std::os::fd::AsFd;

use socket2::{Domain, SockFilter, SockRef};

use super::set_option;

/// The offset of the flags in a TCP header.
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Makes the kernel drop new handshakes with a listener. Handshakes in progress complete; their connections must be
/// accepted for a few more round trips before the listener is closed.
///
/// A process that may not attach a socket filter requires a minimum TTL of 255 instead: routed packets and packets of
/// hosts with usual settings (64 or 128) have less. A SYN with a TTL of 255 is still accepted.
///
/// # Errors
/// Returns an error if the kernel refuses both.
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

/// Requires a minimum TTL (RFC 5082). The kernel checks it for SYNs to the listener, but not for the ACK that completes
/// a handshake. Accepted connections have the minimum that the listener had at their start.
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

    fn only_established_connections_are_served(bind: &str, refuse: fn(&TcpListener) -> io::Result<()>) {
        let listener = TcpListener::bind(bind).unwrap();
        let address = std::net::SocketAddr::new([127, 0, 0, 1].into(), listener.local_addr().unwrap().port());
        let mut before = TcpStream::connect(address).unwrap();
        refuse(&listener).unwrap();
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(200));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (mut accepted, _) = listener.accept().unwrap();
        drop(listener);
        before.write_all(b"hello").unwrap();
        let mut received = [0; 5];
        accepted.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"hello");
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn new_handshakes_are_dropped_by_a_filter() {
        only_established_connections_are_served("127.0.0.1:0", refuse_new);
        only_established_connections_are_served("[::]:0", refuse_new);
    }

    #[test]
    fn new_handshakes_are_dropped_by_the_minimum_ttl() {
        only_established_connections_are_served("127.0.0.1:0", refuse_by_hops);
        only_established_connections_are_served("[::]:0", refuse_by_hops);
    }
}
