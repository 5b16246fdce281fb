//! The StatefulSet controller: pods with stable names, one after another.
//!
//! Semantics are those of Kubernetes' controller (`pkg/controller/statefulset`). The volumes of `volumeClaimTemplates`
//! are empty directories that end with their pod.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt as _};

use super::cache::Cache;
use super::owner::PodClaims;
use super::pod_state::{active, available_in, finished, ready_since};
use super::reconcile::{self, BURST, ReconcileError, Reconciled, ReconciledKind, Reconciler};
use super::revision::{REVISION_HASH, RevisionHistory};
use super::view::ClusterView;

mod pods;

use pods::{new_pod, ordinal_of};

/// The input of the decision.
#[derive(Debug)]
pub struct StatefulSetState<'a> {
    /// The StatefulSet.
    pub set: &'a StatefulSet,
    /// Pods of its namespace.
    pub pods: &'a [Arc<Pod>],
    /// Revision of the present template.
    pub update: &'a str,
    /// The current time.
    pub now: Timestamp,
}

/// The decision about a StatefulSet.
#[derive(Debug, Default, PartialEq)]
pub struct StatefulSetDecision {
    /// Ordinals of the pods to create, each with the revision of its template.
    pub create: Vec<(i32, String)>,
    /// Pods to delete.
    pub delete: Vec<String>,
    /// Matching pods without an owner, to adopt.
    pub adopt: Vec<String>,
    /// Owned pods that no longer match, to release.
    pub release: Vec<String>,
    /// The status.
    pub status: StatefulSetStatus,
    /// When a ready pod becomes available.
    pub next_look: Option<Duration>,
}

/// The pods of a StatefulSet in the order of their ordinals, and what is decided about them.
struct OrderedPods<'a> {
    spec: &'a StatefulSetSpec,
    now: Timestamp,
    /// The pods that are wanted, with their ordinals.
    wanted: Vec<(i32, Option<&'a Pod>)>,
    /// The other pods.
    condemned: Vec<(i32, &'a Pod)>,
}

/// Returns the decision about a StatefulSet.
#[must_use]
pub fn decide(state: &StatefulSetState<'_>) -> StatefulSetDecision {
    let set = state.set;
    let Some(spec) = &set.spec else { return StatefulSetDecision::default() };
    let claims = PodClaims::of(&set.metadata, &spec.selector, state.pods);
    let mut pods: Vec<(i32, &Pod)> =
        claims.owned.iter().filter_map(|pod| Some((ordinal_of(set, pod)?, *pod))).collect();
    pods.sort_by_key(|(ordinal, _)| *ordinal);
    let mut decision = StatefulSetDecision {
        adopt: claims.adopt.into_iter().filter(|name| pods.iter().any(|(_, pod)| pod.name_any() == *name)).collect(),
        release: claims.release,
        ..StatefulSetDecision::default()
    };
    let first = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let range = first..first.saturating_add(spec.replicas.unwrap_or(1).max(0));
    let at = |ordinal: i32| pods.iter().find(|(own, _)| *own == ordinal).map(|(_, pod)| *pod);
    let ordered = OrderedPods {
        spec,
        now: state.now,
        wanted: range.clone().map(|ordinal| (ordinal, at(ordinal))).collect(),
        condemned: pods.iter().copied().filter(|(ordinal, _)| !range.contains(ordinal)).collect(),
    };
    let current = match set.status.as_ref().and_then(|status| status.current_revision.clone()) {
        Some(revision) if !revision.is_empty() => revision,
        _ => state.update.to_owned(),
    };
    decision.status = status(state, spec, &pods, &current);
    let waits = pods.iter().filter_map(|(_, pod)| available_in(pod, spec.min_ready_seconds, state.now));
    decision.next_look = waits.filter(|wait| !wait.is_zero()).min();
    if ordered.create(&mut decision, first, &current, state.update) && ordered.shrink(&mut decision) {
        ordered.update(&mut decision, first, state.update);
    }
    decision
}

impl OrderedPods<'_> {
    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn healthy(&self, pod: &Pod) -> bool {
        active(pod) && available_in(pod, self.spec.min_ready_seconds, self.now) == Some(Duration::ZERO)
    }

    /// Creates missing pods, the lowest ordinal first, and replaces pods that have ended. Returns whether the next step
    /// may follow: with `OrderedReady` not before every pod is available.
    fn create(&self, decision: &mut StatefulSetDecision, first: i32, current: &str, update: &str) -> bool {
        for (ordinal, pod) in &self.wanted {
            match pod {
                None => {
                    let revision = if *ordinal < first.saturating_add(self.kept()) { current } else { update };
                    decision.create.push((*ordinal, revision.to_owned()));
                }
                Some(pod) if finished(pod) && pod.metadata.deletion_timestamp.is_none() => {
                    decision.delete.push(pod.name_any());
                }
                Some(pod) if self.healthy(pod) => continue,
                Some(_) => {}
            }
            if self.is_ordered() || decision.create.len() == BURST {
                return false;
            }
        }
        true
    }

    /// Returns the number of pods at the beginning that keep their revision.
    fn kept(&self) -> i32 {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        rolling.and_then(|rolling| rolling.partition).unwrap_or(0)
    }

    /// Deletes the pods that are too many, the highest ordinal first. Returns whether the next step may follow.
    fn shrink(&self, decision: &mut StatefulSetDecision) -> bool {
        for (_, pod) in self.condemned.iter().rev() {
            if pod.metadata.deletion_timestamp.is_none() {
                decision.delete.push(pod.name_any());
            }
            if self.is_ordered() {
                return false;
            }
        }
        true
    }

    /// Deletes the pod with the highest ordinal that has an old revision, unless one above it is not available.
    fn update(&self, decision: &mut StatefulSetDecision, first: i32, update: &str) {
        if self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let updated = self.wanted.iter().filter(|(ordinal, _)| *ordinal >= first.saturating_add(self.kept()));
        for (_, pod) in updated.rev() {
            let Some(pod) = *pod else { return };
            if revision_of(pod) != Some(update) && pod.metadata.deletion_timestamp.is_none() {
                decision.delete.push(pod.name_any());
                return;
            }
            if !self.healthy(pod) {
                return;
            }
        }
    }
}

fn revision_of(pod: &Pod) -> Option<&str> {
    pod.labels().get(REVISION_HASH).map(String::as_str)
}

fn status(
    state: &StatefulSetState<'_>,
    spec: &StatefulSetSpec,
    pods: &[(i32, &Pod)],
    current: &str,
) -> StatefulSetStatus {
    let count = |wanted: &dyn Fn(&Pod) -> bool| {
        i32::try_from(pods.iter().filter(|(_, pod)| wanted(pod)).count()).unwrap_or(i32::MAX)
    };
    let some = |count: i32| (count > 0).then_some(count);
    let of_revision = |revision: &str| count(&|pod| active(pod) && revision_of(pod) == Some(revision));
    let replicas = count(&|pod| !finished(pod));
    let ready = count(&|pod| ready_since(pod).is_some());
    let updated = of_revision(state.update);
    let wanted = spec.replicas.unwrap_or(1);
    let on_delete = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
    let complete = !on_delete && [replicas, ready, updated] == [wanted; 3];
    let current = if complete { state.update } else { current };
    StatefulSetStatus {
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(count(&|pod| {
            available_in(pod, spec.min_ready_seconds, state.now) == Some(Duration::ZERO)
        })),
        current_replicas: some(of_revision(current)),
        updated_replicas: some(updated),
        current_revision: Some(current.to_owned()),
        update_revision: Some(state.update.to_owned()),
        observed_generation: state.set.metadata.generation,
        collision_count: Some(0),
        conditions: None,
    }
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    reconcile::run(client, view, StatefulSets).await;
}

struct StatefulSets;

impl ReconciledKind for StatefulSet {
    const CONTROLLER: &'static str = "statefulset-controller";

    fn cache(view: &ClusterView) -> &Cache<Self> {
        &view.stateful_sets
    }
}

impl Reconciler for StatefulSets {
    type Kind = StatefulSet;

    async fn reconcile(&self, set: &Reconciled<'_, StatefulSet>) -> Result<Option<Duration>, ReconcileError> {
        let Some(spec) = &set.object.spec else { return Ok(None) };
        let history = RevisionHistory::with(set, &spec.template).await?;
        let pods = set.pods();
        let update = history.newest();
        let decision =
            decide(&StatefulSetState { set: set.object, pods: &pods, update: &update, now: Timestamp::now() });
        set.write_status(set.object.status.as_ref(), &decision.status).await?;
        set.claim(&decision.adopt, &decision.release).await?;
        for name in &decision.delete {
            set.delete(name).await?;
        }
        for (ordinal, revision) in &decision.create {
            let template = history.template(revision);
            let pod = new_pod(set.object, template.as_ref().unwrap_or(&spec.template), *ordinal, revision);
            set.create(&pod).await?;
        }
        let current = decision.status.current_revision.as_deref();
        let live = |name: &str| current == Some(name) || pods.iter().any(|pod| revision_of(pod) == Some(name));
        history.trim(set, spec.revision_history_limit, |revision| live(&revision.name_any())).await?;
        Ok(decision.next_look)
    }
}

#[cfg(test)]
mod tests;
