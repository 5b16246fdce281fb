//! Events about pods. They are sent in the background: while the cluster is unavailable only events are lost.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::cluster::{ClusterApi, PodRef};
use crate::timestamp;

/// Length of the queue of events; further events are dropped.
const WAITING: usize = 512;
/// Number of series of equal events that are counted.
const SERIES: usize = 2048;

/// The queue of events to send.
#[derive(Debug, Clone)]
pub(super) struct Events {
    queue: mpsc::Sender<Value>,
}

impl Events {
    /// Starts sending events to a cluster.
    pub(super) fn start(cluster: Arc<dyn ClusterApi>) -> Self {
        let (queue, events) = mpsc::channel(WAITING);
        tokio::spawn(send(cluster, events));
        Self { queue }
    }

    /// Records an event of a pod, or of a container of it.
    pub(super) fn record(&self, pod: &Pod, kind: &str, reason: &str, message: &str, container: Option<&str>) {
        let name = PodRef::of(pod);
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let mut about = json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": name.namespace, "name": name.name, "uid": name.uid,
            "resourceVersion": pod.metadata.resource_version,
        });
        if let Some(container) = container {
            about["fieldPath"] = format!("spec.containers{{{container}}}").into();
        }
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"namespace": name.namespace, "name": ""},
            "involvedObject": about,
            "type": kind, "reason": reason, "message": message,
            "source": {"component": "kubelet", "host": node},
            "reportingComponent": "kubelet", "reportingInstance": node,
            "firstTimestamp": timestamp::seconds(Timestamp::now()),
            "lastTimestamp": timestamp::seconds(Timestamp::now()),
            "count": 1,
        });
        // The queue is full: the cluster is unavailable or slow, and the event is lost.
        let _ = self.queue.try_send(event);
    }
}

/// Sends events. Equal events are one object with a count.
async fn send(cluster: Arc<dyn ClusterApi>, mut events: mpsc::Receiver<Value>) {
    let mut series: HashMap<String, (String, u64, Value)> = HashMap::new();
    let mut number: u64 = 0;
    while let Some(mut event) = events.recv().await {
        let about = &event["involvedObject"];
        let key = format!("{}|{}|{}|{}", about["uid"], about["fieldPath"], event["reason"], event["message"]);
        if series.len() > SERIES {
            series.clear();
        }
        number += 1;
        let base = about["name"].as_str().unwrap_or("pod").to_owned();
        let unique = format!("{base}.{:x}{number:04x}", Timestamp::now().as_nanosecond() as u64);
        let (name, count, first) = series.entry(key).or_insert((unique, 0, event["firstTimestamp"].clone()));
        *count += 1;
        event["metadata"]["name"] = name.as_str().into();
        event["count"] = (*count).into();
        event["firstTimestamp"] = first.clone();
        if let Err(error) = cluster.event(&event).await {
            tracing::debug!(%error, reason = %event["reason"], "an event was not recorded");
        }
    }
}
