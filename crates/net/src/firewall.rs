//! nftables from Rust: a pod's traffic to its sidecar, a cluster's Service addresses to their endpoints.
//!
//! Rules are sent to the kernel over netlink, without the `nft` or `iptables` programs. Every call acts on the network
//! namespace of the calling thread (see [`crate::namespace::NetNamespace::run_in`]) and replaces a whole table in one
//! transaction: packets see the old rules or the new ones.
//!
//! [`capture`](self) rules are in `firewall/capture.rs`, Services in `firewall/services.rs`; `expression.rs` and
//! `table.rs` hold the encoding (`linux/netfilter/nf_tables.h`).

use std::io;

mod capture;
mod expression;
mod services;
mod table;

pub use capture::{Capture, install_capture, remove_capture};
pub use services::{Protocol, Services, VirtualServer, apply_services, remove_services};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The kernel refused a change of its packet rules.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}{}", advice(source))]
pub struct FirewallError {
    action: &'static str,
    #[source]
    source: io::Error,
}

impl FirewallError {
    fn new(action: &'static str, source: io::Error) -> Self {
        Self { action, source }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (this needs CAP_NET_ADMIN in the network namespace)",
        io::ErrorKind::Unsupported => " (the kernel needs nf_tables with nat, redir, masq and conntrack zones)",
        _ if error.raw_os_error() == Some(libc::EMSGSIZE) => " (more rules than fit in one transaction)",
        _ => "",
    }
}
