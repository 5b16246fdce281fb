//! The registry of served resources: the built-in kinds, and the custom resources of CustomResourceDefinitions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value;

use crate::kinds::{self, ResourceKind};
use crate::schema::merge_keys;
use crate::schema::merge_rules::ListType;
use crate::storage::GroupResource;
use crate::table::PrinterColumn;

/// A served version of a resource.
#[derive(Debug)]
pub(crate) struct ServedResource {
    pub(crate) kind: ResourceKind,
    /// Storage key of the objects.
    pub(crate) stored: GroupResource,
    /// The definition of a custom resource.
    pub(crate) custom: Option<CustomResource>,
}

/// The version of a CustomResourceDefinition.
#[derive(Clone, Debug, Default)]
pub(crate) struct CustomResource {
    /// `openAPIV3Schema`.
    pub(crate) schema: Option<Value>,
    /// `additionalPrinterColumns`.
    pub(crate) columns: Vec<PrinterColumn>,
    /// JSON paths of the `scale` subresource.
    pub(crate) scale: Option<ScalePaths>,
    /// `selectableFields`, such as `.spec.color`.
    pub(crate) selectable: Vec<String>,
    /// Deprecation warning of the version, if it is deprecated.
    pub(crate) deprecation: Option<String>,
}

/// The JSON paths of the `scale` subresource, dotted as in the definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    pub(crate) selector: Option<String>,
}

/// All resources that are served at one time.
#[derive(Debug, Default)]
pub(crate) struct RegistrySnapshot {
    all: Vec<Arc<ServedResource>>,
    by_resource: HashMap<(String, String, String), Arc<ServedResource>>,
}

pub(crate) struct ResourceRegistry {
    snapshot: RwLock<Arc<RegistrySnapshot>>,
    /// Held from the look at the definitions until the snapshot is replaced, so that of two concurrent changes none is lost.
    replacing: Mutex<()>,
}

impl ResourceRegistry {
    pub(crate) fn new() -> Self {
        Self { snapshot: RwLock::new(Arc::new(RegistrySnapshot::with(Vec::new()))), replacing: Mutex::new(()) }
    }

    pub(crate) fn snapshot(&self) -> Arc<RegistrySnapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the custom resources by those that `served` finds.
    pub(crate) fn replace_custom(&self, served: impl FnOnce() -> Vec<ServedResource>) {
        let _in_turn = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = Arc::new(RegistrySnapshot::with(served()));
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

impl RegistrySnapshot {
    fn with(custom: Vec<ServedResource>) -> Self {
        let builtin = kinds::BUILTIN.iter().map(|kind| ServedResource {
            kind: kind.clone(),
            stored: GroupResource::of(kind),
            custom: None,
        });
        let all: Vec<Arc<ServedResource>> = builtin.chain(custom).map(Arc::new).collect();
        let key = |served: &Arc<ServedResource>| {
            let kind = &served.kind;
            ((kind.group.to_string(), kind.version.to_string(), kind.plural.to_string()), Arc::clone(served))
        };
        let by_resource = all.iter().map(key).collect();
        Self { all, by_resource }
    }

    /// The resource of a URL.
    pub(crate) fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ServedResource>> {
        self.by_resource.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// Every version of every resource, built-in resources first.
    pub(crate) fn all(&self) -> &[Arc<ServedResource>] {
        &self.all
    }

    /// A version of the resource with that storage key.
    pub(crate) fn stored(&self, stored: &GroupResource) -> Option<&Arc<ServedResource>> {
        self.all.iter().find(|served| served.stored == *stored)
    }
}

impl ServedResource {
    /// Returns whether `metadata.generation` counts the changes of the object's spec. Kubernetes does so for the kinds
    /// whose `spec` a controller reconciles.
    pub(crate) fn has_generation(&self) -> bool {
        if self.custom.is_some() {
            return true;
        }
        match (&*self.kind.group, &*self.kind.plural) {
            ("", plural) => plural == "replicationcontrollers",
            ("rbac.authorization.k8s.io" | "coordination.k8s.io" | "events.k8s.io", _) => false,
            _ => true,
        }
    }

    /// How strategic merge patch merges the list at a path.
    pub(crate) fn strategic_list(&self, path: &[&str]) -> ListType {
        merge_keys::strategic(&self.kind.group, &self.kind.version, &self.kind.kind, path)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn of_two_definitions_that_are_written_at_once_none_is_lost() {
        let (registry, written) = (ResourceRegistry::new(), AtomicUsize::new(1));
        let served = |count: usize| -> Vec<ServedResource> {
            let kind = &kinds::BUILTIN[0];
            (0..count)
                .map(|_| ServedResource { kind: kind.clone(), stored: GroupResource::of(kind), custom: None })
                .collect()
        };
        let (looked, has_looked) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                registry.replace_custom(|| {
                    let first = served(written.load(SeqCst));
                    looked.send(()).expect("a receiver");
                    std::thread::sleep(Duration::from_millis(100));
                    first
                });
            });
            has_looked.recv().expect("a look");
            written.store(2, SeqCst);
            registry.replace_custom(|| served(written.load(SeqCst)));
        });
        assert_eq!(registry.snapshot().all().len(), kinds::BUILTIN.len() + 2);
    }
}
