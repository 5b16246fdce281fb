//! The loop of a controller, and its requests about one object and the object's pods.

use std::sync::Arc;
use std::time::{Duration, Instant};

use install::client_error;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cache::Cache;
use super::owner::references_to;
use super::record;
use super::retry::Retries;
use super::view::ClusterView;

/// Most pods that a controller creates for one object in one pass, so that a mistaken size does not delay everything
/// else.
pub(super) const BURST: usize = 32;

/// Calls `pass` now, whenever the view changes, and after the duration that `pass` returned.
pub(super) async fn whenever_changed<F, Fut>(view: &ClusterView, mut pass: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<Duration>>,
{
    view.synced().await;
    let mut changes = view.changes();
    loop {
        changes.mark_unchanged();
        let again = pass().await;
        let timer = async {
            match again {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = timer => {}
        }
    }
}

/// Why an object could not be reconciled.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReconcileError {
    /// A pod or another object of it was refused. An Event reports it.
    #[error("Error creating: {}", client_error::describe(.0))]
    Creation(kube::Error),
    /// Another request failed.
    #[error("{}", client_error::describe(.0))]
    Request(#[from] kube::Error),
}

/// A kind of object that a controller reconciles.
pub(super) trait ReconciledKind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// Name of the kind's controller in Events.
    const CONTROLLER: &'static str;

    /// The objects of the kind.
    fn cache(view: &ClusterView) -> &Cache<Self>;
}

/// A controller of the objects of one kind.
pub(super) trait Reconciler: Send + Sync {
    /// The kind of object.
    type Kind: ReconciledKind;

    /// Brings the cluster closer to what the object specifies. Returns when to look at the object again although
    /// nothing has changed.
    fn reconcile(
        &self,
        object: &Reconciled<'_, Self::Kind>,
    ) -> impl Future<Output = Result<Option<Duration>, ReconcileError>> + Send;
}

/// Runs a controller: each object is reconciled whenever something changes, and after a backoff if that failed. Objects
/// that are being deleted are left to the garbage collector.
pub(super) async fn run<R: Reconciler>(client: Client, view: Arc<ClusterView>, reconciler: R) {
    let retries = tokio::sync::Mutex::new(Retries::default());
    whenever_changed(&view, || pass(&client, &view, &reconciler, &retries)).await;
}

async fn pass<R: Reconciler>(
    client: &Client,
    view: &ClusterView,
    reconciler: &R,
    retries: &tokio::sync::Mutex<Retries>,
) -> Option<Duration> {
    let mut retries = retries.lock().await;
    let started = Instant::now();
    let mut again: Option<Duration> = None;
    for object in R::Kind::cache(view).list() {
        let Some(uid) = object.uid() else { continue };
        if object.meta().deletion_timestamp.is_some() || !retries.due(&uid, started) {
            continue;
        }
        let reconciled = Reconciled { client, view, object: &object };
        match reconciler.reconcile(&reconciled).await {
            Ok(next) => {
                retries.succeeded(&uid);
                again = [again, next].into_iter().flatten().min();
            }
            Err(error) => {
                tracing::debug!(controller = R::Kind::CONTROLLER, object = object.name_any(), %error, "cannot reconcile");
                if matches!(error, ReconcileError::Creation(_)) && !retries.has_failed(&uid) {
                    reconciled.event("Warning", "FailedCreate", &error.to_string()).await;
                }
                retries.failed(&uid, Instant::now());
            }
        }
    }
    [again, retries.next(started)].into_iter().flatten().min()
}

/// An object that is being reconciled. Results of requests go into the view.
pub(super) struct Reconciled<'a, K> {
    pub client: &'a Client,
    pub view: &'a ClusterView,
    pub object: &'a Arc<K>,
}

impl<K: ReconciledKind> Reconciled<'_, K> {
    /// Returns the API of a kind in the object's namespace.
    pub(super) fn api<T>(&self) -> Api<T>
    where
        T: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace())
    }

    /// Returns the object's namespace.
    pub(super) fn namespace(&self) -> String {
        self.object.namespace().unwrap_or_default()
    }

    /// Returns the pods of the object's namespace.
    pub(super) fn pods(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.view.pods.list();
        pods.retain(|pod| pod.metadata.namespace == self.object.meta().namespace);
        pods
    }

    /// Writes an Event about the object.
    pub(super) async fn event(&self, kind: &str, reason: &str, message: &str) {
        record::event(self.client, self.object.object_ref(&()), K::CONTROLLER, kind, reason, message).await;
    }

    /// Creates a pod.
    pub(super) async fn create(&self, pod: &Pod) -> Result<(), ReconcileError> {
        let created = self.api::<Pod>().create(&PostParams::default(), pod).await.map_err(ReconcileError::Creation)?;
        let message = format!("Created pod: {}", created.name_any());
        self.view.pods.put(created);
        self.view.touch();
        self.event("Normal", "SuccessfulCreate", &message).await;
        Ok(())
    }

    /// Deletes a pod. A pod that is gone, or that another one has replaced, is forgotten.
    pub(super) async fn delete(&self, name: &str) -> kube::Result<()> {
        let Some(pod) = self.view.pods.get(&self.namespace(), name) else { return Ok(()) };
        let precondition = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        match self.api::<Pod>().delete(name, &DeleteParams::default().preconditions(precondition)).await {
            Ok(either) => match either.left() {
                Some(pod) => {
                    self.view.pods.put(pod);
                }
                None => self.view.pods.remove(&pod),
            },
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
                self.view.pods.remove(&pod);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.view.touch();
        self.event("Normal", "SuccessfulDelete", &format!("Deleted pod: {name}")).await;
        Ok(())
    }

    /// Adopts pods without an owner, and releases pods that the object's selector no longer matches.
    pub(super) async fn claim(&self, adopt: &[String], release: &[String]) -> kube::Result<()> {
        let owner = references_to(self.object.as_ref());
        let changes =
            adopt.iter().map(|name| (name, json!(owner))).chain(release.iter().map(|name| (name, Value::Null)));
        for (name, owners) in changes {
            let patch = Patch::Merge(json!({"metadata": {"ownerReferences": owners}}));
            self.view.pods.put(self.api::<Pod>().patch(name, &PatchParams::default(), &patch).await?);
        }
        Ok(())
    }

    /// Writes the object's status unless it is the `known` one.
    pub(super) async fn write_status<S: Serialize + PartialEq>(
        &self,
        known: Option<&S>,
        status: &S,
    ) -> kube::Result<()> {
        if known == Some(status) {
            return Ok(());
        }
        // A merge patch removes the fields that are null.
        let mut whole = json!(known);
        whole.as_object_mut().into_iter().flatten().for_each(|(_, value)| *value = Value::Null);
        if let (Value::Object(whole), Value::Object(status)) = (&mut whole, json!(status)) {
            whole.extend(status);
        } else {
            whole = json!(status);
        }
        let patch = Patch::Merge(json!({"status": whole}));
        let api: Api<K> = self.api();
        K::cache(self.view).put(api.patch_status(&self.object.name_any(), &PatchParams::default(), &patch).await?);
        self.view.touch();
        Ok(())
    }
}
