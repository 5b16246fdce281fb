//! What is served: the built-in kinds, and those that CustomResourceDefinitions add while the server runs.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::kinds::{self, Kind};
use crate::schema::merge_keys;
use crate::schema::merge_rules::ListKind;
use crate::storage::GroupResource;
use crate::table::Column;

/// One version of a resource, as clients address it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) kind: Kind,
    /// Where its objects are kept.
    pub(crate) stored: GroupResource,
    /// What its definition says, if it is a custom resource.
    pub(crate) custom: Option<Custom>,
}

/// What a CustomResourceDefinition says about one version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Custom {
    /// `openAPIV3Schema`.
    pub(crate) schema: Option<Value>,
    /// `additionalPrinterColumns`.
    pub(crate) columns: Vec<Column>,
    /// JSON paths of the `scale` subresource.
    pub(crate) scale: Option<ScalePaths>,
    /// Fields that can be selected by, such as `.spec.color`.
    pub(crate) selectable: Vec<String>,
    /// Sent to whoever uses the version, if it is deprecated.
    pub(crate) deprecation: Option<String>,
}

/// Where a custom resource keeps what its `scale` subresource shows. Dotted paths, as in the definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    pub(crate) selector: Option<String>,
}

/// All that is served at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    all: Vec<Arc<Served>>,
    by_resource: HashMap<(String, String, String), Arc<Served>>,
}

pub(crate) struct Registry(RwLock<Arc<Snapshot>>);

impl Registry {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(Arc::new(Snapshot::with(Vec::new()))))
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves these custom resources beside the built-in kinds, and no others.
    pub(crate) fn set_custom(&self, custom: Vec<Served>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Snapshot::with(custom));
    }
}

impl Snapshot {
    fn with(custom: Vec<Served>) -> Self {
        let builtin = kinds::BUILTIN.iter().map(|kind| Served {
            kind: kind.clone(),
            stored: GroupResource::of(kind),
            custom: None,
        });
        let all: Vec<Arc<Served>> = builtin.chain(custom).map(Arc::new).collect();
        let key = |served: &Arc<Served>| {
            let kind = &served.kind;
            ((kind.group.to_string(), kind.version.to_string(), kind.plural.to_string()), Arc::clone(served))
        };
        let by_resource = all.iter().map(key).collect();
        Self { all, by_resource }
    }

    /// The resource of a URL.
    pub(crate) fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Served>> {
        self.by_resource.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// Every version of every resource, built-in ones first.
    pub(crate) fn all(&self) -> &[Arc<Served>] {
        &self.all
    }

    /// One version of the resource whose objects are kept there.
    pub(crate) fn stored(&self, stored: &GroupResource) -> Option<&Arc<Served>> {
        self.all.iter().find(|served| served.stored == *stored)
    }
}

impl Served {
    /// Whether objects keep count of changes to what is asked for, as `metadata.generation`. Kubernetes does so for the kinds whose
    /// `spec` some controller follows.
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

    /// How strategic merge patch treats the list at a path.
    pub(crate) fn strategic_list(&self, path: &[&str]) -> ListKind {
        merge_keys::strategic(&self.kind.group, &self.kind.version, &self.kind.kind, path)
    }
}
