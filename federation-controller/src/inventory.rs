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
use std::time::SystemTime;

use api::compatibility::KindWithoutEffect;
use wire::name::Role;

mod bindings;
pub mod budget;
mod changes;
pub mod cluster;
pub mod collection;
mod credentials;
pub mod entries;
pub mod export;
mod external;
pub(crate) mod federation;
mod gateway_notices;
mod gateways;
mod hosts;
mod keys;
mod leases;
mod lists;
mod local_rate_limits;
pub mod machines;
pub mod networks;
mod notices;
mod pending;
mod policy_conflicts;
mod proxy_configs;
pub(crate) mod registered;
mod relation;
mod rule_changes;
mod rule_notices;
pub mod rules;
mod service_rule_changes;
mod sidecar_notices;
mod without_effect;

pub use bindings::{Bound, gateways_of};
pub use cluster::{Affected, ClusterInventory, PodSelector};
use credentials::KnownSecret;
pub(crate) use federation::refusals::REFUSED_EXPORT;
pub use federation::refusals::RefusedExport;
pub use federation::{Beyond, Consumers, ExportRefusal};
pub use lists::CONFIRM_EMPTY;
pub(crate) use local_rate_limits::{CONFLICT, NO_TARGET};
use networks::Networks;
pub use notices::{NoticedKind, ObjectNotice};
pub(crate) use notices::{never_exported, only_by_name, unreachable_gateway};
use pending::Pending;
pub use proxy_configs::ProxyLayers;
use rule_changes::Wildcards;
pub(crate) use rule_notices::MAX_PROBLEMS;
pub use rule_notices::{RuleNotice, RuleState};

use crate::leases::Leases;
use crate::objects::event::{Cluster, Event, Link, Mesh, MeshNotices, Trust};
use crate::objects::intern::Strings;
use crate::objects::{Key, KeySource, Keys, Kind, Object, Service, Text, Watched};

/// The controller's own services that proxies of other clusters reach through the gateway, and their exposed port.
pub const OWN_SERVICES: [(&str, u16); 2] = [("isthmus-controller", 15012), ("isthmus-webhooks", 443)];

/// Names that all clusters have in common. The label `topology.istio.io/network` of the namespaces is their cluster's network.
#[derive(Clone, Debug)]
pub struct SystemNamespaces {
    /// The root namespace. Its label takes precedence.
    pub root: Text,
    /// The namespace of the components.
    pub own: Text,
    /// The DNS domain of the clusters.
    pub domain: Text,
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
    /// The routes and policies of a host. They come before the service, whose proxies then hold them.
    Rules(Text),
    /// The routes of a host on a Gateway.
    Bound(Key, Text),
    /// A service and its endpoints, by hostname.
    Service(Text),
    /// The certificate of a Secret in a cluster.
    Credential(Text, Key),
    /// A policy object of a cluster.
    Policy(Kind, Text, Key),
    /// The workload of a cluster's pod, and the listeners of one that is an ingress or egress gateway.
    Workload(Text, Key),
}

impl Group {
    /// Returns whether compiling finds what is wrong with objects.
    pub fn has_notices(&self) -> bool {
        matches!(self, Group::Rules(_) | Group::Bound(..) | Group::Workload(..))
    }
}

/// One cluster's definition of a service.
#[derive(Clone, Copy, Debug)]
pub struct Definition<'a> {
    /// The cluster.
    pub cluster: &'a ClusterInventory,
    /// The definition.
    pub service: &'a Service,
}

/// The connected proxies of a pod.
#[derive(Clone, Copy, Debug, Default)]
struct ConnectedProxy {
    streams: usize,
    /// Whether one of them is an ingress or egress gateway.
    router: bool,
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
    /// The objects without effect in the own cluster.
    without_effect: BTreeMap<&'static KindWithoutEffect, BTreeSet<Key>>,
    trust: Option<Trust>,
    trust_domain: Text,
    /// The keys of the issuers of tokens.
    keys: BTreeMap<KeySource, Keys>,
    /// The Secrets of the servers of routers.
    credentials: BTreeMap<(Text, Key), KnownSecret>,
    networks: Networks,
    /// Pods with connected proxies. Only their workloads are compiled.
    connected: HashMap<(Text, Key), ConnectedProxy>,
    pending: Pending,
    /// Clusters of which all Services are affected.
    whole: BTreeSet<Text>,
    wildcards: Wildcards,
    /// By the group of which they were found.
    rule_notices: HashMap<Group, Box<[RuleNotice]>>,
    /// Exports that federation policy refuses, by the hostname of their service.
    refused_exports: BTreeMap<Text, Box<[RefusedExport]>>,
    strings: Strings,
    /// The leases of the remote clusters.
    leases: Leases,
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
            without_effect: BTreeMap::new(),
            trust: None,
            keys: BTreeMap::new(),
            credentials: BTreeMap::new(),
            networks: Networks::default(),
            connected: HashMap::new(),
            pending: Pending::default(),
            whole: BTreeSet::new(),
            wildcards: Wildcards::default(),
            rule_notices: HashMap::new(),
            refused_exports: BTreeMap::new(),
            strings: Strings::default(),
            leases: Leases::default(),
            events: 0,
            joined: 0,
        }
        .with_mesh()
    }

    fn with_mesh(mut self) -> Self {
        self.pending.groups(&Text::default(), [Group::Mesh]);
        self
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
                    if !matches!(link, Link::Excluded(_)) {
                        cluster.readmit(now);
                    }
                    cluster.link = (link, since);
                }
            }
            Event::Listing { cluster, kind } => {
                if let Some(cluster) = self.clusters.get_mut(&cluster) {
                    cluster.list_begins(kind);
                }
            }
            Event::Listed { cluster, kind } => self.change(&cluster, now, 1, |cluster| cluster.list_ends(kind, now)),
            Event::Denied { cluster, kind, why } => {
                if let Some(cluster) = self.clusters.get_mut(&cluster) {
                    cluster.deny(kind, why);
                }
            }
            Event::Upsert { cluster, mut object } => {
                if !self.clusters.get_mut(&cluster).is_some_and(|cluster| cluster.admits(&object)) {
                    self.exceed(&cluster, now);
                    return;
                }
                object.intern(&mut self.strings);
                let work = object.work();
                self.change(&cluster, now, work, |cluster| cluster.upsert(object));
            }
            Event::Delete { cluster, kind, namespace, name } => {
                self.change(&cluster, now, 1, |cluster| cluster.delete(kind, Key { namespace, name }));
            }
            Event::Mesh(mesh) => {
                let before = std::mem::replace(&mut self.mesh, mesh);
                self.leases.set_length(self.mesh.lease());
                if self.mesh.export_all != before.export_all {
                    self.clusters.values_mut().for_each(|cluster| cluster.admission.note());
                }
                if self.mesh.export_all != before.export_all || self.mesh.service_export_to != before.service_export_to
                {
                    self.change_everything(&Text::default());
                }
                let defaults = |of: &Mesh| {
                    (
                        of.virtual_service_export_to.clone(),
                        of.destination_rule_export_to.clone(),
                        of.default_policy.clone(),
                    )
                };
                if defaults(&self.mesh) != defaults(&before) {
                    self.change_all_rules(before.default_policy.is_some());
                }
                if self.mesh.trust_domain_aliases != before.trust_domain_aliases
                    || self.mesh.external_authorizations != before.external_authorizations
                {
                    self.change_all_policies();
                }
                if self.mesh.gateway_topology != before.gateway_topology {
                    self.change_all_routers();
                }
                self.pending.groups(&Text::default(), [Group::Mesh]);
            }
            Event::MeshNotices(notices) => self.mesh_notices = notices,
            Event::WithoutEffect { kind, objects } => self.note_without_effect(kind, objects),
            Event::Trust(trust) => {
                if !trust.trust_domain.is_empty() && trust.trust_domain != self.trust_domain {
                    self.trust_domain = trust.trust_domain.clone();
                    self.change_everything(&Text::default());
                    self.change_all_policies();
                }
                if trust.serves_others != self.serves_others() {
                    self.change_everything(&Text::default());
                }
                self.trust = Some(trust);
                self.pending.groups(&Text::default(), [Group::Trust]);
            }
            Event::Credential { cluster, secret, read } => self.change_credential(cluster, secret, read, now),
            Event::Keys { source, fetched } => self.change_keys(source, fetched),
            Event::ProxyConnected { cluster, pod, role, published: _ } => {
                let proxy = self.connected.entry((cluster.clone(), pod.clone())).or_default();
                proxy.streams += 1;
                proxy.router |= role == Role::Router;
                self.pending.groups(&cluster.clone(), [Group::Workload(cluster, pod)]);
            }
            Event::ProxyDisconnected { cluster, pod } => self.disconnect(cluster, pod),
        }
    }

    /// Lets time pass: steps the leases, believes empty lists that are confirmed, and forgets Secrets that no router needs.
    pub fn tick(&mut self, now: SystemTime) {
        self.step_leases(now);
        let doubtful = self.clusters.values().filter(|cluster| !cluster.doubtful().is_empty());
        let names: Vec<Text> = doubtful.map(|cluster| cluster.info.name.clone()).collect();
        for name in names {
            let path = self.path_evidence(&name, now);
            if let Some(affected) = self.clusters.get_mut(&name).map(|cluster| cluster.confirm(path, now)) {
                self.note(&name, affected);
            }
        }
        self.forget_credentials();
        self.strings.purge();
    }

    /// Returns whether there are changes to compile.
    pub fn has_changes(&self) -> bool {
        !self.pending.is_empty() || !self.whole.is_empty() || !self.wildcards.is_empty()
    }

    /// Takes at most `limit` changes.
    pub fn take_changes(&mut self, limit: usize) -> Vec<Group> {
        let networks = Networks::of(self.clusters.values());
        let before = std::mem::replace(&mut self.networks, networks);
        for (name, cluster) in &mut self.clusters {
            cluster.network = self.networks.of_cluster(name);
        }
        if self.networks != before {
            // Which networks exist, and which cluster may name them, decides about gateways, about the networks of pods and
            // about the summaries of every service.
            let causes: Vec<Text> = self
                .clusters
                .values()
                .filter(|cluster| cluster.network_changed)
                .map(|of| of.info.name.clone())
                .collect();
            let cause = if let [cause] = &causes[..] { cause.clone() } else { Text::default() };
            self.change_everything(&cause);
            let named: Vec<Group> = self
                .clusters
                .values()
                .flat_map(ClusterInventory::gateway_networks)
                .cloned()
                .map(Group::Network)
                .collect();
            self.pending.groups(&cause, named);
        }
        self.clusters.values_mut().for_each(|cluster| cluster.network_changed = false);
        self.admit_exports();
        for name in std::mem::take(&mut self.whole) {
            if let Some(cluster) = self.clusters.get(&name) {
                let services: BTreeSet<Key> = cluster.services().keys().collect();
                self.note_definitions(&name, &services);
                self.pending.services(&name, services);
                self.change_callers(&name);
            }
        }
        self.resolve_wildcards();
        let (strings, settings) = (&mut self.strings, &self.settings);
        self.pending.take(limit, |key| Group::Service(strings.share(settings.hostname(key).into())))
    }

    /// Charges a cluster for work. A remote cluster beyond its budget is not read any longer.
    pub fn charge(&mut self, cluster: &Text, units: u64, now: SystemTime) {
        if let Some(cluster) = self.clusters.get_mut(cluster) {
            cluster.charge(units, now);
        }
        self.exceed(cluster, now);
    }

    /// Returns whether [`Inventory::take_exceeded`] has a cluster to return.
    pub fn any_exceeded(&self) -> bool {
        self.clusters.values().any(ClusterInventory::newly_exceeded)
    }

    /// Returns the clusters that have come beyond a budget since the last call, each with the reason.
    pub fn take_exceeded(&mut self) -> Vec<(Text, Text)> {
        let new = self
            .clusters
            .values_mut()
            .filter_map(|cluster| Some((cluster.info.name.clone(), cluster.take_exceeded()?)));
        new.collect()
    }

    fn exceed(&mut self, cluster: &Text, now: SystemTime) {
        if let Some(cluster) = self.clusters.get_mut(cluster)
            && let Some(why) = cluster.exceeded()
        {
            cluster.link = (Link::Excluded(why.clone()), now);
        }
    }

    /// Takes one change before the others. Returns whether there was one.
    pub fn take_change(&mut self, group: &Group) -> bool {
        self.pending.take_one(group)
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

    /// Returns whether proxies of other clusters need the controller, which then exports its own services. True until the
    /// certificate authority is loaded; no proxy is served before that.
    pub fn serves_others(&self) -> bool {
        self.trust.as_ref().is_none_or(|trust| trust.serves_others)
    }

    /// Returns whether one of the controller's own services is reached through the gateway of its cluster.
    pub fn exposes(&self, own: &Key) -> bool {
        let for_workloads = || self.primary().is_some_and(|of| !of.workload_groups().is_empty());
        self.serves_others() || (*own.name == *OWN_SERVICES[0].0 && for_workloads())
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
    /// snapshot does not have the cluster. Nothing waits for a cluster that is not read.
    pub fn incomplete(&self) -> HashSet<Text> {
        let excluded = |cluster: &ClusterInventory| matches!(cluster.link.0, Link::Excluded(_));
        let incomplete = |cluster: &&ClusterInventory| !cluster.synced() && !cluster.restored && !excluded(cluster);
        self.clusters.values().filter(incomplete).map(|cluster| cluster.info.name.clone()).collect()
    }

    /// Returns whether a cluster denies the controller to read a kind.
    pub fn denies(&self, cluster: &str, kind: Kind) -> bool {
        self.clusters.get(cluster).is_some_and(|cluster| cluster.denied().any(|(denied, _)| denied == kind))
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
        self.change_everything(&Text::default());
    }

    /// Sets the mesh-wide settings of the snapshot.
    pub(crate) fn restore_mesh(&mut self, mesh: Mesh) {
        self.mesh = mesh;
        self.leases.set_length(self.mesh.lease());
        self.change_all_rules(false);
        self.pending.groups(&Text::default(), [Group::Mesh]);
    }

    fn add(&mut self, info: Cluster, now: SystemTime) {
        self.remembered.remove(&info.name);
        let name = info.name.clone();
        match self.clusters.get_mut(&name) {
            Some(known) => {
                let network = known.claimed_network().clone();
                known.info = info;
                if *known.claimed_network() != network {
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
                self.change_everything(&Text::default());
            }
        }
    }

    fn remove(&mut self, name: &Text) {
        self.remembered.remove(name);
        if let Some(cluster) = self.clusters.get(name) {
            let affected = cluster.everything();
            self.note(name, affected);
            self.clusters.remove(name);
            self.strings.expect_unused();
            self.change_everything(&Text::default());
        }
    }

    fn disconnect(&mut self, cluster: Text, pod: Key) {
        let proxy = (cluster, pod);
        let Some(of) = self.connected.get_mut(&proxy) else { return };
        of.streams -= 1;
        if of.streams == 0 {
            self.connected.remove(&proxy);
            self.pending.groups(&proxy.0.clone(), [Group::Workload(proxy.0, proxy.1)]);
        }
    }

    fn change(
        &mut self,
        name: &Text,
        now: SystemTime,
        work: u64,
        change: impl FnOnce(&mut ClusterInventory) -> Affected,
    ) {
        let Some(cluster) = self.clusters.get_mut(name).filter(|cluster| cluster.exceeded().is_none()) else { return };
        cluster.heard = Some(now);
        let affected = change(cluster);
        cluster.admission.note();
        let everything = if affected.whole { cluster.services().len() } else { 0 };
        let units = work + affected.work + (affected.services.len() + affected.pods.len() + everything) as u64;
        cluster.charge(units, now);
        self.exceed(name, now);
        self.note(name, affected);
    }

    /// Notes the resources that a change of a cluster's objects affects.
    fn note(&mut self, cluster: &Text, affected: Affected) {
        if affected.everywhere {
            self.change_everything(cluster);
        }
        if affected.admissions {
            self.clusters.values_mut().for_each(|cluster| cluster.admission.note());
        }
        if affected.whole {
            self.whole.insert(cluster.clone());
        }
        self.pending.services(cluster, affected.services);
        self.note_rules(cluster, affected.rules, affected.subsets);
        affected.protocols.iter().for_each(|host| self.note_protocols_of(cluster, host));
        self.note_definitions(cluster, &affected.definitions);
        self.note_entries(cluster, affected.hosts);
        self.note_bound(cluster, affected.bound);
        let pods = affected.pods.into_iter().map(|pod| (cluster.clone(), pod));
        let connected = pods.filter(|proxy| self.connected.contains_key(proxy));
        self.pending.groups(cluster, connected.map(|(cluster, pod)| Group::Workload(cluster, pod)));
        self.pending.groups(cluster, affected.networks.into_iter().map(Group::Network));
        for selector in affected.selectors {
            self.note_selected(cluster, &selector);
        }
        let policies = affected.policies.into_iter();
        self.pending.groups(cluster, policies.map(|(kind, key)| Group::Policy(kind, cluster.clone(), key)));
    }

    /// Notes the workloads of connected proxies that a policy of a cluster selects.
    fn note_selected(&mut self, cluster: &Text, selector: &PodSelector) {
        let selects = |((of, key), proxy): &(&(Text, Key), &ConnectedProxy)| {
            let is_router = proxy.router || !selector.routers;
            let in_scope = selector.clusters == Watched::Primary || of == cluster;
            let namespace = selector.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
            let pod = || self.clusters.get(of).and_then(|cluster| cluster.pods().get(key));
            is_router && in_scope && namespace && pod().is_some_and(|pod| selector.labels.select(&pod.labels))
        };
        let selected = self.connected.iter().filter(selects).map(|(proxy, _)| proxy.clone());
        self.pending.groups(cluster, selected.map(|(cluster, pod)| Group::Workload(cluster, pod)));
    }

    /// Notes every authorization policy.
    fn change_all_policies(&mut self) {
        for (name, cluster) in &self.clusters {
            let kind = Kind::AuthorizationPolicy;
            let policies = cluster.authorization_policies().keys();
            self.pending.groups(&Text::default(), policies.map(|key| Group::Policy(kind, name.clone(), key)));
        }
    }

    /// Notes every service and every connected proxy's workload, because of a change of one cluster; empty: of the controller.
    fn change_everything(&mut self, cause: &Text) {
        let mut services = 0;
        for cluster in self.clusters.values() {
            services += cluster.services().len() as u64;
            self.pending.services(cause, cluster.services().keys());
        }
        if self.has_rules() {
            let keys: BTreeSet<Key> = self.clusters.values().flat_map(|cluster| cluster.services().keys()).collect();
            self.note_definitions(cause, &keys);
        }
        self.change_all_entries(cause);
        let workloads = self.connected.keys().cloned().map(|(cluster, pod)| Group::Workload(cluster, pod));
        self.pending.groups(cause, workloads);
        if let Some(cluster) = self.clusters.get_mut(cause) {
            cluster.charge(services, cluster.heard.unwrap_or(SystemTime::UNIX_EPOCH));
        }
    }

    /// Notes the workloads of a cluster: whether services are exported decides who may call their pods, if a policy says so.
    fn change_callers(&mut self, cluster: &Text) {
        if !self.has_federation_policies() {
            return;
        }
        let of_cluster = self.connected.keys().filter(|(of, _)| of == cluster).cloned();
        self.pending.groups(cluster, of_cluster.map(|(cluster, pod)| Group::Workload(cluster, pod)));
    }

    fn system_namespaces(&self) -> SystemNamespaces {
        let Settings { root_namespace: root, namespace: own, cluster_domain: domain, .. } = self.settings.clone();
        SystemNamespaces { root, own, domain }
    }
}

#[cfg(test)]
mod tests;
