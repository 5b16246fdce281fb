//! The inventory of one cluster: its objects, the relations between them, and the state of its link and lists.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use super::SystemNamespaces;
use super::bindings::{Bindings, Bound};
use super::budget::Budget;
use super::collection::Collection;
use super::federation::admission::Admission;
use super::hosts::Hosts;
use super::lists::{Lists, PathEvidence};
use super::machines;
use super::relation::{Relation, Reverse};
use super::rules::Rules;
use crate::objects::event::{Cluster, Link};
use crate::objects::{
    self, Gateway, Key, Kind, Labels, Node, Object, Record, Service, Slice, Text, Watched, for_each_kind,
};

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
    /// Hosts, also wildcards, whose rules of routing may differ.
    pub rules: BTreeSet<Text>,
    /// Hosts, also wildcards, whose subsets may differ.
    pub subsets: BTreeSet<Text>,
    /// Hosts whose ports may have other protocols.
    pub protocols: BTreeSet<Text>,
    /// Services of the cluster that are new or gone, exported or no longer, or have other ports.
    pub definitions: BTreeSet<Key>,
    /// Hosts whose ServiceEntries or their workloads have changed.
    pub hosts: BTreeSet<Text>,
    /// Hosts that Gateways have routes of.
    pub bound: BTreeSet<Bound>,
    /// Workloads that a changed policy or Gateway selects.
    pub selectors: Vec<PodSelector>,
    /// All services of all clusters.
    pub everywhere: bool,
    /// All services of the cluster.
    pub whole: bool,
    /// The limits of clusters may have changed.
    pub admissions: bool,
    /// The number of objects that were looked at beyond the changed one.
    pub work: u64,
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
    /// Only pods that are ingress or egress gateways.
    pub routers: bool,
}

impl Affected {
    /// Adds the resources that another change affects.
    pub fn merge(&mut self, other: Affected) {
        self.services.extend(other.services);
        self.pods.extend(other.pods);
        self.networks.extend(other.networks);
        self.policies.extend(other.policies);
        self.rules.extend(other.rules);
        self.subsets.extend(other.subsets);
        self.protocols.extend(other.protocols);
        self.definitions.extend(other.definitions);
        self.hosts.extend(other.hosts);
        self.bound.extend(other.bound);
        self.selectors.extend(other.selectors);
        self.everywhere |= other.everywhere;
        self.whole |= other.whole;
        self.admissions |= other.admissions;
        self.work += other.work;
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
    /// See [`ClusterInventory::network`].
    pub(super) network: Text,
    /// The number of the cluster's joining. A cluster that is removed and joins again has another one.
    pub joining: u64,
    pub(super) system: SystemNamespaces,
    pub(super) collections: Collections,
    pub(super) relations: Relations,
    lists: Lists,
    /// Objects beyond the limit of their kind since its last list began.
    left_out: [usize; Kind::ALL.len()],
    budget: Budget,
    /// Why the cluster is beyond a budget, and whether that has been taken.
    exceeded: Option<(Text, bool)>,
    /// The networks that the cluster's objects name have changed since the last [`super::Inventory::take_changes`].
    pub(super) network_changed: bool,
    /// The exports that are beyond a limit.
    pub(super) admission: Admission,
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
    /// The number of endpoints in all slices.
    pub(super) endpoints: usize,
    /// The number of Services with an IPv6 address.
    pub(super) ipv6_services: usize,
    /// The Services that are labelled as gateways of a network.
    pub(super) gateway_services: BTreeSet<u32>,
    /// The hosts of Gateways with pods.
    pub(super) hosts: Hosts,
    /// Rules of routing.
    pub(super) rules: Rules,
    /// Routes of Gateways.
    pub(super) bindings: Bindings,
    /// Host to ServiceEntries.
    pub(super) entries: Relation<Text, u32>,
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

            /// Returns all objects, by kind, without what is derived of others.
            pub fn objects(&self) -> impl Iterator<Item = Object> {
                std::iter::empty()$(.chain(read(self.$collection()).cloned().map(Object::$Record)))+
            }

            fn policies(&self) -> BTreeSet<(Kind, Key)> {
                let mut policies = BTreeSet::new();
                $(if <objects::$Record as Record>::OWN_RESOURCE {
                    policies.extend(self.$collection().keys().map(|key| (Kind::$Record, key)));
                })+
                policies
            }

            fn keys(&self, kind: Kind) -> Vec<Key> {
                match kind { $(Kind::$Record => read(self.$collection()).map(Record::key).collect(),)+ }
            }

            /// Returns the size of an object; 0 if it does not exist.
            fn size_of(&self, kind: Kind, key: &Key) -> usize {
                match kind { $(Kind::$Record => self.$collection().get(key).map_or(0, Record::size),)+ }
            }

            fn put(&mut self, key: Key, object: Object) -> Affected {
                match object {
                    $(Object::$Record(new) => {
                        let known = self.$collection().get(&key);
                        if known == Some(&new) {
                            return Affected::default();
                        }
                        self.budget.replace(known.map_or(0, Record::size), new.size());
                        self.$change(key, Some(new))
                    })+
                }
            }

            fn take(&mut self, kind: Kind, key: Key) -> Affected {
                if !self.contains(kind, &key) {
                    return Affected::default();
                }
                self.budget.replace(self.size_of(kind, &key), 0);
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

/// Returns the records of objects, without those that are derived of others.
fn read<T: Record>(collection: &Collection<T>) -> impl Iterator<Item = &T> {
    collection.values().filter(|record| !machines::is_derived(record.name()))
}

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
            network: Text::default(),
            joining: 0,
            system,
            collections: Collections::default(),
            relations: Relations::default(),
            lists: Lists::default(),
            left_out: Default::default(),
            budget: Budget::new(now),
            exceeded: None,
            network_changed: true,
            admission: Admission::default(),
        }
    }

    /// The network of the cluster's objects without a network of their own, as of the last
    /// [`super::Inventory::take_changes`]; empty: unknown.
    pub fn network(&self) -> &Text {
        &self.network
    }

    /// Returns whether the joining side says which network the cluster is on.
    pub(super) fn states_network(&self) -> bool {
        self.info.own || !self.info.network.is_empty()
    }

    /// The network that the cluster is to be on. The annotation of a remote cluster's secret takes precedence over the
    /// cluster's own labels, which [`super::networks`] may refuse.
    pub(super) fn claimed_network(&self) -> &Text {
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

    /// The DNS domain of the clusters.
    pub(super) fn domain(&self) -> &Text {
        &self.system.domain
    }

    /// Returns whether every watched kind that the cluster does not deny has been listed since the process started.
    pub fn synced(&self) -> bool {
        self.lists.complete(self.info.role())
    }

    /// Returns the kinds that the cluster denies the controller, and why.
    pub fn denied(&self) -> impl Iterator<Item = (Kind, &Text)> {
        self.lists.denied()
    }

    /// Returns the kinds whose last list was unexpectedly empty and is not believed yet.
    pub fn doubtful(&self) -> Vec<Kind> {
        self.lists.doubtful()
    }

    /// Returns the networks that the cluster's objects name.
    pub fn named_networks(&self) -> impl Iterator<Item = &Text> {
        self.relations.pod_networks.keys().chain(self.gateway_networks())
    }

    /// Returns the networks that Services of the cluster are labelled as gateways of.
    pub fn gateway_networks(&self) -> impl Iterator<Item = &Text> {
        self.gateway_services().filter_map(|service| service.network.as_ref())
    }

    /// Returns the Services that are labelled as gateways of a network.
    pub fn gateway_services(&self) -> impl Iterator<Item = &Service> {
        self.relations.gateway_services.iter().filter_map(|id| self.services().at(*id))
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

    /// Returns the number of endpoints in all slices.
    pub(super) fn endpoints(&self) -> usize {
        self.relations.endpoints
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

    /// Returns the nodes with addresses that a gateway Service selects, in no order.
    pub fn nodes_selected_by(&self, service: &Service) -> impl Iterator<Item = &Node> {
        let selector = service.node_selector.clone();
        let selects = move |node: &&Node| selector.as_ref().is_some_and(|selector| selector.select(&node.labels));
        self.nodes().values().filter(selects).filter(|node| !node.addresses.is_empty())
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

    /// Returns whether a host of a Gateway with pods matches a service.
    pub fn exports_by_host(&self, key: &Key, hostname: &str) -> bool {
        self.relations.hosts.match_service(key, hostname)
    }

    /// Returns why the cluster is beyond a budget, if it is.
    pub fn exceeded(&self) -> Option<&Text> {
        self.exceeded.as_ref().map(|(why, _)| why)
    }

    /// Returns whether [`ClusterInventory::take_exceeded`] has a reason to return.
    pub(super) fn newly_exceeded(&self) -> bool {
        self.exceeded.as_ref().is_some_and(|(_, taken)| !taken)
    }

    /// Returns why the cluster is beyond a budget, once.
    pub(super) fn take_exceeded(&mut self) -> Option<Text> {
        let (why, taken) = self.exceeded.as_mut()?;
        (!std::mem::replace(taken, true)).then_some(&*why).cloned()
    }

    /// Charges for work.
    pub(super) fn charge(&mut self, units: u64, now: SystemTime) {
        if !self.info.own
            && let Some(why) = self.budget.charge(units, now)
        {
            self.exceeded.get_or_insert((why.into(), false));
        }
    }

    /// Returns whether an object may be stored. One beyond the budget for bytes is not, and the cluster is not read any longer.
    pub(super) fn admits(&mut self, object: &Object) -> bool {
        if self.info.own {
            return true;
        }
        let kind = object.kind();
        let known = self.size_of(kind, &object.key());
        let growth = object.size().saturating_sub(known);
        if let Some(why) = self.budget.refuses(growth, self.lists.running()) {
            self.exceeded.get_or_insert((why.into(), false));
        }
        self.exceeded.is_none()
    }

    /// Has the cluster read again, with a new budget for work.
    pub(super) fn readmit(&mut self, now: SystemTime) {
        if self.exceeded.take().is_some() {
            let kept = self.budget.kept();
            self.budget = Budget::new(now);
            self.budget.replace(0, kept);
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

    /// Notes that the cluster denies the controller a kind. See [`Event::Denied`](crate::objects::event::Event::Denied).
    pub fn deny(&mut self, kind: Kind, why: Text) {
        self.lists.deny(kind, why);
    }

    /// Believes empty lists that are confirmed: nothing has contradicted them for [`super::CONFIRM_EMPTY`] while the link was
    /// up, and of a remote cluster there is a second signal.
    pub(super) fn confirm(&mut self, path: PathEvidence, now: SystemTime) -> Affected {
        let mut affected = Affected::default();
        let (Link::Connected, since) = self.link else { return affected };
        let path = (!self.info.own).then_some(path);
        for kind in Kind::ALL {
            if let Some(seen) = self.lists.confirm(kind, since, path, now) {
                let gone = self.keys(kind).into_iter().filter(|key| !seen.contains(key)).collect();
                affected.merge(self.remove_all(kind, gone));
            }
        }
        affected
    }

    /// Returns whether the lists of a remote cluster are to be repeated now, to confirm an empty one.
    pub(super) fn take_relist(&mut self, now: SystemTime) -> bool {
        let (Link::Connected, since) = self.link else { return false };
        !self.info.own && self.lists.take_relist(since, now)
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
            networks: gateways.chain([self.network.clone(), self.claimed_network().clone()]).collect(),
            policies: self.policies(),
            rules: self.hosts_with_rules(),
            subsets: self.hosts_with_rules(),
            protocols: self.service_profiles().values().map(|of| of.name.clone()).collect(),
            definitions: self.services().keys().collect(),
            bound: self.all_bound(),
            ..Affected::default()
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
