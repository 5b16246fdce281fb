//! All upstream clusters of one worker.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::cluster::{ClusterKey, UpstreamCluster};
use crate::mesh::MeshView;

/// The number of clusters that are kept for hosts and addresses that applications chose. Beyond it, those that carry nothing are
/// dropped.
const MAX_CHOSEN: usize = 64;

/// All upstream clusters of one worker.
#[derive(Debug, Default)]
pub struct UpstreamClusters {
    by_key: RefCell<HashMap<ClusterKey, Rc<UpstreamCluster>>>,
    /// The number of clusters for what applications chose.
    chosen: Cell<usize>,
}

impl UpstreamClusters {
    /// Returns the cluster of a key, up to date.
    pub fn get(&self, key: ClusterKey, view: &MeshView) -> Rc<UpstreamCluster> {
        let mut clusters = self.by_key.borrow_mut();
        if is_chosen(&key) && !clusters.contains_key(&key) {
            if self.chosen.get() >= MAX_CHOSEN {
                clusters.retain(|key, cluster| !is_chosen(key) || Rc::strong_count(cluster) > 1);
                self.chosen.set(clusters.keys().filter(|key| is_chosen(key)).count());
            }
            self.chosen.set(self.chosen.get() + 1);
        }
        let cluster = clusters.entry(key);
        let cluster = cluster.or_insert_with_key(|key| Rc::new(UpstreamCluster::of_service(key.clone(), view))).clone();
        drop(clusters);
        self.refresh(&cluster, view);
        cluster
    }

    /// Brings a cluster up to date, and marks it as used.
    pub fn refresh(&self, cluster: &UpstreamCluster, view: &MeshView) {
        cluster.used.set(true);
        update(cluster, view);
    }

    /// Closes connections that have been idle for long, updates clusters that are not in use so that their connections to
    /// removed endpoints are closed, marks the services in use, and drops clusters that are no longer needed.
    pub fn sweep(&self, view: &MeshView) {
        self.by_key.borrow().values().for_each(|cluster| {
            update(cluster, view);
            cluster.sweep();
        });
        let snapshot = view.snapshot();
        let mut used = HashSet::new();
        self.by_key.borrow_mut().retain(|key, cluster| {
            // Each downstream connection holds the cluster that it goes to.
            if cluster.used.replace(false) || Rc::strong_count(cluster) > 1 {
                used.insert(key.hostname.clone());
                return true;
            }
            // The cluster of a single pod is cheap to build anew. A service's holds what it learned of endpoints, and stays
            // as long as the service.
            let is_single = key.endpoint.is_some() || is_chosen(key);
            snapshot.services.contains_key(&key.hostname) && (!is_single || cluster.keeps_connections())
        });
        self.chosen.set(self.by_key.borrow().keys().filter(|key| is_chosen(key)).count());
        view.mark_used(&used);
    }
}

/// Returns whether the application chose a part of the key: there may be as many as it likes.
fn is_chosen(key: &ClusterKey) -> bool {
    key.server_name.is_some() || key.address.is_some()
}

fn update(cluster: &UpstreamCluster, view: &MeshView) {
    let version = view.version();
    if !cluster.is_at(version) {
        cluster.refresh(version, &view.snapshot());
    }
}
