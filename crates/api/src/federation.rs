//! FederationPolicy (`federation.isthmus.dev/v1alpha1`): from whom exports are accepted, and to whom services are exported.
//!
//! - [`FederationPolicy`]: the resource. Its fields say what is permitted; what is left out is not restricted.
//! - [`limits`]: the limits of a peer, with their defaults.
//!
//! Policies are read from primary clusters. One of the root namespace is about every namespace, any other about its own.
//! Several policies may select an export: all of them have to permit it. docs/federation-policy.md has the rules.

pub mod limits;
#[cfg(test)]
mod tests;

pub use limits::PeerLimits;

use std::net::IpAddr;

use serde_json::Value;

use crate::networking::Problem;
use crate::networking::json::{message, object, shown, words};
use crate::networking::validate::{Check, names};
use crate::security::values;
use limits::LimitsSpec;

/// The API group.
pub const GROUP: &str = "federation.isthmus.dev";

/// The kind.
pub const KIND: &str = "FederationPolicy";

/// The peers that no other entry of `peers` names.
pub const ANY_CLUSTER: &str = "*";

/// The number of items of a list. A mesh has some tens of clusters.
pub const MAX_ITEMS: usize = 256;

/// The longest name of a cluster, as remote secrets have it.
const MAX_CLUSTER: usize = 253;

object! {
    /// The FederationPolicy resource.
    FederationPolicy: FederationPolicySpec, "federation.isthmus.dev", "v1alpha1", "FederationPolicy", "federationpolicies"
}

message! {
    /// The spec of a FederationPolicy.
    FederationPolicySpec {
        /// The exports that the policy is about; unset: all of its namespace, or of the mesh if that is the root namespace.
        selector: Option<ExportSelector> = "selector",
        /// The clusters whose exports are accepted; unset: any.
        exporters: Option<ClusterList> = "exporters",
        /// The clusters to which exports are given; unset: all.
        consumers: Option<ClusterList> = "consumers",
        /// Whether services of one name in several clusters are one service.
        namespace_sameness: Sameness = "namespaceSameness",
        /// What is accepted of single clusters. In the root namespace alone.
        peers: Vec<PeerSpec> = "peers",
    }
}

message! {
    /// Exports: all fields have to match, by one of their values each. An empty field matches any.
    ExportSelector {
        /// The exporting clusters.
        clusters: Vec<String> = "clusters",
        /// The namespaces, with `*` as the first or last character. In the root namespace alone.
        namespaces: Vec<String> = "namespaces",
        /// The names of services, with `*` as the first or last character.
        services: Vec<String> = "services",
    }
}

message! {
    /// Clusters.
    ClusterList {
        /// Their names; empty: none.
        clusters: Vec<String> = "clusters",
    }
}

words! {
    /// Whether services of one name in several clusters are one service ("namespace sameness" of KEP-1645).
    Sameness {
        /// They are.
        #[default] Merged = "MERGED",
        /// Each cluster has its own, and no other cluster sees it.
        Separate = "SEPARATE",
    }
}

message! {
    /// What is accepted of a cluster, and where it is.
    PeerSpec {
        /// The cluster; `*`: every cluster that no entry of the policy names.
        cluster: String = "cluster",
        /// The namespaces of the services that it may export, with `*` as the first or last character; empty: any.
        namespaces: Vec<String> = "namespaces",
        /// Their hostnames, in the same form; empty: any.
        hosts: Vec<String> = "hosts",
        /// Their ports; empty: any.
        ports: Vec<u32> = "ports",
        /// How much of it is accepted.
        limits: Option<LimitsSpec> = "limits",
        /// The addresses from which the cluster's connections come to the gateways of other networks: all of them, as addresses
        /// or CIDR blocks; empty: unknown.
        egress_addresses: Vec<String> = "egressAddresses",
    }
}

impl FederationPolicySpec {
    /// Returns whether the policy is about an export. `everywhere`: it is one of the root namespace.
    pub fn selects(&self, everywhere: bool, cluster: &str, namespace: &str, service: &str) -> bool {
        let Some(selector) = &self.selector else { return true };
        let ExportSelector { clusters, namespaces, services } = selector;
        (clusters.is_empty() || clusters.iter().any(|of| of == cluster))
            && (!everywhere || any_matches(namespaces, namespace))
            && any_matches(services, service)
    }

    /// Returns the fields that have an effect in the root namespace alone, and are set.
    pub fn fields_of_root(&self) -> impl Iterator<Item = &'static str> {
        let namespaces = self.selector.as_ref().is_some_and(|selector| !selector.namespaces.is_empty());
        let fields = [("spec.selector.namespaces", namespaces), ("spec.peers", !self.peers.is_empty())];
        fields.into_iter().filter(|(_, set)| *set).map(|(field, _)| field)
    }

    /// Returns the entries about a cluster: those that name it, else those of all others.
    pub fn peers_of(&self, cluster: &str) -> impl Iterator<Item = &PeerSpec> {
        let named = self.peers.iter().any(|peer| peer.cluster == cluster);
        let name = if named { cluster.to_owned() } else { ANY_CLUSTER.to_owned() };
        self.peers.iter().filter(move |peer| peer.cluster == name)
    }

    /// Returns the clusters that the policy names, each with its field.
    pub fn named_clusters(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let selected = self.selector.iter().flat_map(|of| &of.clusters).map(|of| ("spec.selector.clusters", of));
        let exporters = self.exporters.iter().flat_map(|of| &of.clusters).map(|of| ("spec.exporters", of));
        let consumers = self.consumers.iter().flat_map(|of| &of.clusters).map(|of| ("spec.consumers", of));
        let peers = self.peers.iter().map(|of| ("spec.peers", &of.cluster));
        let peers = peers.filter(|(_, cluster)| *cluster != ANY_CLUSTER);
        selected.chain(exporters).chain(consumers).chain(peers).map(|(field, cluster)| (field, cluster.as_str()))
    }

    /// Returns the number of parts, of which each takes memory.
    pub fn parts(&self) -> usize {
        let list = |list: &Option<ClusterList>| list.as_ref().map_or(0, |list| list.clusters.len());
        let selector = self.selector.as_ref();
        let selected = selector.map_or(0, |of| of.clusters.len() + of.namespaces.len() + of.services.len());
        let peer =
            |of: &PeerSpec| 1 + of.namespaces.len() + of.hosts.len() + of.ports.len() + of.egress_addresses.len();
        1 + list(&self.exporters) + list(&self.consumers) + selected + self.peers.iter().map(peer).sum::<usize>()
    }

    fn check(&self, check: &mut Check) {
        check.some("selector", &self.selector, |selector, check| {
            clusters("clusters", &selector.clusters, check);
            patterns("namespaces", &selector.namespaces, check);
            patterns("services", &selector.services, check);
        });
        for (field, list) in [("exporters", &self.exporters), ("consumers", &self.consumers)] {
            check.some(field, list, |list, check| clusters("clusters", &list.clusters, check));
        }
        bounded("peers", self.peers.len(), check);
        check.each("peers", &self.peers, PeerSpec::check);
        let restricts = self.exporters.is_some()
            || self.consumers.is_some()
            || self.namespace_sameness != Sameness::Merged
            || !self.peers.is_empty();
        if !restricts {
            check.error("restricts nothing; write exporters, consumers, namespaceSameness or peers");
        }
    }
}

impl FederationPolicy {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        self.spec.check(&mut check);
        check.into_problems()
    }
}

impl ClusterList {
    /// Returns whether a cluster is in the list.
    pub fn includes(&self, cluster: &str) -> bool {
        self.clusters.iter().any(|of| of == cluster)
    }
}

impl PeerSpec {
    /// Returns the blocks of the egress addresses, with the length of their prefixes.
    pub fn egress(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.egress_addresses.iter().filter_map(|text| block(text))
    }

    fn check(&self, check: &mut Check) {
        if self.cluster != ANY_CLUSTER {
            check.at(format_args!(".cluster"), |check| check.accept(cluster(&self.cluster)));
        }
        patterns("namespaces", &self.namespaces, check);
        patterns("hosts", &self.hosts, check);
        bounded("ports", self.ports.len(), check);
        for (index, port) in self.ports.iter().enumerate() {
            check.port(&format!("ports[{index}]"), *port);
        }
        check.some("limits", &self.limits, LimitsSpec::check);
        bounded("egressAddresses", self.egress_addresses.len(), check);
        check.each("egressAddresses", &self.egress_addresses, |text, check| check.accept(names::subnet(text)));
        if self.cluster == ANY_CLUSTER && !self.egress_addresses.is_empty() {
            check.error_of("egressAddresses", "cannot be those of every cluster; name the cluster");
        }
    }
}

/// Returns whether one of some patterns matches a text; without patterns, any text does.
pub fn any_matches(patterns: &[String], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, text))
}

fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(suffix), _) => text.ends_with(suffix),
        (None, Some(prefix)) => text.starts_with(prefix),
        (None, None) => pattern == text,
    }
}

/// Returns the address and the length of the prefix of an address or CIDR block.
fn block(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, length) = match text.split_once('/') {
        Some((ip, length)) => (ip.parse().ok()?, Some(length.parse().ok()?)),
        None => (text.parse().ok()?, None),
    };
    let most = if matches!(ip, IpAddr::V4(_)) { 32 } else { 128 };
    let length = length.unwrap_or(most);
    (length <= most).then_some((ip, length))
}

/// Returns what is wrong with an object of a kind, if it is a FederationPolicy, as Kubernetes has it.
pub fn validate(group: &str, kind: &str, object: &Value) -> Vec<Problem> {
    match (group, kind) {
        (GROUP, KIND) => FederationPolicy::from_value(object).validate(),
        _ => Vec::new(),
    }
}

fn clusters(field: &str, names: &[String], check: &mut Check) {
    bounded(field, names.len(), check);
    values::all(field, names, cluster, check);
}

fn patterns(field: &str, texts: &[String], check: &mut Check) {
    bounded(field, texts.len(), check);
    values::all(field, texts, values::pattern, check);
}

fn bounded(field: &str, count: usize, check: &mut Check) {
    if count > MAX_ITEMS {
        check.error_of(field, format!("has {count} items, but at most {MAX_ITEMS} are possible"));
    }
}

fn cluster(name: &str) -> Result<(), String> {
    let valid = name.len() <= MAX_CLUSTER && !name.contains(['*', '/', ' ']) && !name.is_empty();
    valid.then_some(()).ok_or_else(|| format!("is {:?}, which is not the name of a cluster", shown(name)))
}
