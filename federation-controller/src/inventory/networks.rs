//! Which cluster may speak for which network.
//!
//! Pods and gateway Services name networks by label, in clusters that somebody else may run. An address that is told as
//! being inside a network is dialled directly there, and a gateway is where all traffic for its network goes: so a cluster
//! may say either only of the network that it is on, or of one that no other cluster is on.

use std::collections::{BTreeMap, BTreeSet};

use crate::inventory::cluster::{ClusterIndex, pod_network};
use crate::objects::event::{Pod, Text};

/// Networks that one cluster's objects may name. Each costs a collection per service, so there is a bound.
const NETWORKS_PER_CLUSTER: usize = 32;

/// The network of each cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Homes {
    /// By cluster; without those whose network is not known.
    of: BTreeMap<Text, Text>,
    /// The values of `of`.
    taken: BTreeSet<Text>,
}

impl Homes {
    pub(crate) fn of<'a>(clusters: impl Iterator<Item = &'a ClusterIndex>) -> Self {
        let of: BTreeMap<Text, Text> = clusters
            .filter(|cluster| !cluster.network().is_empty())
            .map(|cluster| (cluster.info.name.clone(), cluster.network().clone()))
            .collect();
        let taken = of.values().cloned().collect();
        Homes { of, taken }
    }

    /// Whether objects of this cluster are believed when they name this network.
    pub(crate) fn may_name(&self, cluster: &Text, network: &Text) -> bool {
        self.of.get(cluster) == Some(network) || !self.taken.contains(network)
    }

    /// The network that a pod is on; `None` where it names one that it cannot be on.
    pub(crate) fn network<'a>(&self, cluster: &'a ClusterIndex, pod: Option<&'a Pod>) -> Option<&'a Text> {
        match pod.and_then(pod_network) {
            None => Some(cluster.network()),
            Some(named) => self.may_name(&cluster.info.name, named).then_some(named),
        }
    }

    /// All networks that are believed in, and the unnamed one.
    pub(crate) fn networks<'a>(&self, clusters: impl Iterator<Item = &'a ClusterIndex>) -> BTreeSet<Text> {
        let mut all = BTreeSet::from([Text::default()]);
        for cluster in clusters {
            let named: BTreeSet<&Text> =
                cluster.networks().filter(|network| self.may_name(&cluster.info.name, network)).collect();
            all.insert(cluster.network().clone());
            all.extend(named.into_iter().take(NETWORKS_PER_CLUSTER).cloned());
        }
        all
    }

    /// Other clusters on the network that this one is on.
    pub(crate) fn neighbours<'a>(&'a self, cluster: &'a ClusterIndex) -> impl Iterator<Item = &'a Text> {
        let same = self.of.iter().filter(|(name, network)| {
            **name != cluster.info.name && !network.is_empty() && *network == cluster.network()
        });
        same.map(|(name, _)| name)
    }
}
