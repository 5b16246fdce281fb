//! The leases of the clusters of the inventory: the words of proxies, the passing of time, and what both affect.

use std::time::SystemTime;

use super::lists::PathEvidence;
use super::{Group, Inventory};
use crate::leases::words::{Speaker, Word};
use crate::leases::{Changes, Known, KnownLink, Leases, SavedLeases};
use crate::objects::event::Link;
use crate::objects::{Key, Text};

impl Inventory {
    /// The leases of remote clusters.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Takes the words of a proxy about its paths to other clusters. Those of a pod that the proxy's cluster does not have with
    /// this service account count for nothing, and neither do those about unknown clusters.
    pub fn hear(&mut self, cluster: &Text, pod: &Key, account: &str, mut words: Vec<Word>, now: SystemTime) {
        let Some(known) = self.clusters.get(cluster).and_then(|of| of.pods().get(pod)) else { return };
        if *known.service_account != *account {
            return;
        }
        let node = known.node.clone();
        words.retain(|word| self.clusters.get(&word.cluster).is_some_and(|of| !of.info.own));
        self.leases.hear(Speaker { cluster: cluster.clone(), pod: pod.clone(), node }, words, now);
    }

    /// Takes the leases of the snapshot.
    pub(crate) fn restore_leases(&mut self, saved: SavedLeases) {
        self.leases.restore(saved);
    }

    /// Brings the leases up to now, and notes the resources that follow from them.
    pub(super) fn step_leases(&mut self, now: SystemTime) {
        let remote = self.clusters.values().filter(|cluster| !cluster.info.own);
        let known = remote.map(|cluster| Known {
            cluster: cluster.info.name.clone(),
            link: match cluster.link.0 {
                Link::Connected => KnownLink::Up,
                Link::Connecting => KnownLink::Begun,
                Link::Lost(_) | Link::Refused(_) | Link::Excluded(_) => KnownLink::Down,
            },
        });
        let known: Vec<Known> = known.collect();
        let Changes { expired, drained } = self.leases.step(&known, now);
        if drained {
            self.pending.groups(&Text::default(), [Group::Mesh]);
        }
        for name in expired {
            if let Some(cluster) = self.clusters.get(&name) {
                self.pending.services(&name, cluster.services().keys());
            }
        }
    }

    /// Returns what the proxies of other clusters say about the pods of a cluster.
    pub(super) fn path_evidence(&self, cluster: &str, now: SystemTime) -> PathEvidence {
        let opinions = self.leases.opinions(cluster, now);
        PathEvidence {
            alive: opinions.iter().filter_map(|opinion| opinion.last_alive).max(),
            dead: self.leases.of(cluster).is_some_and(|lease| !lease.drained().is_empty()),
        }
    }

    /// Returns the clusters with a list that is to be repeated because it was unexpectedly empty, each once.
    pub fn take_relists(&mut self, now: SystemTime) -> Vec<Text> {
        let due = self.clusters.iter_mut().filter_map(|(name, cluster)| cluster.take_relist(now).then(|| name.clone()));
        due.collect()
    }
}
