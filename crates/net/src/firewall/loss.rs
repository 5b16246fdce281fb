//! Loss: a link that drops some of its packets, for labs. Many kernels lack the queueing discipline `netem`, but all that have
//! nftables can count at random.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::FirewallError;
use super::expression::{Expression, REGISTER32, Verdict};
use super::rule::{AddressSide, NftRule, address_in, drop_packet, input_interface, output_interface, rule};
use super::table::{BEFORE_TRACKING, ChainType, ElementValue, Hook, NftTable};

const TABLE: &str = "isthmus-loss";
/// The priority after all changes of addresses.
const LAST: i32 = 300;
/// The parts of a whole.
const WHOLE: u16 = 1000;

/// The loss between this end of a link and some addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLoss {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Lost packets of a thousand, each way.
    pub per_mille: u16,
}

/// Makes a link of the calling thread's network namespace drop packets of both directions at random: `per_mille` of a
/// thousand, each way, or another share for the addresses of `peers`. Replaces an earlier loss.
///
/// # Errors
/// Returns an error if the process lacks `CAP_NET_ADMIN` over the namespace, or the kernel lacks nftables.
pub fn lose_packets(link: &str, per_mille: u16, peers: &[PeerLoss]) -> Result<(), FirewallError> {
    let mut table = NftTable::replace(TABLE);
    let shares: BTreeSet<u16> = peers.iter().map(|peer| peer.per_mille).chain([per_mille]).collect();
    // A chain for each share.
    for share in &shares {
        table.chain(&chain(*share));
        let values = (0..u32::from(*share.min(&WHOLE))).map(|value| (value.to_ne_bytes().to_vec(), ElementValue::None));
        let values: Vec<_> = values.collect();
        if !values.is_empty() {
            table.set(&set(*share), size_of::<u32>(), &values);
            table.rule(&chain(*share), &rule([is_lost(*share), drop_packet()]));
        }
    }
    let directions = [
        ("arriving", Hook::Prerouting, BEFORE_TRACKING, input_interface(link), AddressSide::Source),
        ("leaving", Hook::Postrouting, LAST, output_interface(link), AddressSide::Destination),
    ];
    for (name, hook, priority, on_link, side) in directions {
        table.base_chain(name, ChainType::Filter, hook, priority);
        for (address, share) in peers.iter().flat_map(|peer| peer.addresses.iter().map(|ip| (*ip, peer.per_mille))) {
            let is_peer = address_in(side, IpNet::from(address), false);
            table.rule(name, &rule([on_link.clone(), is_peer, goto(share)]));
        }
        table.rule(name, &rule([on_link, goto(per_mille)]));
    }
    table.commit().map_err(|source| FirewallError::new("make a link lose packets", source))
}

fn chain(per_mille: u16) -> String {
    format!("lose-{per_mille}")
}

fn set(per_mille: u16) -> String {
    format!("lost-{per_mille}")
}

/// Continues in the chain of a share, whose end accepts the packet.
fn goto(per_mille: u16) -> NftRule {
    vec![Expression::Verdict(Verdict::Goto(chain(per_mille)))]
}

fn is_lost(per_mille: u16) -> NftRule {
    vec![
        Expression::Random { below: WHOLE.into(), register: REGISTER32 },
        Expression::Lookup { set: set(per_mille), register: REGISTER32, into: None },
    ]
}
