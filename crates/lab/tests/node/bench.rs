//! An agent with a cluster API that the test implements.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use lab::node::cluster::{ClusterApi, ClusterError, DataKind, ObjectCache, PodRef, TokenParameters};
use lab::node::{Agent, NodeSettings};
use net::link::Links;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Deadline of a single condition, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The cluster's network: that of this process, with a loopback and an address for the agent.
pub(super) fn prepare_network() {
    let mut links = Links::open().unwrap();
    links.up("lo").unwrap();
    links.add_address("lo", "203.0.113.1/32".parse().unwrap()).unwrap();
    net::namespace::NetNamespace::current().unwrap().set("ipv4/ip_forward", "1").unwrap();
}

/// A cluster API that records requests.
#[derive(Default)]
pub(super) struct FakeClusterApi {
    pub statuses: Mutex<HashMap<String, Value>>,
    pub finished: Mutex<Vec<String>>,
    pub events: Mutex<Vec<Value>>,
    pub tokens: AtomicU64,
    changed: watch::Sender<u64>,
}

#[async_trait]
impl ClusterApi for FakeClusterApi {
    async fn token(&self, parameters: &TokenParameters) -> Result<String, ClusterError> {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        Ok(format!("token-{number}-{}-{}", parameters.service_account, parameters.audience.as_deref().unwrap_or("api")))
    }

    async fn report(&self, pod: &PodRef, status: &Value) -> Result<(), ClusterError> {
        self.statuses.lock().unwrap().insert(pod.name.clone(), status.clone());
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn finish(&self, pod: &PodRef) -> Result<(), ClusterError> {
        self.finished.lock().unwrap().push(pod.name.clone());
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn event(&self, event: &Value) -> Result<(), ClusterError> {
        self.events.lock().unwrap().push(event.clone());
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }
}

/// An agent with its surroundings.
pub(super) struct Bench {
    pub agent: Agent,
    pub cluster: Arc<FakeClusterApi>,
    pub objects: Arc<ObjectCache>,
    pub directory: PathBuf,
    _kept: tempfile::TempDir,
}

/// Runs a test with a new agent, then ends all its pods and asserts that nothing of them remains.
pub(super) fn with_agent<Fut: Future<Output = ()>>(check: impl FnOnce(Arc<Bench>) -> Fut) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let kept = tempfile::tempdir().unwrap();
        let directory = kept.path().canonicalize().unwrap();
        let settings = NodeSettings {
            directory: directory.clone(),
            socket: directory.join("node.sock"),
            host_addresses: vec!["203.0.113.1".parse().unwrap()],
            pod_networks: vec!["10.244.0.0/16".parse().unwrap()],
            dns_address: "10.96.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            api: "10.96.0.1:443".parse().unwrap(),
        };
        let (cluster, objects) = (Arc::new(FakeClusterApi::default()), Arc::new(ObjectCache::default()));
        let ca = [("ca.crt".to_owned(), b"certificate".to_vec())];
        objects.put(DataKind::ConfigMap, "shop", "kube-root-ca.crt", Some(ca.into()));
        let agent = Agent::new(settings, cluster.clone(), objects.clone()).unwrap();
        let bench = Arc::new(Bench { agent, cluster, objects, directory: directory.clone(), _kept: kept });
        check(bench.clone()).await;
        let names: Vec<String> = bench.cluster.statuses.lock().unwrap().keys().cloned().collect();
        for name in &names {
            bench.agent.remove(&uid(name));
        }
        bench.until("every pod is gone", || bench.agent.pods() == 0).await;
        assert_eq!(std::fs::read_dir(directory.join("pods")).unwrap().count(), 0, "files are left");
        let left: Vec<_> = Links::open().unwrap().list().unwrap();
        let left: Vec<_> = left.iter().filter(|(_, name)| name.starts_with("pod")).collect();
        assert!(left.is_empty(), "links are left: {left:?}");
    });
}

pub(super) fn uid(name: &str) -> String {
    format!("uid-of-{name}")
}

/// A pod in namespace `shop` with a short grace period.
pub(super) fn pod(name: &str, mut spec: Value) -> Pod {
    let defaults = json!({"nodeName": "west-a", "terminationGracePeriodSeconds": 5});
    for (key, value) in defaults.as_object().unwrap() {
        spec.as_object_mut().unwrap().entry(key).or_insert(value.clone());
    }
    let labels = json!({"app": name});
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": uid(name), "labels": labels}, "spec": spec,
    }))
    .unwrap()
}

impl Bench {
    /// Returns the latest status of a pod.
    pub(super) fn status(&self, name: &str) -> Value {
        self.cluster.statuses.lock().unwrap().get(name).cloned().unwrap_or_default()
    }

    /// Waits until a pod's status is `wanted`, and returns it.
    pub(super) async fn status_when(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until(&format!("{name}: {what}"), || wanted(&self.status(name))).await;
        self.status(name)
    }

    pub(super) async fn ready(&self, name: &str) -> Value {
        self.status_when(name, "ready", is_ready).await
    }

    /// Waits until a condition holds.
    pub(super) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let mut changes = self.cluster.changed.subscribe();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds() {
            let more = tokio::time::timeout(Duration::from_millis(50), changes.changed());
            let _ = more.await;
            if tokio::time::Instant::now() > deadline {
                let statuses = serde_json::to_string_pretty(&*self.cluster.statuses.lock().unwrap()).unwrap();
                let events = self.events();
                panic!("not in time: {what}\nevents: {events:#?}\nstatuses: {statuses}");
            }
        }
    }

    /// Returns the events as "pod reason: message".
    pub(super) fn events(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let one = |event: &Value| {
            format!(
                "{} {}: {}",
                text(&event["involvedObject"]["name"]),
                text(&event["reason"]),
                text(&event["message"])
            )
        };
        self.cluster.events.lock().unwrap().iter().map(one).collect()
    }

    pub(super) fn has_event(&self, part: &str) -> bool {
        self.events().iter().any(|event| event.contains(part))
    }

    /// Returns the log of a container, without the head of each record.
    pub(super) fn log(&self, name: &str, container: &str, run: u32) -> String {
        let file = lab::node::logs::path(&self.directory.join("pods").join(uid(name)), container, run);
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(|line| format!("{line}\n")).collect()
    }
}

pub(super) fn is_ready(status: &Value) -> bool {
    condition(status, "Ready") == "True"
}

pub(super) fn condition(status: &Value, kind: &str) -> String {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.and_then(|found| found["status"].as_str()).unwrap_or_default().to_owned()
}

/// Sends GET from the cluster's network and returns status and body.
pub(super) async fn get(address: &str, port: u16) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect((address, port)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
