//! The state that all requests share: the store, the registry of resources and the keys. All writes go through this
//! module, so that changed definitions take effect.

use std::sync::Arc;

use ipnet::IpNet;
use rustls::crypto::CryptoProvider;
use serde_json::Value;

use crate::authn::tokens::{TokenKey, TokenVerifier};
use crate::crd;
use crate::kinds::ResourceKind;
use crate::object;
use crate::registry::{ResourceRegistry, ServedResource};
use crate::status::{Result, Status};
use crate::storage::{GroupResource, ObjectStore, StoredObject, WriteError};
use crate::stream::NodeClient;

/// The server's state.
pub(crate) struct Api {
    pub(crate) store: ObjectStore,
    pub(crate) registry: ResourceRegistry,
    pub(crate) token_key: TokenKey,
    /// The CA bundle by which clients verify the API server, in PEM.
    pub(crate) ca: String,
    pub(crate) node: Option<NodeClient>,
    /// TLS provider of connections to webhooks.
    pub(crate) crypto: Arc<CryptoProvider>,
    /// Networks of cluster IPs, one of each IP family of the cluster.
    pub(crate) service_networks: Vec<IpNet>,
    /// Locked from the choice of a cluster IP or node port until the Service is stored.
    pub(crate) service_writes: tokio::sync::Mutex<()>,
}

impl Api {
    pub(crate) fn tokens(&self) -> TokenVerifier<'_> {
        TokenVerifier { key: &self.token_key, store: &self.store }
    }

    /// Returns the object, or a `NotFound` error.
    pub(crate) fn get(&self, served: &ServedResource, namespace: &str, name: &str) -> Result<StoredObject> {
        self.store.get(&served.stored, namespace, name).ok_or_else(|| Status::not_found(&served.kind, name))
    }

    /// Stores a new object.
    pub(crate) fn insert(&self, served: &ServedResource, object: Value) -> Result<StoredObject> {
        let name = object::name(&object).to_owned();
        let kept = self.store.insert(&served.stored, object);
        let kept = kept.map_err(|refused| write_error_to_status(refused, &served.kind, &name))?;
        self.after_write(&served.stored);
        Ok(kept)
    }

    /// Replaces an object if `current` is still the stored object.
    pub(crate) fn replace(
        &self,
        stored: &GroupResource,
        current: &StoredObject,
        object: Value,
    ) -> std::result::Result<StoredObject, WriteError> {
        let kept = self.store.replace(stored, current, object)?;
        self.after_write(stored);
        Ok(kept)
    }

    /// Removes an object if `current` is still the stored object. `last` is its last state.
    pub(crate) fn remove(
        &self,
        stored: &GroupResource,
        current: &StoredObject,
        last: Value,
    ) -> std::result::Result<StoredObject, WriteError> {
        let removed = self.store.remove(stored, current, last)?;
        self.after_write(stored);
        Ok(removed)
    }

    fn after_write(&self, stored: &GroupResource) {
        if &*stored.resource == "customresourcedefinitions" {
            self.registry.replace_custom(|| crd::served(&self.store));
        }
    }

    /// Changes an object on the server's own behalf, and retries after conflicts. `change` returns None if nothing is
    /// to be changed. An object without remaining finalizers is removed if it is being deleted.
    pub(crate) fn modify(
        &self,
        stored: &GroupResource,
        namespace: &str,
        name: &str,
        change: impl Fn(&Value) -> Option<Value>,
    ) {
        // A conflict means that another writer succeeded, so that the loop makes progress.
        loop {
            let Some(current) = self.store.get(stored, namespace, name) else { return };
            let Some(changed) = change(&current) else { return };
            let done = if can_be_removed(&changed) {
                self.remove(stored, &current, changed)
            } else {
                self.replace(stored, &current, changed)
            };
            match done {
                Err(WriteError::Changed) => continue,
                _ => return,
            }
        }
    }

    /// The built-in or custom resource with that storage key, in any version.
    pub(crate) fn served(&self, stored: &GroupResource) -> Option<Arc<ServedResource>> {
        self.registry.snapshot().stored(stored).cloned()
    }
}

/// Returns whether a deleted object can be removed: no finalizers, no grace period.
pub(crate) fn can_be_removed(object: &Value) -> bool {
    object::is_deleting(object)
        && object::finalizers(object).next().is_none()
        && object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(0) == 0
        // Namespaces also have finalizers in their spec.
        && (object::text(object, "/kind") != "Namespace" || object::list(object, "/spec/finalizers").is_empty())
}

/// The error that a client receives for a failed write.
pub(crate) fn write_error_to_status(refused: WriteError, kind: &ResourceKind, name: &str) -> Status {
    match refused {
        WriteError::Exists => Status::already_exists(kind, name),
        WriteError::Missing => Status::not_found(kind, name),
        WriteError::Changed => Status::modified(kind, name),
        WriteError::Full => {
            Status::internal("the store has its maximum number of objects: delete objects or use another cluster")
        }
    }
}
