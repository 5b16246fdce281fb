//! The limits of a peer as a whole: how many services it may export, and with how many endpoints.
//!
//! Within its limits a cluster costs two comparisons in each batching window. Beyond them, its exports are ordered by age, then
//! by name, and what is beyond the limits is refused: the first exports stay as they are when a cluster begins to export without
//! end. The order costs work that the cluster is charged for.

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use api::federation::PeerLimits;

use super::Beyond;
use crate::inventory::export;
use crate::inventory::{ClusterInventory, Definition, Inventory};
use crate::objects::{Key, Record as _, Text};

/// The exports of one cluster that are beyond its limits.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The objects of the cluster have changed since the exports were last counted.
    changed: bool,
    beyond: HashMap<Key, Beyond>,
}

impl Default for Admission {
    fn default() -> Self {
        Admission { changed: true, beyond: HashMap::new() }
    }
}

impl Admission {
    /// Notes that objects have changed.
    pub(crate) fn note(&mut self) {
        self.changed = true;
    }

    /// Returns the limit that the export of a service is beyond.
    pub(crate) fn beyond(&self, service: &Key) -> Option<Beyond> {
        self.beyond.get(service).copied()
    }
}

impl Inventory {
    /// Counts the exports of clusters whose objects have changed. Notes the services that are beyond a limit now and were not,
    /// and the other way round.
    pub(in crate::inventory) fn admit_exports(&mut self) {
        let changed = self.clusters.values_mut().filter(|cluster| !cluster.info.own);
        let changed: Vec<Text> =
            changed.filter_map(|of| std::mem::take(&mut of.admission.changed).then(|| of.info.name.clone())).collect();
        for name in changed {
            let Some(cluster) = self.clusters.get(&name) else { continue };
            let limits = self.total_limits(&name);
            let within = cluster.services().len() <= limits.services && cluster.endpoints() <= limits.endpoints;
            if within && cluster.admission.beyond.is_empty() {
                continue;
            }
            let beyond = if within { HashMap::new() } else { self.beyond(cluster, limits) };
            let work = cluster.services().len() as u64;
            let before = &cluster.admission.beyond;
            let differs = |key: &&Key| before.get(*key) != beyond.get(*key);
            let services: BTreeSet<Key> = before.keys().chain(beyond.keys()).filter(differs).cloned().collect();
            if let Some(cluster) = self.clusters.get_mut(&name) {
                cluster.admission.beyond = beyond;
                let now = cluster.heard.unwrap_or(SystemTime::UNIX_EPOCH);
                cluster.charge(work, now);
            }
            self.note_definitions(&name, &services);
            self.pending.services(&name, services);
        }
    }

    /// Returns the limits of a cluster as a whole: those of the policies of the root namespace, whatever exports these select.
    fn total_limits(&self, cluster: &str) -> PeerLimits {
        let own = self.primary().filter(|own| !own.federation_policies().is_empty());
        let policies =
            own.into_iter().flat_map(|own| own.federation_policies().in_namespace(&self.settings.root_namespace));
        let specs = policies.filter_map(|policy| policy.spec.as_deref());
        PeerLimits::of(specs.flat_map(|spec| spec.peers_of(cluster)).filter_map(|peer| peer.limits.as_ref()))
    }

    fn beyond(&self, cluster: &ClusterInventory, limits: PeerLimits) -> HashMap<Key, Beyond> {
        let exported = cluster.services().values().filter(|service| {
            let definition = Definition { cluster, service };
            export::wanted(self, definition, &self.settings.hostname(&service.key())).is_some()
        });
        let mut exported: Vec<(i64, Key)> = exported.map(|service| (service.created, service.key())).collect();
        exported.sort_unstable();
        let (mut services, mut endpoints, mut beyond) = (0, 0, HashMap::new());
        for (_, key) in exported {
            let own: usize = cluster.slices_of(&key).map(|slice| slice.endpoints.len()).sum();
            if services >= limits.services {
                beyond.insert(key, Beyond::Services(limits.services));
            } else if endpoints + own > limits.endpoints {
                beyond.insert(key, Beyond::Endpoints(limits.endpoints));
            } else {
                services += 1;
                endpoints += own;
            }
        }
        beyond
    }
}
