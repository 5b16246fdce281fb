//! The DaemonSet controller: one pod on each node.
//!
//! Semantics are those of Kubernetes' controller (`pkg/controller/daemon`). The scheduler assigns the pods, each of which
//! has an affinity to its node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt as _};

use super::cache::Cache;
use super::node_fit::{meets_affinity, untolerated};
use super::owner::PodClaims;
use super::pod_state::{active, available_in, finished, ready_since};
use super::reconcile::{self, BURST, ReconcileError, Reconciled, ReconciledKind, Reconciler};
use super::revision::{REVISION_HASH, RevisionHistory, hash_of};
use super::view::ClusterView;

mod pods;
mod update;

use pods::{new_pod, node_of, tolerant};
use update::NodePods;

/// The input of the decision.
#[derive(Debug)]
pub struct DaemonSetState<'a> {
    /// The DaemonSet.
    pub set: &'a DaemonSet,
    /// Pods of its namespace.
    pub pods: &'a [Arc<Pod>],
    /// Nodes of the cluster.
    pub nodes: &'a [Arc<Node>],
    /// Hash of the present template.
    pub hash: &'a str,
    /// The current time.
    pub now: Timestamp,
}

/// The decision about a DaemonSet.
#[derive(Debug, Default, PartialEq)]
pub struct DaemonSetDecision {
    /// Nodes on which to create a pod.
    pub create: Vec<String>,
    /// Pods to delete.
    pub delete: Vec<String>,
    /// Matching pods without an owner, to adopt.
    pub adopt: Vec<String>,
    /// Owned pods that no longer match, to release.
    pub release: Vec<String>,
    /// The status.
    pub status: DaemonSetStatus,
    /// When a ready pod becomes available.
    pub next_look: Option<Duration>,
}

/// Whether a node is to have a pod of a DaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodeVerdict {
    /// The node gets a pod.
    Run,
    /// The node keeps a pod that it has, but gets none: a taint forbids new ones.
    Keep,
    /// The node has no pod.
    Remove,
}

/// Returns the decision about a DaemonSet.
#[must_use]
pub fn decide(state: &DaemonSetState<'_>) -> DaemonSetDecision {
    let Some(spec) = &state.set.spec else { return DaemonSetDecision::default() };
    let claims = PodClaims::of(&state.set.metadata, &spec.selector, state.pods);
    let mut decision =
        DaemonSetDecision { adopt: claims.adopt, release: claims.release, ..DaemonSetDecision::default() };
    let mut by_node: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
    for pod in &claims.owned {
        by_node.entry(node_of(pod).unwrap_or_default()).or_default().push(pod);
    }
    by_node.values_mut().for_each(|pods| pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone()));
    let template = tolerant(spec.template.spec.clone().unwrap_or_default());
    let verdict = |node: &str| {
        let node = state.nodes.iter().find(|known| known.name_any() == node);
        node.map_or(NodeVerdict::Remove, |node| node_verdict(&template, node))
    };
    let running: Vec<String> =
        state.nodes.iter().map(|node| node.name_any()).filter(|node| verdict(node) == NodeVerdict::Run).collect();
    decision.create = running.iter().filter(|node| !by_node.contains_key(*node)).cloned().collect();
    decision.status = status(state, spec, &running, &by_node);
    let waits = claims.owned.iter().filter_map(|pod| available_in(pod, spec.min_ready_seconds, state.now));
    decision.next_look = waits.filter(|wait| !wait.is_zero()).min();
    let mut kept = Vec::new();
    for (node, pods) in &by_node {
        let here: Vec<&Pod> = pods.iter().copied().filter(|pod| active(pod)).collect();
        let ended = pods.iter().filter(|pod| finished(pod) && pod.metadata.deletion_timestamp.is_none());
        decision.delete.extend(ended.map(|pod| pod.name_any()));
        if verdict(node) == NodeVerdict::Remove {
            decision.delete.extend(here.iter().map(|pod| pod.name_any()));
        } else {
            kept.push(NodePods::new(node, &here, state.hash));
        }
    }
    update::replace(&mut decision, state, spec, &kept, running.len());
    decision.create.truncate(BURST);
    decision
}

fn node_verdict(pod: &PodSpec, node: &Node) -> NodeVerdict {
    if pod.node_name.as_ref().is_some_and(|wanted| *wanted != node.name_any()) || !meets_affinity(pod, node) {
        NodeVerdict::Remove
    } else if untolerated(pod, node, &["NoSchedule", "NoExecute"]).is_none() {
        NodeVerdict::Run
    } else if untolerated(pod, node, &["NoExecute"]).is_none() {
        NodeVerdict::Keep
    } else {
        NodeVerdict::Remove
    }
}

fn status(
    state: &DaemonSetState<'_>,
    spec: &DaemonSetSpec,
    running: &[String],
    by_node: &BTreeMap<String, Vec<&Pod>>,
) -> DaemonSetStatus {
    // The oldest pod of a node counts, as in Kubernetes.
    let oldest: Vec<&Pod> = running.iter().filter_map(|node| by_node.get(node)?.first().copied()).collect();
    let count = |wanted: &dyn Fn(&Pod) -> bool| number(oldest.iter().filter(|pod| wanted(pod)).count());
    let some = |count: i32| (count > 0).then_some(count);
    let available = count(&|pod| available_in(pod, spec.min_ready_seconds, state.now) == Some(Duration::ZERO));
    DaemonSetStatus {
        desired_number_scheduled: number(running.len()),
        current_number_scheduled: number(oldest.len()),
        number_misscheduled: number(by_node.keys().filter(|node| !running.contains(node)).count()),
        number_ready: count(&|pod| ready_since(pod).is_some()),
        number_available: some(available),
        number_unavailable: some(number(running.len()) - available),
        updated_number_scheduled: some(count(&|pod| {
            pod.labels().get(REVISION_HASH).is_some_and(|hash| hash == state.hash)
        })),
        observed_generation: state.set.metadata.generation,
        collision_count: None,
        conditions: None,
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    reconcile::run(client, view, DaemonSets).await;
}

struct DaemonSets;

impl ReconciledKind for DaemonSet {
    const CONTROLLER: &'static str = "daemonset-controller";

    fn cache(view: &ClusterView) -> &Cache<Self> {
        &view.daemon_sets
    }
}

impl Reconciler for DaemonSets {
    type Kind = DaemonSet;

    async fn reconcile(&self, set: &Reconciled<'_, DaemonSet>) -> Result<Option<Duration>, ReconcileError> {
        let Some(spec) = &set.object.spec else { return Ok(None) };
        let history = RevisionHistory::with(set, &spec.template).await?;
        let (newest, pods, nodes) = (history.newest(), set.pods(), set.view.nodes.list());
        let hash = hash_of(&newest);
        let decision =
            decide(&DaemonSetState { set: set.object, pods: &pods, nodes: &nodes, hash, now: Timestamp::now() });
        set.write_status(set.object.status.as_ref(), &decision.status).await?;
        set.claim(&decision.adopt, &decision.release).await?;
        for name in &decision.delete {
            set.delete(name).await?;
        }
        for node in &decision.create {
            set.create(&new_pod(set.object, &spec.template, node, hash)).await?;
        }
        let live = |hash: &str| pods.iter().any(|pod| pod.labels().get(REVISION_HASH).is_some_and(|own| own == hash));
        history.trim(set, spec.revision_history_limit, |revision| live(hash_of(&revision.name_any()))).await?;
        Ok(decision.next_look)
    }
}

#[cfg(test)]
mod tests;
