//! Cuts: connections that do not pass a link, in one direction, for labs.

use std::net::IpAddr;

use ipnet::IpNet;

use super::rule::{AddressSide, address_in, destination_port, drop_packet, output_interface, rule, transport};
use super::table::{ChainType, Hook, NftTable};
use super::{FirewallError, TCP};

const TABLE: &str = "isthmus-cut";
/// The priority after all changes of addresses.
const LAST: i32 = 300;

/// Connections that do not pass: those to a port of some addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The addresses of the servers.
    pub addresses: Vec<IpAddr>,
    /// The port of the servers.
    pub port: u16,
}

/// Makes a link of the calling thread's network namespace drop the packets of clients to servers behind it. Open connections
/// stall, and new ones have no answer. Connections from behind the link pass. Replaces earlier cuts; none removes them.
///
/// # Errors
/// Returns an error if the process lacks `CAP_NET_ADMIN` over the namespace, or the kernel lacks nftables.
pub fn cut_connections(link: &str, cuts: &[Cut]) -> Result<(), FirewallError> {
    let error = |source| FirewallError::new("cut connections of a link", source);
    if cuts.is_empty() {
        return NftTable::remove(TABLE).commit().map_err(error);
    }
    let mut table = NftTable::replace(TABLE);
    table.base_chain("leaving", ChainType::Filter, Hook::Postrouting, LAST);
    for (address, port) in cuts.iter().flat_map(|cut| cut.addresses.iter().map(|address| (*address, cut.port))) {
        let to = address_in(AddressSide::Destination, IpNet::from(address), false);
        let parts = [output_interface(link), to, transport(TCP), destination_port(port), drop_packet()];
        table.rule("leaving", &rule(parts));
    }
    table.commit().map_err(error)
}
