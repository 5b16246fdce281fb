//! A service of one namespace and name, out of all clusters that define it.
//!
//! Namespace sameness holds, as in Istio and the Multi-Cluster Services API: same namespace and name, same service. Where
//! definitions differ, the controller's own cluster rules, then the oldest that is exported (KEP-1645, "conflict
//! resolution"), then the oldest; what lost is recorded.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
use wire::discovery::{self, Export, Health, Port, VirtualAddress};
use wire::{Kind, name};

use super::workload;
use crate::compile::endpoint::{Common, More, Place, Scope, Shape, Told, What};
use crate::compile::export;
use crate::inventory::cluster::ClusterIndex;
use crate::inventory::networks::Homes;
use crate::inventory::{Index, Key, OWN_SERVICES};
use crate::objects::event::{Pod, Service, Slice, SliceEndpoint, Text};
use crate::objects::intern::one_copy;
use crate::publish::{Audience, Resource};

/// A merged service's facts for people; see `/debug/services`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ServiceFacts {
    /// Clusters that export it, and why.
    pub exports: Vec<(Text, export::Reason)>,
    /// Definitions that lost.
    pub conflicts: Vec<String>,
}

/// A merged service: what proxies are told, and what people should know.
#[derive(Debug)]
pub(crate) struct Merged {
    /// Its host name.
    pub(crate) hostname: Arc<str>,
    /// The Service. Empty where no cluster defines it.
    pub(crate) resources: Vec<Resource>,
    /// Its endpoints.
    pub(crate) told: Vec<Told>,
    /// Clusters that export it.
    pub(crate) exports: Vec<(Text, export::Reason)>,
    /// Definitions that lost against an earlier one, in words.
    pub(crate) conflicts: Vec<String>,
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
    locality: Place,
    identity: String,
    mutual_tls: bool,
    /// Service port to pod port.
    ports: BTreeMap<u16, u16>,
}

impl Index {
    /// Merges one service.
    pub(crate) fn merge(&mut self, key: &Key) -> Merged {
        // The same copy each time that it is computed: others keep it.
        let hostname = self.strings.share(crate::inventory::hostname(key, &self.settings.cluster_domain).into());
        let mut merged = Merged {
            hostname: hostname.clone(),
            resources: Vec::new(),
            told: Vec::new(),
            exports: Vec::new(),
            conflicts: Vec::new(),
        };
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
            return merged;
        };
        let headless = base.headless;
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
            subsets: Vec::new(),
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
        let near = self.near(&members);
        let telling =
            Telling { hostname: &hostname, trust_domain: &self.trust_domain, networks: &self.networks_told, near, own };
        merged.told = telling.tell(members, &mut self.places, &mut self.scopes);
        merged
    }

    /// For the endpoints of each cluster and network, where the addresses of the pods themselves are valid, for those who
    /// connect to one without the service's name: in the clusters of the pod's network that may see it.
    fn near<'a>(&self, members: &[Member<'a>]) -> Near<'a> {
        let mut near = Near::new();
        for member in members {
            let of = (&member.cluster.info.name, member.network, member.exported);
            near.entry(of).or_insert_with(|| {
                let sees = |cluster: &&ClusterIndex| {
                    let own = cluster.info.name == member.cluster.info.name;
                    own || (member.exported && !member.network.is_empty() && cluster.network() == member.network)
                };
                self.clusters.values().filter(sees).map(|cluster| cluster.info.name.clone()).collect()
            });
        }
        near
    }

    fn port(&self, port: &crate::objects::event::ServicePort, key: &Key, own: bool) -> Port {
        let exposed = own && OWN_SERVICES.iter().any(|(name, number)| *name == &*key.name && *number == port.number);
        Port {
            number: port.number.into(),
            name: port.name.to_string(),
            protocol: port.protocol.into(),
            server_names: if exposed { self.settings.server_names(key) } else { Vec::new() },
        }
    }
}

/// By cluster, network, and whether it is exported.
type Near<'a> = BTreeMap<(&'a Text, &'a Text, bool), Arc<[Text]>>;

/// How a service's endpoints are told: one by one within their network, and as sums for all others.
struct Telling<'a> {
    hostname: &'a Arc<str>,
    trust_domain: &'a Text,
    networks: &'a Arc<[Text]>,
    near: Near<'a>,
    own: bool,
}

/// Cluster, network, and where: a sum's.
type SumKey<'a> = (&'a Text, &'a Text, Arc<Place>);

/// What stands for all pods of one locality behind gateways.
struct Sum {
    /// Of the first.
    shape: Arc<Shape>,
    ready: u32,
    identities: BTreeSet<Text>,
    ports: BTreeSet<u16>,
}

impl Telling<'_> {
    fn tell(
        &self,
        members: Vec<Member<'_>>,
        places: &mut HashSet<Arc<Place>>,
        scopes: &mut HashSet<Arc<Scope>>,
    ) -> Vec<Told> {
        let mut told = Vec::with_capacity(members.len() + 4);
        let mut shapes: Vec<Arc<Shape>> = Vec::new();
        let mut sums: BTreeMap<SumKey<'_>, Sum> = BTreeMap::new();
        for member in members {
            let common = self.common(&member, scopes);
            // Pods of one template come one after the other, or nearly so.
            let shape = match shapes.iter().rev().find(|shape| *shape.common() == common) {
                Some(known) => known.clone(),
                None => {
                    shapes.push(Arc::new(Shape::new(common)));
                    shapes[shapes.len() - 1].clone()
                }
            };
            // The controller's own services are reached through the gateway by their server names, not by the mesh's.
            if member.exported && member.mutual_tls && !self.own && !member.network.is_empty() {
                let place = place(places, &member.locality, Text::default());
                let sum = sums.entry((&member.cluster.info.name, member.network, place)).or_insert_with(|| Sum {
                    shape: shape.clone(),
                    ready: 0,
                    identities: BTreeSet::new(),
                    ports: BTreeSet::new(),
                });
                sum.add(&member);
            }
            let node = member.endpoint.node.as_ref().or(member.pod.map(|pod| &pod.node)).cloned().unwrap_or_default();
            let place = place(places, &member.locality, node);
            let health = u8::try_from(member.health as i32).unwrap_or_default();
            let pod = member.pod.map(|pod| pod.name.clone());
            told.push(Told::new(shape, place, What::Direct { ip: member.ip, health, pod }));
        }
        told.extend(sums.into_iter().map(|((_, _, place), sum)| sum.told(place)));
        told
    }

    fn common(&self, member: &Member<'_>, scopes: &mut HashSet<Arc<Scope>>) -> Common {
        let cluster = &member.cluster.info.name;
        let scope = Scope {
            cluster: cluster.clone(),
            network: member.network.clone(),
            networks: self.networks.clone(),
            audience: match member.exported {
                true => Audience::All,
                false => Audience::Clusters([cluster.clone()].into()),
            },
            near: self.near.get(&(cluster, member.network, member.exported)).cloned().unwrap_or_default(),
            trust_domain: self.trust_domain.clone(),
        };
        Common {
            hostname: self.hostname.clone(),
            scope: one_copy(scopes, scope),
            ports: member.ports.iter().map(|(port, target)| (*port, *target)).collect(),
            template: member.pod.map(|pod| pod.template.clone()),
        }
    }
}

/// The one copy of a place.
fn place(places: &mut HashSet<Arc<Place>>, locality: &Place, node: Text) -> Arc<Place> {
    one_copy(places, Place { node, ..locality.clone() })
}

impl Sum {
    fn add(&mut self, member: &Member<'_>) {
        if member.health == Health::Ready {
            self.ready += 1;
            self.ports.extend(member.ports.keys());
        }
        if !member.identity.is_empty() {
            self.identities.insert(member.identity.as_str().into());
        }
    }

    fn told(self, place: Arc<Place>) -> Told {
        let common = self.shape.common();
        let alone = self.identities.len() == 1 && self.identities.contains(common.identity().as_str());
        let all = self.ports.iter().eq(common.ports.iter().map(|(port, _)| port));
        let more = (!alone || !all).then(|| {
            Box::new(More {
                identities: self.identities.into_iter().collect(),
                ports: self.ports.into_iter().collect(),
            })
        });
        Told::new(self.shape, place, What::Sum { ready: self.ready, more })
    }
}

/// Ports of all definitions by number: the first definition to have a number says what it is.
fn merge_ports(
    clusters: &[(&ClusterIndex, &Service)],
    conflicts: &mut Vec<String>,
) -> Vec<crate::objects::event::ServicePort> {
    let mut ports: BTreeMap<u16, (&crate::objects::event::ServicePort, &Text)> = BTreeMap::new();
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
    let mut slices: Vec<&Slice> = cluster.slices_of(key).collect();
    slices.sort_by(|a, b| a.name.cmp(&b.name));
    for slice in slices {
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
                mutual_tls: pod.is_some_and(|pod| workload::mutual_tls(pod)),
                ports: ports.clone(),
            });
        }
    }
    to[first..].sort_by_key(|member| member.ip);
    foreign
}

fn port_map(service: &Service, slice: &Slice) -> BTreeMap<u16, u16> {
    let target = |name: &Text| slice.ports.iter().find(|(of, _)| of == name).map(|(_, number)| *number);
    service.ports.iter().filter_map(|port| Some((port.number, target(&port.name)?))).collect()
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
