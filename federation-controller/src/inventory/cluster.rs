//! What is known of one cluster, and which results an object's change touches.
//!
//! Forward maps hold the objects; reverse maps lead from an object to what is computed from it: a pod to the slices that
//! list it, a node to the slices and pods on it. Each change returns the keys that it touches and looks at no others.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use super::{Key, SystemNamespaces};
use crate::inventory::collection::{Named, Reverse, Table};
use crate::inventory::relation::Relation;
use crate::objects::event::{Cluster, Export, Gateway, Kind, Link, Namespace, Node, Object, Pod, Service, Slice, Text};

/// An empty list from a cluster that had objects of the kind is believed after this long of an unbroken link.
///
/// An API server that comes back without its data, or behind a broken proxy, answers with empty lists; noticing and
/// stopping that takes a person or a probe tens of seconds. Deletions that a watch reports one by one are believed at once.
pub const CONFIRM_EMPTY: Duration = Duration::from_secs(30);

/// How many objects of a kind are taken from one remote cluster: what Kubernetes supports in one (150,000 pods, 10,000
/// services, 5,000 nodes) with room above. A cluster that has more, or says so, costs this controller no more memory.
pub const fn at_most(kind: Kind) -> usize {
    match kind {
        Kind::Namespace => 20_000,
        Kind::Node => 10_000,
        Kind::Service | Kind::Export => 20_000,
        Kind::Slice | Kind::Pod => 200_000,
        Kind::Gateway => 1_000,
    }
}

/// What a change touches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Affected {
    /// Services, by namespace and name.
    pub services: BTreeSet<Key>,
    /// Pods of this cluster.
    pub pods: BTreeSet<Key>,
    /// Networks whose gateways may differ.
    pub networks: BTreeSet<Text>,
    /// Everything that the cluster has.
    pub all: bool,
}

/// One cluster's objects.
#[derive(Debug)]
pub struct ClusterIndex {
    /// Name, role, address.
    pub info: Cluster,
    /// How the connection is, and since when.
    pub link: (Link, SystemTime),
    /// When something last arrived from it; of a remembered view, when that was.
    pub heard: Option<SystemTime>,
    /// Its view was remembered from before a restart, and holds until its lists replace it.
    pub restored: bool,
    system: SystemNamespaces,
    pub(crate) namespaces: HashMap<Text, Namespace>,
    pub(crate) nodes: HashMap<Text, Node>,
    pub(crate) services: Table<Service>,
    pub(crate) slices: Table<Slice>,
    pub(crate) pods: Table<Pod>,
    pub(crate) exports: Table<Export>,
    pub(crate) gateways: HashMap<Key, Gateway>,
    /// Service to its slices.
    slices_of: Reverse,
    /// Pod to slices that list it.
    slices_with: Reverse,
    /// Node to slices with endpoints on it.
    slices_on: Relation<Text, u32>,
    /// Node to pods on it.
    pods_on: Relation<Text, u32>,
    /// Gateway to pods that its selector matches.
    gateway_pods: Relation<Key, Key>,
    /// How many pods say that they are on a network.
    pod_networks: HashMap<Text, usize>,
    /// Objects beyond [`at_most`], by kind, since the last list.
    left_out: [usize; Kind::ALL.len()],
    lists: [List; Kind::ALL.len()],
}

/// How far the lists of one kind are.
#[derive(Debug, Default)]
struct List {
    /// At least one has been complete since this process started.
    complete: bool,
    /// What the one under way had so far.
    running: Option<HashSet<Key>>,
    /// The last one was empty although there were objects: since when, and what has appeared since.
    doubtful: Option<(SystemTime, HashSet<Key>)>,
}

impl ClusterIndex {
    /// A cluster of which nothing is known yet.
    pub fn new(info: Cluster, system: SystemNamespaces, now: SystemTime) -> Self {
        ClusterIndex {
            info,
            link: (Link::Connecting, now),
            heard: None,
            restored: false,
            system,
            namespaces: HashMap::new(),
            nodes: HashMap::new(),
            services: Table::default(),
            slices: Table::default(),
            pods: Table::default(),
            exports: Table::default(),
            gateways: HashMap::new(),
            slices_of: Reverse::default(),
            slices_with: Reverse::default(),
            slices_on: Relation::default(),
            pods_on: Relation::default(),
            gateway_pods: Relation::default(),
            pod_networks: HashMap::new(),
            left_out: Default::default(),
            lists: Default::default(),
        }
    }

    /// The network that the cluster's objects are on unless they say otherwise; empty: not known.
    ///
    /// What the primary's side says of a remote cluster (in its secret) goes before what that cluster says of itself.
    pub fn network(&self) -> &Text {
        if !self.info.own && !self.info.network.is_empty() {
            return &self.info.network;
        }
        let labelled = |namespace: &Text| self.namespaces.get(namespace).and_then(|found| found.network.as_ref());
        labelled(&self.system.root).or_else(|| labelled(&self.system.own)).unwrap_or(&self.info.network)
    }

    /// Whether every kind has been listed in full since this process started.
    pub fn synced(&self) -> bool {
        self.lists.iter().all(|list| list.complete)
    }

    /// Kinds whose last list was empty against expectation and is not believed yet.
    pub fn doubtful(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| self.lists[*kind as usize].doubtful.is_some()).collect()
    }

    /// All networks that the cluster's objects name, and its own.
    pub fn networks(&self) -> impl Iterator<Item = &Text> {
        self.pod_networks.keys().chain(self.gateway_networks()).chain([self.network()])
    }

    /// Networks that its Services say they are gateways of.
    pub fn gateway_networks(&self) -> impl Iterator<Item = &Text> {
        self.services.values().filter_map(|service| service.network.as_ref())
    }

    /// Networks that its pods say they are on, with how many do.
    pub fn pod_networks(&self) -> impl Iterator<Item = (&Text, usize)> {
        self.pod_networks.iter().map(|(network, count)| (network, *count))
    }

    /// Kinds of which it has more objects than are taken from one cluster, and how many were left out.
    pub fn left_out(&self) -> impl Iterator<Item = (Kind, usize)> {
        Kind::ALL.into_iter().map(|kind| (kind, self.left_out[kind as usize])).filter(|(_, count)| *count > 0)
    }

    /// A service of the cluster.
    pub fn service(&self, key: &Key) -> Option<&Service> {
        self.services.get(key)
    }

    /// The keys of its services, in no order.
    pub fn service_keys(&self) -> impl Iterator<Item = Key> {
        self.services.keys()
    }

    /// How many endpoints of a service are ready.
    pub fn ready_endpoints(&self, key: &Key) -> usize {
        self.slices_of(key)
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| endpoint.ready && !endpoint.terminating)
            .count()
    }

    /// The slices of a service, in no order.
    pub(crate) fn slices_of(&self, service: &Key) -> impl Iterator<Item = &Slice> {
        let found = self.slices_of.of(&service.namespace, &service.name).filter_map(|slice| self.slices.at(slice));
        found.filter(move |slice| slice.namespace == service.namespace && slice.service == service.name)
    }

    /// The slices that list a pod, in no order.
    pub(crate) fn slices_with(&self, pod: &Key) -> impl Iterator<Item = &Slice> {
        let found = self.slices_with.of(&pod.namespace, &pod.name).filter_map(|slice| self.slices.at(slice));
        found.filter(move |slice| {
            slice.namespace == pod.namespace
                && slice.endpoints.iter().any(|endpoint| endpoint.pod.as_ref() == Some(&pod.name))
        })
    }

    /// Whether there is a ServiceExport of this name.
    pub fn has_export(&self, key: &Key) -> bool {
        self.exports.contains_key(key)
    }

    /// Gateways that select at least one pod of the cluster.
    pub fn gateways_in_force(&self) -> impl Iterator<Item = &Gateway> {
        self.gateways.iter().filter(|(key, _)| self.gateway_pods.has(*key)).map(|(_, gateway)| gateway)
    }

    /// How many objects of a kind are known.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Namespace => self.namespaces.len(),
            Kind::Node => self.nodes.len(),
            Kind::Service => self.services.len(),
            Kind::Slice => self.slices.len(),
            Kind::Pod => self.pods.len(),
            Kind::Export => self.exports.len(),
            Kind::Gateway => self.gateways.len(),
        }
    }

    /// A list of a kind begins.
    pub fn listing(&mut self, kind: Kind) {
        self.lists[kind as usize].running = Some(HashSet::new());
        self.left_out[kind as usize] = 0;
    }

    /// A list of a kind is complete: what it did not have goes. Unless it had nothing where there was something: that is
    /// not known until [`ClusterIndex::confirm`].
    pub fn listed(&mut self, kind: Kind, now: SystemTime) -> Affected {
        let known = self.keys(kind);
        let list = &mut self.lists[kind as usize];
        let Some(seen) = list.running.take() else { return Affected::default() };
        list.complete = true;
        if !seen.iter().any(Key::counts) && known.iter().any(Key::counts) {
            list.doubtful.get_or_insert((now, seen));
            return Affected::default();
        }
        list.doubtful = None;
        self.sweep(kind, known.into_iter().filter(|key| !seen.contains(key)).collect())
    }

    /// Believes empty lists that nothing has contradicted for [`CONFIRM_EMPTY`] while the link was up.
    pub fn confirm(&mut self, now: SystemTime) -> Affected {
        let mut affected = Affected::default();
        let (Link::Connected, up_since) = self.link else { return affected };
        for kind in Kind::ALL {
            let Some((since, _)) = &self.lists[kind as usize].doubtful else { continue };
            if now.duration_since(up_since.max(*since)).is_ok_and(|age| age >= CONFIRM_EMPTY) {
                let (_, seen) = self.lists[kind as usize].doubtful.take().unwrap_or((now, HashSet::new()));
                let gone = self.keys(kind).into_iter().filter(|key| !seen.contains(key)).collect();
                affected.merge(self.sweep(kind, gone));
            }
        }
        affected
    }

    /// An object exists in this form.
    pub fn upsert(&mut self, object: Object) -> Affected {
        let (kind, key) = (object.kind(), Key::of(&object));
        if !self.info.own && self.count(kind) >= at_most(kind) && !self.has(kind, &key) {
            self.left_out[kind as usize] += 1;
            return Affected::default();
        }
        let list = &mut self.lists[kind as usize];
        for seen in [list.running.as_mut(), list.doubtful.as_mut().map(|(_, seen)| seen)].into_iter().flatten() {
            seen.insert(key.clone());
        }
        match object {
            Object::Namespace(new) => self.set_namespace(key.name, Some(new)),
            Object::Node(new) => self.set_node(key.name, Some(new)),
            Object::Service(new) => self.set_service(key, Some(new)),
            Object::Slice(new) => self.set_slice(key, Some(new)),
            Object::Pod(new) => self.set_pod(key, Some(new)),
            Object::Export(new) => self.set_export(key, Some(new)),
            Object::Gateway(new) => self.set_gateway(key, Some(new)),
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, kind: Kind, key: Key) -> Affected {
        let list = &mut self.lists[kind as usize];
        for seen in [list.running.as_mut(), list.doubtful.as_mut().map(|(_, seen)| seen)].into_iter().flatten() {
            seen.remove(&key);
        }
        match kind {
            Kind::Namespace => self.set_namespace(key.name, None),
            Kind::Node => self.set_node(key.name, None),
            Kind::Service => self.set_service(key, None),
            Kind::Slice => self.set_slice(key, None),
            Kind::Pod => self.set_pod(key, None),
            Kind::Export => self.set_export(key, None),
            Kind::Gateway => self.set_gateway(key, None),
        }
    }

    /// All that the cluster has, for when it comes, goes or changes its network.
    pub fn everything(&self) -> Affected {
        let gateways = self.services.values().filter_map(|service| service.network.clone());
        Affected {
            services: self.services.keys().collect(),
            pods: self.pods.keys().collect(),
            networks: gateways.chain([self.network().clone()]).collect(),
            all: true,
        }
    }

    fn has(&self, kind: Kind, key: &Key) -> bool {
        match kind {
            Kind::Namespace => self.namespaces.contains_key(&key.name),
            Kind::Node => self.nodes.contains_key(&key.name),
            Kind::Service => self.services.contains_key(key),
            Kind::Slice => self.slices.contains_key(key),
            Kind::Pod => self.pods.contains_key(key),
            Kind::Export => self.exports.contains_key(key),
            Kind::Gateway => self.gateways.contains_key(key),
        }
    }

    fn keys(&self, kind: Kind) -> Vec<Key> {
        match kind {
            Kind::Namespace => self.namespaces.keys().map(Key::unnamespaced).collect(),
            Kind::Node => self.nodes.keys().map(Key::unnamespaced).collect(),
            Kind::Service => self.services.keys().collect(),
            Kind::Slice => self.slices.keys().collect(),
            Kind::Pod => self.pods.keys().collect(),
            Kind::Export => self.exports.keys().collect(),
            Kind::Gateway => self.gateways.keys().cloned().collect(),
        }
    }

    fn sweep(&mut self, kind: Kind, gone: Vec<Key>) -> Affected {
        let mut affected = Affected::default();
        for key in gone {
            affected.merge(self.delete(kind, key));
        }
        affected
    }

    fn set_namespace(&mut self, name: Text, new: Option<Namespace>) -> Affected {
        let before = self.network().clone();
        replace(&mut self.namespaces, name, new);
        if *self.network() == before {
            return Affected::default();
        }
        let mut affected = self.everything();
        affected.networks.insert(before);
        affected
    }

    fn set_node(&mut self, name: Text, new: Option<Node>) -> Affected {
        let mut affected = Affected::default();
        if self.nodes.get(&name) != new.as_ref() {
            for slice in self.slices_on.of(&name).filter_map(|slice| self.slices.at(*slice)) {
                self.touch_service(slice_service(slice), &mut affected);
            }
            for pod in self.pods_on.of(&name).filter_map(|pod| self.pods.at(*pod)) {
                self.touch_slices_with(pod, &mut affected);
                affected.pods.insert(pod.key());
            }
            replace(&mut self.nodes, name, new);
        }
        affected
    }

    fn set_service(&mut self, key: Key, new: Option<Service>) -> Affected {
        let mut affected = Affected::default();
        let old = self.services.get(&key);
        if old != new.as_ref() {
            affected.networks.extend([old, new.as_ref()].into_iter().flatten().filter_map(|of| of.network.clone()));
            for slice in self.slices_of(&key) {
                affected.pods.extend(slice_pods(slice));
            }
            self.services.replace(&key, new);
            affected.services.insert(key);
        }
        affected
    }

    fn set_slice(&mut self, key: Key, new: Option<Slice>) -> Affected {
        let mut affected = Affected::default();
        if self.slices.get(&key) == new.as_ref() {
            return affected;
        }
        if let Some((id, old)) = self.slices.remove(&key) {
            self.slices_of.remove(&old.namespace, &old.service, id);
            for pod in slice_pods(&old) {
                self.slices_with.remove(&pod.namespace, &pod.name, id);
                affected.pods.insert(pod);
            }
            for node in old.endpoints.iter().filter_map(|endpoint| endpoint.node.as_ref()) {
                self.slices_on.remove(node, &id);
            }
            self.touch_service(slice_service(&old), &mut affected);
        }
        if let Some(mut new) = new {
            // One copy of a pod's name, whoever came first.
            for name in new.endpoints.iter_mut().filter_map(|endpoint| endpoint.pod.as_mut()) {
                let pod = Key { namespace: new.namespace.clone(), name: name.clone() };
                if let Some(pod) = self.pods.get(&pod) {
                    *name = pod.name.clone();
                }
            }
            self.touch_service(slice_service(&new), &mut affected);
            let id = self.slices.insert(new);
            let Some(new) = self.slices.at(id) else { return affected };
            self.slices_of.insert(&new.namespace, &new.service, id);
            for pod in slice_pods(new) {
                self.slices_with.insert(&pod.namespace, &pod.name, id);
                affected.pods.insert(pod);
            }
            for node in new.endpoints.iter().filter_map(|endpoint| endpoint.node.as_ref()) {
                self.slices_on.insert(node, &id);
            }
        }
        affected
    }

    fn set_pod(&mut self, key: Key, mut new: Option<Pod>) -> Affected {
        let mut affected = Affected::default();
        let old = self.pods.get(&key);
        if old == new.as_ref() {
            return affected;
        }
        affected.pods.insert(key.clone());
        for slice in self.slices_with(&key) {
            self.touch_service(slice_service(slice), &mut affected);
            // One copy of a pod's name, whoever came first.
            let mut names = slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref());
            if let (Some(new), Some(name)) = (&mut new, names.find(|name| **name == key.name)) {
                new.name = name.clone();
            }
        }
        if let Some(old) = old {
            if let Some(id) = self.pods.id(&key) {
                self.pods_on.remove(&old.node, &id);
            }
            if let Some(count) = pod_network(old).and_then(|network| self.pod_networks.get_mut(network)) {
                *count -= 1;
            }
            self.pod_networks.retain(|_, count| *count > 0);
        }
        // The first pod of a gateway puts its exports in force, and the last takes them back.
        for (gateway, spec) in &self.gateways {
            let matches = new.as_ref().is_some_and(|pod| spec.selector.select(&pod.labels));
            let edge = match matches {
                true => self.gateway_pods.insert(gateway, &key),
                false => self.gateway_pods.remove(gateway, &key),
            };
            if edge {
                affected.services.extend(self.services.keys());
            }
        }
        match new {
            Some(new) => {
                let (node, network) = (new.node.clone(), pod_network(&new).cloned());
                let id = self.pods.insert(new);
                self.pods_on.insert(&node, &id);
                network.into_iter().for_each(|network| *self.pod_networks.entry(network).or_default() += 1);
            }
            None => drop(self.pods.remove(&key)),
        }
        affected
    }

    fn set_export(&mut self, key: Key, new: Option<Export>) -> Affected {
        let mut affected = Affected::default();
        if self.exports.get(&key) != new.as_ref() {
            self.exports.replace(&key, new);
            affected.services.insert(key);
        }
        affected
    }

    fn set_gateway(&mut self, key: Key, new: Option<Gateway>) -> Affected {
        let mut affected = Affected::default();
        if self.gateways.get(&key) == new.as_ref() {
            return affected;
        }
        self.gateway_pods.clear(&key);
        if let Some(new) = &new {
            for pod in self.pods.values().filter(|pod| new.selector.select(&pod.labels)) {
                self.gateway_pods.insert(&key, &pod.key());
            }
        }
        affected.services.extend(self.services.keys());
        replace(&mut self.gateways, key, new);
        affected
    }

    /// The services of all slices that list a pod.
    fn touch_slices_with(&self, pod: &Pod, affected: &mut Affected) {
        // By hash alone: another pod's service is computed in vain once in four billion.
        for slice in self.slices_with.of(&pod.namespace, &pod.name).filter_map(|slice| self.slices.at(slice)) {
            self.touch_service(slice_service(slice), affected);
        }
    }

    /// A service's endpoints changed; where it is a gateway's, so may the gateway's locality.
    fn touch_service(&self, service: Key, affected: &mut Affected) {
        affected.networks.extend(self.services.get(&service).and_then(|service| service.network.clone()));
        affected.services.insert(service);
    }
}

impl Affected {
    /// Adds what another change touches.
    pub fn merge(&mut self, other: Affected) {
        self.services.extend(other.services);
        self.pods.extend(other.pods);
        self.networks.extend(other.networks);
        self.all |= other.all;
    }
}

macro_rules! named {
    ($($kind:ty),*) => {$(
        impl Named for $kind {
            fn namespace(&self) -> &Text {
                &self.namespace
            }

            fn name(&self) -> &Text {
                &self.name
            }
        }
    )*};
}

named!(Service, Slice, Pod, Export);

/// The network that a pod says it is on, by the label `topology.istio.io/network`.
pub(crate) fn pod_network(pod: &Pod) -> Option<&Text> {
    pod.labels.get("topology.istio.io/network").filter(|network| !network.is_empty())
}

pub(crate) fn slice_service(slice: &Slice) -> Key {
    Key { namespace: slice.namespace.clone(), name: slice.service.clone() }
}

fn slice_pods(slice: &Slice) -> impl Iterator<Item = Key> + '_ {
    let pods = slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref());
    pods.map(|pod| Key { namespace: slice.namespace.clone(), name: pod.clone() })
}

fn replace<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, new: Option<V>) {
    match new {
        Some(new) => drop(map.insert(key, new)),
        None => drop(map.remove(&key)),
    }
}
