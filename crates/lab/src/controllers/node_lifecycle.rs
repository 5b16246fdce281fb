//! The node lifecycle controller: marks nodes without heartbeat.
//!
//! A node agent renews the heartbeat of its nodes' `Ready` condition. When the heartbeat stops, the node becomes
//! `Unknown` after a grace period and its pods become unready, so that endpoints drop them. The grace period is
//! Kubernetes' default, 40 s.

use std::sync::Arc;
use std::time::Duration;

use install::client_error;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::pod_state::ready_since;
use super::reconcile::whenever_changed;
use super::view::ClusterView;
use crate::timestamp;

/// Grace period without a heartbeat.
pub const GRACE: Duration = Duration::from_secs(40);
const INTERVAL: Duration = Duration::from_secs(5);

/// Returns the nodes whose heartbeat is too old and that are not marked yet.
#[must_use]
pub fn silent(nodes: &[Arc<Node>], now: Timestamp, grace: Duration) -> Vec<String> {
    let late = |node: &&Arc<Node>| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|condition| {
            let heartbeat = condition.last_heartbeat_time.as_ref().map(|time| time.0.as_second());
            let grace = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
            condition.type_ == "Ready"
                && condition.status == "True"
                && heartbeat.is_some_and(|heartbeat| now.as_second() - heartbeat > grace)
        })
    };
    nodes.iter().filter(late).map(|node| node.name_any()).collect()
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    whenever_changed(&view, || pass(&client, &view)).await;
}

async fn pass(client: &Client, view: &ClusterView) -> Option<Duration> {
    let now = Timestamp::now();
    for name in silent(&view.nodes.list(), now, GRACE) {
        if let Err(error) = mark(client, view, &name, now).await {
            tracing::debug!(
                node = name,
                error = client_error::describe(&error),
                "cannot mark a node without heartbeat"
            );
        }
    }
    Some(INTERVAL)
}

async fn mark(client: &Client, view: &ClusterView, name: &str, now: Timestamp) -> kube::Result<()> {
    let time = timestamp::seconds(now);
    let nodes: Api<Node> = Api::all(client.clone());
    let Some(node) = view.nodes.get("", name) else { return Ok(()) };
    let conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let conditions = with(&conditions, "Ready", |condition| {
        condition["status"] = json!("Unknown");
        condition["reason"] = json!("NodeStatusUnknown");
        condition["message"] = json!("Kubelet stopped posting node status.");
        condition["lastTransitionTime"] = json!(time);
    });
    let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
    view.nodes.put(nodes.patch_status(name, &PatchParams::default(), &patch).await?);
    for pod in view.pods.list() {
        if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) != Some(name) || ready_since(&pod).is_none() {
            continue;
        }
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let conditions = with(&conditions, "Ready", |condition| {
            condition["status"] = json!("False");
            condition["lastTransitionTime"] = json!(time);
        });
        let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
        view.pods.put(pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await?);
    }
    view.touch();
    Ok(())
}

fn with<T: serde::Serialize>(conditions: &[T], kind: &str, change: impl Fn(&mut Value)) -> Vec<Value> {
    let mut conditions: Vec<Value> = conditions.iter().filter_map(|c| serde_json::to_value(c).ok()).collect();
    conditions.iter_mut().filter(|condition| condition["type"] == kind).for_each(change);
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_heartbeat_is_marked_once() {
        let node = |name: &str, status: &str, heartbeat: Option<&str>| {
            let condition = json!({"type": "Ready", "status": status, "lastHeartbeatTime": heartbeat});
            let node = json!({"metadata": {"name": name}, "status": {"conditions": [condition]}});
            Arc::new(serde_json::from_value::<Node>(node).expect("a node"))
        };
        let nodes = [
            node("fresh", "True", Some("2026-01-01T00:00:30Z")),
            node("late", "True", Some("2026-01-01T00:00:00Z")),
            node("marked", "Unknown", Some("2026-01-01T00:00:00Z")),
            node("no-heartbeat", "True", None),
        ];
        let now = "2026-01-01T00:00:50Z".parse().expect("a time");
        assert_eq!(silent(&nodes, now, GRACE), ["late"]);
    }
}
