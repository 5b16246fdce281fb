//! The ReplicaSet controller: keeps a number of pods of one template.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use install::client_error;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};

use super::cache::ClusterView;
use super::owner::owned_by;
use super::pod_state::{finished, ready_since};
use super::reconcile::whenever_changed;
use super::retry::Retries;
use super::selector;

/// Most pods that are created in one pass, so that a mistaken size does not delay everything else.
const BURST: usize = 32;

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
    /// The status to write, if it has changed.
    pub status: Option<Value>,
    /// When a ready pod becomes available.
    pub next_look: Option<Duration>,
}

/// Returns the decision about `set`, given the pods of its namespace.
#[must_use]
pub fn decide(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> ReplicaSetDecision {
    let Some(spec) = &set.spec else { return ReplicaSetDecision::default() };
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let deleting = set.metadata.deletion_timestamp.is_some();
    let mut decision = ReplicaSetDecision::default();
    let mut owned: Vec<&Pod> = Vec::new();
    for pod in pods.iter().map(AsRef::as_ref) {
        let matches = selector::matches(&spec.selector, pod.labels());
        let gone = pod.metadata.deletion_timestamp.is_some();
        let owner = pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
        match (owned_by(&pod.metadata, uid), owner, matches) {
            (true, _, true) => owned.push(pod),
            (true, _, false) if !gone => decision.release.push(pod.name_any()),
            (false, false, true) if !gone && !deleting && !finished(pod) => {
                decision.adopt.push(pod.name_any());
                owned.push(pod);
            }
            _ => {}
        }
    }
    let active: Vec<&Pod> =
        owned.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && !finished(pod)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if !deleting {
        decision.create = wanted.saturating_sub(active.len()).min(BURST);
        if active.len() > wanted {
            decision.delete = victims(&active, active.len() - wanted);
        }
    }
    let ready: Vec<&&Pod> = active.iter().filter(|pod| ready_since(pod).is_some()).collect();
    let least = i64::from(spec.min_ready_seconds.unwrap_or(0));
    let mut available = 0;
    for pod in &ready {
        let age = ready_since(pod).map_or(0, |since| now.as_second() - since.as_second());
        if least == 0 || age >= least {
            available += 1;
        } else {
            let wait = Duration::from_secs(u64::try_from(least - age).unwrap_or(1));
            decision.next_look = Some(decision.next_look.map_or(wait, |known| known.min(wait)));
        }
    }
    let labelled =
        spec.template.as_ref().and_then(|template| template.metadata.as_ref()).and_then(|m| m.labels.clone());
    let labelled = labelled.unwrap_or_default();
    let full = active.iter().filter(|pod| labelled.is_empty() || selector::holds(&labelled, pod.labels())).count();
    decision.status = status(set, active.len(), full, ready.len(), available);
    decision
}

fn status(set: &ReplicaSet, replicas: usize, full: usize, ready: usize, available: usize) -> Option<Value> {
    let count = |number: usize| (number > 0).then(|| i32::try_from(number).unwrap_or(i32::MAX));
    let wanted = ReplicaSetStatus {
        replicas: count(replicas).unwrap_or(0),
        fully_labeled_replicas: count(full),
        ready_replicas: count(ready),
        available_replicas: count(available),
        observed_generation: set.metadata.generation,
        conditions: None,
        terminating_replicas: None,
    };
    let known =
        set.status.clone().map(|status| ReplicaSetStatus { conditions: None, terminating_replicas: None, ..status });
    if known.as_ref() == Some(&wanted) {
        return None;
    }
    Some(json!({
        "replicas": wanted.replicas,
        "fullyLabeledReplicas": wanted.fully_labeled_replicas,
        "readyReplicas": wanted.ready_replicas,
        "availableReplicas": wanted.available_replicas,
        "observedGeneration": wanted.observed_generation,
    }))
}

/// Returns the pods to delete first: unscheduled, unready, low `pod-deletion-cost`, on crowded nodes, then the
/// youngest.
fn victims(active: &[&Pod], count: usize) -> Vec<String> {
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
    let template = set.spec.as_ref()?.template.clone()?;
    let mut pod = Pod { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
    pod.metadata.generate_name = Some(format!("{}-", set.name_any()));
    pod.metadata.name = None;
    pod.metadata.namespace = set.namespace();
    pod.metadata.owner_references = Some(vec![owner(set)?]);
    Some(pod)
}

fn owner(set: &ReplicaSet) -> Option<OwnerReference> {
    set.controller_owner_ref(&()).map(|owner| OwnerReference { block_owner_deletion: Some(true), ..owner })
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    let retries = tokio::sync::Mutex::new(Retries::default());
    whenever_changed(&view, || pass(&client, &view, &retries)).await;
}

async fn pass(client: &Client, view: &ClusterView, retries: &tokio::sync::Mutex<Retries>) -> Option<Duration> {
    let mut retries = retries.lock().await;
    let started = Instant::now();
    let mut again: Option<Duration> = None;
    let pods = view.pods.list();
    for set in view.replica_sets.list() {
        let Some(uid) = set.metadata.uid.as_deref() else { continue };
        let own: Vec<Arc<Pod>> =
            pods.iter().filter(|pod| pod.metadata.namespace == set.metadata.namespace).cloned().collect();
        let mut decision = decide(&set, &own, Timestamp::now());
        again = [again, decision.next_look].into_iter().flatten().min();
        if !retries.due(uid, started) {
            decision.create = 0;
        }
        let creating = decision.create > 0;
        match act(client, view, &set, decision).await {
            Ok(()) if creating => retries.succeeded(uid),
            Ok(()) => {}
            Err(error) => {
                let error = client_error::describe(&error);
                tracing::debug!(set = set.name_any(), error, "cannot update a replica set");
                let first = retries.due(uid, started);
                retries.failed(uid, Instant::now());
                if first && creating {
                    let message = format!("Error creating: {error}");
                    let component = "replicaset-controller";
                    super::record::event(client, set.as_ref(), component, "Warning", "FailedCreate", &message).await;
                }
            }
        }
    }
    [again, retries.next(started)].into_iter().flatten().min()
}

async fn act(client: &Client, view: &ClusterView, set: &ReplicaSet, decision: ReplicaSetDecision) -> kube::Result<()> {
    let namespace = set.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let params = PatchParams::default();
    // The status comes first: the Deployment, which waits for it, must not wait for pods that a webhook refuses.
    if let Some(status) = decision.status {
        let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), &namespace);
        let patch = Patch::Merge(json!({"status": status}));
        view.replica_sets.put(sets.patch_status(&set.name_any(), &params, &patch).await?);
        view.touch();
    }
    for name in decision.adopt {
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": [owner(set)]}}));
        view.pods.put(pods.patch(&name, &params, &patch).await?);
    }
    for name in decision.release {
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
        view.pods.put(pods.patch(&name, &params, &patch).await?);
    }
    for name in decision.delete {
        let Some(pod) = view.pods.get(&namespace, &name) else { continue };
        let precondition = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        match pods.delete(&name, &DeleteParams::default().preconditions(precondition)).await {
            Ok(either) => match either.left() {
                Some(pod) => {
                    view.pods.put(pod);
                }
                None => view.pods.remove(&pod),
            },
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => view.pods.remove(&pod),
            Err(error) => return Err(error),
        }
    }
    let template = (decision.create > 0).then(|| new_pod(set)).flatten();
    let Some(template) = template else { return Ok(()) };
    for _ in 0..decision.create {
        let pod = pods.create(&PostParams::default(), &template).await?;
        let message = format!("Created pod: {}", pod.name_any());
        view.pods.put(pod);
        super::record::event(client, set, "replicaset-controller", "Normal", "SuccessfulCreate", &message).await;
    }
    view.touch();
    Ok(())
}

#[cfg(test)]
mod tests;
