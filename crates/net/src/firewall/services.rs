//! The Service addresses of a cluster: connections to a virtual address and port are distributed over its backends, as
//! in `kube-proxy`.
//!
//! For each IP version, the table has one map from (address, protocol, port) to a chain. Each chain has one rule that
//! selects a random backend from a map. The cost of a lookup does not depend on the number of Services.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::expression::{Expression, NFPROTO_IPV4, NFPROTO_IPV6, REGISTER, REGISTER32, Verdict};
use super::rule::{
    AddressSide, NftRule, address_in, load_address, load_port, load_transport, not_local, octets, output_interface,
    rule, transport, version,
};
use super::table::{ChainType, DESTINATION_NAT, ElementValue, Hook, NftTable, SOURCE_NAT};
use super::{FirewallError, TCP, UDP};

const TABLE: &str = "isthmus-services";

/// The transport protocol of a Service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }
}

/// One port of a Service address (a ClusterIP or a LoadBalancer address) with its backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualServer {
    /// The Service address.
    pub address: IpAddr,
    /// The Service port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The ready endpoints of the same IP version; others are ignored. Without backends, connections are refused at once.
    pub backends: Vec<SocketAddr>,
}

/// All Service addresses of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// All ports of all addresses. Of entries with the same address, port and protocol, the first one is used.
    pub virtual_servers: Vec<VirtualServer>,
    /// The link by which traffic leaves the cluster. The source address of such traffic becomes the cluster's address.
    pub uplink: Option<String>,
    /// The networks of Service addresses. A packet to such an address without a [`VirtualServer`] is refused at once,
    /// unless it is an address of this namespace. Otherwise a connection that starts just before its Service is applied
    /// would hang, since connection tracking keeps its first decision for retransmissions.
    pub service_networks: Vec<IpNet>,
}

/// Replaces the Services of the network namespace of the calling thread in one transaction. Existing connections are
/// kept.
///
/// Programs in this namespace can use Service addresses only if it has a route to each of
/// [`Services::service_networks`], since routing precedes the rewrite.
///
/// # Errors
/// Returns an error if the process lacks `CAP_NET_ADMIN` over the namespace, the kernel lacks nftables, or the Services
/// exceed one transaction (about 800 Services if the namespace is not the host's).
pub fn apply_services(services: &Services) -> Result<(), FirewallError> {
    table(services).commit().map_err(|source| FirewallError::new("apply the Services of the cluster", source))
}

/// Removes the rules of [`apply_services`]. No error if there are none.
///
/// # Errors
/// Returns an error in the cases of [`apply_services`].
pub fn remove_services() -> Result<(), FirewallError> {
    NftTable::remove(TABLE).commit().map_err(|source| FirewallError::new("remove the Services of the cluster", source))
}

fn table(services: &Services) -> NftTable {
    let mut table = NftTable::replace(TABLE);
    // Directly after the rewrite: a packet that still has a Service address has no backend and belongs to no existing
    // connection.
    table.base_chain("refuse-in", ChainType::Filter, Hook::Prerouting, DESTINATION_NAT + 1);
    table.base_chain("refuse-out", ChainType::Filter, Hook::Output, DESTINATION_NAT + 1);
    table.base_chain("unknown", ChainType::Filter, Hook::Forward, 0);
    table.base_chain("in", ChainType::Nat, Hook::Prerouting, DESTINATION_NAT);
    table.base_chain("out", ChainType::Nat, Hook::Output, DESTINATION_NAT);
    table.base_chain("leaving", ChainType::Nat, Hook::Postrouting, SOURCE_NAT);
    for family in [FamilyRules { nfproto: NFPROTO_IPV4, length: 4 }, FamilyRules { nfproto: NFPROTO_IPV6, length: 16 }]
    {
        family.add(&mut table, services);
    }
    if let Some(uplink) = &services.uplink {
        table.rule("leaving", &rule([output_interface(uplink), vec![Expression::Masquerade]]));
    }
    for network in &services.service_networks {
        for refuse in refuse() {
            let to_network = address_in(AddressSide::Destination, *network, false);
            table.rule("unknown", &rule([to_network.clone(), refuse.clone()]));
            table.rule("refuse-out", &rule([to_network, not_local(), refuse]));
        }
    }
    table
}

/// Returns rules that refuse packets: a reset for TCP, "port unreachable" for other protocols.
fn refuse() -> [NftRule; 2] {
    [rule([transport(TCP), vec![Expression::Reject { tcp: true }]]), vec![Expression::Reject { tcp: false }]]
}

/// The part of the table for one IP version.
struct FamilyRules {
    nfproto: u8,
    /// The length of an address in bytes.
    length: usize,
}

impl FamilyRules {
    fn add(&self, table: &mut NftTable, services: &Services) {
        let mut taken = std::collections::HashSet::new();
        let mut served = Vec::new();
        let mut refused = Vec::new();
        let mut hairpins = std::collections::BTreeSet::new();
        for (index, server) in services.virtual_servers.iter().enumerate() {
            let key = self.key(server);
            if !self.owns(server.address) || !taken.insert(key.clone()) {
                continue;
            }
            let backends: Vec<_> = server.backends.iter().filter(|backend| self.owns(backend.ip())).collect();
            if backends.is_empty() {
                refused.push((key, ElementValue::None));
                continue;
            }
            hairpins.extend(backends.iter().map(|backend| backend.ip()));
            let chain = format!("server-{index}");
            self.spread(table, &chain, &backends);
            served.push((key, ElementValue::Verdict(Verdict::Goto(chain))));
        }
        if !served.is_empty() {
            let name = format!("served-{}", self.nfproto);
            table.set(&name, self.length + 8, &served);
            let mut rule = self.load_key();
            rule.push(Expression::Lookup { set: name, register: REGISTER, into: Some(0) });
            table.rule("in", &rule);
            table.rule("out", &rule);
        }
        if !refused.is_empty() {
            let name = format!("refused-{}", self.nfproto);
            table.set(&name, self.length + 8, &refused);
            for refuse in refuse() {
                let mut rule = self.load_key();
                rule.push(Expression::Lookup { set: name.clone(), register: REGISTER, into: None });
                rule.extend(refuse);
                table.rule("refuse-in", &rule);
                table.rule("refuse-out", &rule);
            }
        }
        if !hairpins.is_empty() {
            self.masquerade_hairpins(table, hairpins.into_iter().map(octets));
        }
    }

    fn owns(&self, address: IpAddr) -> bool {
        address.is_ipv4() == (self.nfproto == NFPROTO_IPV4)
    }

    /// Returns address, protocol and port, each padded to 4-byte registers.
    fn key(&self, server: &VirtualServer) -> Vec<u8> {
        let mut key = octets(server.address);
        key.extend_from_slice(&[server.protocol.number(), 0, 0, 0]);
        key.extend_from_slice(&server.port.to_be_bytes());
        key.extend_from_slice(&[0, 0]);
        key
    }

    /// Returns expressions that load the key of a packet, in the format of [`Self::key`].
    fn load_key(&self) -> NftRule {
        let next = REGISTER32 + (self.length / 4) as u32;
        let mut rule = version(self.nfproto);
        rule.push(load_address(AddressSide::Destination, self.nfproto, REGISTER));
        rule.push(load_transport(next));
        rule.push(load_port(next + 1));
        rule
    }

    /// Adds the chain of a virtual server, which selects a random backend from a map.
    fn spread(&self, table: &mut NftTable, chain: &str, backends: &[&SocketAddr]) {
        let elements: Vec<_> = backends
            .iter()
            .enumerate()
            .map(|(index, backend)| {
                let mut value = octets(backend.ip());
                value.extend_from_slice(&backend.port().to_be_bytes());
                value.extend_from_slice(&[0, 0]);
                ((index as u32).to_ne_bytes().to_vec(), ElementValue::Bytes(value))
            })
            .collect();
        table.chain(chain);
        let map = format!("{chain}-backends");
        table.set(&map, 4, &elements);
        table.rule(
            chain,
            &vec![
                Expression::Random { below: backends.len() as u32, register: REGISTER },
                Expression::Lookup { set: map, register: REGISTER, into: Some(REGISTER) },
                Expression::DestinationNat {
                    family: self.nfproto,
                    address_register: REGISTER,
                    port_register: REGISTER32 + (self.length / 4) as u32,
                },
            ],
        );
    }

    /// Masquerades connections of a backend to itself through a Service. With its own address as source it would
    /// respond directly.
    fn masquerade_hairpins(&self, table: &mut NftTable, backends: impl Iterator<Item = Vec<u8>>) {
        let pairs: Vec<_> = backends.map(|address| ([address.clone(), address].concat(), ElementValue::None)).collect();
        let name = format!("hairpins-{}", self.nfproto);
        table.set(&name, 2 * self.length, &pairs);
        let mut rule = version(self.nfproto);
        rule.push(load_address(AddressSide::Source, self.nfproto, REGISTER));
        rule.push(load_address(AddressSide::Destination, self.nfproto, REGISTER32 + (self.length / 4) as u32));
        rule.push(Expression::Lookup { set: name, register: REGISTER, into: None });
        rule.push(Expression::Masquerade);
        table.rule("leaving", &rule);
    }
}
