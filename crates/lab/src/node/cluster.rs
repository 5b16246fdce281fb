//! The cluster's API as the node agent uses it, and a cache of Secrets and ConfigMaps.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde_json::Value;
use tokio::sync::watch;

/// A reference to a pod. A name can be used again, a UID cannot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
}

impl PodRef {
    /// Returns the reference to a pod.
    pub fn of(pod: &Pod) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self { namespace: text(&pod.metadata.namespace), name: text(&pod.metadata.name), uid: text(&pod.metadata.uid) }
    }
}

/// A request to the API server failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ClusterError {
    /// Whether the object does not exist, so that repeating the request is useless.
    pub gone: bool,
    /// The reason.
    pub message: String,
}

/// Parameters of a service account token.
#[derive(Debug, Clone)]
pub struct TokenParameters {
    /// Pod that uses the token.
    pub pod: PodRef,
    /// Name of the service account.
    pub service_account: String,
    /// Audience of the token; `None` is the API server.
    pub audience: Option<String>,
    /// Lifetime, in seconds.
    pub seconds: i64,
}

/// The API of a cluster, as the node agent uses it. [`super::kubernetes::Kubernetes`] implements it with an API server;
/// tests have their own implementation.
#[async_trait]
pub trait ClusterApi: Send + Sync + 'static {
    /// Requests a token.
    async fn token(&self, parameters: &TokenParameters) -> Result<String, ClusterError>;
    /// Replaces the status of a pod.
    async fn report(&self, pod: &PodRef, status: &Value) -> Result<(), ClusterError>;
    /// Removes a pod that has ended after its deletion.
    async fn finish(&self, pod: &PodRef) -> Result<(), ClusterError>;
    /// Records an event.
    async fn event(&self, event: &Value) -> Result<(), ClusterError>;
}

/// The contents of a Secret or a ConfigMap.
pub type Data = BTreeMap<String, Vec<u8>>;

/// The kind of an object with contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

impl std::fmt::Display for DataKind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Secret => "secret",
            Self::ConfigMap => "configmap",
        })
    }
}

/// A cache of the cluster's Secrets and ConfigMaps, updated by a watch.
#[derive(Debug)]
pub struct ObjectCache {
    held: RwLock<HashMap<(DataKind, String, String), Arc<Data>>>,
    changes: watch::Sender<u64>,
}

impl Default for ObjectCache {
    fn default() -> Self {
        Self { held: RwLock::default(), changes: watch::Sender::new(0) }
    }
}

impl ObjectCache {
    /// Returns the contents of an object.
    pub fn get(&self, kind: DataKind, namespace: &str, name: &str) -> Option<Arc<Data>> {
        let held = self.held.read().expect("no holder of the lock panics");
        held.get(&(kind, namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Stores an object's contents; `None` removes the object.
    pub fn put(&self, kind: DataKind, namespace: &str, name: &str, data: Option<Data>) {
        let mut held = self.held.write().expect("no holder of the lock panics");
        let key = (kind, namespace.to_owned(), name.to_owned());
        let changed = match data {
            Some(data) if held.get(&key).is_some_and(|old| **old == data) => false,
            Some(data) => {
                held.insert(key, Arc::new(data));
                true
            }
            None => held.remove(&key).is_some(),
        };
        drop(held);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Removes all objects of a kind except the named ones, after a new list.
    pub fn retain(&self, kind: DataKind, keep: &std::collections::HashSet<(String, String)>) {
        let mut held = self.held.write().expect("no holder of the lock panics");
        let before = held.len();
        held.retain(|(found, namespace, name), _| *found != kind || keep.contains(&(namespace.clone(), name.clone())));
        let changed = held.len() != before;
        drop(held);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Returns a receiver of changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Returns the contents of a Secret.
pub fn secret_data(secret: Secret) -> Data {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
}

/// Returns the contents of a ConfigMap, text and binary.
pub fn config_map_data(map: ConfigMap) -> Data {
    let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
    text.chain(binary).collect()
}
