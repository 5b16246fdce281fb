//! Federation policy: whether an export is accepted, and which clusters may consume it.
//!
//! A decision is a pure function of the export and of the FederationPolicies that select it. All of them have to permit it, so
//! their order does not matter, and one of a namespace cannot permit what one of the root namespace refuses. Without policies,
//! every cluster may export every name to all others, within the default limits of a peer.
//!
//! The controller's own cluster is no peer: `peers` entries about it have no effect here but for its egress addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use api::federation::{FederationPolicySpec, PeerLimits, PeerSpec, Sameness, any_matches};

use super::{ClusterInventory, Inventory};
use crate::objects::{Key, Record as _, Service, Text};

pub(crate) mod admission;
pub(crate) mod refusals;
#[cfg(test)]
mod tests;

/// A policy that selects an export.
#[derive(Clone, Debug)]
pub(crate) struct Selecting<'a> {
    /// The policy.
    pub(crate) policy: Key,
    /// What it says.
    pub(crate) spec: &'a FederationPolicySpec,
    /// Whether it is one of the root namespace.
    pub(crate) everywhere: bool,
}

/// What is known of an export when it is decided about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExportFacts<'a> {
    /// The exporting cluster.
    pub(crate) cluster: &'a Text,
    /// Whether that is the controller's own.
    pub(crate) own: bool,
    /// The namespace and name of the service.
    pub(crate) service: &'a Key,
    /// Its hostname.
    pub(crate) hostname: &'a str,
    /// Its ports.
    pub(crate) ports: &'a [u16],
    /// The number of its endpoints in the cluster.
    pub(crate) endpoints: usize,
    /// The size of service and endpoints, in bytes.
    pub(crate) bytes: usize,
    /// The limit of the cluster as a whole that the export is beyond.
    pub(crate) beyond: Option<Beyond>,
}

/// A limit of a cluster as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Beyond {
    /// On the number of services.
    Services(usize),
    /// On the number of endpoints.
    Endpoints(usize),
}

/// Why an export has no effect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ExportRefusal {
    /// The namespace is not the same in several clusters.
    Sameness,
    /// The cluster is not one of the permitted exporters.
    Exporter,
    /// The cluster may not export services of the namespace.
    Namespace,
    /// The cluster may not export the host.
    Host,
    /// The cluster may not export the port.
    Port(u16),
    /// The service has more ports than the limit.
    Ports(usize),
    /// The service has more endpoints than the limit.
    Endpoints(usize),
    /// The service is larger than the limit, in bytes.
    Bytes(usize),
    /// The cluster as a whole is beyond a limit.
    Cluster(Beyond),
}

impl ExportRefusal {
    /// Returns whether it is about how much is exported, and not about what.
    pub fn is_limit(&self) -> bool {
        match self {
            ExportRefusal::Sameness
            | ExportRefusal::Exporter
            | ExportRefusal::Namespace
            | ExportRefusal::Host
            | ExportRefusal::Port(_) => false,
            ExportRefusal::Ports(_)
            | ExportRefusal::Endpoints(_)
            | ExportRefusal::Bytes(_)
            | ExportRefusal::Cluster(_) => true,
        }
    }

    /// Returns the label in metrics: one of a fixed set of words.
    pub fn label(&self) -> &'static str {
        match self {
            ExportRefusal::Sameness => "sameness",
            ExportRefusal::Exporter => "exporter",
            ExportRefusal::Namespace => "namespace",
            ExportRefusal::Host => "host",
            ExportRefusal::Port(_) => "port",
            ExportRefusal::Ports(_) => "ports_per_service",
            ExportRefusal::Endpoints(_) => "endpoints_per_service",
            ExportRefusal::Bytes(_) => "bytes_per_service",
            ExportRefusal::Cluster(Beyond::Services(_)) => "services",
            ExportRefusal::Cluster(Beyond::Endpoints(_)) => "endpoints",
        }
    }
}

impl fmt::Display for ExportRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExportRefusal::Sameness => f.write_str("the namespace is each cluster's own (namespaceSameness: SEPARATE)"),
            ExportRefusal::Exporter => f.write_str("the cluster is not one of the permitted exporters"),
            ExportRefusal::Namespace => f.write_str("the cluster may not export services of this namespace"),
            ExportRefusal::Host => f.write_str("the cluster may not export this host"),
            ExportRefusal::Port(port) => write!(f, "the cluster may not export port {port}"),
            ExportRefusal::Ports(most) => write!(f, "it has more than {most} ports (portsPerService)"),
            ExportRefusal::Endpoints(most) => write!(f, "it has more than {most} endpoints (endpointsPerService)"),
            ExportRefusal::Bytes(most) => write!(f, "it takes more than {most} bytes (bytesPerService)"),
            ExportRefusal::Cluster(Beyond::Services(most)) => {
                write!(f, "the cluster exports {most} older services, and may not export more (services)")
            }
            ExportRefusal::Cluster(Beyond::Endpoints(most)) => {
                write!(f, "with it, the cluster's exports have more than {most} endpoints (endpoints)")
            }
        }
    }
}

/// The clusters that may consume an export, besides the exporting one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Consumers {
    /// Every cluster.
    All,
    /// These.
    Only(BTreeSet<Text>),
}

impl Consumers {
    /// Returns whether a cluster may consume the export.
    pub fn include(&self, cluster: &Text) -> bool {
        match self {
            Consumers::All => true,
            Consumers::Only(clusters) => clusters.contains(cluster),
        }
    }

    /// Returns whether every cluster may.
    pub fn is_all(&self) -> bool {
        matches!(self, Consumers::All)
    }
}

/// Returns why an export is refused, and the policy that refuses it, or `None` for a default limit.
pub(crate) fn refusal(facts: &ExportFacts<'_>, policies: &[Selecting<'_>]) -> Option<(ExportRefusal, Option<Key>)> {
    for Selecting { policy, spec, .. } in policies {
        let by = |refusal| Some((refusal, Some(policy.clone())));
        if spec.namespace_sameness == Sameness::Separate {
            return by(ExportRefusal::Sameness);
        }
        if spec.exporters.as_ref().is_some_and(|permitted| !permitted.includes(facts.cluster)) {
            return by(ExportRefusal::Exporter);
        }
    }
    if facts.own {
        return None;
    }
    for (policy, peer) in peers(policies, facts.cluster) {
        if let Some(refusal) = scope_refusal(peer, facts) {
            return Some((refusal, Some(policy.clone())));
        }
    }
    let limits = PeerLimits::of(peers(policies, facts.cluster).filter_map(|(_, peer)| peer.limits.as_ref()));
    let refusal = if facts.ports.len() > limits.ports_per_service {
        ExportRefusal::Ports(limits.ports_per_service)
    } else if facts.endpoints > limits.endpoints_per_service {
        ExportRefusal::Endpoints(limits.endpoints_per_service)
    } else if facts.bytes > limits.bytes_per_service {
        ExportRefusal::Bytes(limits.bytes_per_service)
    } else {
        ExportRefusal::Cluster(facts.beyond?)
    };
    let policy =
        peers(policies, facts.cluster).find(|(_, peer)| peer.limits.as_ref().is_some_and(|of| states(of, &refusal)));
    Some((refusal, policy.map(|(policy, _)| policy.clone())))
}

/// Returns the clusters that may consume an export: those that every policy names which names any.
pub(crate) fn consumers(policies: &[Selecting<'_>]) -> Consumers {
    let mut permitted = Consumers::All;
    for list in policies.iter().filter_map(|of| of.spec.consumers.as_ref()) {
        let named = || list.clusters.iter().map(|name| Text::from(name.as_str()));
        permitted = match permitted {
            Consumers::All => Consumers::Only(named().collect()),
            Consumers::Only(known) => Consumers::Only(named().filter(|name| known.contains(name)).collect()),
        };
    }
    permitted
}

/// Returns the entries about a cluster, each with its policy.
fn peers<'a>(
    policies: &'a [Selecting<'a>],
    cluster: &'a str,
) -> impl Iterator<Item = (&'a Key, &'a PeerSpec)> + use<'a> {
    // A policy of another namespace is not about clusters, which its author does not own.
    let of_root = policies.iter().filter(|of| of.everywhere);
    of_root.flat_map(move |of| of.spec.peers_of(cluster).map(move |peer| (&of.policy, peer)))
}

fn scope_refusal(peer: &PeerSpec, facts: &ExportFacts<'_>) -> Option<ExportRefusal> {
    if !any_matches(&peer.namespaces, &facts.service.namespace) {
        return Some(ExportRefusal::Namespace);
    }
    if !any_matches(&peer.hosts, facts.hostname) {
        return Some(ExportRefusal::Host);
    }
    let permitted = |port: &&u16| peer.ports.is_empty() || peer.ports.contains(&u32::from(**port));
    let other = facts.ports.iter().find(|port| !permitted(port));
    other.map(|port| ExportRefusal::Port(*port))
}

/// Returns whether limits state the one that a refusal is about.
fn states(of: &api::federation::limits::LimitsSpec, refusal: &ExportRefusal) -> bool {
    let (stated, most) = match refusal {
        ExportRefusal::Ports(most) => (of.ports_per_service, *most),
        ExportRefusal::Endpoints(most) => (of.endpoints_per_service, *most),
        ExportRefusal::Bytes(most) => (of.bytes_per_service, *most),
        ExportRefusal::Cluster(Beyond::Services(most)) => (of.services, *most),
        ExportRefusal::Cluster(Beyond::Endpoints(most)) => (of.endpoints, *most),
        _ => return false,
    };
    stated.is_some_and(|stated| stated as usize == most)
}

/// The addresses from which a gateway accepts connections to an export.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SourceBlocks {
    /// The blocks of the clusters that may consume it, and of the exporting one.
    pub(crate) permitted: Vec<(IpAddr, u8)>,
    /// Those of the others.
    pub(crate) refused: Vec<(IpAddr, u8)>,
    /// Whether no other address may be one of a permitted cluster: each of them states its addresses.
    pub(crate) complete: bool,
}

impl Inventory {
    /// Returns whether there are FederationPolicies.
    pub(crate) fn has_federation_policies(&self) -> bool {
        self.primary().is_some_and(|own| !own.federation_policies().is_empty())
    }

    /// Returns the policies that select an export, first those of the root namespace, each by name.
    pub(crate) fn federation_policies(&self, cluster: &str, service: &Key) -> Vec<Selecting<'_>> {
        let Some(own) = self.primary().filter(|own| !own.federation_policies().is_empty()) else { return Vec::new() };
        let root = &self.settings.root_namespace;
        let (namespace, name) = (&service.namespace, &service.name);
        let of_namespace = own.federation_policies().in_namespace(namespace).filter(|_| namespace != root);
        let policies = own.federation_policies().in_namespace(root).chain(of_namespace);
        let mut selecting: Vec<Selecting<'_>> = policies
            .filter_map(|policy| {
                let (spec, everywhere) = (policy.spec.as_deref()?, policy.namespace == *root);
                let selects = spec.selects(everywhere, cluster, namespace, name);
                selects.then(|| Selecting { policy: policy.key(), spec, everywhere })
            })
            .collect();
        selecting.sort_by(|a, b| (!a.everywhere, &a.policy).cmp(&(!b.everywhere, &b.policy)));
        selecting
    }

    /// Decides whether a cluster may export a service that it does export.
    ///
    /// # Errors
    /// Returns why not, and the policy that says so.
    pub(crate) fn may_export(
        &self,
        cluster: &ClusterInventory,
        service: &Service,
        hostname: &str,
    ) -> Result<(), (ExportRefusal, Option<Key>)> {
        let key = service.key();
        let policies = self.federation_policies(&cluster.info.name, &key);
        let own = cluster.info.own;
        if own && policies.is_empty() {
            return Ok(());
        }
        let ports: Vec<u16> = service.ports.iter().map(|port| port.number).collect();
        let slices = || cluster.slices_of(&key).filter(|_| !own);
        let facts = ExportFacts {
            cluster: &cluster.info.name,
            own,
            service: &key,
            hostname,
            ports: &ports,
            endpoints: slices().map(|slice| slice.endpoints.len()).sum(),
            bytes: service.size() + slices().map(|slice| slice.size()).sum::<usize>(),
            beyond: cluster.admission.beyond(&key),
        };
        refusal(&facts, &policies).map_or(Ok(()), Err)
    }

    /// Returns the clusters that may consume what a cluster exports, besides itself.
    pub(crate) fn consumers(&self, cluster: &str, service: &Key) -> Consumers {
        consumers(&self.federation_policies(cluster, service))
    }

    /// Returns the clusters that may call a pod's port which serves these services, if some may not. The pod's own cluster is
    /// among them. A pod of several services is called by whoever may call one of them.
    pub(crate) fn callers<'a>(
        &self,
        cluster: &ClusterInventory,
        services: impl Iterator<Item = (&'a Key, bool)>,
    ) -> Option<BTreeSet<Text>> {
        let mut permitted: Option<BTreeSet<Text>> = None;
        for (service, exported) in services {
            match self.consumers(&cluster.info.name, service) {
                Consumers::All if exported => return None,
                Consumers::All => {}
                Consumers::Only(clusters) => permitted.get_or_insert_default().extend(clusters),
            }
        }
        let mut permitted = permitted?;
        permitted.insert(cluster.info.name.clone());
        Some(permitted)
    }

    /// Returns whether a cluster that is not among these may reach pods of a network without its gateway.
    pub(crate) fn shares_network(&self, network: &Text, permitted: &BTreeSet<Text>) -> bool {
        let mut others = self.clusters.values().filter(|of| !permitted.contains(&of.info.name));
        others.any(|of| network.is_empty() || of.network().is_empty() || of.network() == network)
    }

    /// Returns the addresses from which gateways of a cluster accept connections to an export with these consumers; `None` if
    /// there is nothing to refuse by.
    pub(crate) fn source_blocks(&self, cluster: &Text, consumers: &Consumers) -> Option<SourceBlocks> {
        let Consumers::Only(permitted) = consumers else { return None };
        let stated = self.egress_addresses();
        if stated.is_empty() {
            return None;
        }
        let mut blocks = SourceBlocks {
            complete: permitted.iter().filter(|of| *of != cluster).all(|of| stated.contains_key(of)),
            ..SourceBlocks::default()
        };
        for (of, addresses) in stated {
            match of == *cluster || permitted.contains(&of) {
                true => blocks.permitted.extend(addresses),
                false => blocks.refused.extend(addresses),
            }
        }
        Some(blocks)
    }

    /// Returns the egress addresses of clusters, by name, of which some are stated.
    fn egress_addresses(&self) -> BTreeMap<Text, BTreeSet<(IpAddr, u8)>> {
        let Some(own) = self.primary().filter(|own| !own.federation_policies().is_empty()) else {
            return BTreeMap::new();
        };
        let mut stated: BTreeMap<Text, BTreeSet<(IpAddr, u8)>> = BTreeMap::new();
        let policies = own.federation_policies().in_namespace(&self.settings.root_namespace);
        for peer in policies.filter_map(|policy| policy.spec.as_deref()).flat_map(|spec| &spec.peers) {
            if !peer.egress_addresses.is_empty() {
                stated.entry(peer.cluster.as_str().into()).or_default().extend(peer.egress());
            }
        }
        stated
    }
}
