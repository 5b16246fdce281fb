//! Objects and fields that a lab's API server accepts and that have no effect in a lab. An Event on each object reports
//! them. The fields of pods are those of `node::ignored`.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource as _};
use serde_json::Value;
use tokio::task::JoinSet;

use super::record;
use crate::field_path::FieldCondition::{self, Not, Set};
use crate::field_path::present;

/// Delay after an interrupted watch.
const PAUSE: Duration = Duration::from_millis(500);

/// A kind without effect, or with fields without effect.
#[derive(Debug)]
struct IneffectiveKind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    /// Fields of the spec without effect; the whole object if there are none.
    fields: &'static [(&'static str, FieldCondition)],
    /// What happens instead.
    instead: &'static str,
}

const fn whole(group: &'static str, version: &'static str, kind: &'static str) -> IneffectiveKind {
    IneffectiveKind { group, version, kind, fields: &[], instead: "" }
}

/// Kinds without effect, and fields of other kinds.
static INEFFECTIVE: [IneffectiveKind; 15] = [
    whole("", "v1", "LimitRange"),
    whole("", "v1", "PersistentVolume"),
    whole("", "v1", "PersistentVolumeClaim"),
    whole("", "v1", "ReplicationController"),
    whole("", "v1", "ResourceQuota"),
    whole("autoscaling", "v2", "HorizontalPodAutoscaler"),
    whole("networking.k8s.io", "v1", "Ingress"),
    whole("networking.k8s.io", "v1", "NetworkPolicy"),
    whole("node.k8s.io", "v1", "RuntimeClass"),
    whole("policy", "v1", "PodDisruptionBudget"),
    whole("scheduling.k8s.io", "v1", "PriorityClass"),
    whole("storage.k8s.io", "v1", "StorageClass"),
    IneffectiveKind {
        group: "apps",
        version: "v1",
        kind: "StatefulSet",
        fields: &[("volumeClaimTemplates", Set)],
        instead: "the volumes are empty directories that end with their pod",
    },
    IneffectiveKind {
        group: "batch",
        version: "v1",
        kind: "CronJob",
        fields: &[("timeZone", Not(&["UTC", "Etc/UTC"]))],
        instead: "schedules are in UTC",
    },
    IneffectiveKind {
        group: "batch",
        version: "v1",
        kind: "Job",
        fields: &[("backoffLimitPerIndex", Set), ("podFailurePolicy", Set), ("successPolicy", Set)],
        instead: "",
    },
];

impl IneffectiveKind {
    /// Returns the message of the Event about an object, if it or a field of it has no effect.
    fn message(&self, object: &Value) -> Option<String> {
        if self.fields.is_empty() {
            return Some(format!("No effect in a lab: {} objects", self.kind));
        }
        let fields = present(&object["spec"], "spec", self.fields);
        let instead = if self.instead.is_empty() { String::new() } else { format!("; {}", self.instead) };
        (!fields.is_empty()).then(|| format!("No effect in a lab: {}{instead}", fields.join(", ")))
    }
}

/// Watches the kinds, and writes an Event about each object.
pub(super) async fn run(client: Client) {
    let mut tasks = JoinSet::new();
    for kind in &INEFFECTIVE {
        tasks.spawn(follow(client.clone(), kind));
    }
    tasks.join_all().await;
}

async fn follow(client: Client, kind: &IneffectiveKind) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(kind.group, kind.version, kind.kind));
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
    let mut reported = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let Some(message) = kind.message(&object.data) else { continue };
                if reported.insert((object.metadata.uid.clone(), message.clone())) {
                    let about = object.object_ref(&resource);
                    record::event(&client, about, "lab", "Warning", "NoEffectInLab", &message).await;
                }
            }
            Ok(Event::Delete(object)) => reported.retain(|(uid, _)| *uid != object.metadata.uid),
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => {
                tracing::debug!(kind = kind.kind, %error, "a watch is interrupted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_and_fields_without_effect_are_named() {
        let of = |kind: &str, spec: Value| {
            let kind = INEFFECTIVE.iter().find(|known| known.kind == kind).expect("listed");
            kind.message(&json!({"spec": spec}))
        };
        let cases = [
            ("HorizontalPodAutoscaler", json!({}), Some("No effect in a lab: HorizontalPodAutoscaler objects")),
            ("Job", json!({"template": {}}), None),
            ("Job", json!({"podFailurePolicy": {"rules": []}}), Some("No effect in a lab: spec.podFailurePolicy")),
            ("CronJob", json!({"timeZone": "Etc/UTC"}), None),
            (
                "CronJob",
                json!({"timeZone": "Europe/Berlin"}),
                Some("No effect in a lab: spec.timeZone; schedules are in UTC"),
            ),
        ];
        for (kind, spec, expected) in cases {
            assert_eq!(of(kind, spec.clone()).as_deref(), expected, "{kind} {spec}");
        }
    }
}
