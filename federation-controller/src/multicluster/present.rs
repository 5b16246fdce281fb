//! What a cluster has of the objects that the controller writes: its ServiceImports, and the EndpointSlices that are labelled
//! as the controller's.

use std::collections::{BTreeMap, BTreeSet};

use api::export::{MANAGED_BY, MANAGED_BY_LABEL, SOURCE_CLUSTER_LABEL, ServiceImport};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition as ApiCondition;
use kube::Resource as _;
use kube::core::ObjectMeta;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::objects::{CONTENT, Condition, Import, status_digest};
use crate::objects::{Key, Text, fields};

/// A ServiceImport of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct PresentImport {
    /// Whether the controller has written it.
    pub(super) ours: bool,
    pub(super) uid: Option<String>,
    pub(super) generation: i64,
    pub(super) clusters: Vec<String>,
    /// The condition `Ready`, as the API has it.
    pub(super) ready: Value,
    /// The digest of what the controller has written.
    content: Option<String>,
    /// What may have been changed since.
    spec: Option<api::export::ServiceImportSpec>,
    status: String,
}

impl PresentImport {
    pub(super) fn of(import: ServiceImport) -> Self {
        let labels = import.metadata.labels.unwrap_or_default();
        let status = import.status.unwrap_or_default();
        let clusters: Vec<String> = status.clusters.into_iter().map(|of| of.cluster).collect();
        let ready = status.conditions.into_iter().find(|of| of.type_ == "Ready");
        let has_slices = status.endpoint_slice_objects.as_deref() == Some("Present");
        let digest = ready.as_ref().map(|ready| {
            let condition = condition(ready);
            status_digest(clusters.iter().map(String::as_str), has_slices, &condition)
        });
        PresentImport {
            ours: labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY),
            uid: import.metadata.uid,
            generation: import.metadata.generation.unwrap_or_default(),
            clusters,
            ready: ready.map(|ready| json!(ready)).unwrap_or_default(),
            content: content(&import.metadata.annotations),
            spec: Some(import.spec),
            status: digest.unwrap_or_default(),
        }
    }

    /// Returns whether spec, labels and annotations are these.
    pub(super) fn has_content(&self, import: &Import) -> bool {
        self.content.as_ref() == Some(&import.content) && self.spec.as_ref() == Some(&import.spec)
    }

    /// Returns whether another state of the object is the same, but for times and the writes of others.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.ours, &self.uid, &self.content, &self.spec, &self.status)
            == (other.ours, &other.uid, &other.content, &other.spec, &other.status)
    }

    /// Returns whether the status is this.
    pub(super) fn has_status(&self, import: &Import) -> bool {
        self.status == import.status
    }
}

/// Returns the condition in the form that is compared.
fn condition(ready: &ApiCondition) -> Condition {
    let status = match ready.status.as_str() {
        "True" => "True",
        "False" => "False",
        _ => "Unknown",
    };
    Condition::new("Ready", status, &ready.reason, ready.message.clone())
}

fn content(annotations: &Option<BTreeMap<String, String>>) -> Option<String> {
    annotations.as_ref()?.get(CONTENT).cloned()
}

/// An EndpointSlice of the cluster that the controller has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PresentSlice {
    pub(super) source: String,
    /// The digest of what the controller has written.
    pub(super) content: Option<String>,
    /// The uid of the import that owns it.
    pub(super) owner: Option<String>,
    /// Changes when somebody else edits ports or endpoints.
    pub(super) generation: i64,
}

impl PresentSlice {
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        let source = metadata.labels.as_ref().and_then(|of| of.get(SOURCE_CLUSTER_LABEL)).cloned().unwrap_or_default();
        // Others may add owners of other kinds.
        let mut owners = metadata.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.kind == ServiceImport::kind(&())).map(|owner| owner.uid.clone());
        let generation = metadata.generation.unwrap_or_default();
        PresentSlice { source, content: content(&metadata.annotations), owner, generation }
    }
}

/// The objects of one kind, as a watch reports them.
#[derive(Debug)]
pub(super) struct Objects<T> {
    pub(super) known: BTreeMap<Key, T>,
    listed: BTreeSet<Key>,
    /// Whether the first list is complete.
    pub(super) complete: bool,
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Objects { known: BTreeMap::new(), listed: BTreeSet::new(), complete: false }
    }
}

impl<T> Objects<T> {
    /// Applies an event.
    pub(super) fn apply<K: kube::ResourceExt>(&mut self, event: Event<K>, of: impl Fn(K) -> T) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                if let Some(key) = key(object.meta()) {
                    self.listed.insert(key.clone());
                    self.known.insert(key, of(object));
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.known.retain(|key, _| listed.contains(key));
                self.complete = true;
            }
            Event::Apply(object) => {
                if let Some(key) = key(object.meta()) {
                    self.known.insert(key, of(object));
                }
            }
            Event::Delete(object) => {
                if let Some(key) = key(object.meta()) {
                    self.known.remove(&key);
                }
            }
        }
    }
}

fn key(metadata: &ObjectMeta) -> Option<Key> {
    let (namespace, name): (Text, Text) = (fields::namespace(metadata)?, fields::name(metadata)?);
    Some(Key { namespace, name })
}
