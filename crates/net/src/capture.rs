//! Packet capture on a link (`packet(7)`), which shows the bytes between networks.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Length of an IPv6 header (RFC 8200 §3).
const IPV6_HEADER: usize = 40;

/// A capture of all frames on one link, in both directions.
#[derive(Debug)]
pub struct Capture {
    fd: OwnedFd,
}

impl Capture {
    /// Starts a capture on a link of the calling thread's network namespace. [`Self::next_frame`] waits at most
    /// `timeout`.
    ///
    /// # Errors
    /// Returns an error if the link does not exist or the process lacks `CAP_NET_RAW`.
    pub fn open(link: &str, timeout: Duration) -> io::Result<Self> {
        let index = crate::link::Links::open().and_then(|mut links| links.index(link)).map_err(io::Error::other)?;
        let everything = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the call creates a new descriptor, which nothing else owns.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(everything));
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: an all-zero `sockaddr_ll` is a valid value of it.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = everything;
        address.sll_ifindex = index as i32;
        // SAFETY: the address is valid during the call and its size is given.
        let bound = unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
        };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        rustix::net::sockopt::set_socket_timeout(&fd, rustix::net::sockopt::Timeout::Recv, Some(timeout))?;
        Ok(Self { fd })
    }

    /// Returns the next frame, including its link header; `None` if no frame arrives in time.
    ///
    /// # Errors
    /// Returns an error if the link is removed.
    pub fn next_frame<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match rustix::net::recv(&self.fd, &mut *buffer, rustix::net::RecvFlags::empty()) {
            Ok((length, _)) => Ok(Some(&buffer[..length])),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns source port, destination port and payload of a TCP segment in an Ethernet frame with IPv4, or with IPv6 and
/// no extension headers; `None` for other frames and for segments without payload.
pub fn tcp_payload(frame: &[u8]) -> Option<(u16, u16, &[u8])> {
    const TCP: u8 = 6;
    let (kind, ip) = (frame.get(12..14)?, frame.get(14..)?);
    let number = |at: usize| Some(usize::from(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?])));
    let (protocol, header, total) = match kind {
        [0x08, 0x00] => (*ip.get(9)?, usize::from(ip.first()? & 0x0f) * 4, number(2)?),
        [0x86, 0xdd] => (*ip.get(6)?, IPV6_HEADER, IPV6_HEADER + number(4)?),
        _ => return None,
    };
    if protocol != TCP {
        return None;
    }
    let tcp = ip.get(header..total.min(ip.len()))?;
    let offset = usize::from(tcp.get(12)? >> 4) * 4;
    let payload = tcp.get(offset..).filter(|payload| !payload.is_empty())?;
    Some((u16::from_be_bytes([tcp[0], tcp[1]]), u16::from_be_bytes([tcp[2], tcp[3]]), payload))
}
