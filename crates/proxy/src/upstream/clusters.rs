//! All upstream clusters of one worker.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::cluster::{ClusterKey, UpstreamCluster};
use crate::mesh::MeshView;

/// All upstream clusters of one worker.
#[derive(Debug, Default)]
pub struct UpstreamClusters {
    by_key: RefCell<HashMap<ClusterKey, Rc<UpstreamCluster>>>,
}

impl UpstreamClusters {
    /// Returns the cluster of a key, up to date.
    pub fn get(&self, key: ClusterKey, view: &MeshView) -> Rc<UpstreamCluster> {
        let mut clusters = self.by_key.borrow_mut();
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
            snapshot.services.contains_key(&key.hostname) && (key.endpoint.is_none() || cluster.keeps_connections())
        });
        view.mark_used(&used);
    }
}

fn update(cluster: &UpstreamCluster, view: &MeshView) {
    let version = view.version();
    if !cluster.is_at(version) {
        cluster.refresh(version, &view.snapshot());
    }
}
