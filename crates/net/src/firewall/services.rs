//! A cluster's Service addresses: each virtual address and port is spread over its backends, as `kube-proxy` does.
//!
//! The table has, per IP version, one map from (address, protocol, port) to a chain, and per chain one rule that picks
//! a backend by a random number from a map. A lookup costs the same for ten services as for a thousand.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::expression::{
    Expression, NFPROTO_IPV4, NFPROTO_IPV6, REGISTER, REGISTER32, Rule, Side, Verdict, address_in, leaves_by,
    load_address, load_port, load_transport, not_for_here, octets, rule, transport, version,
};
use super::table::{DESTINATION_NAT, Hook, Kind, SOURCE_NAT, Table, Value};
use super::{FirewallError, TCP, UDP};

const TABLE: &str = "isthmus-services";

/// A transport protocol of a Service port.
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

/// One port of one Service address (a ClusterIP or a LoadBalancer address) and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualServer {
    /// The Service's address.
    pub address: IpAddr,
    /// The Service's port.
    pub port: u16,
    /// The Service port's protocol.
    pub protocol: Protocol,
    /// Ready endpoints, of the address' IP version (others are left out). None: callers are refused at once.
    pub backends: Vec<SocketAddr>,
}

/// All Service addresses of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// Every port of every address. Of two entries with the same address, port and protocol the first counts.
    pub virtual_servers: Vec<VirtualServer>,
    /// The link by which traffic leaves the cluster: what goes out by it takes this cluster's address.
    pub uplink: Option<String>,
    /// Networks of which every address is a Service's: a packet to one that no [`VirtualServer`] takes is refused at
    /// once, unless the address is this namespace's own. Without that a connection begun a moment before its Service
    /// is applied would hang: the kernel keeps to the first decision on a connection, also for its retries.
    pub service_networks: Vec<IpNet>,
}

/// Puts the services in force in the calling thread's network namespace, in place of those before, in one step.
/// Connections already made are kept.
///
/// A program in this namespace itself can use the addresses only if there is a route to them, as the choice of route
/// comes before the rewrite: give the namespace one for each of [`Services::service_networks`].
///
/// # Errors
/// When the kernel refuses the table: without `CAP_NET_ADMIN` over the namespace, without nftables, or with more
/// services than fit one transaction (about 800 where the namespace is not the host's).
pub fn apply_services(services: &Services) -> Result<(), FirewallError> {
    table(services).commit().map_err(|source| FirewallError::new("apply the cluster's services", source))
}

/// Removes what [`apply_services`] made; fine if there is nothing.
///
/// # Errors
/// As [`apply_services`].
pub fn remove_services() -> Result<(), FirewallError> {
    Table::remove(TABLE).commit().map_err(|source| FirewallError::new("remove the cluster's services", source))
}

fn table(services: &Services) -> Table {
    let mut table = Table::replace(TABLE);
    // Right behind the rewrite: what still has a Service's address then has no backend, and is no old connection's.
    table.base_chain("refuse-in", Kind::Filter, Hook::Prerouting, DESTINATION_NAT + 1);
    table.base_chain("refuse-out", Kind::Filter, Hook::Output, DESTINATION_NAT + 1);
    table.base_chain("unknown", Kind::Filter, Hook::Forward, 0);
    table.base_chain("in", Kind::Nat, Hook::Prerouting, DESTINATION_NAT);
    table.base_chain("out", Kind::Nat, Hook::Output, DESTINATION_NAT);
    table.base_chain("leaving", Kind::Nat, Hook::Postrouting, SOURCE_NAT);
    for family in [Family { nfproto: NFPROTO_IPV4, length: 4 }, Family { nfproto: NFPROTO_IPV6, length: 16 }] {
        family.add(&mut table, services);
    }
    if let Some(uplink) = &services.uplink {
        table.rule("leaving", &rule([leaves_by(uplink), vec![Expression::Masquerade]]));
    }
    for network in &services.service_networks {
        for refuse in refuse() {
            let to_network = address_in(Side::Destination, *network, false);
            table.rule("unknown", &rule([to_network.clone(), refuse.clone()]));
            table.rule("refuse-out", &rule([to_network, not_for_here(), refuse]));
        }
    }
    table
}

/// A reset for TCP, "port unreachable" for the rest.
fn refuse() -> [Rule; 2] {
    [rule([transport(TCP), vec![Expression::Reject { tcp: true }]]), vec![Expression::Reject { tcp: false }]]
}

/// One IP version's share of the table.
struct Family {
    nfproto: u8,
    /// Bytes of an address.
    length: usize,
}

impl Family {
    fn add(&self, table: &mut Table, services: &Services) {
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
                refused.push((key, Value::None));
                continue;
            }
            hairpins.extend(backends.iter().map(|backend| backend.ip()));
            let chain = format!("server-{index}");
            self.spread(table, &chain, &backends);
            served.push((key, Value::Verdict(Verdict::Goto(chain))));
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

    /// Address, protocol and port, each padded to whole 4-byte registers.
    fn key(&self, server: &VirtualServer) -> Vec<u8> {
        let mut key = octets(server.address);
        key.extend_from_slice(&[server.protocol.number(), 0, 0, 0]);
        key.extend_from_slice(&server.port.to_be_bytes());
        key.extend_from_slice(&[0, 0]);
        key
    }

    /// Loads what [`Self::key`] is compared with.
    fn load_key(&self) -> Rule {
        let behind = REGISTER32 + (self.length / 4) as u32;
        let mut rule = version(self.nfproto);
        rule.push(load_address(Side::Destination, self.nfproto, REGISTER));
        rule.push(load_transport(behind));
        rule.push(load_port(behind + 1));
        rule
    }

    /// The chain of one virtual server: a random backend out of a map.
    fn spread(&self, table: &mut Table, chain: &str, backends: &[&SocketAddr]) {
        let elements: Vec<_> = backends
            .iter()
            .enumerate()
            .map(|(index, backend)| {
                let mut value = octets(backend.ip());
                value.extend_from_slice(&backend.port().to_be_bytes());
                value.extend_from_slice(&[0, 0]);
                ((index as u32).to_ne_bytes().to_vec(), Value::Bytes(value))
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

    /// A backend that called itself through a Service must see another source, or it would answer itself directly.
    fn masquerade_hairpins(&self, table: &mut Table, backends: impl Iterator<Item = Vec<u8>>) {
        let pairs: Vec<_> = backends.map(|address| ([address.clone(), address].concat(), Value::None)).collect();
        let name = format!("hairpins-{}", self.nfproto);
        table.set(&name, 2 * self.length, &pairs);
        let mut rule = version(self.nfproto);
        rule.push(load_address(Side::Source, self.nfproto, REGISTER));
        rule.push(load_address(Side::Destination, self.nfproto, REGISTER32 + (self.length / 4) as u32));
        rule.push(Expression::Lookup { set: name, register: REGISTER, into: None });
        rule.push(Expression::Masquerade);
        table.rule("leaving", &rule);
    }
}
