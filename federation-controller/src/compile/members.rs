//! The endpoints of a service: collected from the slices of each cluster, and turned into single endpoints for their own
//! network and summaries for all other networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use wire::discovery::{Health, Subset};
use wire::name;

use super::Shared;
use super::endpoint::{Content, Direct, Endpoint, Location, NetworkScope, Prototype, PrototypeFields, SummaryDetails};
use super::policies;
use super::resource::Audience;
use super::workload;
use crate::inventory::{ClusterInventory, Definition, Inventory};
use crate::objects::intern::one_copy;
use crate::objects::{Key, Labels, Pod, Record as _, Service, Slice, SliceEndpoint, Text};

mod withdrawal;

/// One endpoint of a service, with its pod.
pub(super) struct Member<'a> {
    pub(super) cluster: &'a ClusterInventory,
    pub(super) network: &'a Text,
    ip: IpAddr,
    /// The address of the other family; `ip` is then the IPv4 address.
    further_ip: Option<IpAddr>,
    pod: Option<&'a Pod>,
    endpoint: &'a SliceEndpoint,
    health: Health,
    location: Location,
    /// SPIFFE ID; empty if unknown.
    pub(super) identity: String,
    mutual_tls: bool,
    /// Ports of the pod on which its sidecar terminates no TLS.
    plaintext_ports: Box<[u16]>,
    /// Service port to pod port.
    ports: BTreeMap<u16, u16>,
}

/// The identity of an endpoint in its service and cluster: its pod, or its address if it has none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Identity<'a> {
    Pod(&'a Text),
    Address(IpAddr),
}

/// Collects the endpoints of one cluster. A pod or address in several slices, one for each port or address family for
/// example, is one endpoint with all ports and an address of each family. Also returns the number of endpoints that are
/// refused because they name another cluster's network.
pub(super) fn of_definition<'a>(inventory: &'a Inventory, definition: Definition<'a>) -> (Vec<Member<'a>>, usize) {
    let Definition { cluster, service } = definition;
    let key = &service.key();
    let mut members: Vec<Member<'a>> = Vec::new();
    let mut refused = BTreeSet::new();
    let mut known: BTreeMap<Identity<'a>, usize> = BTreeMap::new();
    let mut slices: Vec<&Slice> = cluster.slices_of(key).collect();
    slices.sort_by(|a, b| a.name.cmp(&b.name));
    for slice in slices {
        let ports = port_map(service, slice);
        for endpoint in &slice.endpoints {
            let address = Identity::Address(endpoint.ip);
            let identity = endpoint.pod.as_ref().map_or(address, Identity::Pod);
            if let Some(at) = known.get(&address).or_else(|| known.get(&identity)).copied() {
                let member = &mut members[at];
                member.add(service, endpoint, &ports);
                if member.has(endpoint.ip) {
                    known.insert(address, at);
                }
                // Pods of a node's own network share its addresses.
                known.entry(identity).or_insert(at);
                continue;
            }
            let pod_key = endpoint.pod.as_ref().map(|pod| Key { namespace: key.namespace.clone(), name: pod.clone() });
            let pod = pod_key.and_then(|pod| cluster.pods().get(&pod));
            if endpoint.pod.is_some() && pod.is_none() {
                // The pod, whose identity and mutual TLS are not known yet, arrives at any moment.
                continue;
            }
            let Some(network) = inventory.networks().of_pod(cluster, pod) else {
                refused.insert(identity);
                continue;
            };
            known.insert(address, members.len());
            known.insert(identity, members.len());
            members.push(Member {
                cluster,
                network,
                ip: endpoint.ip,
                further_ip: None,
                pod,
                endpoint,
                health: health(service, endpoint, pod),
                location: workload::location(cluster, pod, Some(endpoint)),
                identity: pod.map(|pod| workload::identity(inventory.trust_domain(), pod)).unwrap_or_default(),
                mutual_tls: pod.is_some_and(|pod| pod.accepts_mutual_tls()),
                plaintext_ports: pod
                    .filter(|pod| pod.accepts_mutual_tls())
                    .map(|pod| policies::plaintext_ports(inventory, cluster, pod, ports.values().copied()))
                    .unwrap_or_default(),
                ports: ports.clone(),
            });
        }
    }
    members.sort_by_key(|member| member.ip);
    use_terminating(&mut members);
    (members, refused.len())
}

/// If a cluster has no ready endpoint, endpoints that terminate and still serve are used, as by kube-proxy (KEP-1669).
fn use_terminating(members: &mut [Member<'_>]) {
    if members.iter().any(|member| member.health == Health::Ready) {
        return;
    }
    for member in members.iter_mut().filter(|of| of.health == Health::Draining && of.endpoint.serving) {
        member.health = Health::Ready;
    }
}

fn port_map(service: &Service, slice: &Slice) -> BTreeMap<u16, u16> {
    let target = |name: &Text| slice.ports.iter().find(|(of, _)| of == name).map(|(_, number)| *number);
    service.ports.iter().filter_map(|port| Some((port.number, target(&port.name)?))).collect()
}

fn health(service: &Service, endpoint: &SliceEndpoint, pod: Option<&Pod>) -> Health {
    let terminating = endpoint.terminating || pod.is_some_and(|pod| pod.terminating);
    if terminating && !(service.publish_not_ready && endpoint.ready) {
        Health::Draining
    } else if endpoint.ready || service.publish_not_ready {
        Health::Ready
    } else {
        Health::Unready
    }
}

/// The service whose endpoints are compiled.
pub(super) struct Scope<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) hostname: &'a Arc<str>,
    pub(super) subsets: &'a [Subset],
    /// The proxies that may receive the endpoints.
    pub(super) audience: &'a Audience,
    /// Whether the clusters of the endpoints export them.
    pub(super) exported: bool,
    /// Whether other networks receive summaries of the exported endpoints.
    pub(super) summarized: bool,
    /// Whether only proxies on an endpoint's own node use it.
    pub(super) node_local: bool,
}

/// Cluster, network, location and subset of a summary.
type SummaryKey<'a> = (&'a Text, &'a Text, Arc<Location>, Option<Text>);

/// The clusters in which the addresses of endpoints are reachable, by the endpoints' cluster and network.
type Reachable<'a> = BTreeMap<(&'a Text, &'a Text), Arc<[Text]>>;

/// The number of templates among which a template of the next pod is looked for.
const NEIGHBOURS: usize = 16;

impl Scope<'_> {
    /// Returns the endpoints and summaries.
    pub(super) fn endpoints(&self, members: Vec<Member<'_>>, shared: &mut Shared) -> Vec<Endpoint> {
        let withdrawn =
            if self.exported { withdrawal::of(self.inventory, self.subsets, &members) } else { BTreeSet::new() };
        let reachable = self.reachable(&members, &withdrawn);
        let mut endpoints = Vec::with_capacity(members.len() + 4);
        let mut prototypes: Vec<Arc<Prototype>> = Vec::new();
        let mut summaries: BTreeMap<SummaryKey<'_>, Summary> = BTreeMap::new();
        for member in members {
            let fields = self.fields(&member, &reachable, &withdrawn, shared);
            // Pods of one template are neighbours, or nearly so. A bounded search keeps a service of very many templates cheap.
            let prototype = match prototypes.iter().rev().take(NEIGHBOURS).find(|of| *of.fields() == fields) {
                Some(known) => known.clone(),
                None => {
                    prototypes.push(Arc::new(Prototype::new(fields)));
                    prototypes[prototypes.len() - 1].clone()
                }
            };
            if self.summarized && self.exported && member.mutual_tls && !member.network.is_empty() {
                let location = one_copy(&mut shared.locations, member.location.clone());
                for subset in self.subsets_of(&member) {
                    let key = (&member.cluster.info.name, member.network, location.clone(), subset);
                    summaries.entry(key).or_insert_with(|| Summary::new(prototype.clone())).add(&member);
                }
            }
            endpoints.push(member.direct(prototype, shared));
        }
        endpoints.extend(summaries.into_iter().map(|((_, _, location, subset), of)| of.endpoint(location, subset)));
        endpoints
    }

    /// Returns the subsets that an endpoint is part of, first the whole service.
    fn subsets_of(&self, member: &Member<'_>) -> impl Iterator<Item = Option<Text>> {
        let labels = member.pod.map(|pod| pod.labels.clone()).unwrap_or_default();
        let subsets = self.subsets.iter().filter(move |subset| selects(subset, &labels));
        [None].into_iter().chain(subsets.map(|subset| Some(subset.name.as_str().into())))
    }

    /// Pods are reachable by address in their own cluster, and if they are exported, in all clusters of their network.
    fn reachable<'m>(&self, members: &[Member<'m>], withdrawn: &BTreeSet<Text>) -> Reachable<'m> {
        let mut reachable = Reachable::new();
        for member in members {
            reachable.entry((&member.cluster.info.name, member.network)).or_insert_with(|| {
                let reaches = |cluster: &&ClusterInventory| {
                    let own = cluster.info.name == member.cluster.info.name;
                    own || (self.exported
                        && !withdrawn.contains(&member.cluster.info.name)
                        && !member.network.is_empty()
                        && cluster.network() == member.network
                        && self.audience.includes_cluster(&cluster.info.name))
                };
                self.inventory.clusters().filter(reaches).map(|cluster| cluster.info.name.clone()).collect()
            });
        }
        reachable
    }

    fn fields(
        &self,
        member: &Member<'_>,
        reachable: &Reachable<'_>,
        withdrawn: &BTreeSet<Text>,
        shared: &mut Shared,
    ) -> PrototypeFields {
        let cluster = &member.cluster.info.name;
        let scope = NetworkScope {
            cluster: cluster.clone(),
            network: member.network.clone(),
            networks: self.inventory.networks().all().clone(),
            // Two clusters of unknown networks may use the same addresses for different pods.
            audience: match member.network.is_empty() {
                true => Audience::Clusters([cluster.clone()].into()),
                false if withdrawn.contains(cluster) => self.audience.within(cluster),
                false => self.audience.clone(),
            },
            reachable_in: reachable.get(&(cluster, member.network)).cloned().unwrap_or_default(),
            trust_domain: self.inventory.trust_domain().clone(),
        };
        PrototypeFields {
            hostname: self.hostname.clone(),
            scope: one_copy(&mut shared.scopes, scope),
            ports: member.ports.iter().map(|(port, target)| (*port, *target)).collect(),
            template: member.pod.map(|pod| pod.template.clone()),
            node_local: self.node_local,
            plaintext_ports: member.plaintext_ports.clone(),
        }
    }
}

impl<'a> Member<'a> {
    /// Adds the ports of another slice, and the address if it is the pod's first one of its family.
    fn add(&mut self, service: &Service, endpoint: &'a SliceEndpoint, ports: &BTreeMap<u16, u16>) {
        self.ports.extend(ports);
        let ip = endpoint.ip;
        if ip.is_ipv4() != self.ip.is_ipv4() {
            if self.further_ip.is_none() {
                let (first, further) = if ip.is_ipv4() { (ip, self.ip) } else { (self.ip, ip) };
                (self.ip, self.further_ip) = (first, Some(further));
            }
        } else if ip != self.ip && self.health != Health::Ready && health(service, endpoint, self.pod) == Health::Ready
        {
            // A pod that was created again under its name is in two slices for a moment. Its other address is the old one.
            (self.ip, self.further_ip, self.endpoint, self.health) = (ip, None, endpoint, Health::Ready);
        }
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.ip == ip || self.further_ip == Some(ip)
    }

    fn direct(self, prototype: Arc<Prototype>, shared: &mut Shared) -> Endpoint {
        let node = self.endpoint.node.as_ref().or(self.pod.map(|pod| &pod.node)).cloned().unwrap_or_default();
        let location = one_copy(&mut shared.locations, Location { node, ..self.location });
        let direct = Direct {
            ip: self.ip,
            further_ip: self.further_ip,
            health: u8::try_from(self.health as i32).unwrap_or_default(),
            pod: self.pod.map(|pod| name::parse_workload_entry(&pod.name).map_or_else(|| pod.name.clone(), Text::from)),
            hostname: self.endpoint.hostname().cloned(),
        };
        Endpoint::new(prototype, location, direct.into())
    }
}

fn selects(subset: &Subset, labels: &Labels) -> bool {
    subset.labels.iter().all(|(key, value)| labels.get(key).is_some_and(|of| **of == **value))
}

/// A summary while endpoints are added.
struct Summary {
    /// The first endpoint's prototype.
    prototype: Arc<Prototype>,
    ready: u32,
    identities: BTreeSet<Text>,
    ports: BTreeSet<u16>,
}

impl Summary {
    fn new(prototype: Arc<Prototype>) -> Self {
        Summary { prototype, ready: 0, identities: BTreeSet::new(), ports: BTreeSet::new() }
    }

    fn add(&mut self, member: &Member<'_>) {
        if member.health == Health::Ready {
            self.ready += 1;
            // A gateway forwards the mesh's TLS only.
            let ports = member.ports.iter().filter(|(_, target)| !member.plaintext_ports.contains(target));
            self.ports.extend(ports.map(|(port, _)| port));
        }
        if !member.identity.is_empty() {
            self.identities.insert(member.identity.as_str().into());
        }
    }

    fn endpoint(self, location: Arc<Location>, subset: Option<Text>) -> Endpoint {
        let fields = self.prototype.fields();
        let same_identity = self.identities.len() == 1 && self.identities.contains(fields.identity().as_str());
        let same_ports = self.ports.iter().eq(fields.ports.iter().map(|(port, _)| port));
        let details = (!same_identity || !same_ports).then(|| {
            Box::new(SummaryDetails {
                identities: self.identities.into_iter().collect(),
                ports: self.ports.into_iter().collect(),
            })
        });
        Endpoint::new(self.prototype, location, Content::Summary { ready: self.ready, subset, details })
    }
}
