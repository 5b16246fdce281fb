//! Networks: which exist, which cluster is on which, and which cluster may name them.
//!
//! Pods, gateway Services and system namespaces name networks by label, in clusters that somebody else may run. Proxies connect
//! directly to an address inside their network, and send all traffic of another network to its gateways. So:
//!
//! - the network of a cluster is what its joining side says: the annotation of its remote secret, and for the controller's own
//!   cluster its label or option;
//! - without that, a remote cluster's label chooses a network that no other cluster is on. Of several remote clusters with one
//!   label, the one that joined first is on the network. The others are on none, and a notice says so;
//! - a cluster's objects may name the network that it is on, and networks that no other cluster is on.

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
    /// Clusters whose label names the network of another one.
    refused: BTreeSet<Text>,
    /// All networks that may be named, and the unnamed one, sorted.
    all: Arc<[Text]>,
}

impl Default for Networks {
    fn default() -> Self {
        Networks {
            clusters: BTreeMap::new(),
            taken: BTreeSet::new(),
            refused: BTreeSet::new(),
            all: [Text::default()].into(),
        }
    }
}

impl Networks {
    /// Returns the networks of these clusters.
    pub fn of<'a>(clusters: impl Iterator<Item = &'a ClusterInventory> + Clone) -> Self {
        let mut networks = Networks { all: Arc::new([]), ..Networks::default() };
        let named = clusters.clone().filter(|cluster| !cluster.claimed_network().is_empty());
        let (stated, mut labelled): (Vec<_>, Vec<_>) = named.partition(|cluster| cluster.states_network());
        labelled.sort_by_key(|cluster| (cluster.info.joined, &cluster.info.name));
        for cluster in stated.into_iter().chain(labelled) {
            let (name, network) = (&cluster.info.name, cluster.claimed_network());
            if !cluster.states_network() && networks.taken.contains(network) {
                networks.refused.insert(name.clone());
                continue;
            }
            networks.clusters.insert(name.clone(), network.clone());
            networks.taken.insert(network.clone());
        }
        let mut all = BTreeSet::from([Text::default()]);
        for cluster in clusters {
            let named = cluster.named_networks().filter(|network| networks.may_name(&cluster.info.name, network));
            let named: BTreeSet<&Text> = named.collect();
            all.extend(networks.clusters.get(&cluster.info.name).cloned());
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

    /// Returns the network that a cluster is on; empty: unknown.
    pub fn of_cluster(&self, cluster: &str) -> Text {
        self.clusters.get(cluster).cloned().unwrap_or_default()
    }

    /// Returns the clusters on a network, if the label of `cluster` names it and is refused because of them.
    pub fn refusal<'a>(&'a self, cluster: &'a ClusterInventory) -> Option<impl Iterator<Item = &'a Text>> {
        let on =
            self.clusters.iter().filter(|(_, network)| *network == cluster.claimed_network()).map(|(name, _)| name);
        self.refused.contains(&cluster.info.name).then_some(on)
    }
}
