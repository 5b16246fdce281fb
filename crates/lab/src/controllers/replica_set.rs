//! The ReplicaSet controller: keeps a number of pods of one template.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt as _};

use super::cache::Cache;
use super::owner::PodClaims;
use super::pod_state::{active, available_in, ready_since};
use super::reconcile::{self, BURST, ReconcileError, Reconciled, ReconciledKind, Reconciler};
use super::selector;
use super::template::pod_of;
use super::view::ClusterView;

/// The decision about a ReplicaSet.
#[derive(Debug, Default, PartialEq)]
pub struct ReplicaSetDecision {
    /// Number of pods to create.
    pub create: usize,
    /// Pods to delete.
    pub delete: Vec<String>,
    /// Matching pods without an owner, to adopt.
    pub adopt: Vec<String>,
    /// Owned pods that no longer match, to release.
    pub release: Vec<String>,
    /// The status.
    pub status: ReplicaSetStatus,
    /// When a ready pod becomes available.
    pub next_look: Option<Duration>,
}

/// Returns the decision about `set`, given the pods of its namespace.
#[must_use]
pub fn decide(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> ReplicaSetDecision {
    let Some(spec) = &set.spec else { return ReplicaSetDecision::default() };
    let deleting = set.metadata.deletion_timestamp.is_some();
    let claims = PodClaims::of(&set.metadata, &spec.selector, pods);
    let mut decision =
        ReplicaSetDecision { adopt: claims.adopt, release: claims.release, ..ReplicaSetDecision::default() };
    let active: Vec<&Pod> = claims.owned.into_iter().filter(|pod| active(pod)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if !deleting {
        decision.create = wanted.saturating_sub(active.len()).min(BURST);
        if active.len() > wanted {
            decision.delete = victims(&active, active.len() - wanted);
        }
    }
    let waits: Vec<Duration> = active.iter().filter_map(|pod| available_in(pod, spec.min_ready_seconds, now)).collect();
    let available = waits.iter().filter(|wait| wait.is_zero()).count();
    decision.next_look = waits.iter().copied().filter(|wait| !wait.is_zero()).min();
    let labelled =
        spec.template.as_ref().and_then(|template| template.metadata.as_ref()).and_then(|m| m.labels.clone());
    let labelled = labelled.unwrap_or_default();
    let full = active.iter().filter(|pod| labelled.is_empty() || selector::holds(&labelled, pod.labels())).count();
    decision.status = status(set, active.len(), full, waits.len(), available);
    decision
}

fn status(set: &ReplicaSet, replicas: usize, full: usize, ready: usize, available: usize) -> ReplicaSetStatus {
    let count = |number: usize| (number > 0).then(|| i32::try_from(number).unwrap_or(i32::MAX));
    ReplicaSetStatus {
        replicas: count(replicas).unwrap_or(0),
        fully_labeled_replicas: count(full),
        ready_replicas: count(ready),
        available_replicas: count(available),
        observed_generation: set.metadata.generation,
        ..set.status.clone().unwrap_or_default()
    }
}

/// Returns the pods to delete first: unscheduled, unready, low `pod-deletion-cost`, on crowded nodes, then the
/// youngest.
pub(super) fn victims(active: &[&Pod], count: usize) -> Vec<String> {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let mut on_node: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for pod in active {
        *on_node.entry(node(pod)).or_default() += 1;
    }
    let cost = |pod: &Pod| -> i64 {
        let cost = pod.annotations().get("controller.kubernetes.io/pod-deletion-cost");
        cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
    };
    let phase = |pod: &Pod| match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    };
    let mut ranked: Vec<&&Pod> = active.iter().collect();
    ranked.sort_by_key(|pod| {
        (
            node(pod).is_some(),
            phase(pod),
            ready_since(pod).is_some(),
            cost(pod),
            std::cmp::Reverse(on_node[&node(pod)]),
            std::cmp::Reverse(pod.metadata.creation_timestamp.clone()),
        )
    });
    ranked.into_iter().take(count).map(|pod| pod.name_any()).collect()
}

/// Returns a pod of `set`; the API server completes its name.
fn new_pod(set: &ReplicaSet) -> Option<Pod> {
    let mut pod = pod_of(set, set.spec.as_ref()?.template.as_ref()?);
    pod.metadata.generate_name = Some(format!("{}-", set.name_any()));
    Some(pod)
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    reconcile::run(client, view, ReplicaSets).await;
}

struct ReplicaSets;

impl ReconciledKind for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";

    fn cache(view: &ClusterView) -> &Cache<Self> {
        &view.replica_sets
    }
}

impl Reconciler for ReplicaSets {
    type Kind = ReplicaSet;

    async fn reconcile(&self, set: &Reconciled<'_, ReplicaSet>) -> Result<Option<Duration>, ReconcileError> {
        let decision = decide(set.object, &set.pods(), Timestamp::now());
        // The status comes first: the Deployment, which waits for it, must not wait for pods that a webhook refuses.
        set.write_status(set.object.status.as_ref(), &decision.status).await?;
        set.claim(&decision.adopt, &decision.release).await?;
        for name in &decision.delete {
            set.delete(name).await?;
        }
        if let Some(template) = (decision.create > 0).then(|| new_pod(set.object)).flatten() {
            for _ in 0..decision.create {
                set.create(&template).await?;
            }
        }
        Ok(decision.next_look)
    }
}

#[cfg(test)]
mod tests;
