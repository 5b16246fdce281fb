//! Sockets, namespaces and the allocator: original destination, ClientHello, splice, port reuse, nftables, links,
//! processes. The only crate with unsafe code.
//!
//! Start at [`socket`] for the TCP sockets of a proxy, at [`hello::read`] for SNI routing, at [`namespace`] and
//! [`process`] for labs. This crate does not depend on services, identities or configuration.

pub mod allocator;
pub mod capture;
pub mod count;
pub mod firewall;
pub mod hello;
pub mod link;
pub mod memory;
pub mod namespace;
mod netlink;
pub mod process;
pub mod socket;
pub mod splice;
pub mod tcp_info;

pub use allocator::Allocator;
pub use socket::{
    Connect, Listen, PROXY_MARK, PROXY_UID, connect, connect_to_application, connect_to_unix_socket, listen,
    original_destination,
};
