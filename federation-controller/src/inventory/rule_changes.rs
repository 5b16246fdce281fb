//! What a change of a rule of routing affects, and of the services that rules are about.
//!
//! A rule affects the hostnames that it is for. A wildcard affects the services whose hostnames it matches: the wildcards of
//! a batching window are compared with all services together, once.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::cluster::{Affected, ClusterInventory};
use super::rules::{ByHost, Specificity, is_wildcard, policy_host, route_hosts};
use super::{Group, Inventory};
use crate::objects::{DestinationRule, Key, Record as _, Text, VirtualService};

/// Wildcards of changed rules.
#[derive(Debug, Default)]
pub(super) struct Wildcards {
    /// The routes and policies of hosts that they match may differ.
    rules: ByHost,
    /// The subsets of services that they match may differ.
    subsets: ByHost,
}

impl Wildcards {
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.subsets.is_empty()
    }
}

impl ClusterInventory {
    /// A VirtualService has the routes of its hosts, or of the hosts of those that delegate to it.
    pub(super) fn change_virtual_service(&mut self, key: Key, new: Option<VirtualService>) -> Affected {
        let mut affected = Affected::default();
        let old = self.virtual_services().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        let in_force = |of: Option<&VirtualService>| of.map(|of| (of.created, of.spec.clone()));
        if in_force(old.as_ref()) == in_force(new.as_ref()) {
            self.collections.virtual_services.replace(&key, new);
            return affected;
        }
        let domain = self.domain().clone();
        if let (Some(id), Some(old)) = (self.virtual_services().id(&key), &old) {
            self.relations.rules.index_routes(id, old, &domain, false);
            self.relations.bindings.index_routes(id, old, &domain, false);
            affected.rules.extend(route_hosts(old, &domain));
            affected.bound.extend(self.bound_by(old));
        }
        if let Some(new) = &new {
            affected.rules.extend(route_hosts(new, &domain));
            affected.bound.extend(self.bound_by(new));
        }
        self.collections.virtual_services.replace(&key, new);
        if let Some(id) = self.collections.virtual_services.id(&key)
            && let Some(new) = self.collections.virtual_services.at(id)
        {
            self.relations.rules.index_routes(id, new, &domain, true);
            self.relations.bindings.index_routes(id, new, &domain, true);
        }
        for root in self.relations.rules.roots.of(&key) {
            affected.rules.extend(self.hosts_routed_by(*root));
            let root = self.virtual_services().at(*root);
            affected.bound.extend(root.into_iter().flat_map(|root| self.bound_by(root)));
        }
        affected
    }

    /// A DestinationRule has the policy and the subsets of its host.
    pub(super) fn change_destination_rule(&mut self, key: Key, new: Option<DestinationRule>) -> Affected {
        let mut affected = Affected::default();
        let old = self.destination_rules().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        let in_force = |of: Option<&DestinationRule>| of.map(|of| (of.created, of.spec.clone()));
        if in_force(old.as_ref()) == in_force(new.as_ref()) {
            self.collections.destination_rules.replace(&key, new);
            return affected;
        }
        let domain = self.domain().clone();
        let hosts = [old.as_ref(), new.as_ref()].map(|of| of.and_then(|of| policy_host(of, &domain)));
        affected.rules = hosts.into_iter().flatten().collect();
        let has_subsets = |of: &&DestinationRule| of.spec.as_ref().is_some_and(|spec| !spec.subsets.is_empty());
        let of_subsets = [old.as_ref(), new.as_ref()].into_iter().flatten().filter(has_subsets);
        affected.subsets = of_subsets.filter_map(|of| policy_host(of, &domain)).collect();
        if let (Some(id), Some(old)) = (self.destination_rules().id(&key), &old) {
            self.relations.rules.index_policy(id, old, &domain, false);
        }
        self.collections.destination_rules.replace(&key, new);
        if let Some(id) = self.collections.destination_rules.id(&key)
            && let Some(new) = self.collections.destination_rules.at(id)
        {
            self.relations.rules.index_policy(id, new, &domain, true);
        }
        affected
    }

    /// Returns the VirtualServices for sidecars whose hosts match a hostname, those with the most specific hosts first.
    pub fn routes_for(&self, hostname: &str) -> impl Iterator<Item = (Specificity, &VirtualService)> {
        let found = self.relations.rules.routes.matching(hostname);
        found.filter_map(|(specificity, id)| Some((specificity, self.virtual_services().at(id)?)))
    }

    /// Returns the DestinationRules whose hosts match a hostname, those with the most specific hosts first.
    pub fn policies_for(&self, hostname: &str) -> impl Iterator<Item = (Specificity, &DestinationRule)> {
        let found = self.relations.rules.policies.matching(hostname);
        found.filter_map(|(specificity, id)| Some((specificity, self.destination_rules().at(id)?)))
    }

    /// Returns the hosts of all rules.
    pub(super) fn hosts_with_rules(&self) -> BTreeSet<Text> {
        let domain = self.domain();
        let routed = self.virtual_services().values().flat_map(|of| route_hosts(of, domain));
        let hosts = routed.chain(self.destination_rules().values().filter_map(|of| policy_host(of, domain)));
        hosts.chain(self.hosts_with_service_rules()).collect()
    }

    /// Returns whether rules are for a hostname.
    fn has_rules(&self, hostname: &str) -> bool {
        let rules = &self.relations.rules;
        rules.routes.matches(hostname) || rules.policies.matches(hostname) || self.has_service_rules(hostname)
    }

    /// Returns the hosts whose routes have a service as destination.
    fn hosts_routed_to(&self, hostname: &str) -> BTreeSet<Text> {
        let mut hosts = BTreeSet::new();
        for id in self.relations.rules.destinations.of(hostname) {
            hosts.extend(self.hosts_routed_by(*id));
            let key = self.virtual_services().at(*id).map(VirtualService::key);
            for root in key.iter().flat_map(|key| self.relations.rules.roots.of(key)) {
                hosts.extend(self.hosts_routed_by(*root));
            }
        }
        hosts.extend(self.hosts_split_to(hostname));
        hosts
    }

    fn hosts_routed_by(&self, id: u32) -> BTreeSet<Text> {
        self.virtual_services().at(id).map(|of| route_hosts(of, self.domain())).unwrap_or_default()
    }
}

impl Inventory {
    /// The cluster that rules of routing are read from: the controller's own.
    pub fn primary(&self) -> Option<&ClusterInventory> {
        self.clusters.get(&self.settings.cluster)
    }

    /// Notes what follows from rules, by host.
    pub(super) fn note_rules(&mut self, cause: &Text, rules: BTreeSet<Text>, subsets: BTreeSet<Text>) {
        for host in rules {
            self.note_rules_of(cause, host);
        }
        for host in subsets {
            match is_wildcard(&host) {
                true => self.wildcards.subsets.insert(&host, 0),
                false => self.note_subsets_of(cause, &host),
            }
        }
    }

    /// Returns whether there are rules of routing.
    pub(super) fn has_rules(&self) -> bool {
        self.mesh.default_policy.is_some() || self.primary().is_some_and(|own| !own.relations.rules.is_empty())
    }

    /// Notes what follows from services whose definitions have changed: they are new or gone, exported or no longer, or have
    /// other ports.
    pub(super) fn note_definitions(&mut self, cause: &Text, services: &BTreeSet<Key>) {
        let hostnames: Vec<Text> = services.iter().map(|key| self.settings.hostname(key).into()).collect();
        self.note_defined(cause, hostnames);
    }

    /// Notes what follows from hosts whose definitions have changed.
    pub(super) fn note_defined(&mut self, cause: &Text, hostnames: impl IntoIterator<Item = Text>) {
        if !self.has_rules() && self.wildcards.is_empty() {
            return;
        }
        let default = self.mesh.default_policy.is_some();
        let mut noted = 0;
        for hostname in hostnames {
            // A service that is gone is no longer found for wildcards that wait.
            let waits = self.wildcards.rules.matches(&hostname);
            if default || waits || self.primary().is_some_and(|own| own.has_rules(&hostname)) {
                self.note_rules_of(cause, hostname.clone());
                noted += 1;
            }
            noted += self.note_routes_to(cause, &hostname);
        }
        if let Some(cluster) = self.clusters.get_mut(cause) {
            cluster.charge(noted, cluster.heard.unwrap_or(SystemTime::UNIX_EPOCH));
        }
    }

    /// Notes the rules of all hosts. With a policy of the whole mesh, before or now, these are all services.
    pub(super) fn change_all_rules(&mut self, had_default: bool) {
        let mut hosts = self.primary().map(ClusterInventory::hosts_with_rules).unwrap_or_default();
        if had_default || self.mesh.default_policy.is_some() {
            hosts.insert("*".into());
        }
        self.note_rules(&Text::default(), hosts, BTreeSet::new());
        let bound = self.primary().map(ClusterInventory::all_bound).unwrap_or_default();
        self.note_bound(&Text::default(), bound);
    }

    /// Compares the wildcards of changed rules with all services.
    pub(super) fn resolve_wildcards(&mut self) {
        let changed = std::mem::take(&mut self.wildcards);
        if changed.is_empty() {
            return;
        }
        let keys = self.clusters.values().flat_map(|cluster| cluster.services().keys());
        let mut hostnames: BTreeSet<Text> = keys.map(|key| self.settings.hostname(&key).into()).collect();
        hostnames.extend(self.primary().map(ClusterInventory::entry_hosts).unwrap_or_default());
        let cause = self.settings.cluster.clone();
        for hostname in hostnames {
            if changed.subsets.matches(&hostname) {
                self.note_subsets_of(&cause, &hostname);
            }
            if changed.rules.matches(&hostname) {
                // Also of a wildcard that is the host of a ServiceEntry.
                self.pending.groups(&cause, [Group::Rules(hostname)]);
            }
        }
        // Subsets of a wildcard change the routes to them, which may be of wildcards again.
        if !self.wildcards.is_empty() {
            self.resolve_wildcards();
        }
    }

    fn note_rules_of(&mut self, cause: &Text, host: Text) {
        match is_wildcard(&host) {
            true => self.wildcards.rules.insert(&host, 0),
            false => {
                self.note_below_wildcard(cause, &host);
                self.pending.groups(cause, [Group::Rules(host)]);
            }
        }
    }

    /// Other networks have summaries of the subsets of a service, and routes to them are checked.
    fn note_subsets_of(&mut self, cause: &Text, hostname: &Text) {
        match self.settings.service_of(hostname) {
            Some(service) => self.pending.services(cause, [service]),
            None => self.pending.groups(cause, [Group::Service(hostname.clone())]),
        }
        self.note_routes_to(cause, hostname);
    }

    /// Notes the hosts with routes to a service, and returns their number.
    fn note_routes_to(&mut self, cause: &Text, hostname: &Text) -> u64 {
        let own = self.primary();
        let hosts = own.map(|own| own.hosts_routed_to(hostname)).unwrap_or_default();
        let bound = own.map(|own| own.bound_routed_to(hostname)).unwrap_or_default();
        let count = (hosts.len() + bound.len()) as u64;
        self.note_bound(cause, bound);
        hosts.into_iter().for_each(|host| self.note_rules_of(cause, host));
        count
    }
}
