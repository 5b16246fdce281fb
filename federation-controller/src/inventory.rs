//! What the controller knows of all clusters, and which resources a change affects.
//!
//! [`Inventory::apply`] applies an event and notes the resources that it affects. [`Inventory::take_changes`] returns them
//! for compilation. The order of events of different objects does not matter: a property test compares the result with one
//! that is computed from scratch.
//!
//! ```text
//! event ─► collections ─► relations ─► changes ─► compile
//! ```
//!
//! The pipeline owns the inventory and is the only one to change it. Nothing here does IO.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::time::SystemTime;

mod changes;
pub mod cluster;
pub mod collection;
mod lists;
pub mod networks;
mod notices;
mod relation;

pub use cluster::{Affected, ClusterInventory, PodSelector};
pub use lists::CONFIRM_EMPTY;
use networks::Networks;
pub(crate) use notices::{only_by_name, unreachable_gateway};

use crate::objects::event::{Cluster, Event, Link, Mesh, MeshNotices, Trust};
use crate::objects::intern::Strings;
use crate::objects::{Key, Kind, Object, Service, Text, Watched};

/// The controller's own services that proxies of other clusters reach through the gateway, and their exposed port.
pub const OWN_SERVICES: [(&str, u16); 2] = [("isthmus-controller", 15012), ("isthmus-webhooks", 443)];

/// The namespaces whose label `topology.istio.io/network` is their cluster's network.
#[derive(Clone, Debug)]
pub struct SystemNamespaces {
    /// The root namespace. Its label takes precedence.
    pub root: Text,
    /// The namespace of the components.
    pub own: Text,
}

/// Settings that do not change while the controller runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster that the controller runs in.
    pub cluster: Text,
    /// The namespace that the controller runs in.
    pub namespace: Text,
    /// The root namespace.
    pub root_namespace: Text,
    /// The DNS domain of the clusters.
    pub cluster_domain: Text,
    /// The trust domain until the certificate authority provides one.
    pub trust_domain: Text,
}

impl Settings {
    /// Returns the server names by which clients of other clusters connect to one of the controller's own services.
    pub fn server_names(&self, key: &Key) -> Vec<String> {
        let short = format!("{}.{}", key.name, key.namespace);
        vec![format!("{short}.svc"), format!("{short}.svc.{}", self.cluster_domain), short]
    }

    /// Returns the hostname of a Service: `<name>.<namespace>.svc.<domain>`.
    pub fn hostname(&self, key: &Key) -> String {
        format!("{}.{}.svc.{}", key.name, key.namespace, self.cluster_domain)
    }

    /// Returns the Service of a hostname, or `None` if the hostname is not one of [`Settings::hostname`].
    pub fn service_of(&self, hostname: &str) -> Option<Key> {
        let service = hostname.strip_suffix(&*self.cluster_domain)?.strip_suffix(".svc.")?;
        let (name, namespace) = service.split_once('.')?;
        (!name.is_empty() && !namespace.is_empty() && !namespace.contains('.')).then(|| Key::new(namespace, name))
    }
}

/// Resources that are compiled together. A resource that a group no longer has is removed.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Group {
    /// The trust bundle.
    Trust,
    /// The mesh-wide settings.
    Mesh,
    /// The gateways of a network.
    Network(Text),
    /// A service and its endpoints, by hostname.
    Service(Text),
    /// A policy object of a cluster.
    Policy(Kind, Text, Key),
    /// The workload of a cluster's pod.
    Workload(Text, Key),
}

/// One cluster's definition of a service.
#[derive(Clone, Copy, Debug)]
pub struct Definition<'a> {
    /// The cluster.
    pub cluster: &'a ClusterInventory,
    /// The definition.
    pub service: &'a Service,
}

/// All clusters.
#[derive(Debug)]
pub struct Inventory {
    settings: Settings,
    clusters: BTreeMap<Text, ClusterInventory>,
    /// Clusters of the snapshot whose remote secrets have not been read since the start.
    remembered: BTreeSet<Text>,
    mesh: Mesh,
    mesh_notices: MeshNotices,
    trust: Option<Trust>,
    trust_domain: Text,
    networks: Networks,
    /// Pods with connected proxies, and the number of streams of each. Only their workloads are compiled.
    connected: HashMap<(Text, Key), usize>,
    changes: BTreeSet<Group>,
    /// Affected Services, of which the hostnames are not in `changes` yet: a list of pods affects each Service many times.
    services: HashSet<Key>,
    /// The last change that was taken. The next ones are taken after it, so that none waits without end.
    taken: Option<Group>,
    strings: Strings,
    events: u64,
    /// The number of clusters that have joined.
    joined: u64,
}

impl Inventory {
    /// Creates an inventory without clusters.
    pub fn new(settings: Settings) -> Self {
        Inventory {
            trust_domain: settings.trust_domain.clone(),
            settings,
            clusters: BTreeMap::new(),
            remembered: BTreeSet::new(),
            mesh: Mesh::default(),
            mesh_notices: MeshNotices::default(),
            trust: None,
            networks: Networks::default(),
            connected: HashMap::new(),
            changes: BTreeSet::from([Group::Mesh]),
            services: HashSet::new(),
            taken: None,
            strings: Strings::default(),
            events: 0,
            joined: 0,
        }
    }

    /// Applies an event. Events of an unknown cluster have no effect: its link ended after the cluster was removed.
    pub fn apply(&mut self, event: Event, now: SystemTime) {
        self.events += 1;
        match event {
            Event::ClusterAdded(info) => self.add(info, now),
            Event::ClusterRemoved { cluster } => self.remove(&cluster),
            Event::ClustersListed { named } => {
                let unnamed: Vec<Text> = self.remembered.difference(&named).cloned().collect();
                unnamed.iter().for_each(|cluster| self.remove(cluster));
            }
            Event::Link { cluster, link, since } => {
                if let Some(cluster) = self.clusters.get_mut(&cluster) {
                    cluster.link = (link, since);
                }
            }
            Event::Listing { cluster, kind } => {
                if let Some(cluster) = self.clusters.get_mut(&cluster) {
                    cluster.list_begins(kind);
                }
            }
            Event::Listed { cluster, kind } => self.change(&cluster, now, |cluster| cluster.list_ends(kind, now)),
            Event::Upsert { cluster, mut object } => {
                object.intern(&mut self.strings);
                self.change(&cluster, now, |cluster| cluster.upsert(object));
            }
            Event::Delete { cluster, kind, namespace, name } => {
                self.change(&cluster, now, |cluster| cluster.delete(kind, Key { namespace, name }));
            }
            Event::Mesh(mesh) => {
                if mesh.export_all != self.mesh.export_all {
                    self.change_everything();
                }
                self.mesh = mesh;
                self.changes.insert(Group::Mesh);
            }
            Event::MeshNotices(notices) => self.mesh_notices = notices,
            Event::Trust(trust) => {
                if !trust.trust_domain.is_empty() && trust.trust_domain != self.trust_domain {
                    self.trust_domain = trust.trust_domain.clone();
                    self.change_everything();
                }
                self.trust = Some(trust);
                self.changes.insert(Group::Trust);
            }
            Event::ProxyConnected { cluster, pod, published: _ } => {
                *self.connected.entry((cluster.clone(), pod.clone())).or_default() += 1;
                self.changes.insert(Group::Workload(cluster, pod));
            }
            Event::ProxyDisconnected { cluster, pod } => self.disconnect(cluster, pod),
        }
    }

    /// Lets time pass: believes empty lists that have not been contradicted for long enough.
    pub fn tick(&mut self, now: SystemTime) {
        let names: Vec<Text> = self.clusters.keys().cloned().collect();
        for name in names {
            if let Some(affected) = self.clusters.get_mut(&name).map(|cluster| cluster.confirm(now)) {
                self.note(&name, affected);
            }
        }
        self.strings.purge();
    }

    /// Returns whether there are changes to compile.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty() || !self.services.is_empty()
    }

    /// Takes at most `limit` changes.
    pub fn take_changes(&mut self, limit: usize) -> Vec<Group> {
        let networks = Networks::of(self.clusters.values());
        if self.networks != networks {
            // Which networks exist, and which cluster may name them, decides about gateways, about the networks of pods and
            // about the summaries of every service.
            self.networks = networks;
            self.change_everything();
            let named = self.clusters.values().flat_map(ClusterInventory::gateway_networks);
            self.changes.extend(named.cloned().map(Group::Network));
        }
        for key in std::mem::take(&mut self.services) {
            let hostname = self.strings.share(self.settings.hostname(&key).into());
            self.changes.insert(Group::Service(hostname));
        }
        if self.changes.len() <= limit {
            self.taken = None;
            return std::mem::take(&mut self.changes).into_iter().collect();
        }
        let after = self.taken.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut taken: Vec<Group> = self.changes.range((after, Bound::Unbounded)).take(limit).cloned().collect();
        let rest = limit - taken.len();
        taken.extend(self.changes.iter().take(rest).cloned());
        for group in &taken {
            self.changes.remove(group);
        }
        self.taken = taken.last().cloned();
        taken
    }

    /// Takes one change before the others. Returns whether there was one.
    pub fn take_change(&mut self, group: &Group) -> bool {
        self.changes.remove(group)
    }

    /// Returns all clusters, by name.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterInventory> {
        self.clusters.values()
    }

    /// Returns a cluster.
    pub fn cluster(&self, name: &str) -> Option<&ClusterInventory> {
        self.clusters.get(name)
    }

    /// Returns whether a cluster is known from the snapshot only: its remote secret has not been read since the start.
    pub fn is_remembered(&self, name: &str) -> bool {
        self.remembered.contains(name)
    }

    /// Returns the definitions of a service, by cluster.
    pub fn definitions(&self, hostname: &str) -> impl Iterator<Item = Definition<'_>> {
        let key = self.settings.service_of(hostname);
        self.clusters.values().filter_map(move |cluster| {
            let service = cluster.services().get(key.as_ref()?)?;
            Some(Definition { cluster, service })
        })
    }

    /// Returns whether a proxy of the pod is connected.
    pub fn is_connected(&self, cluster: &Text, pod: &Key) -> bool {
        self.connected.contains_key(&(cluster.clone(), pod.clone()))
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The mesh-wide settings.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The trust bundle, once the certificate authority has one.
    pub fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &Text {
        &self.trust_domain
    }

    /// The networks, as of the last [`Inventory::take_changes`].
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    /// The number of events since the start.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Returns the clusters whose objects are not all known: not every kind has been listed since the start, and the
    /// snapshot does not have the cluster.
    pub fn incomplete(&self) -> HashSet<Text> {
        let incomplete = |cluster: &&ClusterInventory| !cluster.synced() && !cluster.restored;
        self.clusters.values().filter(incomplete).map(|cluster| cluster.info.name.clone()).collect()
    }

    /// Returns whether resources can be compiled: the controller's own cluster has been listed, or is in the snapshot.
    pub fn ready(&self) -> bool {
        self.clusters.get(&self.settings.cluster).is_some_and(|own| own.synced() || own.restored)
    }

    /// Adds a cluster of the snapshot, last heard of before the restart.
    pub(crate) fn restore(&mut self, info: Cluster, heard: SystemTime, objects: impl IntoIterator<Item = Object>) {
        let name = info.name.clone();
        let mut cluster = ClusterInventory::new(info, self.system_namespaces(), heard);
        cluster.link = (Link::Lost("no contact since the controller started".into()), heard);
        cluster.heard = Some(heard);
        cluster.restored = true;
        for mut object in objects {
            object.intern(&mut self.strings);
            cluster.upsert(object);
        }
        if !cluster.info.own {
            self.remembered.insert(name.clone());
        }
        self.joined += 1;
        cluster.joining = self.joined;
        let affected = cluster.everything();
        self.clusters.insert(name.clone(), cluster);
        self.note(&name, affected);
        self.change_everything();
    }

    /// Sets the mesh-wide settings of the snapshot.
    pub(crate) fn restore_mesh(&mut self, mesh: Mesh) {
        self.mesh = mesh;
        self.changes.insert(Group::Mesh);
    }

    fn add(&mut self, info: Cluster, now: SystemTime) {
        self.remembered.remove(&info.name);
        let name = info.name.clone();
        match self.clusters.get_mut(&name) {
            Some(known) => {
                let network = known.network().clone();
                known.info = info;
                if *known.network() != network {
                    let mut affected = known.everything();
                    affected.networks.insert(network);
                    self.note(&name, affected);
                }
            }
            None => {
                let mut cluster = ClusterInventory::new(info, self.system_namespaces(), now);
                self.joined += 1;
                cluster.joining = self.joined;
                self.clusters.insert(name, cluster);
                // Services without an address of their own have one in the new cluster as well.
                self.change_everything();
            }
        }
    }

    fn remove(&mut self, name: &Text) {
        self.remembered.remove(name);
        if let Some(cluster) = self.clusters.get(name) {
            let affected = cluster.everything();
            self.note(name, affected);
            self.clusters.remove(name);
            self.change_everything();
        }
    }

    fn disconnect(&mut self, cluster: Text, pod: Key) {
        let proxy = (cluster, pod);
        let Some(streams) = self.connected.get_mut(&proxy) else { return };
        *streams -= 1;
        if *streams == 0 {
            self.connected.remove(&proxy);
            self.changes.insert(Group::Workload(proxy.0, proxy.1));
        }
    }

    fn change(&mut self, name: &Text, now: SystemTime, change: impl FnOnce(&mut ClusterInventory) -> Affected) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        cluster.heard = Some(now);
        let affected = change(cluster);
        self.note(name, affected);
    }

    /// Notes the resources that a change of a cluster's objects affects.
    fn note(&mut self, cluster: &Text, affected: Affected) {
        if affected.everywhere {
            self.change_everything();
        }
        self.services.extend(affected.services);
        let pods = affected.pods.into_iter().map(|pod| (cluster.clone(), pod));
        let connected = pods.filter(|proxy| self.connected.contains_key(proxy));
        self.changes.extend(connected.map(|(cluster, pod)| Group::Workload(cluster, pod)));
        self.changes.extend(affected.networks.into_iter().map(Group::Network));
        for selector in affected.selectors {
            self.note_selected(cluster, &selector);
        }
        let policies = affected.policies.into_iter();
        self.changes.extend(policies.map(|(kind, key)| Group::Policy(kind, cluster.clone(), key)));
    }

    /// Notes the workloads of connected proxies that a policy of a cluster selects.
    fn note_selected(&mut self, cluster: &Text, selector: &PodSelector) {
        let selects = |(of, key): &&(Text, Key)| {
            let in_scope = selector.clusters == Watched::Primary || of == cluster;
            let namespace = selector.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
            let pod = || self.clusters.get(of).and_then(|cluster| cluster.pods().get(key));
            in_scope && namespace && pod().is_some_and(|pod| selector.labels.select(&pod.labels))
        };
        let selected = self.connected.keys().filter(selects).cloned();
        self.changes.extend(selected.map(|(cluster, pod)| Group::Workload(cluster, pod)));
    }

    /// Notes every service and every connected proxy's workload.
    fn change_everything(&mut self) {
        self.services.extend(self.clusters.values().flat_map(|cluster| cluster.services().keys()));
        self.changes.extend(self.connected.keys().cloned().map(|(cluster, pod)| Group::Workload(cluster, pod)));
    }

    fn system_namespaces(&self) -> SystemNamespaces {
        SystemNamespaces { root: self.settings.root_namespace.clone(), own: self.settings.namespace.clone() }
    }
}

#[cfg(test)]
mod tests;
