//! The cluster's API server: watches of pods, Secrets and ConfigMaps, pod status, node heartbeats.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use http::{Method, Request};
use install::client_error;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::cluster::{
    ClusterApi, ClusterError, Data, DataKind, ObjectCache, PodRef, TokenParameters, config_map_data, secret_data,
};
use super::nodes::NodeFaults;
use crate::timestamp;

/// Interval of node heartbeats, as a kubelet's; a node is unavailable after 40 s without one.
const HEARTBEAT: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i64 = 40;
/// Capacity of a node in pods: the number of its addresses.
const PODS: usize = 253;

/// A client of the API server.
#[derive(Clone)]
pub(super) struct Kubernetes {
    client: Client,
}

impl Kubernetes {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: &'static str,
        body: &Value,
    ) -> Result<Value, ClusterError> {
        let failed = |message: String| ClusterError { gone: false, message };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(serde_json::to_vec(body).map_err(|error| failed(error.to_string()))?)
            .map_err(|error| failed(error.to_string()))?;
        self.client.request::<Value>(request).await.map_err(|error| match error {
            kube::Error::Api(status) => ClusterError { gone: status.code == 404, message: status.message.clone() },
            other => failed(client_error::describe(&other)),
        })
    }
}

#[async_trait]
impl ClusterApi for Kubernetes {
    async fn token(&self, parameters: &TokenParameters) -> Result<String, ClusterError> {
        let PodRef { namespace, name, uid } = &parameters.pod;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{}/token", parameters.service_account);
        let audiences: Vec<_> = parameters.audience.iter().collect();
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences, "expirationSeconds": parameters.seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid},
            },
        });
        let answer = self.send(Method::POST, &path, "application/json", &body).await?;
        answer["status"]["token"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| ClusterError { gone: false, message: "the API server's answer has no token".into() })
    }

    async fn report(&self, pod: &PodRef, status: &Value) -> Result<(), ClusterError> {
        let path = format!("/api/v1/namespaces/{}/pods/{}/status", pod.namespace, pod.name);
        // With the UID the server refuses a status for an older pod of the name.
        let mut body = json!({"metadata": {"uid": pod.uid}, "status": status});
        // These lists are merged by address. Without the directive a restarted pod would keep its old addresses.
        for list in ["podIPs", "hostIPs"] {
            if let Some(addresses) = body["status"][list].as_array_mut() {
                addresses.insert(0, json!({"$patch": "replace"}));
            }
        }
        let sent = self.send(Method::PATCH, &path, "application/strategic-merge-patch+json", &body).await;
        sent.map(drop)
    }

    async fn finish(&self, pod: &PodRef) -> Result<(), ClusterError> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        let body = json!({
            "apiVersion": "v1", "kind": "DeleteOptions",
            "gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid},
        });
        match self.send(Method::DELETE, &path, "application/json", &body).await {
            Err(error) if error.message.contains("UID") => Err(ClusterError { gone: true, ..error }),
            other => other.map(drop),
        }
    }

    async fn event(&self, event: &Value) -> Result<(), ClusterError> {
        let namespace = event["metadata"]["namespace"].as_str().unwrap_or("default");
        let path = format!("/api/v1/namespaces/{namespace}/events");
        if event["count"] == 1 {
            return self.send(Method::POST, &path, "application/json", event).await.map(drop);
        }
        let name = event["metadata"]["name"].as_str().unwrap_or_default();
        let body = json!({"count": event["count"], "lastTimestamp": event["lastTimestamp"]});
        self.send(Method::PATCH, &format!("{path}/{name}"), "application/merge-patch+json", &body).await.map(drop)
    }
}

/// An event of the watch of pods.
#[derive(Debug)]
pub(super) enum PodEvent {
    Now(Box<Pod>),
    Gone(Box<Pod>),
    /// The UIDs of all pods, after a new list.
    All(HashSet<String>),
}

/// Watches all pods until the receiver is dropped. An interrupted watch is restarted.
pub(super) async fn watch_pods(client: Client, out: mpsc::Sender<PodEvent>) {
    let events = watcher(Api::<Pod>::all(client), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        let sent = match event {
            Ok(Event::Apply(pod)) => out.send(PodEvent::Now(Box::new(pod))).await,
            Ok(Event::Delete(pod)) => out.send(PodEvent::Gone(Box::new(pod))).await,
            Ok(Event::Init) => {
                listed.clear();
                Ok(())
            }
            Ok(Event::InitApply(pod)) => {
                listed.insert(pod.uid().unwrap_or_default());
                out.send(PodEvent::Now(Box::new(pod))).await
            }
            Ok(Event::InitDone) => out.send(PodEvent::All(std::mem::take(&mut listed))).await,
            Err(error) => {
                tracing::debug!(%error, "the watch of pods is interrupted");
                Ok(())
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Keeps the cache of Secrets and ConfigMaps up to date.
pub(super) async fn watch_objects(client: Client, objects: Arc<ObjectCache>) {
    tokio::join!(
        watch_data(Api::<Secret>::all(client.clone()), DataKind::Secret, &objects, secret_data),
        watch_data(Api::<ConfigMap>::all(client), DataKind::ConfigMap, &objects, config_map_data),
    );
}

async fn watch_data<K>(api: Api<K>, kind: DataKind, objects: &ObjectCache, data: impl Fn(K) -> Data)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object)) => {
                let (namespace, name) = key(&object);
                objects.put(kind, &namespace, &name, Some(data(object)));
            }
            Ok(Event::Delete(object)) => {
                let (namespace, name) = key(&object);
                objects.put(kind, &namespace, &name, None);
            }
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                let (namespace, name) = key(&object);
                objects.put(kind, &namespace, &name, Some(data(object)));
                listed.insert((namespace, name));
            }
            Ok(Event::InitDone) => objects.retain(kind, &listed),
            Err(error) => tracing::debug!(%error, %kind, "a watch is interrupted"),
        }
    }
}

/// Keeps the cluster's nodes ready: reports status and lease of each node without a fault, every [`HEARTBEAT`].
pub(super) async fn keep_nodes(kubernetes: Kubernetes, known: &NodeFaults, addresses: &[std::net::IpAddr]) {
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ready: HashSet<String> = HashSet::new();
    let api = Api::<Node>::all(kubernetes.client.clone());
    let appearing = watcher(Api::<Node>::all(kubernetes.client.clone()), watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let mut appearing = std::pin::pin!(appearing);
    loop {
        let nodes: Vec<String> = tokio::select! {
            _ = beat.tick() => match api.list_metadata(&kube::api::ListParams::default()).await {
                Ok(nodes) => nodes.items.iter().map(ResourceExt::name_any).collect(),
                Err(error) => {
                    tracing::debug!(error = client_error::describe(&error), "cannot list nodes");
                    continue;
                }
            },
            node = appearing.try_next() => match node {
                Ok(Some(node)) if !ready.contains(&node.name_any()) => vec![node.name_any()],
                Ok(Some(_)) | Err(_) => continue,
                Ok(None) => return,
            },
        };
        for node in nodes {
            known.add(&node);
            if known.is_dead(&node) {
                continue;
            }
            match send_heartbeat(&kubernetes, &node, addresses, !ready.contains(&node)).await {
                Ok(()) => drop(ready.insert(node)),
                Err(error) => tracing::debug!(%error, node, "cannot report a node's heartbeat"),
            }
        }
    }
}

async fn send_heartbeat(
    kubernetes: &Kubernetes,
    node: &str,
    addresses: &[std::net::IpAddr],
    first: bool,
) -> Result<(), ClusterError> {
    let now = timestamp::seconds(Timestamp::now());
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let mut condition =
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now});
        if first {
            condition["lastTransitionTime"] = now.as_str().into();
        }
        condition
    };
    let mut status = json!({"conditions": [
        condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]});
    if first {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).to_string();
        let memory = format!("{}Ki", super::fields::machine_memory() as u64 / 1024);
        let capacity = json!({"cpu": cores, "memory": memory, "pods": PODS.to_string()});
        status["capacity"] = capacity.clone();
        status["allocatable"] = capacity;
        let internal = addresses.iter().map(|address| json!({"type": "InternalIP", "address": address}));
        status["addresses"] = internal.chain([json!({"type": "Hostname", "address": node})]).collect();
        status["nodeInfo"] = node_info();
    }
    let path = format!("/api/v1/nodes/{node}/status");
    let body = json!({"status": status});
    kubernetes.send(Method::PATCH, &path, "application/strategic-merge-patch+json", &body).await?;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let spec = json!({
        "holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": timestamp::microseconds(Timestamp::now()),
    });
    let renewed = kubernetes
        .send(Method::PATCH, &format!("{leases}/{node}"), "application/merge-patch+json", &json!({"spec": spec}))
        .await;
    match renewed {
        Err(error) if error.gone => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"namespace": "kube-node-lease", "name": node}, "spec": spec,
            });
            kubernetes.send(Method::POST, leases, "application/json", &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}

fn node_info() -> Value {
    let uname = rustix::system::uname();
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    json!({
        "architecture": if std::env::consts::ARCH == "x86_64" { "amd64" } else { std::env::consts::ARCH },
        "operatingSystem": "linux",
        "osImage": "Isthmus lab",
        "kernelVersion": uname.release().to_string_lossy(),
        "kubeletVersion": format!("{version}+isthmus"),
        "kubeProxyVersion": "",
        "containerRuntimeVersion": format!("isthmus://{}", env!("CARGO_PKG_VERSION")),
        "machineID": "", "systemUUID": "", "bootID": "",
    })
}
