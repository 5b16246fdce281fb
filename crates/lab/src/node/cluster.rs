//! What the node agent asks of its cluster, and the Secrets and ConfigMaps it keeps at hand.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde_json::Value;
use tokio::sync::watch;

/// Which pod: a name can be used again, a uid cannot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

impl PodRef {
    /// The reference to a pod as the API server gave it.
    pub fn of(pod: &Pod) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self { namespace: text(&pod.metadata.namespace), name: text(&pod.metadata.name), uid: text(&pod.metadata.uid) }
    }
}

/// The API server did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ClusterError {
    /// The object is not there (any more): asking again is of no use.
    pub gone: bool,
    /// Why.
    pub message: String,
}

/// A service-account token to ask for.
#[derive(Debug, Clone)]
pub struct TokenWish {
    /// Who will use it.
    pub pod: PodRef,
    /// The account.
    pub service_account: String,
    /// Whom it is for; the API server itself if absent.
    pub audience: Option<String>,
    /// How long it should live.
    pub seconds: i64,
}

/// The cluster as the node agent needs it. The real one is [`super::kubernetes::Kubernetes`]; tests have their own.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Gets a token.
    async fn token(&self, wish: &TokenWish) -> Result<String, ClusterError>;
    /// Replaces what the node agent says of a pod.
    async fn report(&self, pod: &PodRef, status: &Value) -> Result<(), ClusterError>;
    /// Removes a pod that has ended after its deletion was asked for.
    async fn finish(&self, pod: &PodRef) -> Result<(), ClusterError>;
    /// Records an event.
    async fn event(&self, event: &Value) -> Result<(), ClusterError>;
}

/// The contents of a Secret or a ConfigMap.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Which of the two kinds.
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

/// All Secrets and ConfigMaps of the cluster, kept current by a watch.
#[derive(Debug)]
pub struct Objects {
    held: RwLock<HashMap<(DataKind, String, String), Arc<Data>>>,
    changes: watch::Sender<u64>,
}

impl Default for Objects {
    fn default() -> Self {
        Self { held: RwLock::default(), changes: watch::Sender::new(0) }
    }
}

impl Objects {
    /// The contents of an object.
    pub fn get(&self, kind: DataKind, namespace: &str, name: &str) -> Option<Arc<Data>> {
        let held = self.held.read().expect("no holder of the lock panics");
        held.get(&(kind, namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Notes an object's contents, or (`None`) that it is gone.
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

    /// Keeps of a kind only the objects named, after a watch began anew.
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

    /// Tells of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// The contents of a Secret.
pub fn secret_data(secret: Secret) -> Data {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
}

/// The contents of a ConfigMap, text and binary.
pub fn config_map_data(map: ConfigMap) -> Data {
    let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
    text.chain(binary).collect()
}
