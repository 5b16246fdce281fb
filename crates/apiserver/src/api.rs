//! What all requests share: the store, what is served, the keys; and the writes that go through here so that their consequences follow.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use serde_json::Value;

use crate::authn::tokens::{TokenKey, Tokens};
use crate::crd;
use crate::kinds::Kind;
use crate::object;
use crate::registry::{Registry, Served};
use crate::status::{Result, Status};
use crate::storage::{GroupResource, Object, Refused, Store};
use crate::stream::NodeClient;

/// The server's state.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) token_key: TokenKey,
    /// The CA that clients should trust for the API server, as PEM.
    pub(crate) ca: String,
    pub(crate) node: Option<NodeClient>,
    /// Provider of the TLS of connections to webhooks.
    pub(crate) crypto: Arc<CryptoProvider>,
    pub(crate) service_network: (Ipv4Addr, u8),
    /// Held from the choice of a ClusterIP or node port until it is kept.
    pub(crate) service_writes: tokio::sync::Mutex<()>,
}

impl Api {
    pub(crate) fn tokens(&self) -> Tokens<'_> {
        Tokens { key: &self.token_key, store: &self.store }
    }

    /// The object, or that it is not there.
    pub(crate) fn get(&self, served: &Served, namespace: &str, name: &str) -> Result<Object> {
        self.store.get(&served.stored, namespace, name).ok_or_else(|| Status::not_found(&served.kind, name))
    }

    /// Keeps a new object.
    pub(crate) fn insert(&self, served: &Served, object: Value) -> Result<Object> {
        let name = object::name(&object).to_owned();
        let kept = self.store.insert(&served.stored, object);
        let kept = kept.map_err(|refused| refused_to_status(refused, &served.kind, &name))?;
        self.after_write(&served.stored);
        Ok(kept)
    }

    /// Puts an object in the place of the one it was made from.
    pub(crate) fn replace(
        &self,
        stored: &GroupResource,
        current: &Object,
        object: Value,
    ) -> std::result::Result<Object, Refused> {
        let kept = self.store.replace(stored, current, object)?;
        self.after_write(stored);
        Ok(kept)
    }

    /// Removes an object; `last` is its last state.
    pub(crate) fn remove(
        &self,
        stored: &GroupResource,
        current: &Object,
        last: Value,
    ) -> std::result::Result<Object, Refused> {
        let removed = self.store.remove(stored, current, last)?;
        self.after_write(stored);
        Ok(removed)
    }

    fn after_write(&self, stored: &GroupResource) {
        if &*stored.resource == "customresourcedefinitions" {
            self.registry.set_custom(crd::served(&self.store));
        }
    }

    /// Changes an object on the server's own behalf until it succeeds or is of no use: `change` returns None when there is
    /// nothing to do. Finalized objects are removed.
    pub(crate) fn modify(
        &self,
        stored: &GroupResource,
        namespace: &str,
        name: &str,
        change: impl Fn(&Value) -> Option<Value>,
    ) {
        // Each retry means that somebody else succeeded, so this ends.
        loop {
            let Some(current) = self.store.get(stored, namespace, name) else { return };
            let Some(changed) = change(&current) else { return };
            let done = if is_finished(&changed) {
                self.remove(stored, &current, changed)
            } else {
                self.replace(stored, &current, changed)
            };
            match done {
                Err(Refused::Changed) => continue,
                _ => return,
            }
        }
    }

    /// The built-in or custom resource whose objects are kept there, in any version.
    pub(crate) fn served(&self, stored: &GroupResource) -> Option<Arc<Served>> {
        self.registry.snapshot().stored(stored).cloned()
    }
}

/// Whether nothing keeps a deleted object any more.
pub(crate) fn is_finished(object: &Value) -> bool {
    object::is_deleting(object)
        && object::finalizers(object).next().is_none()
        && object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(0) == 0
        // Namespaces have finalizers of their own in their spec.
        && (object::text(object, "/kind") != "Namespace" || object::list(object, "/spec/finalizers").is_empty())
}

/// Why the store did not take a write, as clients are told.
pub(crate) fn refused_to_status(refused: Refused, kind: &Kind, name: &str) -> Status {
    match refused {
        Refused::Exists => Status::already_exists(kind, name),
        Refused::Missing => Status::not_found(kind, name),
        Refused::Changed => Status::modified(kind, name),
        Refused::Full => Status::internal("the store is full: delete objects, or use a real cluster for this many"),
    }
}
