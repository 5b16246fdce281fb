//! ServiceExport and ServiceImport (`multicluster.x-k8s.io`, KEP-1645).

use serde_json::{Value, json};

use super::schema::{count, list, map, object, object_with, port, text, texts, word};

/// The versions, which have the same fields.
pub(super) const VERSIONS: &[&str] = &["v1alpha1", "v1beta1"];

pub(super) fn service_export() -> Value {
    object([("exportedLabels", map(text())), ("exportedAnnotations", map(text()))])
}

pub(super) fn service_import() -> Value {
    let service_port = object_with([("port", port()), ("name", text()), ("protocol", text()), ("appProtocol", text())]);
    let client_ip = object([("clientIP", object([("timeoutSeconds", count())]))]);
    let two = |mut items: Value| {
        items["maxItems"] = json!(2);
        items
    };
    object([
        ("type", word(["ClusterSetIP", "Headless"])),
        ("ips", two(texts())),
        ("ipFamilies", two(list(word(["IPv4", "IPv6"])))),
        ("ports", list(service_port)),
        ("sessionAffinity", text()),
        ("sessionAffinityConfig", client_ip),
        ("internalTrafficPolicy", text()),
        ("trafficDistribution", text()),
    ])
}

/// Returns what `kubectl get` shows of a kind; the columns with a priority with `-o wide` alone.
pub(super) fn columns(kind: &str) -> Vec<Value> {
    let column = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    let wide = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path, "priority": 1});
    match kind {
        "ServiceExport" => vec![
            column("Valid", ".status.conditions[?(@.type==\"Valid\")].status"),
            column("Ready", ".status.conditions[?(@.type==\"Ready\")].status"),
            column("Conflict", ".status.conditions[?(@.type==\"Conflict\")].status"),
            wide("Conflicts", ".status.conditions[?(@.type==\"Conflict\")].reason"),
            wide("Message", ".status.conditions[?(@.type==\"Ready\")].message"),
        ],
        "ServiceImport" => vec![
            column("Type", ".spec.type"),
            column("IP", ".spec.ips"),
            column("Ready", ".status.conditions[?(@.type==\"Ready\")].status"),
            wide("Clusters", ".status.clusters[*].cluster"),
            wide("Message", ".status.conditions[?(@.type==\"Ready\")].message"),
        ],
        _ => Vec::new(),
    }
}
