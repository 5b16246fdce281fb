//! Custom resource definitions of the mesh's configuration APIs.
//!
//! Their schemas preserve unknown fields. The controller validates fields and reports what it refuses and why, which a schema
//! cannot.

use serde_json::{Value, json};

struct ResourceDefinition {
    group: &'static str,
    versions: &'static [&'static str],
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
}

/// The definitions. The last version of each is the storage version.
const DEFINITIONS: &[ResourceDefinition] = &[
    multicluster("ServiceExport", "serviceexports", &["svcex"]),
    multicluster("ServiceImport", "serviceimports", &["svcim"]),
    networking("Gateway", "gateways", &["gw"]),
    networking("VirtualService", "virtualservices", &["vs"]),
    networking("DestinationRule", "destinationrules", &["dr"]),
    networking("ServiceEntry", "serviceentries", &["se"]),
    networking("Sidecar", "sidecars", &[]),
    networking("WorkloadEntry", "workloadentries", &["we"]),
    networking("WorkloadGroup", "workloadgroups", &["wg"]),
    security("PeerAuthentication", "peerauthentications", &["pa"]),
    security("AuthorizationPolicy", "authorizationpolicies", &["ap"]),
    security("RequestAuthentication", "requestauthentications", &["ra"]),
    ResourceDefinition {
        group: "telemetry.istio.io",
        versions: &["v1alpha1", "v1"],
        kind: "Telemetry",
        plural: "telemetries",
        short: &["telemetry"],
    },
];

const fn multicluster(kind: &'static str, plural: &'static str, short: &'static [&'static str]) -> ResourceDefinition {
    ResourceDefinition { group: "multicluster.x-k8s.io", versions: &["v1alpha1"], kind, plural, short }
}

const fn networking(kind: &'static str, plural: &'static str, short: &'static [&'static str]) -> ResourceDefinition {
    ResourceDefinition { group: "networking.istio.io", versions: &["v1alpha3", "v1beta1", "v1"], kind, plural, short }
}

const fn security(kind: &'static str, plural: &'static str, short: &'static [&'static str]) -> ResourceDefinition {
    ResourceDefinition { group: "security.istio.io", versions: &["v1beta1", "v1"], kind, plural, short }
}

/// Every custom resource definition.
#[must_use]
pub fn all() -> Vec<Value> {
    DEFINITIONS.iter().map(definition).collect()
}

fn definition(definition: &ResourceDefinition) -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": open, "status": open}}});
    let stored = definition.versions.last();
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let versions: Vec<Value> = definition
        .versions
        .iter()
        .map(|version| {
            json!({
                "name": version, "served": true, "storage": Some(version) == stored,
                "schema": schema, "subresources": {"status": {}}, "additionalPrinterColumns": [age],
            })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{}", definition.plural, definition.group)},
        "spec": {
            "group": definition.group,
            "scope": "Namespaced",
            "names": {
                "kind": definition.kind,
                "listKind": format!("{}List", definition.kind),
                "plural": definition.plural,
                "singular": definition.kind.to_lowercase(),
                "shortNames": definition.short,
            },
            "versions": versions,
        },
    })
}
