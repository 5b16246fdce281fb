//! The registry of served resources: the built-in kinds, and the custom resources of CustomResourceDefinitions.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

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

pub(crate) struct ResourceRegistry(RwLock<Arc<RegistrySnapshot>>);

impl ResourceRegistry {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(Arc::new(RegistrySnapshot::with(Vec::new()))))
    }

    pub(crate) fn snapshot(&self) -> Arc<RegistrySnapshot> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the custom resources.
    pub(crate) fn set_custom(&self, custom: Vec<ServedResource>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(RegistrySnapshot::with(custom));
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
