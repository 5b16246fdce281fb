//! Events about pods. Told in the background: a cluster that is away costs nothing but the events.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::cluster::{Cluster, PodRef};
use crate::timestamp;

/// Events waiting to be told; more are dropped.
const WAITING: usize = 512;
/// Series of equal events that are counted together.
const SERIES: usize = 2048;

/// Takes events for telling.
#[derive(Debug, Clone)]
pub(super) struct Events {
    queue: mpsc::Sender<Value>,
}

impl Events {
    /// Starts telling events to a cluster.
    pub(super) fn start(cluster: Arc<dyn Cluster>) -> Self {
        let (queue, events) = mpsc::channel(WAITING);
        tokio::spawn(tell(cluster, events));
        Self { queue }
    }

    /// Records something that happened to a pod, or to a container of it.
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
        // Full: the cluster is away or slow; what is lost is a record, not an effect.
        let _ = self.queue.try_send(event);
    }
}

/// Sends events, equal ones under one name with a count.
async fn tell(cluster: Arc<dyn Cluster>, mut events: mpsc::Receiver<Value>) {
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
