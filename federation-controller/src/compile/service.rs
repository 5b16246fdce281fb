//! A service, merged from the definitions of all clusters.
//!
//! Clusters that define a service of one hostname define the same service, as in Istio and the Multi-Cluster Services API.
//! Where definitions differ, the controller's own cluster takes precedence, then the oldest exported definition (KEP-1645,
//! "conflict resolution"), then the oldest. The other definitions are recorded as conflicts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use prost::Message;
use wire::discovery::{self, Export, Port, Protocol, Subset, VirtualAddress};
use wire::{Kind, name};

use super::Shared;
use super::endpoint::Endpoint;
use super::export::{self, Reason};
use super::members::{self, Member};
use super::resource::{Audience, Resource};
use crate::inventory::{ClusterInventory, Definition, Inventory, OWN_SERVICES};
use crate::objects::intern::one_copy;
use crate::objects::{Key, Record as _, ServicePort, Text};

/// Facts about a service for debug pages.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ServiceFacts {
    /// The clusters that export the service, and why.
    pub exports: Vec<(Text, Reason)>,
    /// The definitions that differ from the one that takes precedence.
    pub conflicts: Vec<String>,
}

/// A merged service.
pub(super) struct Merged<'a> {
    inventory: &'a Inventory,
    hostname: &'a Arc<str>,
    key: Key,
    /// The definitions, in order of precedence.
    definitions: Vec<Definition<'a>>,
    ports: Vec<ServicePort>,
    subsets: &'a [Subset],
    members: Vec<Member<'a>>,
    /// Cluster and network of exported endpoints.
    exports: Vec<(Text, Text)>,
    facts: ServiceFacts,
}

impl<'a> Merged<'a> {
    /// Merges the definitions of a service. Returns `None` if no cluster defines it.
    pub(super) fn of(inventory: &'a Inventory, hostname: &'a Arc<str>, subsets: &'a [Subset]) -> Option<Merged<'a>> {
        let mut definitions: Vec<(Definition<'_>, Option<Reason>)> = inventory
            .definitions(hostname)
            .map(|definition| (definition, export::reason(inventory, definition, hostname)))
            .collect();
        // A cluster that does not export the service does not decide for one that does.
        definitions.sort_by_key(|(of, reason)| {
            (!of.cluster.info.own, reason.is_none(), of.service.created, of.cluster.info.name.clone())
        });
        let key = definitions.first()?.0.service.key();
        let mut facts = ServiceFacts::default();
        let ports = merge_ports(&definitions, &mut facts.conflicts);
        note_headless_conflicts(&definitions, &mut facts.conflicts);
        let mut all = Vec::new();
        let mut exports = Vec::new();
        for (definition, reason) in &definitions {
            let cluster = definition.cluster;
            let (found, refused) = members::of_definition(inventory, *definition, reason.is_some());
            if refused > 0 {
                let name = &cluster.info.name;
                facts.conflicts.push(format!("{refused} endpoints of {name} name another cluster's network: refused"));
            }
            if let Some(reason) = reason {
                facts.exports.push((cluster.info.name.clone(), *reason));
                let networks: BTreeSet<&Text> =
                    found.iter().map(|member| member.network).chain([cluster.network()]).collect();
                exports.extend(networks.into_iter().map(|network| (cluster.info.name.clone(), network.clone())));
            }
            all.extend(found);
        }
        let definitions = definitions.into_iter().map(|(definition, _)| definition).collect();
        Some(Merged { inventory, hostname, key, definitions, ports, subsets, members: all, exports, facts })
    }

    /// Returns whether the service needs an address for clusters that have none for it. Only an exported service is
    /// visible in clusters that do not define it.
    pub(super) fn needs_address(&self) -> bool {
        !self.clusters_without_address().is_empty()
    }

    /// Returns the Service, with the address for clusters that have none for it.
    pub(super) fn resource(&self, address: Option<Ipv4Addr>) -> Resource {
        let cluster_ips = self.cluster_ips();
        let allocated = address.map(IpAddr::from);
        let mut keys: Vec<Arc<str>> =
            cluster_ips.iter().map(|(cluster, ip)| name::address(cluster, *ip).into()).collect();
        if let Some(ip) = allocated {
            keys.extend(self.clusters_without_address().into_iter().map(|of| Arc::from(name::address(of, ip))));
        }
        let exported_from: BTreeSet<&Text> = self.exports.iter().map(|(_, network)| network).collect();
        keys.extend(exported_from.into_iter().map(|network| Arc::from(name::exported(network))));
        let virtual_address = |cluster: String, ip: IpAddr| VirtualAddress { cluster, ip: name::ip_to_bytes(ip) };
        let addresses = cluster_ips.iter().map(|(cluster, ip)| virtual_address(cluster.to_string(), *ip));
        let identities: BTreeSet<&str> =
            self.members.iter().map(|member| &*member.identity).filter(|id| !id.is_empty()).collect();
        let export =
            |(cluster, network): &(Text, Text)| Export { cluster: cluster.to_string(), network: network.to_string() };
        let body = discovery::Service {
            hostname: self.hostname.to_string(),
            name: self.key.name.to_string(),
            namespace: self.key.namespace.to_string(),
            ports: self.ports.iter().map(|port| self.port(port)).collect(),
            addresses: addresses.chain(allocated.map(|ip| virtual_address(String::new(), ip))).collect(),
            identities: identities.into_iter().map(str::to_owned).collect(),
            exports: self.exports.iter().map(export).collect(),
            headless: self.definitions[0].service.headless,
            subsets: self.subsets.to_vec(),
        };
        let audience = match self.exports.is_empty() {
            false => Audience::All,
            true => Audience::Clusters(self.definitions.iter().map(|of| of.cluster.info.name.clone()).collect()),
        };
        let name = self.hostname.clone();
        Resource { kind: Kind::Service, name, keys: keys.into(), audience, body: body.encode_to_vec().into() }
    }

    /// Returns the endpoints and the facts.
    pub(super) fn finish(self, shared: &mut Shared) -> (Vec<Endpoint>, Arc<ServiceFacts>) {
        let facts = one_copy(&mut shared.facts, self.facts);
        let scope = members::Scope {
            inventory: self.inventory,
            hostname: self.hostname,
            subsets: self.subsets,
            // Other networks reach the controller's own services by their server names, not as endpoints of the mesh.
            summarized: !export::is_own(self.inventory, &self.key),
        };
        (scope.endpoints(self.members, shared), facts)
    }

    fn cluster_ips(&self) -> Vec<(&'a Text, IpAddr)> {
        let ips = self.definitions.iter().map(|of| (&of.cluster.info.name, &of.service.cluster_ips));
        ips.flat_map(|(cluster, ips)| ips.iter().map(move |ip| (cluster, *ip))).collect()
    }

    fn clusters_without_address(&self) -> Vec<&'a Text> {
        if self.exports.is_empty() {
            return Vec::new();
        }
        let with: BTreeSet<&Text> = self.cluster_ips().into_iter().map(|(cluster, _)| cluster).collect();
        let names = self.inventory.clusters().map(|cluster: &'a ClusterInventory| &cluster.info.name);
        names.filter(|name| !with.contains(name)).collect()
    }

    fn port(&self, port: &ServicePort) -> Port {
        let own = |(name, number): &(&str, u16)| **name == *self.key.name && *number == port.number;
        let exposed = export::is_own(self.inventory, &self.key) && OWN_SERVICES.iter().any(own);
        let server_names = if exposed { self.inventory.settings().server_names(&self.key) } else { Vec::new() };
        Port { number: port.number.into(), name: port.name.to_string(), protocol: port.protocol.into(), server_names }
    }
}

/// Returns the ports of all definitions by number. The first definition with a number decides its name and protocol.
fn merge_ports(definitions: &[(Definition<'_>, Option<Reason>)], conflicts: &mut Vec<String>) -> Vec<ServicePort> {
    let mut ports: BTreeMap<u16, (&ServicePort, &Text)> = BTreeMap::new();
    for (Definition { cluster, service }, _) in definitions {
        for port in &service.ports {
            match ports.get(&port.number) {
                None => drop(ports.insert(port.number, (port, &cluster.info.name))),
                Some((first, winner)) if first.protocol != port.protocol || first.name != port.name => {
                    conflicts.push(format!(
                        "port {} is {:?} ({}) in {} and {:?} ({}) in {}: {winner} wins",
                        port.number,
                        &*first.name,
                        protocol_name(first),
                        winner,
                        &*port.name,
                        protocol_name(port),
                        cluster.info.name,
                    ));
                }
                Some(_) => {}
            }
        }
    }
    ports.into_values().map(|(port, _)| port.clone()).collect()
}

fn note_headless_conflicts(definitions: &[(Definition<'_>, Option<Reason>)], conflicts: &mut Vec<String>) {
    let Some(((first, _), others)) = definitions.split_first() else { return };
    let describe = |headless: bool| if headless { "headless" } else { "not headless" };
    for (other, _) in others.iter().filter(|(other, _)| other.service.headless != first.service.headless) {
        let (winner, loser) = (&first.cluster.info.name, &other.cluster.info.name);
        let [wins, loses] = [first.service.headless, other.service.headless].map(describe);
        conflicts.push(format!("{wins} in {winner} and {loses} in {loser}: {winner} wins"));
    }
}

/// Returns the protocol of a port in lower case; "not declared" if it has none.
fn protocol_name(port: &ServicePort) -> String {
    match port.protocol {
        Protocol::Unspecified => "not declared".into(),
        protocol => protocol.as_str_name().trim_start_matches("PROTOCOL_").to_lowercase(),
    }
}
