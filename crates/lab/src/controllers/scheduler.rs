//! The scheduler: assigns pods to nodes.
//!
//! It supports what a lab needs: `nodeSelector`, required node affinity, required pod anti-affinity, cordoned nodes,
//! and an even spread of an owner's pods over zones and nodes. CPU and memory are not considered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use install::client_error;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;

use super::node_fit::{self, NOT_READY, UNSCHEDULABLE};
use super::owner::controller_of;
use super::pod_state::finished;
use super::reconcile::whenever_changed;
use super::retry::Retries;
use super::selector;
use super::view::ClusterView;
use crate::timestamp;

/// Label of a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of a node's region.
pub const REGION: &str = "topology.kubernetes.io/region";

/// The placement of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// The pod is assigned to this node.
    Node(String),
    /// No node fits, with the reason.
    Nowhere(String),
}

/// Returns the placement of every pod that waits for a node, in the order of age.
#[must_use]
pub fn decide(pods: &[Arc<Pod>], nodes: &[Arc<Node>]) -> Vec<(Arc<Pod>, Placement)> {
    let mut placed: Vec<(Arc<Pod>, String)> = pods
        .iter()
        .filter(|pod| !finished(pod))
        .filter_map(|pod| Some((pod.clone(), pod.spec.as_ref()?.node_name.clone()?)))
        .collect();
    let mut waiting: Vec<&Arc<Pod>> = pods.iter().filter(|pod| waits(pod)).collect();
    waiting.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone()));
    let mut placements = Vec::new();
    for pod in waiting {
        let placement = place(pod, nodes, &placed);
        if let Placement::Node(node) = &placement {
            placed.push((pod.clone(), node.clone()));
        }
        placements.push((pod.clone(), placement));
    }
    placements
}

fn waits(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| {
        spec.node_name.as_deref().unwrap_or_default().is_empty()
            && spec.scheduler_name.as_deref().is_none_or(|name| name == "default-scheduler")
            && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
    }) && pod.metadata.deletion_timestamp.is_none()
        && !finished(pod)
}

fn place(pod: &Pod, nodes: &[Arc<Node>], placed: &[(Arc<Pod>, String)]) -> Placement {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut candidates: Vec<&Node> = Vec::new();
    for node in nodes {
        match objection(pod, node, nodes, placed) {
            Some(reason) => *reasons.entry(reason).or_default() += 1,
            None => candidates.push(node),
        }
    }
    let owner = owner_of(pod);
    // A pod that is being deleted does not count: its replacement may take its node.
    let stays = |other: &Pod| other.metadata.deletion_timestamp.is_none();
    let sibling = |other: &Pod| owner.is_some() && owner_of(other) == owner && stays(other);
    let siblings =
        |wanted: &dyn Fn(&str) -> bool| placed.iter().filter(|(other, node)| sibling(other) && wanted(node)).count();
    let best = candidates.into_iter().min_by_key(|node| {
        let zone = node.labels().get(ZONE);
        let in_zone =
            |name: &str| nodes.iter().any(|other| other.name_any() == name && other.labels().get(ZONE) == zone);
        let name = node.name_any();
        let all = placed.iter().filter(|(pod, other)| *other == name && stays(pod)).count();
        (siblings(&in_zone), siblings(&|other| other == name), all, name.clone())
    });
    match best {
        Some(node) => Placement::Node(node.name_any()),
        None => {
            let why: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let why = if why.is_empty() { String::new() } else { format!(": {}", why.join(", ")) };
            Placement::Nowhere(format!("0/{} nodes are available{why}.", nodes.len()))
        }
    }
}

fn owner_of(pod: &Pod) -> Option<&str> {
    controller_of(&pod.metadata).map(|owner| owner.uid.as_str())
}

/// Returns why `pod` cannot be assigned to `node`, in the words of `kubectl describe`.
fn objection(pod: &Pod, node: &Node, nodes: &[Arc<Node>], placed: &[(Arc<Pod>, String)]) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    if let Some(taint) = node_fit::untolerated(spec, node, &["NoSchedule", "NoExecute"]) {
        return Some(match taint.key.as_str() {
            UNSCHEDULABLE => "node(s) were unschedulable",
            NOT_READY => "node(s) had untolerated taint {node.kubernetes.io/not-ready: }",
            _ => "node(s) had untolerated taint",
        });
    }
    if !node_fit::meets_affinity(spec, node) {
        return Some("node(s) didn't match Pod's node affinity/selector");
    }
    let labels = node.labels();
    let apart = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    let crowded = apart.iter().any(|term| {
        let here = labels.get(&term.topology_key);
        here.is_some()
            && placed.iter().any(|(other, name)| {
                let there = nodes.iter().find(|node| node.name_any() == *name);
                there.and_then(|node| node.labels().get(&term.topology_key)) == here
                    && other.metadata.namespace == pod.metadata.namespace
                    && term.label_selector.as_ref().is_some_and(|wanted| selector::matches(wanted, other.labels()))
            })
    });
    crowded.then_some("node(s) didn't match pod anti-affinity rules")
}

/// Runs the scheduler.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    let retries = tokio::sync::Mutex::new(Retries::default());
    whenever_changed(&view, || pass(&client, &view, &retries)).await;
}

async fn pass(client: &Client, view: &ClusterView, retries: &tokio::sync::Mutex<Retries>) -> Option<Duration> {
    let mut retries = retries.lock().await;
    let started = Instant::now();
    for (pod, placement) in decide(&view.pods.list(), &view.nodes.list()) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if !retries.due(&uid, started) {
            continue;
        }
        let done = match &placement {
            Placement::Node(node) => bind(client, view, &pod, node).await,
            Placement::Nowhere(why) => refuse(client, view, &pod, why).await,
        };
        match done {
            Ok(()) => retries.succeeded(&uid),
            Err(kube::Error::Api(status)) if status.code == 404 => retries.succeeded(&uid),
            Err(error) => {
                let error = client_error::describe(&error);
                tracing::debug!(pod = pod.name_any(), error, "cannot schedule a pod");
                retries.failed(&uid, Instant::now());
            }
        }
    }
    retries.next(started)
}

async fn bind(client: &Client, view: &ClusterView, pod: &Pod, node: &str) -> kube::Result<()> {
    let namespace = pod.namespace().unwrap_or_default();
    let name = pod.name_any();
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    // The labels come before the binding, because the pod's environment may use them (KEP-4742 has the same order).
    let labels = place_labels(view.nodes.get("", node).as_deref(), pod);
    if !labels.is_empty() {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        view.pods.put(api.patch(&name, &PatchParams::default(), &patch).await?);
    }
    let mut binding = Binding {
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
        ..Binding::default()
    };
    binding.metadata.name = Some(name.clone());
    binding.metadata.namespace = Some(namespace.clone());
    let _: serde_json::Value = api.create_subresource("binding", &name, &PostParams::default(), &binding).await?;
    // The result of the binding, so that no pass binds the pod again before the watch reports it.
    if let Some(known) = view.pods.get(&namespace, &name) {
        let mut bound = Pod::clone(&known);
        bound.spec.get_or_insert_default().node_name = Some(node.to_owned());
        view.pods.assume(bound);
    }
    let message = format!("Successfully assigned {namespace}/{name} to {node}");
    super::record::event(client, pod.object_ref(&()), "default-scheduler", "Normal", "Scheduled", &message).await;
    Ok(())
}

/// Returns the node's zone and region, as far as the pod does not have them yet.
fn place_labels(node: Option<&Node>, pod: &Pod) -> BTreeMap<String, String> {
    let labels = node.map(|node| node.labels().clone()).unwrap_or_default();
    let place = |key: &String| matches!(key.as_str(), ZONE | REGION);
    labels.into_iter().filter(|(key, value)| place(key) && pod.labels().get(key) != Some(value)).collect()
}

async fn refuse(client: &Client, view: &ClusterView, pod: &Pod, why: &str) -> kube::Result<()> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let reported = conditions
        .iter()
        .any(|condition| condition.type_ == "PodScheduled" && condition.message.as_deref() == Some(why));
    if reported {
        return Ok(());
    }
    let now = timestamp::seconds(Timestamp::now());
    let mut conditions: Vec<serde_json::Value> = conditions
        .iter()
        .filter(|condition| condition.type_ != "PodScheduled")
        .filter_map(|condition| serde_json::to_value(condition).ok())
        .collect();
    conditions.push(json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why, "lastTransitionTime": now,
    }));
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
    view.pods.put(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await?);
    super::record::event(client, pod.object_ref(&()), "default-scheduler", "Warning", "FailedScheduling", why).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, zone: &str, more: serde_json::Value) -> Arc<Node> {
        let mut node =
            json!({"metadata": {"name": name, "labels": {ZONE: zone, "kubernetes.io/hostname": name}}, "spec": more});
        node["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        Arc::new(serde_json::from_value(node).expect("a node"))
    }

    fn pod(name: &str, spec: serde_json::Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {
                "name": name, "namespace": "default", "labels": {"app": "web"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "web", "controller": true}],
            },
            "spec": {"containers": []},
        });
        if let (serde_json::Value::Object(into), serde_json::Value::Object(more)) = (&mut pod["spec"], spec) {
            into.extend(more);
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn placements(pods: &[Arc<Pod>], nodes: &[Arc<Node>]) -> Vec<(String, Placement)> {
        decide(pods, nodes).into_iter().map(|(pod, placement)| (pod.name_any(), placement)).collect()
    }

    fn to(node: &str) -> Placement {
        Placement::Node(node.to_owned())
    }

    #[test]
    fn pods_of_one_owner_spread_over_zones() {
        let nodes = [node("a1", "a", json!({})), node("a2", "a", json!({})), node("b1", "b", json!({}))];
        let pods: Vec<_> = ["p1", "p2", "p3", "p4"].map(|name| pod(name, json!({}))).to_vec();
        let got = placements(&pods, &nodes);
        let expected = [("p1", "a1"), ("p2", "b1"), ("p3", "a2"), ("p4", "b1")];
        assert_eq!(got, expected.map(|(pod, node)| (pod.to_owned(), to(node))));
    }

    #[test]
    fn zones_come_before_load_and_deleted_pods_do_not_count() {
        let nodes = [node("a1", "a", json!({})), node("b1", "b", json!({}))];
        let placed = |name: &str, node: &str, owner: &str, leaving: bool| {
            let mut pod = Pod::clone(&pod(name, json!({"nodeName": node})));
            pod.metadata.owner_references.get_or_insert_default()[0].uid = owner.to_owned();
            let then = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH);
            pod.metadata.deletion_timestamp = leaving.then_some(then);
            Arc::new(pod)
        };
        let others = |count: usize, node: &'static str| {
            (0..count).map(move |n| placed(&format!("{node}-{n}"), node, "other", false))
        };
        let cases: [(&str, Vec<Arc<Pod>>, &str); 5] = [
            (
                "a sibling in the one zone, more load in the other",
                others(5, "b1").chain([placed("s", "a1", "web", false)]).collect(),
                "b1",
            ),
            ("the same the other way", others(5, "a1").chain([placed("s", "b1", "web", false)]).collect(), "a1"),
            ("no sibling: load decides", others(1, "a1").collect(), "b1"),
            (
                "a sibling that is being deleted does not count",
                vec![placed("s", "a1", "web", false), placed("l", "b1", "web", true)],
                "b1",
            ),
            ("nor does it count as load", vec![placed("l", "a1", "other", true)], "a1"),
        ];
        for (what, mut pods, expected) in cases {
            pods.push(pod("new", json!({})));
            assert_eq!(placements(&pods, &nodes), [("new".to_owned(), to(expected))], "{what}");
        }
    }

    #[test]
    fn selectors_affinity_and_taints_are_respected() {
        let nodes = [
            node("a1", "a", json!({})),
            node("b1", "b", json!({})),
            node("c1", "c", json!({"unschedulable": true})),
            node("d1", "d", json!({"taints": [{"key": "gpu", "effect": "NoSchedule"}]})),
        ];
        let affinity = |operator: &str| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": ZONE, "operator": operator, "values": ["b"]}]}]}}}})
        };
        let cases = [
            (json!({"nodeSelector": {ZONE: "b"}}), Some("b1")),
            (affinity("In"), Some("b1")),
            (affinity("NotIn"), Some("a1")),
            (json!({"nodeSelector": {ZONE: "c"}}), None),
            (json!({"nodeSelector": {ZONE: "d"}}), None),
            (json!({"nodeSelector": {ZONE: "d"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}), Some("d1")),
            (json!({"nodeSelector": {ZONE: "nowhere"}}), None),
        ];
        for (spec, expected) in cases {
            let got = placements(&[pod("p", spec.clone())], &nodes);
            match (expected, &got[0].1) {
                (Some(node), placement) => assert_eq!(*placement, to(node), "{spec}"),
                (None, Placement::Nowhere(why)) => assert!(why.starts_with("0/4 nodes are available"), "{why}"),
                (None, Placement::Node(node)) => panic!("{spec} went to {node}"),
            }
        }
    }

    #[test]
    fn anti_affinity_is_respected() {
        let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": ZONE, "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
        let nodes = [node("a1", "a", json!({})), node("b1", "b", json!({}))];
        let pods: Vec<_> = ["p1", "p2", "p3"].map(|name| pod(name, apart.clone())).to_vec();
        let got = placements(&pods, &nodes);
        assert_eq!((&got[0].1, &got[1].1), (&to("a1"), &to("b1")));
        assert!(matches!(&got[2].1, Placement::Nowhere(why) if why.contains("anti-affinity")));
    }

    #[test]
    fn scheduled_gated_and_foreign_pods_are_ignored() {
        let pods = [
            pod("placed", json!({"nodeName": "a1"})),
            pod("gated", json!({"schedulingGates": [{"name": "wait"}]})),
            pod("foreign", json!({"schedulerName": "other"})),
        ];
        assert_eq!(placements(&pods, &[node("a1", "a", json!({}))]), []);
    }
}
