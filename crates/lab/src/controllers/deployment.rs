//! The Deployment controller: one ReplicaSet per pod template, and the rollout from the old to the new.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::cache::Cache;
use super::owner::{owned_by, references_to};
use super::pod_state::finished;
use super::reconcile::{self, ReconcileError, Reconciled, ReconciledKind, Reconciler};
use super::rollout::{self, RolloutStrategy, SetSize};
use super::template::{TEMPLATE_HASH, template_hash};
use super::view::ClusterView;

/// Annotation with the revision that `kubectl rollout history` shows.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const DEFAULT_DEADLINE: i32 = 600;
const DEFAULT_HISTORY: i32 = 10;

/// An action for a Deployment.
#[derive(Debug, Clone, PartialEq)]
pub enum DeploymentAction {
    /// Create the ReplicaSet of the current template.
    Create(Box<ReplicaSet>),
    /// Change the size of a ReplicaSet.
    Scale {
        /// Name of the ReplicaSet.
        name: String,
        /// New size of the ReplicaSet.
        replicas: i32,
    },
    /// Change annotations of a ReplicaSet.
    AnnotateSet {
        /// Name of the ReplicaSet.
        name: String,
        /// The changed annotations.
        annotations: BTreeMap<String, String>,
    },
    /// Write the revision into the Deployment.
    Annotate(String),
    /// Remove a ReplicaSet beyond the history limit.
    Delete(String),
    /// Write the status.
    Status(Value),
}

/// The input of the decision.
#[derive(Debug)]
pub struct DeploymentState<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// ReplicaSets of the Deployment, in any order.
    pub sets: &'a [Arc<ReplicaSet>],
    /// Whether pods of ReplicaSets other than the current one still run.
    pub old_pods: bool,
    /// The current time.
    pub now: Timestamp,
}

/// Returns the next actions for one Deployment.
#[must_use]
pub fn decide(situation: &DeploymentState<'_>) -> Vec<DeploymentAction> {
    let deployment = situation.deployment;
    let Some(spec) = &deployment.spec else { return Vec::new() };
    let replicas = spec.replicas.unwrap_or(1).max(0);
    let paused = spec.paused.unwrap_or(false);
    let hash = template_hash(&spec.template);
    let name = format!("{}-{hash}", deployment.name_any());
    let mut sets: Vec<&ReplicaSet> = situation.sets.iter().map(AsRef::as_ref).collect();
    sets.sort_by_key(|set| (revision_of(set), set.metadata.creation_timestamp.clone()));
    let current = sets.iter().copied().find(|set| set.name_any() == name);
    let old: Vec<&ReplicaSet> = sets.iter().copied().filter(|set| set.name_any() != name).collect();
    let mut actions = Vec::new();

    let old_sizes: Vec<SetSize> = old.iter().map(|set| size_of(set)).collect();
    let strategy = RolloutStrategy::resolve(spec.strategy.as_ref(), replicas);
    let latest = old.iter().map(|set| revision_of(set)).max().unwrap_or(0);
    if paused {
        resize_paused(replicas, current, &old, &mut actions);
    } else {
        let new = current.map(size_of).unwrap_or_default();
        let (grown, shrunk) = rollout::next(strategy, replicas, new, &old_sizes, situation.old_pods);
        let revision = match current {
            Some(set) if revision_of(set) > latest => revision_of(set),
            _ => latest + 1,
        };
        match current {
            None => {
                actions.push(DeploymentAction::Create(Box::new(new_set(deployment, &name, &hash, grown, revision))))
            }
            Some(set) => {
                let annotations = annotations_to_write(deployment, set, revision);
                if !annotations.is_empty() {
                    actions.push(DeploymentAction::AnnotateSet { name: name.clone(), annotations });
                }
                scale(set, grown, &mut actions);
            }
        }
        for (set, size) in old.iter().zip(shrunk) {
            scale(set, size, &mut actions);
        }
        if deployment.annotations().get(REVISION) != Some(&revision.to_string()) {
            actions.push(DeploymentAction::Annotate(revision.to_string()));
        }
    }

    let status = status(situation, current, &old, replicas, paused);
    if complete(&status, replicas, deployment.metadata.generation) {
        let keep = usize::try_from(spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY)).unwrap_or(0);
        let idle: Vec<&&ReplicaSet> = old.iter().filter(|set| idle(set)).collect();
        let surplus = idle.len().saturating_sub(keep);
        actions.extend(idle.into_iter().take(surplus).map(|set| DeploymentAction::Delete(set.name_any())));
    }
    let typed = serde_json::from_value::<DeploymentStatus>(status.clone()).ok();
    if typed.is_none() || typed != deployment.status {
        actions.push(DeploymentAction::Status(status));
    }
    actions
}

/// While the Deployment is paused, only the number of pods is kept, by the newest set that has any.
fn resize_paused(
    replicas: i32,
    current: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    actions: &mut Vec<DeploymentAction>,
) {
    let all: Vec<&ReplicaSet> = old.iter().copied().chain(current).collect();
    let total: i32 = all.iter().map(|set| size_of(set).wanted).sum();
    let Some(newest) = all.iter().rev().find(|set| size_of(set).wanted > 0).or(all.last()) else { return };
    let size = (size_of(newest).wanted + replicas - total).max(0);
    scale(newest, size, actions);
}

fn scale(set: &ReplicaSet, replicas: i32, actions: &mut Vec<DeploymentAction>) {
    if size_of(set).wanted != replicas {
        actions.push(DeploymentAction::Scale { name: set.name_any(), replicas });
    }
}

fn size_of(set: &ReplicaSet) -> SetSize {
    SetSize {
        wanted: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        available: set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0),
    }
}

fn idle(set: &ReplicaSet) -> bool {
    size_of(set).wanted == 0
        && set.status.as_ref().is_none_or(|status| status.replicas == 0)
        && set.metadata.deletion_timestamp.is_none()
}

fn revision_of(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Returns the annotations that a ReplicaSet inherits from its Deployment, as `kubectl rollout history` expects.
fn annotations_to_write(deployment: &Deployment, set: &ReplicaSet, revision: i64) -> BTreeMap<String, String> {
    let mut wanted = inherited(deployment);
    wanted.insert(REVISION.to_owned(), revision.to_string());
    wanted.retain(|key, value| set.annotations().get(key) != Some(value));
    wanted
}

fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let kept = |key: &String| key != REVISION && key != "kubectl.kubernetes.io/last-applied-configuration";
    deployment.annotations().iter().filter(|(key, _)| kept(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn new_set(deployment: &Deployment, name: &str, hash: &str, replicas: i32, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH.to_owned(), hash.to_owned());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash.to_owned());
    let mut annotations = inherited(deployment);
    annotations.insert(REVISION.to_owned(), revision.to_string());
    let mut set = ReplicaSet::default();
    set.metadata.name = Some(name.to_owned());
    set.metadata.namespace = deployment.namespace();
    set.metadata.labels = Some(labels);
    set.metadata.annotations = Some(annotations);
    set.metadata.owner_references = references_to(deployment);
    set.spec = Some(k8s_openapi::api::apps::v1::ReplicaSetSpec {
        min_ready_seconds: spec.min_ready_seconds,
        replicas: Some(replicas),
        selector,
        template: Some(template),
    });
    set
}

fn complete(status: &Value, replicas: i32, generation: Option<i64>) -> bool {
    let count = |field: &str| status.get(field).and_then(Value::as_i64).unwrap_or(0);
    let replicas = i64::from(replicas);
    count("updatedReplicas") == replicas
        && count("replicas") == replicas
        && count("availableReplicas") == replicas
        && status.get("observedGeneration").and_then(Value::as_i64) >= generation
}

fn status(
    situation: &DeploymentState<'_>,
    current: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    replicas: i32,
    paused: bool,
) -> Value {
    let deployment = situation.deployment;
    let spec = deployment.spec.as_ref();
    let all = || old.iter().copied().chain(current);
    let sum = |count: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        all().filter_map(|set| set.status.as_ref()).map(count).sum()
    };
    let total = sum(|status| status.replicas);
    let ready = sum(|status| status.ready_replicas.unwrap_or(0));
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let updated = current.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas);
    let mut status = json!({"observedGeneration": deployment.metadata.generation});
    let wanted: i32 = all().map(|set| size_of(set).wanted).sum();
    let unavailable = (wanted - available).max(0);
    for (field, count) in [
        ("replicas", total),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", available),
        ("unavailableReplicas", unavailable),
    ] {
        if count != 0 {
            status[field] = json!(count);
        }
    }
    let known = deployment.status.as_ref();
    let conditions = known.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let least = match RolloutStrategy::resolve(spec.and_then(|spec| spec.strategy.as_ref()), replicas) {
        RolloutStrategy::Recreate => replicas,
        RolloutStrategy::Rolling { unavailable, .. } => replicas - unavailable,
    };
    let enough = if available >= least {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned())
    };
    let set_name = current.map(ResourceExt::name_any).unwrap_or_default();
    let done = complete(&status, replicas, deployment.metadata.generation);
    let before = conditions.iter().find(|condition| condition.type_ == "Progressing");
    let moved = known.is_none_or(|known| {
        known.updated_replicas.unwrap_or(0) < updated
            || known.ready_replicas.unwrap_or(0) < ready
            || known.available_replicas.unwrap_or(0) < available
            || known.replicas.unwrap_or(0) > total
            || known.observed_generation != deployment.metadata.generation
    });
    let deadline = i64::from(spec.and_then(|spec| spec.progress_deadline_seconds).unwrap_or(DEFAULT_DEADLINE));
    let late = before
        .and_then(|condition| condition.last_update_time.as_ref())
        .is_some_and(|since| situation.now.as_second() - since.0.as_second() > deadline);
    let progress = if paused {
        ("Unknown", "DeploymentPaused", "Deployment is paused".to_owned())
    } else if done {
        ("True", "NewReplicaSetAvailable", format!("ReplicaSet \"{set_name}\" has successfully progressed."))
    } else if late && !moved {
        ("False", "ProgressDeadlineExceeded", format!("ReplicaSet \"{set_name}\" has timed out progressing."))
    } else if current.is_none() {
        ("True", "NewReplicaSetCreated", "A new ReplicaSet is being created.".to_owned())
    } else {
        ("True", "ReplicaSetUpdated", format!("ReplicaSet \"{set_name}\" is progressing."))
    };
    let available = condition("Available", enough, conditions, false, situation.now);
    let progressing = condition("Progressing", progress, conditions, moved && !done, situation.now);
    status["conditions"] = json!([available, progressing]);
    status
}

fn condition(
    kind: &str,
    (state, reason, message): (&str, &str, String),
    known: &[DeploymentCondition],
    moved: bool,
    now: Timestamp,
) -> DeploymentCondition {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let before = known.iter().find(|condition| condition.type_ == kind);
    let same = before.filter(|condition| condition.status == state);
    let unchanged = same.filter(|condition| {
        condition.reason.as_deref() == Some(reason) && condition.message.as_deref() == Some(&message) && !moved
    });
    DeploymentCondition {
        type_: kind.to_owned(),
        status: state.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(Some(now.clone())),
        last_update_time: unchanged.and_then(|c| c.last_update_time.clone()).or(Some(now)),
    }
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    reconcile::run(client, view, Deployments).await;
}

struct Deployments;

impl ReconciledKind for Deployment {
    const CONTROLLER: &'static str = "deployment-controller";

    fn cache(view: &ClusterView) -> &Cache<Self> {
        &view.deployments
    }
}

impl Reconciler for Deployments {
    type Kind = Deployment;

    async fn reconcile(&self, deployment: &Reconciled<'_, Deployment>) -> Result<Option<Duration>, ReconcileError> {
        let (view, object) = (deployment.view, deployment.object);
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let mut owned = view.replica_sets.list();
        owned.retain(|set| owned_by(&set.metadata, uid));
        let situation = DeploymentState {
            deployment: object,
            sets: &owned,
            old_pods: old_pods(view, object, &owned),
            now: Timestamp::now(),
        };
        act(deployment, decide(&situation)).await?;
        Ok(None)
    }
}

fn old_pods(view: &ClusterView, deployment: &Deployment, owned: &[Arc<ReplicaSet>]) -> bool {
    let Some(spec) = &deployment.spec else { return false };
    let current = format!("{}-{}", deployment.name_any(), template_hash(&spec.template));
    let old: Vec<&str> =
        owned.iter().filter(|set| set.name_any() != current).filter_map(|set| set.metadata.uid.as_deref()).collect();
    view.pods.list().iter().any(|pod| !finished(pod) && old.iter().any(|uid| owned_by(&pod.metadata, uid)))
}

async fn act(deployment: &Reconciled<'_, Deployment>, actions: Vec<DeploymentAction>) -> kube::Result<()> {
    let (view, name, namespace) = (deployment.view, deployment.object.name_any(), deployment.namespace());
    let sets: Api<ReplicaSet> = deployment.api();
    let deployments: Api<Deployment> = deployment.api();
    let params = PatchParams::default();
    for action in actions {
        match action {
            DeploymentAction::Create(set) => {
                view.replica_sets.put(sets.create(&PostParams::default(), &set).await?);
                let size = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                report(deployment, &format!("Scaled up replica set {} from 0 to {size}", set.name_any())).await;
            }
            DeploymentAction::Scale { name: set, replicas } => {
                let before = view.replica_sets.get(&namespace, &set).map_or(0, |set| size_of(&set).wanted);
                let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
                view.replica_sets.put(sets.patch(&set, &params, &patch).await?);
                let way = if replicas > before { "up" } else { "down" };
                let message = format!("Scaled {way} replica set {set} from {before} to {replicas}");
                report(deployment, &message).await;
            }
            DeploymentAction::AnnotateSet { name: set, annotations } => {
                let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
                view.replica_sets.put(sets.patch(&set, &params, &patch).await?);
            }
            DeploymentAction::Annotate(revision) => {
                let patch = Patch::Merge(json!({"metadata": {"annotations": {REVISION: revision}}}));
                view.deployments.put(deployments.patch(&name, &params, &patch).await?);
            }
            DeploymentAction::Delete(set) => {
                sets.delete(&set, &DeleteParams::background()).await?;
            }
            DeploymentAction::Status(status) => {
                let mut whole = json!({
                    "replicas": null, "updatedReplicas": null, "readyReplicas": null,
                    "availableReplicas": null, "unavailableReplicas": null,
                });
                if let (Value::Object(whole), Value::Object(status)) = (&mut whole, status) {
                    whole.extend(status);
                }
                let patch = Patch::Merge(json!({"status": whole}));
                view.deployments.put(deployments.patch_status(&name, &params, &patch).await?);
            }
        }
    }
    Ok(())
}

async fn report(deployment: &Reconciled<'_, Deployment>, message: &str) {
    deployment.event("Normal", "ScalingReplicaSet", message).await;
}

#[cfg(test)]
mod tests;
