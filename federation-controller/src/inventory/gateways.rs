//! Gateways of ingress and egress: which ones select a router, and what their changes affect.

use std::collections::BTreeSet;

use super::bindings::{Bound, ServerHost};
use super::cluster::{Affected, ClusterInventory, PodSelector};
use super::rules::Specificity;
use super::{Group, Inventory};
use crate::objects::{Gateway, Key, Pod, Record as _, Text, VirtualService, Watched};

impl ClusterInventory {
    /// A Gateway exports the services that match its hosts, and is what routers listen on.
    pub(super) fn change_gateway(&mut self, key: Key, new: Option<Gateway>) -> Affected {
        let old = self.gateways().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        let in_force = |of: Option<&Gateway>| of.map(|of| (of.created, of.spec.clone()));
        if in_force(old.as_ref()) == in_force(new.as_ref()) {
            self.collections.gateways.replace(&key, new);
            return Affected::default();
        }
        let mut affected = Affected::default();
        if self.info.own {
            self.affect_listeners(&key, &[old.as_ref(), new.as_ref()], &mut affected);
        }
        self.change_exports(key.clone(), old.as_ref(), new, &mut affected);
        if self.info.own {
            affected.bound.extend(self.relations.bindings.of_gateway(&key));
        }
        affected
    }

    /// The routers that a Gateway selects, and its routes before the change. Indexes its servers.
    fn affect_listeners(&mut self, key: &Key, versions: &[Option<&Gateway>; 2], affected: &mut Affected) {
        affected.bound.extend(self.relations.bindings.of_gateway(key));
        let listening = || versions.iter().copied().flatten().filter(|gateway| gateway.has_listeners());
        for labels in listening().filter_map(|gateway| gateway.selector.clone()) {
            let (clusters, namespace) = (Watched::Primary, None);
            affected.selectors.push(PodSelector { clusters, namespace, labels, routers: true });
        }
        for (gateway, add) in versions.iter().zip([false, true]).filter_map(|(of, add)| Some(((*of)?, add))) {
            self.relations.bindings.index_gateway(gateway, add);
        }
    }

    /// Stores a Gateway with the exports of its pods.
    fn change_exports(&mut self, key: Key, old: Option<&Gateway>, new: Option<Gateway>, affected: &mut Affected) {
        let exported = self.relations.gateway_pods.has(&key);
        if exported {
            self.index_hosts(&key, false);
        }
        let exporting = |of: Option<&Gateway>| of.filter(|of| of.exports()).and_then(|of| of.selector.clone());
        let (before, after) = (exporting(old), exporting(new.as_ref()));
        if before != after {
            self.relations.gateway_pods.clear(&key);
            if let Some(labels) = after {
                affected.work = self.pods().len() as u64;
                for pod in self.collections.pods.values().filter(|pod| labels.select(&pod.labels)) {
                    self.relations.gateway_pods.insert(&key, &pod.key());
                }
            }
        }
        self.collections.gateways.replace(&key, new);
        let exports = self.relations.gateway_pods.has(&key);
        if exports {
            self.index_hosts(&key, true);
        }
        affected.whole = exported || exports;
    }

    /// Adds the hosts of a Gateway with pods to the index, or removes them.
    pub(super) fn index_hosts(&mut self, gateway: &Key, add: bool) {
        if let Some(gateway) = self.collections.gateways.get(gateway) {
            match add {
                true => self.relations.hosts.add(gateway),
                false => self.relations.hosts.remove(gateway),
            }
        }
    }

    /// Returns the Gateways that export services and select a pod.
    pub(super) fn exporting_gateways(&self, pod: Option<&Pod>) -> BTreeSet<Key> {
        let Some(pod) = pod else { return BTreeSet::new() };
        self.gateways().selecting(&[], &pod.labels).filter(|gateway| gateway.exports()).map(Gateway::key).collect()
    }

    /// Returns the hosts of servers of a Gateway that cover a host.
    pub fn servers_for(&self, gateway: &Key, host: &str) -> impl Iterator<Item = &ServerHost> {
        self.relations.bindings.servers_for(gateway, host)
    }

    /// Returns the VirtualServices of a Gateway whose hosts cover a host, each with whether the host is its own.
    pub fn bound_to(&self, gateway: &Key, host: &str) -> impl Iterator<Item = (bool, &VirtualService)> {
        let own = match host.strip_prefix('*') {
            Some(suffix) => Specificity::Wildcard(suffix.len()),
            None => Specificity::Exact,
        };
        let found = self.relations.bindings.routes_for(gateway, host);
        found.filter_map(move |(of, id)| Some((of == own, self.virtual_services().at(id)?)))
    }

    /// Returns the routes of all Gateways.
    pub(super) fn all_bound(&self) -> BTreeSet<Bound> {
        self.gateways().keys().flat_map(|key| self.relations.bindings.of_gateway(&key)).collect()
    }

    /// Returns the routes of Gateways that have a service as destination.
    pub(super) fn bound_routed_to(&self, hostname: &str) -> BTreeSet<Bound> {
        let mut found = BTreeSet::new();
        for id in self.relations.rules.destinations.of(hostname) {
            let Some(rule) = self.virtual_services().at(*id) else { continue };
            found.extend(self.bound_by(rule));
            for root in self.relations.rules.roots.of(&rule.key()) {
                found.extend(self.virtual_services().at(*root).into_iter().flat_map(|root| self.bound_by(root)));
            }
        }
        found
    }

    /// Returns the routes of Gateways that a VirtualService has.
    pub(super) fn bound_by(&self, rule: &VirtualService) -> BTreeSet<Bound> {
        self.relations.bindings.of_rule(rule, self.domain())
    }

    /// Returns the hosts of a VirtualService that a Gateway does not serve.
    pub(super) fn unserved(&self, gateway: &Key, rule: &VirtualService) -> BTreeSet<Text> {
        self.relations.bindings.unserved(gateway, rule, self.domain())
    }
}

impl Inventory {
    /// Returns the Gateways with servers that select a router, the oldest first.
    pub fn gateways_of_router<'a>(&'a self, pod: &'a Pod) -> Vec<&'a Gateway> {
        let Some(own) = self.primary() else { return Vec::new() };
        let all = own.gateways().selecting(&[], &pod.labels);
        let mut selecting: Vec<&Gateway> = all.filter(|gateway| gateway.has_listeners()).collect();
        selecting.sort_by_key(|gateway| gateway.age());
        selecting
    }

    /// Returns whether the connected proxy of a pod is an ingress or egress gateway.
    pub fn is_router(&self, cluster: &Text, pod: &Key) -> bool {
        self.connected.get(&(cluster.clone(), pod.clone())).is_some_and(|proxy| proxy.router)
    }

    /// Notes the workloads of all routers, because settings of the mesh have changed.
    pub(super) fn change_all_routers(&mut self) {
        let routers = self.connected.iter().filter(|(_, proxy)| proxy.router);
        let workloads = routers.map(|((cluster, pod), _)| Group::Workload(cluster.clone(), pod.clone()));
        self.pending.groups(&Text::default(), workloads);
    }

    /// Notes routes of Gateways.
    pub(super) fn note_bound(&mut self, cause: &Text, bound: impl IntoIterator<Item = Bound>) {
        self.pending.groups(cause, bound.into_iter().map(|(gateway, host)| Group::Bound(gateway, host)));
    }
}
