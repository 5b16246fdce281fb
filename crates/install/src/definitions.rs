//! Custom resource definitions of the mesh's configuration APIs.
//!
//! Each kind has a structural schema with the fields of its API, in one file for a group of kinds. An API server refuses an
//! unknown field of an object that `kubectl` applies, except the fields of [`api::compatibility::TOLERATED`]. What a schema
//! cannot express, such as the form of a host name, is for the controller to report.

mod destination_rule;
mod federation;
mod foreign;
mod gateway;
mod multicluster;
mod rate_limit;
mod schema;
mod security;
mod service_entry;
mod sidecar;
mod telemetry;
#[cfg(test)]
mod tests;
mod virtual_service;

use serde_json::{Value, json};

/// Returns the schema of a field.
type Schema = fn() -> Value;

struct ResourceDefinition {
    group: &'static str,
    versions: &'static [&'static str],
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    /// The schema of `spec`.
    spec: fn() -> Value,
    /// A field beside `spec`, with its schema.
    beside: Option<(&'static str, Schema)>,
}

/// The definitions. The last version of each is the storage version.
const DEFINITIONS: &[ResourceDefinition] = &[
    multicluster("ServiceExport", "serviceexports", &["svcex", "svcexport"], multicluster::service_export),
    multicluster("ServiceImport", "serviceimports", &["svcim", "svcimport"], multicluster::service_import),
    networking("Gateway", "gateways", &["gw"], gateway::gateway),
    networking("VirtualService", "virtualservices", &["vs"], virtual_service::virtual_service),
    networking("DestinationRule", "destinationrules", &["dr"], destination_rule::destination_rule),
    networking("ServiceEntry", "serviceentries", &["se"], service_entry::service_entry),
    networking("Sidecar", "sidecars", &[], sidecar::sidecar),
    networking("EnvoyFilter", "envoyfilters", &[], foreign::envoy_filter),
    networking("WorkloadEntry", "workloadentries", &["we"], service_entry::workload_entry),
    networking("WorkloadGroup", "workloadgroups", &["wg"], service_entry::workload_group),
    security("PeerAuthentication", "peerauthentications", &["pa"], security::peer_authentication),
    security("AuthorizationPolicy", "authorizationpolicies", &["ap"], security::authorization_policy),
    security("RequestAuthentication", "requestauthentications", &["ra"], security::request_authentication),
    ResourceDefinition {
        group: "networking.istio.io",
        versions: &["v1beta1"],
        kind: "ProxyConfig",
        plural: "proxyconfigs",
        short: &[],
        spec: sidecar::proxy_config,
        beside: None,
    },
    ResourceDefinition {
        group: api::rate_limit::GROUP,
        versions: &["v1alpha1"],
        kind: "RateLimit",
        plural: "ratelimits",
        short: &[],
        spec: rate_limit::rate_limit,
        beside: None,
    },
    ResourceDefinition {
        group: api::federation::GROUP,
        versions: &["v1alpha1"],
        kind: api::federation::KIND,
        plural: "federationpolicies",
        short: &["fp"],
        spec: federation::policy,
        beside: None,
    },
    ResourceDefinition {
        group: "telemetry.istio.io",
        versions: &["v1alpha1", "v1"],
        kind: "Telemetry",
        plural: "telemetries",
        short: &["telemetry"],
        spec: telemetry::telemetry,
        beside: None,
    },
    ResourceDefinition {
        group: "extensions.istio.io",
        versions: &["v1alpha1"],
        kind: "WasmPlugin",
        plural: "wasmplugins",
        short: &[],
        spec: foreign::wasm_plugin,
        beside: None,
    },
    ResourceDefinition {
        group: "install.istio.io",
        versions: &["v1alpha1"],
        kind: "IstioOperator",
        plural: "istiooperators",
        short: &["iop", "io"],
        spec: foreign::istio_operator,
        beside: None,
    },
    ResourceDefinition {
        group: "linkerd.io",
        versions: &["v1alpha1", "v1alpha2"],
        kind: "ServiceProfile",
        plural: "serviceprofiles",
        short: &["sp"],
        spec: foreign::service_profile,
        beside: None,
    },
    ResourceDefinition {
        group: "policy.linkerd.io",
        versions: &["v1beta1", "v1beta2", "v1beta3"],
        kind: "Server",
        plural: "servers",
        short: &["srv"],
        spec: rate_limit::server,
        beside: None,
    },
    ResourceDefinition {
        group: "policy.linkerd.io",
        versions: &["v1alpha1"],
        kind: "HTTPLocalRateLimitPolicy",
        plural: "httplocalratelimitpolicies",
        short: &[],
        spec: rate_limit::local_policy,
        beside: None,
    },
    ResourceDefinition {
        group: "split.smi-spec.io",
        versions: SMI,
        kind: "TrafficSplit",
        plural: "trafficsplits",
        short: &["ts"],
        spec: foreign::traffic_split,
        beside: None,
    },
    ResourceDefinition {
        group: "specs.smi-spec.io",
        versions: SMI,
        kind: "HTTPRouteGroup",
        plural: "httproutegroups",
        short: &["htr"],
        spec: foreign::http_route_group,
        beside: Some(("matches", foreign::route_matches)),
    },
];

/// The versions of SMI's kinds.
const SMI: &[&str] = &["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"];

const fn multicluster(
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    spec: fn() -> Value,
) -> ResourceDefinition {
    ResourceDefinition {
        group: api::export::GROUP,
        versions: multicluster::VERSIONS,
        kind,
        plural,
        short,
        spec,
        beside: None,
    }
}

const fn networking(
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    spec: fn() -> Value,
) -> ResourceDefinition {
    let versions = &["v1alpha3", "v1beta1", "v1"];
    ResourceDefinition { group: "networking.istio.io", versions, kind, plural, short, spec, beside: None }
}

const fn security(
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    spec: fn() -> Value,
) -> ResourceDefinition {
    let versions = &["v1beta1", "v1"];
    ResourceDefinition { group: "security.istio.io", versions, kind, plural, short, spec, beside: None }
}

/// Every custom resource definition.
#[must_use]
pub fn all() -> Vec<Value> {
    DEFINITIONS.iter().map(definition).collect()
}

/// The group and plural of every custom resource.
pub(crate) fn resources() -> impl Iterator<Item = (&'static str, &'static str)> {
    DEFINITIONS.iter().map(|definition| (definition.group, definition.plural))
}

fn definition(definition: &ResourceDefinition) -> Value {
    let mut fields = schema::object([("spec", (definition.spec)()), ("status", schema::free())]);
    if let Some((name, schema)) = definition.beside {
        fields["properties"][name] = schema();
    }
    let schema = json!({"openAPIV3Schema": fields});
    let stored = definition.versions.last();
    let mut columns = multicluster::columns(definition.kind);
    columns.extend(federation::columns(definition.kind));
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    let versions: Vec<Value> = definition
        .versions
        .iter()
        .map(|version| {
            json!({
                "name": version, "served": true, "storage": Some(version) == stored,
                "schema": schema, "subresources": {"status": {}}, "additionalPrinterColumns": columns,
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
