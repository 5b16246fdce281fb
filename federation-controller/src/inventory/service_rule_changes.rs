//! What a change of a TrafficSplit, an HTTPRouteGroup or a ServiceProfile affects.

use super::Inventory;
use super::cluster::{Affected, ClusterInventory};
use super::rules::split_host;
use crate::inventory::Group;
use crate::objects::{HttpRouteGroup, Key, Rule, RuleSpec, ServiceProfile, Text, TrafficSplit};

/// Returns what of a rule has effect.
fn in_force<S: RuleSpec>(of: Option<&Rule<S>>) -> Option<(i64, Option<std::sync::Arc<S>>)> {
    of.map(|of| (of.created, of.spec.clone()))
}

impl ClusterInventory {
    /// A TrafficSplit has the routes of its root service. Splits that it is nested in have a notice.
    pub(super) fn change_traffic_split(&mut self, key: Key, new: Option<TrafficSplit>) -> Affected {
        let mut affected = Affected::default();
        let old = self.traffic_splits().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        if in_force(old.as_ref()) == in_force(new.as_ref()) {
            self.collections.traffic_splits.replace(&key, new);
            return affected;
        }
        let domain = self.domain().clone();
        if let (Some(id), Some(old)) = (self.traffic_splits().id(&key), &old) {
            self.relations.rules.index_split(id, old, &domain, false);
        }
        let hosts = [old.as_ref(), new.as_ref()].map(|of| of.and_then(|of| split_host(of, &domain)));
        self.collections.traffic_splits.replace(&key, new);
        if let Some(id) = self.collections.traffic_splits.id(&key)
            && let Some(new) = self.collections.traffic_splits.at(id)
        {
            self.relations.rules.index_split(id, new, &domain, true);
        }
        for host in hosts.into_iter().flatten() {
            affected.rules.extend(self.hosts_split_to(&host));
            affected.rules.insert(host);
        }
        affected
    }

    /// An HTTPRouteGroup has the conditions of the TrafficSplits that refer to it.
    pub(super) fn change_route_group(&mut self, key: Key, new: Option<HttpRouteGroup>) -> Affected {
        let old = self.route_groups().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        let changed = in_force(old.as_ref()) != in_force(new.as_ref());
        self.collections.route_groups.replace(&key, new);
        if !changed {
            return Affected::default();
        }
        let splits = self.relations.rules.grouped.of(&key).filter_map(|id| self.traffic_splits().at(*id));
        let rules = splits.filter_map(|split| split_host(split, self.domain())).collect();
        Affected { rules, ..Affected::default() }
    }

    /// A ServiceProfile has the routes of the host that is its name, and decides which of its ports are opaque.
    pub(super) fn change_service_profile(&mut self, key: Key, new: Option<ServiceProfile>) -> Affected {
        let mut affected = Affected::default();
        let old = self.service_profiles().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        if in_force(old.as_ref()) == in_force(new.as_ref()) {
            self.collections.service_profiles.replace(&key, new);
            return affected;
        }
        let domain = self.domain().clone();
        if let (Some(id), Some(old)) = (self.service_profiles().id(&key), &old) {
            self.relations.rules.index_profile(id, old, &domain, false);
        }
        let opaque = |of: Option<&ServiceProfile>| of.and_then(|of| Some(of.spec.as_ref()?.opaque_ports.clone()));
        if opaque(old.as_ref()).unwrap_or_default() != opaque(new.as_ref()).unwrap_or_default() {
            affected.protocols.insert(key.name.clone());
        }
        self.collections.service_profiles.replace(&key, new);
        if let Some(id) = self.collections.service_profiles.id(&key)
            && let Some(new) = self.collections.service_profiles.at(id)
        {
            self.relations.rules.index_profile(id, new, &domain, true);
        }
        affected.rules.insert(key.name);
        affected
    }

    /// Returns the TrafficSplits of a root service, in no order.
    pub fn splits_of(&self, hostname: &str) -> impl Iterator<Item = &TrafficSplit> {
        self.relations.rules.splits.of(hostname).filter_map(|id| self.traffic_splits().at(*id))
    }

    /// Returns the ServiceProfiles for a host, in no order. There is at most one in each namespace.
    pub fn profiles_of(&self, hostname: &str) -> impl Iterator<Item = &ServiceProfile> {
        self.relations.rules.profiles.of(hostname).filter_map(|id| self.service_profiles().at(*id))
    }

    /// Returns the ServiceProfile of a namespace for a host.
    pub fn profile(&self, namespace: &Text, hostname: &Text) -> Option<&ServiceProfile> {
        self.service_profiles().get(&Key { namespace: namespace.clone(), name: hostname.clone() })
    }

    /// Returns whether a service has routes of SMI or Linkerd.
    pub(super) fn has_service_rules(&self, hostname: &str) -> bool {
        self.relations.rules.splits.has(hostname) || self.relations.rules.profiles.has(hostname)
    }

    /// Returns the hosts of the services that have such routes, or annotations of Linkerd.
    pub(super) fn hosts_with_service_rules(&self) -> impl Iterator<Item = Text> {
        let domain = self.domain();
        let splits = self.traffic_splits().values().filter_map(|of| split_host(of, domain));
        let profiles = self.service_profiles().values().map(|of| of.name.clone());
        let annotated = self.services().values().filter(|service| self.info.own && service.linkerd.is_some());
        let annotated = annotated.map(move |of| Text::from(format!("{}.{}.svc.{domain}", of.name, of.namespace)));
        splits.chain(profiles).chain(annotated)
    }

    /// Returns the hosts whose TrafficSplits or ServiceProfiles have a service as destination.
    pub(super) fn hosts_split_to(&self, hostname: &str) -> Vec<Text> {
        let rules = &self.relations.rules;
        let splits = rules.backends.of(hostname).filter_map(|id| self.traffic_splits().at(*id));
        let profiles = rules.overrides.of(hostname).filter_map(|id| self.service_profiles().at(*id));
        let hosts = splits.filter_map(|of| split_host(of, self.domain())).chain(profiles.map(|of| of.name.clone()));
        hosts.collect()
    }
}

impl Inventory {
    /// Notes what follows from the protocols of a service's ports: the service, and the workloads that have its ports.
    pub(super) fn note_protocols_of(&mut self, cause: &Text, hostname: &Text) {
        let Some(key) = self.settings.service_of(hostname) else { return };
        self.pending.services(cause, [key.clone()]);
        for (name, cluster) in &self.clusters {
            let pods = cluster.slices_of(&key).flat_map(|slice| slice.pod_keys()).map(|pod| (name.clone(), pod));
            let connected = pods.filter(|proxy| self.connected.contains_key(proxy));
            self.pending.groups(cause, connected.map(|(cluster, pod)| Group::Workload(cluster, pod)));
        }
    }

    /// Returns whether a ServiceProfile makes a port of a service opaque: that of the service's own namespace decides.
    pub fn is_opaque(&self, service: &Key, port: u16) -> bool {
        let Some(own) = self.primary().filter(|own| !own.service_profiles().is_empty()) else { return false };
        let profile = own.profile(&service.namespace, &self.settings.hostname(service).into());
        profile.and_then(|of| of.spec.as_ref()).is_some_and(|spec| spec.is_opaque(port))
    }
}
