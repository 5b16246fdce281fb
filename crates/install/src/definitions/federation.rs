//! The mesh's own FederationPolicy (`federation.isthmus.dev`).

use api::federation::{KIND, MAX_ITEMS};
use serde_json::{Value, json};

use super::schema::{count, list, object, object_with, text, word};

pub(super) fn policy() -> Value {
    let selector = object([("clusters", names()), ("namespaces", names()), ("services", names())]);
    let limits = object([
        ("services", count()),
        ("endpoints", count()),
        ("endpointsPerService", count()),
        ("portsPerService", count()),
        ("bytesPerService", count()),
    ]);
    let port = json!({"type": "integer", "minimum": 1, "maximum": 65535});
    let peer = object_with([
        ("cluster", name()),
        ("namespaces", names()),
        ("hosts", names()),
        ("ports", bounded(port)),
        ("limits", limits),
        ("egressAddresses", bounded(text())),
    ]);
    object([
        ("selector", selector),
        ("exporters", object([("clusters", names())])),
        ("consumers", object([("clusters", names())])),
        ("namespaceSameness", word(["MERGED", "SEPARATE"])),
        ("peers", bounded(peer)),
    ])
}

/// The columns with which `kubectl get` shows objects of a kind, before their age.
pub(super) fn columns(kind: &str) -> Vec<Value> {
    if kind != KIND {
        return Vec::new();
    }
    let column = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    vec![
        column("Exporters", ".spec.exporters.clusters"),
        column("Consumers", ".spec.consumers.clusters"),
        column("Sameness", ".spec.namespaceSameness"),
        column("Status", ".status.conditions[?(@.type==\"Reconciled\")].reason"),
        column("Refused", ".status.conditions[?(@.type==\"Refusing\")].message"),
    ]
}

/// A name of a cluster, namespace, service or host, or a pattern of names.
fn name() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 253})
}

fn names() -> Value {
    bounded(name())
}

fn bounded(items: Value) -> Value {
    let mut schema = list(items);
    schema["maxItems"] = json!(MAX_ITEMS);
    schema
}
