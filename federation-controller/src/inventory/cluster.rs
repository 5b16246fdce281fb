//! The inventory of one cluster: its objects, the relations between them, and the state of its link and lists.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use super::SystemNamespaces;
use super::collection::Collection;
use super::lists::Lists;
use super::relation::{Relation, Reverse};
use crate::objects::event::{Cluster, Link};
use crate::objects::{self, Gateway, Key, Kind, Labels, Object, Record, Slice, Text, Watched, for_each_kind};

/// The resources that a change affects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Affected {
    /// Services of the cluster.
    pub services: BTreeSet<Key>,
    /// Workloads of the cluster, by pod.
    pub pods: BTreeSet<Key>,
    /// Networks whose gateways may differ.
    pub networks: BTreeSet<Text>,
    /// Objects of the cluster that have resources of their own.
    pub policies: BTreeSet<(Kind, Key)>,
    /// Workloads that a changed policy selects.
    pub selectors: Vec<PodSelector>,
    /// All services of all clusters.
    pub everywhere: bool,
}

/// The pods that a policy selects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodSelector {
    /// The clusters of the pods: all of them for a kind of [`Watched::Primary`], else the policy's own.
    pub clusters: Watched,
    /// The namespace of the pods; `None`: every namespace.
    pub namespace: Option<Text>,
    /// The labels that a selected pod has.
    pub labels: Labels,
}

impl Affected {
    /// Adds the resources that another change affects.
    pub fn merge(&mut self, other: Affected) {
        self.services.extend(other.services);
        self.pods.extend(other.pods);
        self.networks.extend(other.networks);
        self.policies.extend(other.policies);
        self.selectors.extend(other.selectors);
        self.everywhere |= other.everywhere;
    }
}

/// The inventory of one cluster.
#[derive(Debug)]
pub struct ClusterInventory {
    /// The name, role and API server.
    pub info: Cluster,
    /// The state of the link, and since when.
    pub link: (Link, SystemTime),
    /// When an object or list last arrived; after a restart, when that was before it.
    pub heard: Option<SystemTime>,
    /// Whether the objects are from the snapshot, at least until the first lists replace them.
    pub restored: bool,
    /// The number of the cluster's joining. A cluster that is removed and joins again has another one.
    pub joining: u64,
    system: SystemNamespaces,
    pub(super) collections: Collections,
    pub(super) relations: Relations,
    lists: Lists,
    /// Objects beyond the limit of their kind since its last list began.
    left_out: [usize; Kind::ALL.len()],
}

/// Reverse maps: from an object to the objects that refer to it.
#[derive(Debug, Default)]
pub(super) struct Relations {
    /// Service to slices.
    pub(super) slices_of: Reverse,
    /// Pod to slices that list it.
    pub(super) slices_with: Reverse,
    /// Node to slices with endpoints on it; empty: to slices with endpoints without a node.
    pub(super) slices_on: Relation<Text, u32>,
    /// Node to pods on it; empty: to pods without a node.
    pub(super) pods_on: Relation<Text, u32>,
    /// Gateway to pods that it selects.
    pub(super) gateway_pods: Relation<Key, Key>,
    /// The number of nodes in each region and zone.
    pub(super) localities: BTreeMap<(Text, Text), usize>,
    /// The number of pods of each network that pods are labelled with.
    pub(super) pod_networks: HashMap<Text, usize>,
    /// The number of Services with an IPv6 address.
    pub(super) ipv6_services: usize,
}

macro_rules! define_collections {
    ($($collection:ident: $Record:ident, $change:ident;)+) => {
        /// The objects of one cluster, by kind.
        #[derive(Debug, Default)]
        pub struct Collections {
            $(#[doc = concat!("The [`objects::", stringify!($Record), "`]s.")] pub $collection: Collection<objects::$Record>,)+
        }

        impl ClusterInventory {
            $(
                #[doc = concat!("The [`objects::", stringify!($Record), "`]s.")]
                pub fn $collection(&self) -> &Collection<objects::$Record> {
                    &self.collections.$collection
                }
            )+

            /// Returns the number of objects of a kind.
            pub fn count(&self, kind: Kind) -> usize {
                match kind { $(Kind::$Record => self.$collection().len(),)+ }
            }

            /// Returns whether an object exists.
            pub fn contains(&self, kind: Kind, key: &Key) -> bool {
                match kind { $(Kind::$Record => self.$collection().contains(key),)+ }
            }

            /// Returns all objects, by kind.
            pub fn objects(&self) -> impl Iterator<Item = Object> {
                std::iter::empty()$(.chain(self.$collection().values().cloned().map(Object::$Record)))+
            }

            fn policies(&self) -> BTreeSet<(Kind, Key)> {
                let mut policies = BTreeSet::new();
                $(if <objects::$Record as Record>::OWN_RESOURCE {
                    policies.extend(self.$collection().keys().map(|key| (Kind::$Record, key)));
                })+
                policies
            }

            fn keys(&self, kind: Kind) -> Vec<Key> {
                match kind { $(Kind::$Record => self.$collection().keys().collect(),)+ }
            }

            fn put(&mut self, key: Key, object: Object) -> Affected {
                match object {
                    $(Object::$Record(new) => {
                        if self.$collection().get(&key) == Some(&new) {
                            return Affected::default();
                        }
                        self.$change(key, Some(new))
                    })+
                }
            }

            fn take(&mut self, kind: Kind, key: Key) -> Affected {
                if !self.contains(kind, &key) {
                    return Affected::default();
                }
                match kind { $(Kind::$Record => self.$change(key, None::<objects::$Record>),)+ }
            }
        }

        $(
            impl Stored for objects::$Record {
                fn collection(of: &mut Collections) -> &mut Collection<Self> {
                    &mut of.$collection
                }
            }
        )+
    };
}
for_each_kind!(define_collections);

/// A record with a collection.
pub trait Stored: Record {
    /// Returns the collection.
    fn collection(of: &mut Collections) -> &mut Collection<Self>;
}

impl ClusterInventory {
    /// Creates the inventory of a cluster without objects.
    pub fn new(info: Cluster, system: SystemNamespaces, now: SystemTime) -> Self {
        ClusterInventory {
            info,
            link: (Link::Connecting, now),
            heard: None,
            restored: false,
            joining: 0,
            system,
            collections: Collections::default(),
            relations: Relations::default(),
            lists: Lists::default(),
            left_out: Default::default(),
        }
    }

    /// The network of the cluster's objects without a network of their own; empty: unknown.
    ///
    /// The annotation of a remote cluster's secret takes precedence over the cluster's own labels.
    pub fn network(&self) -> &Text {
        if !self.info.own && !self.info.network.is_empty() {
            return &self.info.network;
        }
        let labelled = |name: &Text| self.namespaces().named(name).and_then(|namespace| namespace.network.as_ref());
        labelled(&self.system.root).or_else(|| labelled(&self.system.own)).unwrap_or(&self.info.network)
    }

    /// The root namespace of the mesh.
    pub fn root_namespace(&self) -> &Text {
        &self.system.root
    }

    /// Returns whether every watched kind has been listed since the process started.
    pub fn synced(&self) -> bool {
        self.lists.complete(self.info.role())
    }

    /// Returns the kinds whose last list was unexpectedly empty and is not believed yet.
    pub fn doubtful(&self) -> Vec<Kind> {
        self.lists.doubtful()
    }

    /// Returns the networks that the cluster's objects name, and its own.
    pub fn named_networks(&self) -> impl Iterator<Item = &Text> {
        self.relations.pod_networks.keys().chain(self.gateway_networks()).chain([self.network()])
    }

    /// Returns the networks that Services of the cluster are labelled as gateways of.
    pub fn gateway_networks(&self) -> impl Iterator<Item = &Text> {
        self.services().values().filter_map(|service| service.network.as_ref())
    }

    /// Returns the networks that pods are labelled with, and the number of pods.
    pub fn pod_networks(&self) -> impl Iterator<Item = (&Text, usize)> {
        self.relations.pod_networks.iter().map(|(network, count)| (network, *count))
    }

    /// Returns the kinds with more objects than the limit, and the number of objects that were left out.
    pub fn left_out(&self) -> impl Iterator<Item = (Kind, usize)> {
        Kind::ALL.into_iter().map(|kind| (kind, self.left_out[kind as usize])).filter(|(_, count)| *count > 0)
    }

    /// Returns the number of ready endpoints of a service. A pod with several addresses is one endpoint.
    pub fn ready_endpoints(&self, service: &Key) -> usize {
        let endpoints = self.slices_of(service).flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|endpoint| endpoint.ready && !endpoint.terminating);
        ready.map(|endpoint| endpoint.pod.as_ref().ok_or(endpoint.ip)).collect::<HashSet<_>>().len()
    }

    /// Returns the slices of a service, in no order.
    pub fn slices_of(&self, service: &Key) -> impl Iterator<Item = &Slice> {
        let ids = self.relations.slices_of.of(&service.namespace, &service.name);
        let slices = ids.filter_map(|id| self.slices().at(id));
        slices.filter(move |slice| slice.namespace == service.namespace && slice.service == service.name)
    }

    /// Returns the slices that list a pod, in no order.
    pub fn slices_with(&self, pod: &Key) -> impl Iterator<Item = &Slice> {
        let ids = self.relations.slices_with.of(&pod.namespace, &pod.name);
        let slices = ids.filter_map(|id| self.slices().at(id));
        slices.filter(move |slice| {
            slice.namespace == pod.namespace
                && slice.endpoints.iter().any(|endpoint| endpoint.pod.as_ref() == Some(&pod.name))
        })
    }

    /// Returns whether the cluster has IPv6: a Service has an address of it.
    pub fn uses_ipv6(&self) -> bool {
        self.relations.ipv6_services > 0
    }

    /// Returns whether a Gateway selects at least one pod of the cluster.
    pub fn selects_pods(&self, gateway: &Gateway) -> bool {
        self.relations.gateway_pods.has(&gateway.key())
    }

    /// Returns the Gateways that select at least one pod of the cluster.
    pub fn gateways_with_pods(&self) -> impl Iterator<Item = &Gateway> {
        self.gateways().values().filter(|gateway| self.selects_pods(gateway))
    }

    /// The locality of endpoints without a node or zone: the region and zone that all nodes of the cluster have in common.
    pub fn locality(&self) -> (Text, Text) {
        let (Some((first, _)), Some((last, _))) =
            (self.relations.localities.first_key_value(), self.relations.localities.last_key_value())
        else {
            return Default::default();
        };
        match (first.0 == last.0, first.1 == last.1) {
            (true, true) => first.clone(),
            (true, false) => (first.0.clone(), Text::default()),
            (false, _) => Default::default(),
        }
    }

    /// Begins a list of a kind.
    pub fn list_begins(&mut self, kind: Kind) {
        self.lists.begin(kind);
        self.left_out[kind as usize] = 0;
    }

    /// Ends a list of a kind, and removes the objects that are not in it. An empty list of a kind with known objects
    /// removes nothing until [`ClusterInventory::confirm`].
    pub fn list_ends(&mut self, kind: Kind, now: SystemTime) -> Affected {
        let known = self.keys(kind);
        let gone = self.lists.end(kind, known, now);
        self.remove_all(kind, gone)
    }

    /// Believes empty lists that nothing has contradicted for [`super::CONFIRM_EMPTY`] while the link was up.
    pub fn confirm(&mut self, now: SystemTime) -> Affected {
        let mut affected = Affected::default();
        let (Link::Connected, since) = self.link else { return affected };
        for kind in Kind::ALL {
            if let Some(seen) = self.lists.confirm(kind, since, now) {
                let gone = self.keys(kind).into_iter().filter(|key| !seen.contains(key)).collect();
                affected.merge(self.remove_all(kind, gone));
            }
        }
        affected
    }

    /// Adds or changes an object. Of a remote cluster, objects beyond the limit of their kind are left out.
    pub fn upsert(&mut self, object: Object) -> Affected {
        let (kind, key) = (object.kind(), object.key());
        if !self.info.own && self.count(kind) >= kind.limit() && !self.contains(kind, &key) {
            self.left_out[kind as usize] += 1;
            return Affected::default();
        }
        self.lists.add(kind, &key);
        self.put(key, object)
    }

    /// Deletes an object.
    pub fn delete(&mut self, kind: Kind, key: Key) -> Affected {
        self.lists.remove(kind, &key);
        self.take(kind, key)
    }

    /// Returns the resources of all objects of the cluster, for when it is added or removed or changes its network.
    pub fn everything(&self) -> Affected {
        let gateways = self.gateway_networks().cloned();
        Affected {
            services: self.services().keys().collect(),
            pods: self.pods().keys().collect(),
            networks: gateways.chain([self.network().clone()]).collect(),
            policies: self.policies(),
            selectors: Vec::new(),
            everywhere: false,
        }
    }

    fn remove_all(&mut self, kind: Kind, keys: Vec<Key>) -> Affected {
        let mut affected = Affected::default();
        for key in keys {
            affected.merge(self.delete(kind, key));
        }
        affected
    }
}
