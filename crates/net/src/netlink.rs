//! Netlink messages and sockets (`netlink(7)`, `linux/netlink.h`). Why they are encoded here: docs/decisions/netlink.md.
//!
//! [`crate::link`] and [`crate::firewall`] each use a dozen message types of one format: a length, a type, flags, a
//! fixed header, then nested type-length-value attributes. The kernel answers within the `send` call, so requests are
//! blocking calls of some microseconds.
//!
//! A netlink socket belongs to the network namespace of the thread that creates it: [`NetlinkSocket::open`] must be
//! called on a thread in the right namespace.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLM_F_DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;
/// Flag in an acknowledgement: attributes (`NLMSGERR_ATTR_*`) follow the error.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A message under construction.
pub(crate) struct NetlinkMessage {
    bytes: Vec<u8>,
}

impl NetlinkMessage {
    /// Creates a message with a type, flags and the fixed header of the type.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes()); // length, set by `finish`
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]); // sequence and port, set when sent
        bytes.extend_from_slice(header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Appends an attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a NUL-terminated string.
    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends a number in network byte order, as in nftables.
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends an attribute that contains the attributes which `inside` appends.
    pub(crate) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attr(kind | NLA_F_NESTED, &[]);
        inside(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Appends raw bytes: the fixed header within a nested attribute.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn add_flags(&mut self, more: u16) {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | more;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// A socket of a netlink family in one network namespace.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    fd: OwnedFd,
    sequence: u32,
}

impl NetlinkSocket {
    /// Opens a socket of a family (`None`: routing) in the network namespace of the calling thread.
    pub(crate) fn open(family: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, family)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            let on: libc::c_int = 1;
            // SAFETY: `on` is valid during the call and its size is given. A kernel without the option refuses it; then
            // only the texts of errors are missing.
            unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
        }
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(&mut self, mut message: NetlinkMessage) -> io::Result<()> {
        message.add_flags(NLM_F_REQUEST | NLM_F_ACK);
        self.sequence += 1;
        let sequence = self.sequence;
        self.send(message.finish(sequence))?;
        self.acknowledged(sequence)
    }

    /// Sends messages as one datagram. The kernel acknowledges the message at index `acknowledged` after it has
    /// processed all others.
    pub(crate) fn batch(&mut self, mut messages: Vec<NetlinkMessage>, acknowledged: usize) -> io::Result<()> {
        let mut bytes = Vec::new();
        let first = self.sequence + 1;
        for (index, message) in messages.iter_mut().enumerate() {
            message.add_flags(if index == acknowledged { NLM_F_REQUEST | NLM_F_ACK } else { NLM_F_REQUEST });
            bytes.extend_from_slice(message.finish(first + index as u32));
        }
        self.sequence = first + messages.len() as u32;
        // A transaction is one datagram. Without privilege over the host, the limit is net.core.wmem_max.
        let size = bytes.len() * 2;
        if rustix::net::sockopt::set_socket_send_buffer_size_force(&self.fd, size).is_err() {
            rustix::net::sockopt::set_socket_send_buffer_size(&self.fd, size)?;
        }
        self.send(&bytes)?;
        self.acknowledged(first + acknowledged as u32)
    }

    /// Sends a dump request and calls `each` with the payload of each response.
    pub(crate) fn dump(&mut self, mut message: NetlinkMessage, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        message.add_flags(NLM_F_REQUEST | NLM_F_DUMP);
        self.sequence += 1;
        let sequence = self.sequence;
        self.send(message.finish(sequence))?;
        loop {
            let buffer = self.receive()?;
            for (kind, _, payload) in messages(&buffer) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return acknowledgement(0, payload),
                    _ => each(payload),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 64 << 10];
        let (length, _) = rustix::net::recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty())?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Reads until the acknowledgement of `sequence`, or an error before it.
    fn acknowledged(&self, sequence: u32) -> io::Result<()> {
        loop {
            let buffer = self.receive()?;
            for (kind, header, payload) in messages(&buffer) {
                if kind != NLMSG_ERROR {
                    continue;
                }
                acknowledgement(header.flags, payload)?;
                if header.sequence == sequence {
                    return Ok(());
                }
            }
        }
    }
}

struct NetlinkHeader {
    flags: u16,
    sequence: u32,
}

/// Iterates over the messages of a datagram: type, header, payload.
fn messages(mut buffer: &[u8]) -> impl Iterator<Item = (u16, NetlinkHeader, &[u8])> {
    std::iter::from_fn(move || {
        let header = buffer.get(..NLMSG_HEADER)?;
        let length = u32::from_ne_bytes(header[0..4].try_into().ok()?) as usize;
        let message = buffer.get(..length).filter(|_| length >= NLMSG_HEADER)?;
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        Some((kind, NetlinkHeader { flags, sequence }, &message[NLMSG_HEADER..]))
    })
}

/// Iterates over attributes: type without flags, value.
pub(crate) fn attributes(mut buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = buffer.get(..4)?;
        let length = u16::from_ne_bytes([header[0], header[1]]) as usize;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = buffer.get(4..length)?;
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Converts the payload of an acknowledgement to a result, with the kernel's error text if it has one.
fn acknowledgement(flags: u16, payload: &[u8]) -> io::Result<()> {
    let code = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(-code);
    if flags & NLM_F_ACK_TLVS == 0 {
        return Err(error);
    }
    // With NETLINK_CAP_ACK, the header of the request precedes the attributes.
    let details = payload.get(4 + NLMSG_HEADER..).unwrap_or_default();
    match attributes(details).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG) {
        Some((_, text)) => {
            let text = String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned();
            Err(io::Error::new(error.kind(), format!("{error}: {text}")))
        }
        None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_are_encoded() {
        let mut message = NetlinkMessage::new(5, NLM_F_CREATE, &[1, 2, 3]);
        message.attr_str(1, "lo").nest(2, |inner| {
            inner.attr_be32(3, 7);
        });
        let bytes = message.finish(9);
        assert_eq!(u32::from_ne_bytes(bytes[0..4].try_into().unwrap()) as usize, bytes.len());
        let found: Vec<_> = attributes(&bytes[20..]).collect();
        assert_eq!(found[0], (1, &b"lo\0"[..]));
        assert_eq!(found[1].0, 2);
        assert_eq!(attributes(found[1].1).next(), Some((3, &[0, 0, 0, 7][..])));
    }

    #[test]
    fn truncated_messages_end_the_iteration() {
        assert_eq!(messages(&[1, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[40, 0, 1, 0, 9]).count(), 0);
        assert!(acknowledgement(NLM_F_ACK_TLVS, &(-2i32).to_ne_bytes()).is_err());
    }
}
