//! ServiceEntries by their hosts, and the workloads that they select.
//!
//! They are read in the controller's own cluster, for the proxies of all clusters. What they select is in that cluster as well.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::machines::{self, labels_of};
use super::rules::Specificity;
use super::{Affected, ClusterInventory, Inventory, OWN_SERVICES, PodSelector, RuleNotice};
use crate::objects::{
    Key, Kind, Labels, Pod, Record as _, ServiceEntry, Slice, Text, Watched, WorkloadEntry, WorkloadGroup, fields,
};

/// Returns the hosts of an entry, each of which is a service, also wildcards.
pub fn hosts_of(entry: &ServiceEntry) -> impl Iterator<Item = Text> {
    let hosts = entry.spec.iter().flat_map(|spec| &spec.hosts);
    let hosts = hosts.filter(|host| *host != "*" && host.len() <= fields::MAX_HOST);
    hosts.map(|host| host.trim_end_matches('.').to_ascii_lowercase().into())
}

impl ClusterInventory {
    /// An entry defines its hosts.
    pub(super) fn change_service_entry(&mut self, key: Key, new: Option<ServiceEntry>) -> Affected {
        let old = self.service_entries().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        let in_force = |of: Option<&ServiceEntry>| of.map(|of| (of.created, of.spec.clone(), of.unallocated));
        let mut affected = Affected::default();
        let changes = in_force(old.as_ref()) != in_force(new.as_ref());
        if changes && let (Some(id), Some(old)) = (self.service_entries().id(&key), &old) {
            for host in hosts_of(old) {
                self.relations.entries.remove(&host, &id);
                affected.hosts.insert(host);
            }
        }
        if changes {
            // The entry's ports are inbound ports of what it selects.
            let selectors = [&old, &new].into_iter().flatten().filter_map(|of| of.selector.clone());
            affected.selectors.extend(selectors.map(|labels| PodSelector {
                clusters: Watched::EveryCluster,
                namespace: Some(key.namespace.clone()),
                labels,
                routers: false,
            }));
        }
        self.collections.service_entries.replace(&key, new);
        if changes
            && let Some(id) = self.collections.service_entries.id(&key)
            && let Some(new) = self.collections.service_entries.at(id)
        {
            for host in hosts_of(new) {
                self.relations.entries.insert(&host, &id);
                affected.hosts.insert(host);
            }
        }
        affected
    }

    /// A workload is an endpoint of the entries that select it.
    pub(super) fn change_workload_entry(&mut self, key: Key, new: Option<WorkloadEntry>) -> Affected {
        let old = self.workload_entries().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        let mut affected = Affected::default();
        if old.as_ref().map(|of| &of.spec) != new.as_ref().map(|of| &of.spec) {
            for of in [&old, &new].into_iter().flatten() {
                self.affect_entries_selecting(&of.namespace, &labels_of(of), &mut affected);
            }
        }
        self.collections.workload_entries.replace(&key, new);
        self.derive_of_entry(&key, &mut affected);
        affected
    }

    /// A group has the probe of the workloads that are registered for it.
    pub(super) fn change_workload_group(&mut self, key: Key, new: Option<WorkloadGroup>) -> Affected {
        let old = self.workload_groups().get(&key).cloned();
        let new = new.map(|new| new.or_last_valid(old.as_ref()));
        let mut affected = Affected::default();
        if old.as_ref().map(|of| &of.spec) != new.as_ref().map(|of| &of.spec) {
            affected.pods.extend(self.entries_of_group(&key).map(|entry| machines::pod_key(&entry.key())));
        }
        let any = !self.workload_groups().is_empty();
        self.collections.workload_groups.replace(&key, new);
        if any == self.workload_groups().is_empty() {
            // The gateway leads to the controller while there are groups.
            let discovery = Key { namespace: self.system.own.clone(), name: OWN_SERVICES[0].0.into() };
            affected.definitions.insert(discovery.clone());
            affected.services.insert(discovery);
        }
        affected
    }

    /// Adds the hosts of the entries that select a pod.
    pub(super) fn affect_entries_of_pod(&self, pod: Option<&Pod>, affected: &mut Affected) {
        if let Some(pod) = pod {
            self.affect_entries_selecting(&pod.namespace, &pod.labels, affected);
        }
    }

    /// Adds the hosts of the entries that select pods of a slice, which has their addresses.
    pub(super) fn affect_entries_of_slice(&self, slice: &Slice, affected: &mut Affected) {
        if !self.service_entries().is_empty() {
            for pod in slice.pod_keys() {
                self.affect_entries_of_pod(self.pods().get(&pod), affected);
            }
        }
    }

    fn affect_entries_selecting(&self, namespace: &Text, labels: &Labels, affected: &mut Affected) {
        if self.service_entries().is_empty() {
            return;
        }
        affected.hosts.extend(self.service_entries().selecting(&[namespace], labels).flat_map(hosts_of));
    }

    /// Returns the entries with a host, in the order of age. A host with a VirtualService or DestinationRule of its own that no entry
    /// has is one of the entries with the longest wildcard for it.
    pub fn entries_of(&self, host: &str) -> Vec<&ServiceEntry> {
        let name = if self.relations.entries.has(host) { Some(Text::from(host)) } else { None };
        let name = name.or_else(|| self.wildcard_of(host).filter(|_| self.has_rules_of_host(host)));
        let ids = name.iter().flat_map(|name| self.relations.entries.of(name));
        let mut entries: Vec<&ServiceEntry> = ids.filter_map(|id| self.service_entries().at(*id)).collect();
        entries.sort_by_key(|entry| entry.age());
        entries
    }

    /// Returns the longest wildcard of entries for a host.
    fn wildcard_of(&self, host: &str) -> Option<Text> {
        if self.relations.entries.is_empty() || host.starts_with('*') {
            return None;
        }
        let wildcards = host.match_indices('.').map(|(at, _)| format!("*{}", &host[at..]));
        wildcards.map(Text::from).find(|wildcard| self.relations.entries.has(wildcard))
    }

    /// Returns whether a VirtualService or DestinationRule is for exactly this host.
    fn has_rules_of_host(&self, host: &str) -> bool {
        let exact = |specificity: Specificity| specificity == Specificity::Exact;
        self.routes_for(host).any(|(of, _)| exact(of)) || self.policies_for(host).any(|(of, _)| exact(of))
    }

    /// Returns the hosts with rules of their own that are below a wildcard of entries.
    fn hosts_below(&self, wildcard: &str) -> impl Iterator<Item = Text> {
        let suffix = wildcard.trim_start_matches('*').to_owned();
        self.hosts_with_rules().into_iter().filter(move |host| !host.starts_with('*') && host.ends_with(&suffix))
    }

    /// Returns the hosts of all entries.
    pub(super) fn entry_hosts(&self) -> BTreeSet<Text> {
        self.service_entries().values().flat_map(hosts_of).collect()
    }

    /// Returns the address blocks of entries, with the first host of each, in order: at most `limit`.
    pub fn address_blocks(&self, limit: usize) -> Vec<(String, Text)> {
        let of = |entry: &ServiceEntry| {
            let addresses = entry.spec.iter().flat_map(|spec| &spec.addresses).filter(|address| address.contains('/'));
            let host = hosts_of(entry).next();
            addresses.filter_map(|address| Some((address.clone(), host.clone()?))).collect::<Vec<_>>()
        };
        let mut blocks: Vec<(String, Text)> = self.service_entries().values().flat_map(of).collect();
        blocks.sort_unstable();
        blocks.dedup_by(|later, first| later.0 == first.0);
        blocks.truncate(limit);
        blocks
    }

    /// Returns whether an entry has a wildcard.
    pub fn has_wildcard_entries(&self) -> bool {
        self.service_entries().values().flat_map(hosts_of).any(|host| host.starts_with('*'))
    }

    /// Returns the WorkloadEntries that an entry selects, ordered by name.
    pub fn selected_workloads(&self, entry: &ServiceEntry) -> Vec<&WorkloadEntry> {
        let Some(selector) = &entry.selector else { return Vec::new() };
        let in_namespace = self.workload_entries().in_namespace(&entry.namespace);
        let ready = |of: &&WorkloadEntry| of.spec.as_ref().is_some_and(|spec| !spec.unready);
        let mut selected: Vec<&WorkloadEntry> =
            in_namespace.filter(ready).filter(|of| selector.select(&labels_of(of))).collect();
        selected.sort_by(|a, b| a.name.cmp(&b.name));
        selected
    }

    /// Returns the pods that an entry selects and that a Service lists, with an address of each, ordered by name.
    pub fn selected_pods(&self, entry: &ServiceEntry) -> Vec<(&Pod, IpAddr)> {
        let Some(selector) = &entry.selector else { return Vec::new() };
        let is_pod = |pod: &Pod| !pod.terminating && !machines::is_derived(&pod.name);
        let selects = |pod: &&Pod| pod.namespace == entry.namespace && is_pod(pod) && selector.select(&pod.labels);
        let address = |pod: &Pod| {
            let of = |slice: &Slice| {
                let endpoint = slice.endpoints.iter().find(|of| of.pod.as_ref() == Some(&pod.name) && of.ready);
                endpoint.map(|endpoint| endpoint.ip)
            };
            self.slices_with(&pod.key()).filter_map(of).min()
        };
        let mut selected: Vec<(&Pod, IpAddr)> =
            self.pods().values().filter(selects).filter_map(|pod| Some((pod, address(pod)?))).collect();
        selected.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        selected
    }
}

impl Inventory {
    /// Returns the entries with a host, in the order of age.
    pub fn entries(&self, host: &str) -> Vec<&ServiceEntry> {
        self.primary().map(|own| own.entries_of(host)).unwrap_or_default()
    }

    /// Returns the notices about hosts of entries that are defined elsewhere, and about workloads that no entry selects, in no order.
    pub(super) fn entry_notices(&self) -> impl Iterator<Item = RuleNotice> {
        let own = self.primary();
        let workloads = own.into_iter().flat_map(|own| {
            let unused = |of: &&WorkloadEntry| {
                let pod = machines::pod_key(&of.key());
                of.spec.is_some()
                    && own.service_entries().selecting(&[&of.namespace], &labels_of(of)).next().is_none()
                    && own.slices_with(&pod).next().is_none()
                    && !self.is_connected(&own.info.name, &pod)
            };
            own.workload_entries().values().filter(unused)
        });
        let unused = workloads.map(|workload| RuleNotice {
            kind: Kind::WorkloadEntry,
            object: workload.key(),
            code: "IST0133".into(),
            text: "no ServiceEntry or Service of its namespace selects it, and no proxy is connected for it, so it has no effect: write its labels into a selector".into(),
        });
        let entries = own.into_iter().flat_map(|own| own.service_entries().values());
        unused.chain(entries.flat_map(|entry| {
            hosts_of(entry).filter_map(|host| {
                let text = if self.definitions(&host).next().is_some() {
                    format!(
                        "host {host} is a Kubernetes Service, which takes precedence: the entry has no effect for it"
                    )
                } else {
                    let same = |of: &&&ServiceEntry| of.namespace == entry.namespace;
                    let entries = self.entries(&host);
                    let first = entries.iter().find(same).filter(|first| first.name != entry.name)?;
                    let key = first.key();
                    format!(
                        "host {host} is of ServiceEntry {key} as well, which is older: the entry has no effect for it"
                    )
                };
                let (kind, object) = (Kind::ServiceEntry, entry.key());
                Some(RuleNotice { kind, object, code: "IST0109".into(), text })
            })
        }))
    }

    /// Returns the namespace of the service of a host: of the Kubernetes Service that the name is one of, else of the oldest entry.
    pub fn namespace_of(&self, host: &str) -> Option<Text> {
        let service = self.settings.service_of(host).map(|key| key.namespace);
        service.or_else(|| self.entries(host).first().map(|entry| entry.namespace.clone()))
    }

    /// Returns whether there are entries.
    pub fn has_entries(&self) -> bool {
        self.primary().is_some_and(|own| !own.relations.entries.is_empty())
    }

    /// Notes the services of hosts whose entries have changed, and what follows from them.
    pub(super) fn note_entries(&mut self, cause: &Text, mut hosts: BTreeSet<Text>) {
        if hosts.is_empty() {
            return;
        }
        if let Some(own) = self.primary() {
            let wildcards: Vec<Text> = hosts.iter().filter(|host| host.starts_with('*')).cloned().collect();
            hosts.extend(wildcards.iter().flat_map(|wildcard| own.hosts_below(wildcard)));
        }
        self.note_defined(cause, hosts.iter().cloned());
        self.pending.groups(cause, hosts.into_iter().map(super::Group::Service));
        // Whether proxies ask for names of other domains depends on whether there are entries.
        self.pending.groups(cause, [super::Group::Mesh]);
    }

    /// Notes the service of a host whose rules have changed, if the host is below a wildcard of entries.
    pub(super) fn note_below_wildcard(&mut self, cause: &Text, host: &Text) {
        if self.primary().is_some_and(|own| !own.relations.entries.has(host) && own.wildcard_of(host).is_some()) {
            self.pending.groups(cause, [super::Group::Service(host.clone())]);
        }
    }

    /// Notes the services of all entries.
    pub(super) fn change_all_entries(&mut self, cause: &Text) {
        let hosts = self.primary().map(ClusterInventory::entry_hosts).unwrap_or_default();
        self.note_entries(cause, hosts);
    }
}
