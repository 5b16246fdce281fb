//! nftables rules: capture of a pod's traffic by its sidecar, and the Service addresses of a cluster.
//!
//! Rules are sent to the kernel over netlink, without the programs `nft` and `iptables`. Each call affects the network
//! namespace of the calling thread (see [`crate::namespace::NetNamespace::run_in`]) and replaces a whole table in one
//! transaction: a packet sees either the old or the new rules.
//!
//! `firewall/capture.rs` has the rules of capture, `firewall/services.rs` those of Services, `firewall/loss.rs` those of bad links; `rule.rs`,
//! `expression.rs` and `table.rs` encode them (`linux/netfilter/nf_tables.h`).

use std::io;

mod capture;
mod cut;
mod expression;
mod loss;
mod rule;
mod services;
mod table;

pub use capture::{Capture, install_capture, remove_capture};
pub use cut::{Cut, cut_connections};
pub use loss::{PeerLoss, lose_packets};
pub use services::{Protocol, Services, VirtualServer, apply_services, remove_services};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The error of a change of packet rules.
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
