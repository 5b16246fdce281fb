//! A service of one namespace and name, out of all clusters that define it.
//!
//! Namespace sameness holds, as in Istio and the Multi-Cluster Services API: same namespace and name, same service. Where
//! definitions differ, the controller's own cluster rules, then the oldest that is exported (KEP-1645, "conflict
//! resolution"), then the oldest; what lost is recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
use wire::discovery::{self, Direct, Endpoint, Export, Health, Locality, Port, Summary, VirtualAddress, endpoint};
use wire::{Kind, name};

use super::cluster::{ClusterIndex, slice_service};
use super::event::{Pod, Service, Slice, SliceEndpoint, Text};
use super::homes::Homes;
use super::{Index, Key, OWN_SERVICES, workload};
use crate::export;
use crate::store::{Audience, Resource};

/// A merged service: what proxies are told, and what people should know.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// The Service and its Endpoints. Empty where no cluster defines it.
    pub(super) resources: Vec<Resource>,
    /// Clusters that export it.
    pub(super) exports: Vec<(Text, export::Reason)>,
    /// Definitions that lost against an earlier one, in words.
    pub(super) conflicts: Vec<String>,
    /// Endpoints told one by one.
    pub(super) endpoints: usize,
}

/// One endpoint with its pod, ready to be told.
struct Member<'a> {
    cluster: &'a ClusterIndex,
    exported: bool,
    network: &'a Text,
    ip: IpAddr,
    pod: Option<&'a Pod>,
    endpoint: &'a SliceEndpoint,
    health: Health,
    locality: Locality,
    identity: String,
    mutual_tls: bool,
    /// Service port to pod port.
    ports: BTreeMap<u32, u32>,
}

impl Index {
    /// Merges one service.
    pub(super) fn merge(&mut self, key: &Key) -> Merged {
        let hostname: Arc<str> = super::hostname(key, &self.settings.cluster_domain).into();
        let own = *key.namespace == *self.settings.namespace && OWN_SERVICES.iter().any(|own| *own.0 == *key.name);
        let rules = export::Rules { all: self.mesh.export_all, own, system: key.namespace == self.settings.namespace };
        let mut defined: Vec<(&ClusterIndex, &Service, Option<export::Reason>)> = self
            .clusters
            .values()
            .filter_map(|cluster| Some((cluster, cluster.services.get(key)?, rules.reason(cluster, key, &hostname))))
            .collect();
        // A cluster that does not export it has no say against one that does.
        defined.sort_by_key(|(cluster, service, reason)| {
            (!cluster.info.own, reason.is_none(), service.created, cluster.info.name.clone())
        });
        let clusters: Vec<(&ClusterIndex, &Service)> =
            defined.iter().map(|(cluster, service, _)| (*cluster, *service)).collect();
        let Some((_, base)) = clusters.first() else {
            self.addresses.release(&hostname);
            return Merged::default();
        };
        let headless = base.headless;
        let mut merged = Merged::default();
        let ports = merge_ports(&clusters, &mut merged.conflicts);
        let mut members = Vec::new();
        let mut exports = Vec::new();
        for (cluster, service, reason) in &defined {
            let before = members.len();
            let foreign =
                collect(cluster, service, key, reason.is_some(), &self.homes, &self.trust_domain, &mut members);
            if foreign > 0 {
                let of = &cluster.info.name;
                merged
                    .conflicts
                    .push(format!("{foreign} endpoints of {of} say they are on another cluster's network: refused"));
            }
            if let Some(reason) = reason {
                merged.exports.push((cluster.info.name.clone(), *reason));
                let networks: BTreeSet<&Text> =
                    members[before..].iter().map(|member| member.network).chain([cluster.network()]).collect();
                exports.extend(networks.into_iter().map(|network| (cluster.info.name.clone(), network.clone())));
            }
        }

        let mut addresses: Vec<(Text, IpAddr)> = Vec::new();
        for (cluster, service) in &clusters {
            addresses.extend(service.cluster_ips.iter().map(|ip| (cluster.info.name.clone(), *ip)));
        }
        // Only an exported service is seen where it is not defined.
        let lacking: Vec<Text> = match exports.is_empty() {
            true => Vec::new(),
            false => {
                self.clusters.keys().filter(|name| !addresses.iter().any(|(of, _)| of == *name)).cloned().collect()
            }
        };
        let shared = match lacking.is_empty() {
            true => None,
            false => self.addresses.of(&hostname).map(IpAddr::from),
        };
        if shared.is_none() {
            self.addresses.release(&hostname);
        }

        let mut keys: Vec<Arc<str>> =
            addresses.iter().map(|(cluster, ip)| name::address(cluster, *ip).into()).collect();
        keys.extend(shared.iter().flat_map(|ip| lacking.iter().map(|of| name::address(of, *ip).into())));
        keys.extend(self.pod_addresses(&members));
        let exported_from: BTreeSet<&Text> = exports.iter().map(|(_, network)| network).collect();
        keys.extend(exported_from.into_iter().map(|network| Arc::from(name::exported(network))));
        let mut virtual_addresses: Vec<VirtualAddress> = addresses
            .iter()
            .map(|(cluster, ip)| VirtualAddress { cluster: cluster.to_string(), ip: name::ip_to_bytes(*ip) })
            .collect();
        virtual_addresses.extend(shared.map(|ip| VirtualAddress { cluster: String::new(), ip: name::ip_to_bytes(ip) }));
        let identities: BTreeSet<String> =
            members.iter().map(|member| member.identity.clone()).filter(|id| !id.is_empty()).collect();
        let service = discovery::Service {
            hostname: hostname.to_string(),
            name: key.name.to_string(),
            namespace: key.namespace.to_string(),
            ports: ports.iter().map(|port| self.port(port, key, own)).collect(),
            addresses: virtual_addresses,
            identities: identities.into_iter().collect(),
            exports: exports
                .iter()
                .map(|(cluster, network)| Export { cluster: cluster.to_string(), network: network.to_string() })
                .collect(),
            headless,
        };
        let audience = match exports.is_empty() {
            false => Audience::All,
            true => Audience::Clusters(clusters.iter().map(|(cluster, _)| cluster.info.name.clone()).collect()),
        };
        merged.resources.push(Resource {
            kind: Kind::Service,
            name: hostname.clone(),
            keys: keys.into(),
            audience,
            body: service.encode_to_vec().into(),
        });
        merged.endpoints = members.len();
        self.tell_endpoints(&hostname, members, own, &mut merged.resources);
        merged
    }

    /// The addresses of the pods themselves, for those who connect to one without the service's name: valid in the clusters
    /// of the pod's network that may see it.
    fn pod_addresses(&self, members: &[Member<'_>]) -> Vec<Arc<str>> {
        let near = |member: &Member<'_>, cluster: &ClusterIndex| {
            let own = cluster.info.name == member.cluster.info.name;
            own || (member.exported && !member.network.is_empty() && cluster.network() == member.network)
        };
        members
            .iter()
            .flat_map(|member| self.clusters.values().filter(|of| near(member, of)).map(|of| (of, member.ip)))
            .map(|(cluster, ip)| name::address(&cluster.info.name, ip).into())
            .collect()
    }

    fn port(&self, port: &super::event::ServicePort, key: &Key, own: bool) -> Port {
        let exposed = own && OWN_SERVICES.iter().any(|(name, number)| *name == &*key.name && *number == port.number);
        Port {
            number: port.number.into(),
            name: port.name.to_string(),
            protocol: port.protocol.into(),
            server_names: if exposed { self.settings.server_names(key) } else { Vec::new() },
        }
    }

    /// Endpoints one by one within their network, and as sums for all others.
    fn tell_endpoints(&self, hostname: &Arc<str>, members: Vec<Member<'_>>, own: bool, to: &mut Vec<Resource>) {
        let collections: BTreeMap<&Text, Arc<str>> =
            self.networks.iter().map(|network| (network, Arc::from(name::endpoints(hostname, network)))).collect();
        let all: Box<[Arc<str>]> = collections.values().cloned().collect();
        let mut sums: BTreeMap<SumKey<'_>, Sum> = BTreeMap::new();
        for member in members {
            // A network that nobody names is the same as everybody's.
            let keys: Box<[Arc<str>]> = match member.network.is_empty() {
                true => all.clone(),
                false => collections.get(member.network).into_iter().cloned().collect(),
            };
            // The controller's own services are reached through the gateway by their server names, not by the mesh's.
            if member.exported && member.mutual_tls && !own && !member.network.is_empty() {
                let Locality { region, zone, subzone } = &member.locality;
                let key = (&member.cluster.info.name, member.network, region.clone(), zone.clone(), subzone.clone());
                sums.entry(key).or_default().add(&member);
            }
            let id = member.ip.to_string();
            let audience = match member.exported {
                true => Audience::All,
                false => Audience::Clusters([member.cluster.info.name.clone()].into()),
            };
            to.push(Resource {
                kind: Kind::Endpoint,
                name: name::endpoint(hostname, member.network, &member.cluster.info.name, &id).into(),
                keys,
                audience,
                body: direct(hostname, member).encode_to_vec().into(),
            });
        }
        for ((cluster, network, region, zone, subzone), sum) in sums {
            let id = format!("{network}/{region}/{zone}/{subzone}");
            to.push(Resource {
                kind: Kind::Endpoint,
                name: name::endpoint(hostname, name::SUMMARY, cluster, &id).into(),
                keys: collections.iter().filter(|(of, _)| **of != network).map(|(_, key)| key.clone()).collect(),
                audience: Audience::All,
                body: sum
                    .endpoint(hostname, cluster, network, Locality { region, zone, subzone })
                    .encode_to_vec()
                    .into(),
            });
        }
    }
}

/// Cluster, network, region, zone, subzone.
type SumKey<'a> = (&'a Text, &'a Text, String, String, String);

/// What stands for all pods of one locality behind gateways.
#[derive(Default)]
struct Sum {
    ready: u32,
    identities: BTreeSet<String>,
    ports: BTreeSet<u32>,
}

impl Sum {
    fn add(&mut self, member: &Member<'_>) {
        if member.health == Health::Ready {
            self.ready += 1;
            self.ports.extend(member.ports.keys());
        }
        if !member.identity.is_empty() {
            self.identities.insert(member.identity.clone());
        }
    }

    fn endpoint(self, hostname: &str, cluster: &str, network: &str, locality: Locality) -> Endpoint {
        let health = if self.ready > 0 { Health::Ready } else { Health::Unready };
        Endpoint {
            service: hostname.into(),
            cluster: cluster.into(),
            network: network.into(),
            locality: Some(locality),
            health: health.into(),
            weight: self.ready,
            kind: Some(endpoint::Kind::Summary(Summary {
                ready: self.ready,
                identities: self.identities.into_iter().collect(),
                ports: self.ports.into_iter().collect(),
            })),
        }
    }
}

fn direct(hostname: &str, member: Member<'_>) -> Endpoint {
    Endpoint {
        service: hostname.into(),
        cluster: member.cluster.info.name.to_string(),
        network: member.network.to_string(),
        locality: Some(member.locality),
        health: member.health.into(),
        weight: 1,
        kind: Some(endpoint::Kind::Direct(Direct {
            ip: name::ip_to_bytes(member.ip),
            ports: member.ports,
            identity: member.identity,
            mutual_tls: member.mutual_tls,
            pod: member.pod.map(|pod| pod.name.to_string()).unwrap_or_default(),
            workload: member.pod.map(workload::labels),
            labels: member
                .pod
                .map(|pod| pod.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
                .unwrap_or_default(),
            node: member
                .endpoint
                .node
                .as_ref()
                .or(member.pod.map(|pod| &pod.node))
                .map(ToString::to_string)
                .unwrap_or_default(),
        })),
    }
}

/// Ports of all definitions by number: the first definition to have a number says what it is.
fn merge_ports(clusters: &[(&ClusterIndex, &Service)], conflicts: &mut Vec<String>) -> Vec<super::event::ServicePort> {
    let mut ports: BTreeMap<u16, (&super::event::ServicePort, &Text)> = BTreeMap::new();
    for (cluster, service) in clusters {
        for port in &service.ports {
            match ports.get(&port.number) {
                None => drop(ports.insert(port.number, (port, &cluster.info.name))),
                Some((first, winner)) if first.protocol != port.protocol || first.name != port.name => {
                    conflicts.push(format!(
                        "port {} is {:?} ({}) in {} and {:?} ({}) in {}: {winner} wins",
                        port.number,
                        &*first.name,
                        first.protocol.as_str_name(),
                        winner,
                        &*port.name,
                        port.protocol.as_str_name(),
                        cluster.info.name,
                    ));
                }
                Some(_) => {}
            }
        }
    }
    let (first, base) = clusters[0];
    for (cluster, service) in &clusters[1..] {
        if service.headless != base.headless {
            let is = |service: &Service| if service.headless { "headless" } else { "not headless" };
            let (winner, loser) = (&first.info.name, &cluster.info.name);
            conflicts.push(format!("{} in {winner} and {} in {loser}: {winner} wins", is(base), is(service)));
        }
    }
    ports.into_values().map(|(port, _)| port.clone()).collect()
}

/// The endpoints of one cluster. An address that several slices list (one per port, say) is one endpoint with all ports.
/// Returns how many were refused because they name a network that they cannot be on.
fn collect<'a>(
    cluster: &'a ClusterIndex,
    service: &Service,
    key: &Key,
    exported: bool,
    homes: &Homes,
    trust_domain: &str,
    to: &mut Vec<Member<'a>>,
) -> usize {
    let first = to.len();
    let mut foreign = 0;
    let mut at: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for slice in cluster.slices_of.of(key).filter_map(|slice| cluster.slices.get(slice)) {
        debug_assert_eq!(slice_service(slice), *key);
        let ports = port_map(service, slice);
        for endpoint in &slice.endpoints {
            if let Some(known) = at.get(&endpoint.ip).and_then(|place| to.get_mut(*place)) {
                known.ports.extend(&ports);
                continue;
            }
            let pod_key = endpoint.pod.as_ref().map(|pod| Key { namespace: key.namespace.clone(), name: pod.clone() });
            let pod = pod_key.and_then(|pod| cluster.pods.get(&pod));
            if endpoint.pod.is_some() && pod.is_none() {
                // Its identity and whether it speaks mutual TLS come with the pod, any moment: until then it is not told.
                continue;
            }
            let Some(network) = homes.network(cluster, pod) else {
                foreign += 1;
                continue;
            };
            at.insert(endpoint.ip, to.len());
            to.push(Member {
                cluster,
                exported,
                network,
                ip: endpoint.ip,
                pod,
                endpoint,
                health: health(service, endpoint, pod),
                locality: workload::locality(cluster, pod, Some(endpoint)),
                identity: pod.map(|pod| workload::identity(trust_domain, pod)).unwrap_or_default(),
                mutual_tls: pod.is_some_and(workload::mutual_tls),
                ports: ports.clone(),
            });
        }
    }
    to[first..].sort_by_key(|member| member.ip);
    foreign
}

fn port_map(service: &Service, slice: &Slice) -> BTreeMap<u32, u32> {
    let target = |name: &Text| slice.ports.iter().find(|(of, _)| of == name).map(|(_, number)| *number);
    service.ports.iter().filter_map(|port| Some((port.number.into(), target(&port.name)?.into()))).collect()
}

fn health(service: &Service, endpoint: &SliceEndpoint, pod: Option<&Pod>) -> Health {
    if endpoint.terminating || pod.is_some_and(|pod| pod.terminating) {
        Health::Draining
    } else if endpoint.ready || service.publish_not_ready {
        Health::Ready
    } else {
        Health::Unready
    }
}
