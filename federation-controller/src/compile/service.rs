//! A service, merged from the definitions of the clusters that export it, and the view of each cluster that does not.
//!
//! Exported definitions of one hostname are the same service (Multi-Cluster Services API, "namespace sameness"). Where they
//! differ, the oldest ServiceExport takes precedence (KEP-1645, "conflict resolution"); of definitions that are exported by
//! other means, the controller's own cluster, then the oldest. The other definitions are recorded as conflicts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use prost::Message;
use wire::discovery::{self, Export, Port, Protocol, Subset, VirtualAddress};
use wire::{Kind, name};

use super::Shared;
use super::address;
use super::endpoint::Endpoint;
use super::federation::{Audiences, sources};
use super::members::{self, Member};
use super::resource::{Audience, Resource};
use super::rules::visibility::Visibility;
use crate::inventory::export::{self, Reason};
use crate::inventory::{ClusterInventory, Definition, Inventory, OWN_SERVICES, RefusedExport};
use crate::objects::{Key, Record as _, Service, ServicePort, Text};

/// Facts about a service for debug pages.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ServiceFacts {
    /// The clusters that export the service, and why.
    pub exports: Vec<(Text, Reason)>,
    /// The exported definitions that differ from the one that takes precedence, and endpoints that are refused.
    pub conflicts: Vec<String>,
    /// The clusterset address, of a service that a cluster exports by a ServiceExport. Where IPv6 is used, the address of
    /// [`super::address::ipv6`] is another one.
    pub clusterset: Option<Ipv4Addr>,
}

/// A service as some clusters see it.
///
/// A name that a cluster does not export is the cluster's own: its proxies see its own definition and endpoints, and no
/// other cluster does. Exported definitions of a name are one service, which all other clusters see.
pub(super) struct ServiceView<'a> {
    inventory: &'a Inventory,
    hostname: &'a Arc<str>,
    key: Key,
    /// The proxies that have this view.
    audience: Audience,
    /// The clusters whose endpoints are compiled with this view, each with the proxies that may receive them; `None`: all, for
    /// the proxies that have the view.
    published: Option<Vec<(Text, Audience)>>,
    /// Whether the definitions are exported.
    exported: bool,
    /// Whether one of them is exported by a ServiceExport, and so has a clusterset address and a name in `clusterset.local`.
    clusterset: bool,
    /// The definitions, in order of precedence.
    definitions: Vec<Definition<'a>>,
    ports: Vec<ServicePort>,
    subsets: &'a [Subset],
    members: Vec<Member<'a>>,
    /// Cluster and network of exported endpoints.
    exports: Vec<(Text, Text)>,
}

/// The views of a service, and what is known about it.
pub(super) struct Views<'a> {
    /// The views, first those of exported definitions.
    pub(super) views: Vec<ServiceView<'a>>,
    /// The facts.
    pub(super) facts: ServiceFacts,
    /// The exports that have no effect.
    pub(super) refused_exports: Vec<RefusedExport>,
}

/// Returns the views of a service: one for all clusters, or one for each set of clusters that may consume the same exports; and
/// one for each cluster that has a definition of its own.
pub(super) fn views<'a>(inventory: &'a Inventory, hostname: &'a Arc<str>, subsets: &'a [Subset]) -> Views<'a> {
    let mut refused_exports = Vec::new();
    let definitions = inventory.definitions(hostname).map(|definition| {
        let decided = export::decide(inventory, definition, hostname);
        let reason = decided.unwrap_or_else(|(refusal, policy)| {
            let (cluster, service) = (definition.cluster.info.name.clone(), definition.service.key());
            refused_exports.push(RefusedExport { cluster, service, refusal, policy });
            None
        });
        (definition, reason)
    });
    let (mut exported, own): (Vec<_>, Vec<_>) = definitions.partition(|(_, reason)| reason.is_some());
    exported.sort_by_key(|(of, reason)| precedence(*of, *reason));
    let mut facts = ServiceFacts::default();
    let reasons = exported.iter().filter_map(|(of, reason)| Some((of.cluster.info.name.clone(), (*reason)?)));
    facts.exports = reasons.collect();
    facts.conflicts = refused_exports.iter().map(RefusedExport::text).collect();
    let mut views = Vec::with_capacity(1 + own.len());
    if !exported.is_empty() {
        let others: Box<[Text]> = own.iter().map(|(of, _)| of.cluster.info.name.clone()).collect();
        let definitions: Vec<Definition<'a>> = exported.into_iter().map(|(definition, _)| definition).collect();
        match Audiences::of(inventory, &definitions, &others) {
            None => {
                let audience = if others.is_empty() { Audience::All } else { Audience::OtherClusters(others) };
                let conflicts = &mut facts.conflicts;
                views.extend(ServiceView::of(inventory, hostname, audience, true, definitions, subsets, conflicts));
            }
            Some(audiences) => {
                let mut conflicts = Vec::new();
                for group in audiences.groups {
                    let (audience, published) = (group.audience, group.published);
                    let of = group.definitions.iter().map(|at| definitions[*at]).collect();
                    let view = ServiceView::of(inventory, hostname, audience, true, of, subsets, &mut conflicts);
                    views.extend(view.map(|view| view.publishing(published)));
                }
                let mut seen = BTreeSet::new();
                conflicts.retain(|line| seen.insert(line.clone()));
                facts.conflicts.extend(conflicts);
            }
        }
    }
    // DNS resolves an ExternalName outside the mesh. It owns its name, and has no view.
    for (definition, _) in own.into_iter().filter(|(of, _)| !of.service.external) {
        let audience = Audience::Clusters([definition.cluster.info.name.clone()].into());
        let definitions = vec![definition];
        views.extend(ServiceView::of(inventory, hostname, audience, false, definitions, subsets, &mut facts.conflicts));
    }
    Views { views, facts, refused_exports }
}

/// Returns the place of an exported definition among others. The oldest ServiceExport takes precedence, in every controller
/// the same; then the controller's own cluster, then the oldest definition.
fn precedence(of: Definition<'_>, reason: Option<Reason>) -> (bool, bool, i64, Text) {
    let (own, name) = (of.cluster.info.own, of.cluster.info.name.clone());
    let export = (reason == Some(Reason::ServiceExport)).then(|| of.cluster.exports().get(&of.service.key())).flatten();
    match export {
        Some(export) => (false, false, export.created, name),
        None => (true, !own, of.service.created, name),
    }
}

impl<'a> ServiceView<'a> {
    /// Merges definitions. Returns `None` if there is none, or no proxy may see it.
    fn of(
        inventory: &'a Inventory,
        hostname: &'a Arc<str>,
        audience: Audience,
        exported: bool,
        definitions: Vec<Definition<'a>>,
        subsets: &'a [Subset],
        conflicts: &mut Vec<String>,
    ) -> Option<ServiceView<'a>> {
        let key = definitions.first()?.service.key();
        let audience = within_namespaces(inventory, audience, definitions.first()?.service)?;
        let ports = merge_ports(&definitions, conflicts);
        note_headless_conflicts(&definitions, conflicts);
        let (mut all, mut exports) = (Vec::new(), Vec::new());
        for definition in &definitions {
            let cluster = definition.cluster;
            let (found, refused) = members::of_definition(inventory, *definition);
            if refused > 0 {
                let name = &cluster.info.name;
                conflicts.push(format!("{refused} endpoints of {name} name another cluster's network: refused"));
            }
            if exported {
                let networks: BTreeSet<&Text> =
                    found.iter().map(|member| member.network).chain([cluster.network()]).collect();
                exports.extend(networks.into_iter().map(|network| (cluster.info.name.clone(), network.clone())));
            }
            all.extend(found);
        }
        Some(ServiceView {
            inventory,
            hostname,
            key,
            audience,
            published: None,
            exported,
            clusterset: exported && definitions.iter().any(|of| of.cluster.exports().contains(&of.service.key())),
            definitions,
            ports,
            subsets,
            members: all,
            exports,
        })
    }

    /// Compiles the endpoints of these clusters alone, for these proxies. Several views have the same definitions, whose
    /// endpoints are compiled once.
    fn publishing(mut self, published: Vec<(Text, Audience)>) -> Self {
        let service = self.definitions[0].service;
        let within = |(cluster, audience)| Some((cluster, within_namespaces(self.inventory, audience, service)?));
        self.published = Some(published.into_iter().filter_map(within).collect());
        self
    }

    /// Returns whether the service needs an address that is not one cluster's: for clusters that have none for it, and as
    /// clusterset address. Only an exported service is visible in clusters that do not define it.
    pub(super) fn needs_address(&self) -> bool {
        self.clusterset || !self.clusters_without_address().is_empty()
    }

    /// Returns whether the service has a clusterset address, which every cluster uses.
    pub(super) fn has_clusterset_address(&self) -> bool {
        self.clusterset
    }

    /// Returns the Service, with the address for clusters that have none for it.
    pub(super) fn resource(&self, address: Option<Ipv4Addr>) -> Resource {
        let cluster_ips = self.cluster_ips();
        let without = if self.clusterset { self.clusters_that_see_it() } else { self.clusters_without_address() };
        let with_ipv6 = |cluster: &Text| self.inventory.cluster(cluster).is_some_and(ClusterInventory::uses_ipv6);
        let ipv6 = address.filter(|_| without.iter().any(|cluster| with_ipv6(cluster))).map(address::ipv6);
        let mut keys: Vec<Arc<str>> =
            cluster_ips.iter().map(|(cluster, ip)| name::address(cluster, *ip).into()).collect();
        for cluster in &without {
            let ipv6 = ipv6.filter(|_| with_ipv6(cluster));
            let allocated = address.map(IpAddr::from).into_iter().chain(ipv6);
            keys.extend(allocated.map(|ip| Arc::from(name::address(cluster, ip))));
        }
        let exported_from: BTreeSet<&Text> = self.exports.iter().map(|(_, network)| network).collect();
        keys.extend(exported_from.into_iter().map(|network| Arc::from(name::exported(network))));
        let virtual_address = |cluster: String, ip: IpAddr| VirtualAddress { cluster, ip: name::ip_to_bytes(ip) };
        let allocated = address.map(IpAddr::from).into_iter().chain(ipv6);
        let addresses = cluster_ips.iter().map(|(cluster, ip)| virtual_address(cluster.to_string(), *ip));
        let identities: BTreeSet<&str> =
            self.members.iter().map(|member| &*member.identity).filter(|id| !id.is_empty()).collect();
        let export = |(cluster, network): &(Text, Text)| Export {
            cluster: cluster.to_string(),
            network: network.to_string(),
            sources: sources(self.inventory, cluster, &self.key),
        };
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
            entry: None,
            clusterset: self.clusterset,
        };
        let name = self.hostname.clone();
        let audience = self.audience.clone();
        Resource { kind: Kind::Service, name, keys: keys.into(), audience, body: body.encode_to_vec().into() }
    }

    /// Returns the endpoints.
    pub(super) fn endpoints(mut self, shared: &mut Shared) -> Vec<Endpoint> {
        let members = std::mem::take(&mut self.members);
        let Some(published) = &self.published else { return self.scope(&self.audience).endpoints(members, shared) };
        let mut of_cluster: BTreeMap<&Text, Vec<Member<'a>>> = BTreeMap::new();
        for member in members {
            of_cluster.entry(&member.cluster.info.name).or_default().push(member);
        }
        let mut endpoints = Vec::new();
        for (cluster, audience) in published {
            let members = of_cluster.remove(cluster).unwrap_or_default();
            endpoints.extend(self.scope(audience).endpoints(members, shared));
        }
        endpoints
    }

    fn scope<'s>(&'s self, audience: &'s Audience) -> members::Scope<'s> {
        members::Scope {
            inventory: self.inventory,
            hostname: self.hostname,
            subsets: self.subsets,
            audience,
            exported: self.exported,
            // Other networks reach the controller's own services by their server names, not as endpoints of the mesh.
            summarized: !export::is_own(self.inventory, &self.key),
            node_local: !self.exported && self.definitions[0].service.node_local,
        }
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
        self.clusters_that_see_it().into_iter().filter(|name| !with.contains(name)).collect()
    }

    fn clusters_that_see_it(&self) -> Vec<&'a Text> {
        let names = self.inventory.clusters().map(|cluster: &'a ClusterInventory| &cluster.info.name);
        names.filter(|name| self.audience.includes_cluster(name)).collect()
    }

    fn port(&self, port: &ServicePort) -> Port {
        let own = |(name, number): &(&str, u16)| **name == *self.key.name && *number == port.number;
        let exposed = self.exported && export::is_own(self.inventory, &self.key) && OWN_SERVICES.iter().any(own);
        let server_names = if exposed { self.inventory.settings().server_names(&self.key) } else { Vec::new() };
        let opaque = self.inventory.is_opaque(&self.key, port.number);
        let protocol = if opaque { Protocol::Tcp } else { port.protocol };
        Port { number: port.number.into(), name: port.name.to_string(), protocol: protocol.into(), server_names }
    }
}

/// Returns the ports of all definitions by number. The first definition with a number decides its name and protocol.
fn merge_ports(definitions: &[Definition<'_>], conflicts: &mut Vec<String>) -> Vec<ServicePort> {
    let mut ports: BTreeMap<u16, (&ServicePort, &Text)> = BTreeMap::new();
    for Definition { cluster, service } in definitions {
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

/// Returns the proxies of an audience in the namespaces that a service is exported to, and the gateways, which forward
/// to it for other networks. `None`: there are none.
fn within_namespaces(inventory: &Inventory, audience: Audience, service: &Service) -> Option<Audience> {
    let default = &inventory.mesh().service_export_to;
    let visibility = Visibility::of(&service.export_to, default, &service.namespace);
    let Visibility::Namespaces(mut namespaces) = visibility else { return Some(audience) };
    // Every proxy connects to the controller.
    if export::is_own(inventory, &service.key()) {
        return Some(audience);
    }
    namespaces.insert(inventory.settings().namespace.clone());
    let clusters: Box<[Text]> = match &audience {
        Audience::All => Box::default(),
        other => {
            let names = inventory.clusters().map(|cluster| &cluster.info.name);
            let included: Box<[Text]> = names.filter(|name| other.includes_cluster(name)).cloned().collect();
            if included.is_empty() {
                return None;
            }
            included
        }
    };
    Some(Audience::Namespaces { clusters, namespaces: namespaces.into_iter().collect() })
}

fn note_headless_conflicts(definitions: &[Definition<'_>], conflicts: &mut Vec<String>) {
    let Some((first, others)) = definitions.split_first() else { return };
    let describe = |headless: bool| if headless { "headless" } else { "not headless" };
    for other in others.iter().filter(|other| other.service.headless != first.service.headless) {
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
