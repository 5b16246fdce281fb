//! Networks: which exist, and which cluster may name them.
//!
//! Pods and gateway Services name networks by label, in clusters that somebody else may run. Proxies connect directly to an
//! address inside their network, and send all traffic of another network to its gateways. So a cluster may name the network
//! that it is on, and networks that no other cluster is on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cluster::ClusterInventory;
use crate::objects::{Pod, Text};

/// The number of networks that the objects of one cluster may name. Each network costs a collection for every service.
const NETWORKS_PER_CLUSTER: usize = 32;

/// All networks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Networks {
    /// The network of each cluster, without clusters of an unknown network.
    clusters: BTreeMap<Text, Text>,
    /// The values of `clusters`.
    taken: BTreeSet<Text>,
    /// All networks that may be named, and the unnamed one, sorted.
    all: Arc<[Text]>,
}

impl Default for Networks {
    fn default() -> Self {
        Networks { clusters: BTreeMap::new(), taken: BTreeSet::new(), all: [Text::default()].into() }
    }
}

impl Networks {
    /// Returns the networks of these clusters.
    pub fn of<'a>(clusters: impl Iterator<Item = &'a ClusterInventory> + Clone) -> Self {
        let known = clusters.clone().filter(|cluster| !cluster.network().is_empty());
        let by_cluster: BTreeMap<Text, Text> =
            known.map(|cluster| (cluster.info.name.clone(), cluster.network().clone())).collect();
        let taken = by_cluster.values().cloned().collect();
        let mut networks = Networks { clusters: by_cluster, taken, all: Arc::new([]) };
        let mut all = BTreeSet::from([Text::default()]);
        for cluster in clusters {
            let named = cluster.named_networks().filter(|network| networks.may_name(&cluster.info.name, network));
            let named: BTreeSet<&Text> = named.collect();
            all.insert(cluster.network().clone());
            all.extend(named.into_iter().take(NETWORKS_PER_CLUSTER).cloned());
        }
        networks.all = all.into_iter().collect();
        networks
    }

    /// All networks and the unnamed one, sorted.
    pub fn all(&self) -> &Arc<[Text]> {
        &self.all
    }

    /// Returns whether objects of a cluster may name a network.
    pub fn may_name(&self, cluster: &Text, network: &Text) -> bool {
        self.clusters.get(cluster) == Some(network) || !self.taken.contains(network)
    }

    /// Returns the network of a pod, or `None` if its label names a network that its cluster may not name.
    pub fn of_pod<'a>(&self, cluster: &'a ClusterInventory, pod: Option<&'a Pod>) -> Option<&'a Text> {
        match pod.and_then(Pod::network) {
            None => Some(cluster.network()),
            Some(named) => self.may_name(&cluster.info.name, named).then_some(named),
        }
    }

    /// Returns the other clusters on a cluster's network.
    pub fn neighbours<'a>(&'a self, cluster: &'a ClusterInventory) -> impl Iterator<Item = &'a Text> {
        let same = self.clusters.iter().filter(|(name, network)| {
            **name != cluster.info.name && !network.is_empty() && *network == cluster.network()
        });
        same.map(|(name, _)| name)
    }
}
