//! Objects, and where they come from.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::yaml::{Lines, Located};

/// An object of Kubernetes.
#[derive(Debug, Clone)]
pub struct Object {
    /// The object.
    pub value: Value,
    /// The namespace; empty for an object of the cluster.
    pub namespace: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where an object comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A file.
    File {
        /// The path.
        path: Arc<str>,
        /// The lines of the fields.
        lines: Lines,
    },
    /// A cluster, by its name.
    Cluster(Arc<str>),
}

/// The kinds without a namespace that matter here.
const OF_CLUSTERS: &[&str] = &["Namespace", "Node", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"];

impl Object {
    /// Returns an object of a cluster.
    pub fn of_cluster(value: Value, cluster: &Arc<str>) -> Self {
        let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        Object { value, namespace, origin: Origin::Cluster(Arc::clone(cluster)) }
    }

    /// Returns the objects of a document of a file, or the line and the message of what is no object of Kubernetes. A `List`
    /// counts as its items. Objects without a namespace are in `namespace`.
    pub fn of_document(document: Located, path: &Arc<str>, namespace: &str) -> Vec<Result<Self, (u64, String)>> {
        let Located { value, lines } = document;
        let documents: Vec<Located> = match value["kind"].as_str() {
            Some("List") => value["items"]
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
                .map(|(index, item)| Located { value: item.clone(), lines: lines.item("items", index) })
                .collect(),
            _ => vec![Located { value, lines }],
        };
        documents.into_iter().map(|located| of_file(located, path, namespace)).collect()
    }

    /// Returns the API group.
    pub fn group(&self) -> &str {
        self.value["apiVersion"].as_str().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group)
    }

    /// Returns the kind.
    pub fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Returns the name with the namespace, if it has one.
    pub fn full_name(&self) -> String {
        match &*self.namespace {
            "" => self.name().to_owned(),
            namespace => format!("{namespace}/{}", self.name()),
        }
    }

    /// Returns whether it comes from a file.
    pub fn is_of_file(&self) -> bool {
        matches!(self.origin, Origin::File { .. })
    }

    /// Returns whether another object may be in the same cluster: a file may be meant for any.
    pub(super) fn may_share_cluster(&self, other: &Object) -> bool {
        match (&self.origin, &other.origin) {
            (Origin::Cluster(own), Origin::Cluster(other)) => own == other,
            _ => true,
        }
    }

    /// Returns a label.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.value["metadata"]["labels"][name].as_str()
    }

    /// Returns an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.value["metadata"]["annotations"][name].as_str()
    }
}

fn of_file(located: Located, path: &Arc<str>, namespace: &str) -> Result<Object, (u64, String)> {
    let Located { mut value, lines } = located;
    name_operator(&mut value);
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let fields = [("apiVersion", "/apiVersion"), ("kind", "/kind"), ("metadata.name", "/metadata/name")];
    if let Some((field, _)) = fields.into_iter().find(|(_, pointer)| text(pointer).is_none()) {
        let generated = field == "metadata.name" && text("/metadata/generateName").is_some();
        if !generated {
            return Err((lines.of(field), format!("is no object of Kubernetes: it has no {field}")));
        }
    }
    let namespace = match (text("/metadata/namespace"), text("/kind")) {
        (Some(namespace), _) => namespace,
        (None, Some(kind)) if OF_CLUSTERS.contains(&kind) => "",
        (None, _) => namespace,
    };
    Ok(Object { namespace: namespace.to_owned(), origin: Origin::File { path: Arc::clone(path), lines }, value })
}

/// Names an IstioOperator without a name, as `istioctl install -f` does.
fn name_operator(value: &mut Value) {
    if value["kind"] != "IstioOperator" {
        return;
    }
    match value.get_mut("metadata") {
        Some(Value::Object(metadata)) => drop(metadata.entry("name").or_insert_with(|| "installed-state".into())),
        Some(_) => {}
        None => value["metadata"] = json!({"name": "installed-state", "namespace": "istio-system"}),
    }
}

/// Returns a map of texts, such as labels.
pub(crate) fn texts(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Returns a list of texts.
pub(super) fn list(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}
