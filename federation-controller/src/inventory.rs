//! What is known of all clusters, and what proxies are told because of it.
//!
//! Events go in by [`Index::apply`], which only notes what they touch; [`Index::compile`] computes the touched results,
//! each a [`Group`] with all resources that follow from it. Whether a resource really differs is found by
//! [`crate::publish`], and nothing happens beyond it if not.
//!
//! ```text
//! event ─► cluster's maps ─► touched keys ─┐ (many events)
//!                                          └─► compile: service, workload, gateways, … ─► store
//! ```
//!
//! The index is owned by one task and does no IO. Nothing in it depends on the order in which events came; the property
//! tests hold the result against one computed from scratch.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use prost::Message;
use wire::discovery::{self, AccessLogEncoding, OutboundPolicy};
use wire::{Kind, name};

pub mod cluster;
pub(crate) mod collection;
pub(crate) mod networks;
pub(crate) mod notices;
pub(crate) mod relation;
#[cfg(test)]
mod tests;

pub use cluster::{Affected, ClusterIndex};

pub use crate::compile::service::ServiceFacts;
use crate::compile::{address, gateway, workload};
use crate::objects::event::{self, Event, Mesh, Object, Text, Trust};
use crate::objects::intern;

use crate::compile::endpoint::{Place, Scope};
use crate::publish::{Audience, Compiled, Resource};

/// The controller's own services that proxies of other clusters reach through the gateway, and their exposed port.
pub const OWN_SERVICES: [(&str, u16); 2] = [("isthmus-controller", 15012), ("isthmus-webhooks", 443)];

/// Namespace and name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key {
    /// The namespace; empty for kinds without.
    pub namespace: Text,
    /// The name.
    pub name: Text,
}

impl Key {
    /// A key of these.
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    fn unnamespaced(name: &Text) -> Key {
        Key { namespace: Text::default(), name: name.clone() }
    }

    fn of(object: &Object) -> Key {
        let (namespace, name) = match object {
            Object::Namespace(of) => return Key::unnamespaced(&of.name),
            Object::Node(of) => return Key::unnamespaced(&of.name),
            Object::Service(of) => (&of.namespace, &of.name),
            Object::Slice(of) => (&of.namespace, &of.name),
            Object::Pod(of) => (&of.namespace, &of.name),
            Object::Export(of) => (&of.namespace, &of.name),
            Object::Gateway(of) => (&of.namespace, &of.name),
        };
        Key { namespace: namespace.clone(), name: name.clone() }
    }

    /// Whether it says something about a cluster's having its data: what every new, empty cluster has does not.
    fn counts(&self) -> bool {
        match &*self.namespace {
            "" => !matches!(&*self.name, "default" | "kube-system" | "kube-public" | "kube-node-lease"),
            "default" => &*self.name != "kubernetes",
            _ => true,
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The namespaces whose label `topology.istio.io/network` is their cluster's network.
#[derive(Clone, Debug)]
pub struct SystemNamespaces {
    /// The root namespace; its label goes first.
    pub root: Text,
    /// The one that our components run in.
    pub own: Text,
}

/// What does not change while the controller runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster that this controller runs in.
    pub cluster: Text,
    /// The namespace that it runs in.
    pub namespace: Text,
    /// The root namespace.
    pub root_namespace: Text,
    /// The clusters' DNS domain.
    pub cluster_domain: Text,
    /// Until the authority says otherwise.
    pub trust_domain: Text,
}

impl Settings {
    /// The names by which clients of other clusters mean one of our own services.
    pub fn server_names(&self, key: &Key) -> Vec<String> {
        let short = format!("{}.{}", key.name, key.namespace);
        vec![format!("{short}.svc"), format!("{short}.svc.{}", self.cluster_domain), short]
    }
}

/// "<name>.<namespace>.svc.<domain>".
pub fn hostname(key: &Key, domain: &str) -> String {
    format!("{}.{}.svc.{domain}", key.name, key.namespace)
}

/// Resources that are computed together. What a group no longer has is removed.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Group {
    /// The trust bundle.
    Trust,
    /// Mesh-wide settings.
    Mesh,
    /// A network's gateways.
    Network(Text),
    /// A service and its endpoints.
    Service(Key),
    /// A cluster's pod.
    Pod(Text, Key),
}

/// All clusters.
#[derive(Debug)]
pub struct Index {
    pub(crate) settings: Settings,
    pub(crate) clusters: BTreeMap<Text, ClusterIndex>,
    /// Clusters known only from before a restart.
    pub(crate) remembered: BTreeSet<Text>,
    pub(crate) mesh: Mesh,
    pub(crate) trust: Option<Trust>,
    pub(crate) trust_domain: Text,
    /// All networks that anything names, and the unnamed one.
    pub(crate) networks: BTreeSet<Text>,
    /// The same, as endpoints hold it.
    pub(crate) networks_told: Arc<[Text]>,
    /// One copy of each place that endpoints are at.
    pub(crate) places: HashSet<Arc<Place>>,
    /// One copy of what the endpoints of a cluster and network share.
    pub(crate) scopes: HashSet<Arc<Scope>>,
    /// Which cluster is on which network, and so may speak for it.
    pub(crate) homes: networks::Homes,
    pub(crate) addresses: address::Addresses,
    pub(crate) facts: HashMap<Key, Arc<ServiceFacts>>,
    /// One copy of each: most services are exported from the same clusters and have no conflicts.
    pub(crate) facts_told: HashSet<Arc<ServiceFacts>>,
    /// Pods whose proxies are connected, with how many streams each has: only for them is there an inbound side to tell.
    pub(crate) connected: HashMap<(Text, Key), usize>,
    pub(crate) dirty: BTreeSet<Group>,
    pub(crate) strings: intern::Strings,
    /// Events since the start.
    pub(crate) events: u64,
}

impl Index {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Index {
            trust_domain: settings.trust_domain.clone(),
            settings,
            clusters: BTreeMap::new(),
            remembered: BTreeSet::new(),
            mesh: Mesh::default(),
            trust: None,
            networks: BTreeSet::from([Text::default()]),
            networks_told: [Text::default()].into(),
            places: HashSet::new(),
            scopes: HashSet::new(),
            homes: networks::Homes::default(),
            addresses: address::Addresses::default(),
            facts: HashMap::new(),
            facts_told: HashSet::new(),
            connected: HashMap::new(),
            dirty: BTreeSet::from([Group::Mesh]),
            strings: intern::Strings::default(),
            events: 0,
        }
    }

    /// Takes an event in and notes what it touches. An event of a cluster that is not known is ignored: its watch was
    /// late in hearing that the cluster is gone.
    pub fn apply(&mut self, event: Event, now: SystemTime) {
        self.events += 1;
        match event {
            Event::ClusterAdded(info) => self.add(info, now),
            Event::ClusterRemoved { cluster } => self.remove(&cluster),
            Event::ClustersListed => {
                for cluster in std::mem::take(&mut self.remembered) {
                    self.remove(&cluster);
                }
            }
            Event::Link { cluster, link, since } => {
                if let Some(cluster) = self.clusters.get_mut(&cluster) {
                    cluster.link = (link, since);
                }
            }
            Event::Listing { cluster, kind } => {
                if let Some(cluster) = self.clusters.get_mut(&cluster) {
                    cluster.listing(kind);
                }
            }
            Event::Listed { cluster, kind } => self.change(&cluster, now, |cluster| cluster.listed(kind, now)),
            Event::Upsert { cluster, object } => {
                let object = self.strings.intern(object);
                self.change(&cluster, now, |cluster| cluster.upsert(object));
            }
            Event::Delete { cluster, kind, namespace, name } => {
                self.change(&cluster, now, |cluster| cluster.delete(kind, Key { namespace, name }));
            }
            Event::Mesh(mesh) => {
                if mesh.export_all != self.mesh.export_all {
                    self.dirty_all();
                }
                self.mesh = mesh;
                self.dirty.insert(Group::Mesh);
            }
            Event::Trust(trust) => {
                if !trust.trust_domain.is_empty() && trust.trust_domain != self.trust_domain {
                    self.trust_domain = trust.trust_domain.clone();
                    self.dirty_all();
                }
                self.trust = Some(trust);
                self.dirty.insert(Group::Trust);
            }
        }
    }

    /// Lets time pass: believes what has not been contradicted for long enough.
    pub fn tick(&mut self, now: SystemTime) {
        let names: Vec<Text> = self.clusters.keys().cloned().collect();
        for name in names {
            if let Some(affected) = self.clusters.get_mut(&name).map(|cluster| cluster.confirm(now)) {
                self.touch(&name, affected);
            }
        }
        self.places.retain(|place| Arc::strong_count(place) > 1);
        self.scopes.retain(|scope| Arc::strong_count(scope) > 1);
        self.facts_told.retain(|facts| Arc::strong_count(facts) > 1);
        self.strings.purge();
    }

    /// Whether there is something to compile.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Computes everything touched since the last time.
    pub fn compile(&mut self) -> Vec<(Group, Compiled)> {
        let homes = networks::Homes::of(self.clusters.values());
        if self.homes != homes {
            // Who may speak for a network decides about gateways and about what pods say of themselves; and a pod's
            // address is told to the clusters of its network.
            self.homes = homes;
            self.dirty_all();
            let named = self.clusters.values().flat_map(ClusterIndex::gateway_networks);
            self.dirty.extend(named.cloned().map(Group::Network));
        }
        let networks = self.homes.networks(self.clusters.values());
        if self.networks != networks {
            // What is told as a sum is told to each network by name.
            self.networks_told = networks.iter().cloned().collect();
            self.networks = networks;
            self.dirty_all();
        }
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|group| (group.clone(), self.compile_group(&group))).collect()
    }

    /// A pod's proxy is connected: from now on its own inbound side is computed. Returns it as it is now, or nothing where
    /// there is no view yet.
    pub fn connect(&mut self, cluster: &Text, pod: &Key) -> Option<(Group, Compiled)> {
        *self.connected.entry((cluster.clone(), pod.clone())).or_default() += 1;
        let group = Group::Pod(cluster.clone(), pod.clone());
        if !self.ready() {
            self.dirty.insert(group);
            return None;
        }
        let resources = self.compile_group(&group);
        Some((group, resources))
    }

    /// A stream of a pod's proxy ended. Returns the group that nobody needs any more.
    pub fn disconnect(&mut self, cluster: &Text, pod: &Key) -> Option<Group> {
        let key = (cluster.clone(), pod.clone());
        let streams = self.connected.get_mut(&key)?;
        *streams -= 1;
        if *streams > 0 {
            return None;
        }
        self.connected.remove(&key);
        let group = Group::Pod(key.0, key.1);
        self.dirty.remove(&group);
        Some(group)
    }

    /// Every known cluster.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterIndex> {
        self.clusters.values()
    }

    /// A cluster.
    pub fn cluster(&self, name: &str) -> Option<&ClusterIndex> {
        self.clusters.get(name)
    }

    /// Whether a cluster's secret has been read since this process started.
    pub fn is_remembered(&self, name: &str) -> bool {
        self.remembered.contains(name)
    }

    /// What is known of each merged service.
    pub fn facts(&self) -> &HashMap<Key, Arc<ServiceFacts>> {
        &self.facts
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Events taken in so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Clusters of which something may exist that is not known yet: not all of their kinds have been listed since the
    /// start, and nothing is remembered of them.
    pub fn unheard(&self) -> HashSet<Text> {
        let unheard = |cluster: &&ClusterIndex| !cluster.synced() && !cluster.restored;
        self.clusters.values().filter(unheard).map(|cluster| cluster.info.name.clone()).collect()
    }

    /// Whether this controller's own cluster has been listed in full, or is remembered: then there is a view to serve.
    pub fn ready(&self) -> bool {
        self.clusters.get(&self.settings.cluster).is_some_and(|own| own.synced() || own.restored)
    }

    fn add(&mut self, info: event::Cluster, now: SystemTime) {
        self.remembered.remove(&info.name);
        let name = info.name.clone();
        match self.clusters.get_mut(&name) {
            Some(known) => {
                let network = known.network().clone();
                known.info = info;
                if *known.network() != network {
                    let mut affected = known.everything();
                    affected.networks.insert(network);
                    self.touch(&name, affected);
                }
            }
            None => {
                let system = SystemNamespaces {
                    root: self.settings.root_namespace.clone(),
                    own: self.settings.namespace.clone(),
                };
                self.clusters.insert(name, ClusterIndex::new(info, system, now));
                // Services without an address of their own answer in the new cluster, too.
                self.dirty_all();
            }
        }
    }

    fn remove(&mut self, name: &Text) {
        self.remembered.remove(name);
        if let Some(cluster) = self.clusters.get(name) {
            let affected = cluster.everything();
            self.touch(name, affected);
            self.clusters.remove(name);
            self.dirty_all();
        }
    }

    fn change(&mut self, name: &Text, now: SystemTime, change: impl FnOnce(&mut ClusterIndex) -> Affected) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        cluster.heard = Some(now);
        let affected = change(cluster);
        self.touch(name, affected);
    }

    pub(crate) fn touch(&mut self, cluster: &Text, affected: Affected) {
        self.dirty.extend(affected.services.into_iter().map(Group::Service));
        let pods = affected.pods.into_iter().map(|pod| (cluster.clone(), pod));
        let told = pods.filter(|pod| self.connected.contains_key(pod));
        self.dirty.extend(told.map(|(cluster, pod)| Group::Pod(cluster, pod)));
        self.dirty.extend(affected.networks.into_iter().map(Group::Network));
    }

    pub(crate) fn dirty_all(&mut self) {
        for cluster in self.clusters.values() {
            self.dirty.extend(cluster.services.keys().map(Group::Service));
        }
        self.dirty.extend(self.connected.keys().cloned().map(|(cluster, pod)| Group::Pod(cluster, pod)));
    }

    fn compile_group(&mut self, group: &Group) -> Compiled {
        match group {
            Group::Trust => self.trust.iter().map(trust_resource).collect::<Vec<_>>().into(),
            Group::Mesh => vec![self.mesh_resource(), workload::default_authentication()].into(),
            Group::Network(network) => {
                let gateway = gateway::resource(self.clusters.values(), network, &self.homes);
                gateway.into_iter().collect::<Vec<_>>().into()
            }
            Group::Service(key) => {
                let merged = self.merge(key);
                if merged.resources.is_empty() {
                    self.facts.remove(key);
                } else {
                    let facts = ServiceFacts { exports: merged.exports, conflicts: merged.conflicts };
                    let facts = intern::one_copy(&mut self.facts_told, facts);
                    self.facts.insert(key.clone(), facts);
                }
                Compiled { resources: merged.resources, service: Some(merged.hostname), endpoints: merged.told }
            }
            Group::Pod(cluster, key) => self.pod_resources(cluster, key).into(),
        }
    }

    fn pod_resources(&self, cluster: &Text, key: &Key) -> Vec<Resource> {
        let Some(cluster) = self.clusters.get(cluster) else { return Vec::new() };
        let pod = cluster.pods.get(key).filter(|pod| workload::has_proxy(pod, &self.settings.namespace));
        let Some(pod) = pod else { return Vec::new() };
        let name: Text = name::workload(&cluster.info.name, &key.namespace, &key.name).into();
        let resource = |kind, body: Vec<u8>| Resource {
            kind,
            name: name.clone(),
            keys: Box::default(),
            audience: Audience::Itself(pod.service_account.clone()),
            body: body.into(),
        };
        let inbound = workload::inbound(cluster, key, pod, &self.homes, &self.settings.cluster_domain);
        vec![resource(Kind::Workload, inbound.encode_to_vec())]
    }

    fn mesh_resource(&self) -> Resource {
        let mesh = &self.mesh;
        let outbound = if mesh.registry_only { OutboundPolicy::RegistryOnly } else { OutboundPolicy::AllowAny };
        let encoding = if mesh.access_log_json { AccessLogEncoding::Json } else { AccessLogEncoding::Text };
        let body = discovery::MeshConfig {
            mesh_id: mesh.mesh_id.to_string(),
            cluster_domain: self.settings.cluster_domain.to_string(),
            outbound_policy: outbound.into(),
            access_log_file: mesh.access_log_file.to_string(),
            access_log_encoding: encoding.into(),
            access_log_format: mesh.access_log_format.to_string(),
            connect_timeout_ms: mesh.connect_timeout_ms,
            protocol_detection_timeout_ms: mesh.protocol_detection_timeout_ms,
            locality_load_balancing: mesh.locality_load_balancing,
        };
        Resource::for_all(Kind::MeshConfig, name::MESH, body.encode_to_vec())
    }
}

fn trust_resource(trust: &Trust) -> Resource {
    let issuers = trust.issuers.iter();
    let body = discovery::Trust {
        trust_domain: trust.trust_domain.to_string(),
        roots: trust.roots.clone(),
        issuers: issuers
            .map(|(cluster, hash)| discovery::Issuer { cluster: cluster.to_string(), public_key_sha256: hash.clone() })
            .collect(),
    };
    Resource::for_all(Kind::Trust, name::MESH, body.encode_to_vec())
}
