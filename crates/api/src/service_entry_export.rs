//! Exported services as ServiceEntries: how a mesh that knows nothing of a service's cluster reaches it through the gateway.
//!
//! [`objects`] turns the facts about a service ([`ExportedService`]) into a ServiceEntry and a DestinationRule, which have the same
//! effect in Isthmus and in Istio. The endpoints are the gateways' addresses. The DestinationRule has the mesh's mutual TLS with the
//! server name by which a gateway in AUTO_PASSTHROUGH mode finds the service, for each port and subset, and the identities that may
//! answer. `isthmus export` prints and applies these objects, and the controller keeps them in the clusters that an export names.
//!
//! Equal facts have equal objects, field for field, so that a difference is a change.

mod drift;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::names::CLUSTER_LABEL;
use crate::networking::service_entry::TLS_MODE;

pub use drift::{Drift, drift};

/// Annotation of a ServiceExport: the clusters in which the controller keeps the service's ServiceEntry, with commas between them.
pub const EXPORT_TO_CLUSTERS: &str = "federation.isthmus.dev/export-to";
/// Annotation of exported objects: the clusters that the endpoints are in, with commas between them.
pub const EXPORTED_FROM: &str = "federation.isthmus.dev/exported-from";
/// Label of the objects that a controller keeps: its cluster.
pub const EXPORTED_BY: &str = "federation.isthmus.dev/exported-by";
/// Label of exported objects: what writes them.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`] of objects that the command prints and applies.
pub const BY_COMMAND: &str = "isthmus-export";
/// Value of [`MANAGED_BY`] of objects that a controller keeps.
pub const BY_CONTROLLER: &str = "isthmus-controller";

/// The API version of the objects.
const API_VERSION: &str = "networking.istio.io/v1";

/// An exported service as other networks reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportedService {
    /// The namespace of the Service.
    pub namespace: String,
    /// The name of the Service.
    pub name: String,
    /// The hostname, which server names have: `<name>.<namespace>.svc.<domain>`.
    pub hostname: String,
    /// The ports that a gateway forwards, by number.
    pub ports: Vec<ExportedPort>,
    /// The SPIFFE IDs that may answer, sorted.
    pub identities: Vec<String>,
    /// The gateways, once for each locality of pods behind them, sorted.
    pub endpoints: Vec<GatewayEndpoint>,
    /// The subsets that the gateways forward to by their names, sorted.
    pub subsets: Vec<String>,
}

/// A port of an exported service.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExportedPort {
    /// The port of the Service.
    pub number: u16,
    /// The name; empty if the Service's only port has none.
    pub name: String,
    /// The protocol as a ServiceEntry has it, such as `HTTP`; empty: detected.
    pub protocol: String,
}

/// A gateway with pods of one locality behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GatewayEndpoint {
    /// The cluster of gateway and pods.
    pub cluster: String,
    /// The gateway's address.
    pub address: IpAddr,
    /// The gateway's port.
    pub port: u16,
    /// The locality of the pods: `<region>/<zone>/<subzone>` without empty parts at the end.
    pub locality: String,
    /// The number of ready pods in that locality.
    pub ready: u32,
}

/// How the objects of a service are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSettings {
    /// The name of the objects.
    pub object_name: String,
    /// The namespace of the objects.
    pub namespace: String,
    /// The host by which the importing mesh calls the service.
    pub host: String,
    /// Whether endpoints have the number of ready pods as weight, and localities without any are left out. The objects then change
    /// whenever a pod becomes ready or unready.
    pub weights: bool,
    /// Labels of the objects.
    pub labels: BTreeMap<String, String>,
}

impl ExportSettings {
    /// Returns the settings with which `isthmus export` writes a service: into its own namespace, by its own name.
    pub fn of_command(service: &ExportedService) -> Self {
        ExportSettings {
            object_name: object_name(&service.name),
            namespace: service.namespace.clone(),
            host: service.hostname.clone(),
            weights: false,
            labels: [(MANAGED_BY.to_owned(), BY_COMMAND.to_owned())].into(),
        }
    }

    /// Returns the settings with which the controller of a cluster keeps a service in other clusters.
    pub fn of_controller(service: &ExportedService, cluster: &str) -> Self {
        let labels = [(MANAGED_BY, BY_CONTROLLER), (EXPORTED_BY, cluster)];
        ExportSettings {
            object_name: format!("{}-exported-by-{cluster}", service.name),
            weights: true,
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..ExportSettings::of_command(service)
        }
    }
}

/// Returns the name of the objects that the command writes for a service.
pub fn object_name(service: &str) -> String {
    format!("{service}-exported")
}

impl ExportedService {
    /// Merges what several clusters export by one name; `None` for none. Ports and subsets are those that all of them have: a
    /// gateway refuses connections to any other.
    pub fn merged(all: impl IntoIterator<Item = ExportedService>) -> Option<ExportedService> {
        let merge = |mut merged: ExportedService, other: ExportedService| {
            merged.ports.retain(|port| other.ports.iter().any(|of| of.number == port.number));
            merged.subsets.retain(|subset| other.subsets.contains(subset));
            merged.identities.extend(other.identities);
            merged.endpoints.extend(other.endpoints);
            merged
        };
        let mut merged = all.into_iter().reduce(merge)?;
        merged.identities.sort();
        merged.identities.dedup();
        merged.endpoints.sort();
        merged.endpoints.dedup();
        Some(merged)
    }

    /// Returns the clusters of the endpoints, sorted.
    pub fn clusters(&self) -> BTreeSet<&str> {
        self.endpoints.iter().map(|endpoint| &*endpoint.cluster).collect()
    }
}

/// Returns the objects by which another mesh reaches a service: a ServiceEntry, and a DestinationRule for its host. The service has
/// at least one port, identity and endpoint.
pub fn objects(service: &ExportedService, settings: &ExportSettings) -> [Value; 2] {
    [service_entry(service, settings), destination_rule(service, settings)]
}

fn service_entry(service: &ExportedService, settings: &ExportSettings) -> Value {
    let ports = service.ports.iter().map(|port| {
        let mut of = json!({"number": port.number, "name": port_name(port)});
        if !port.protocol.is_empty() {
            of["protocol"] = json!(port.protocol);
        }
        of
    });
    json!({
        "apiVersion": API_VERSION,
        "kind": "ServiceEntry",
        "metadata": metadata(service, settings),
        "spec": {
            "hosts": [settings.host],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": ports.collect::<Vec<_>>(),
            "endpoints": endpoints(service, settings.weights),
            "subjectAltNames": service.identities,
        },
    })
}

fn endpoints(service: &ExportedService, weights: bool) -> Vec<Value> {
    let any_ready = service.endpoints.iter().any(|endpoint| endpoint.ready > 0);
    let used = service.endpoints.iter().filter(|endpoint| !weights || !any_ready || endpoint.ready > 0);
    let endpoint = |of: &GatewayEndpoint| {
        let ports: Map<String, Value> = service.ports.iter().map(|port| (port_name(port), json!(of.port))).collect();
        let mut endpoint = json!({
            "address": of.address,
            "ports": ports,
            "labels": {TLS_MODE: "istio", CLUSTER_LABEL: of.cluster},
        });
        if !of.locality.is_empty() {
            endpoint["locality"] = json!(of.locality);
        }
        if weights {
            endpoint["weight"] = json!(of.ready.max(1));
        }
        endpoint
    };
    used.map(endpoint).collect()
}

/// A gateway knows a port by its number and the service's own hostname, whatever the importing mesh calls the service. Therefore the
/// rule names the server name of each port. As the traffic policy of a port replaces the whole of that above it, it has nothing but
/// TLS, and the subsets have policies of their own.
fn destination_rule(service: &ExportedService, settings: &ExportSettings) -> Value {
    let policy = |subset: &str| {
        let ports = service.ports.iter().map(|port| {
            json!({
                "port": {"number": port.number},
                "tls": {
                    "mode": "ISTIO_MUTUAL",
                    "sni": server_name(port.number, subset, &service.hostname),
                    "subjectAltNames": service.identities,
                },
            })
        });
        json!({"portLevelSettings": ports.collect::<Vec<_>>()})
    };
    let mut spec = json!({"host": settings.host, "trafficPolicy": policy("")});
    if !service.subsets.is_empty() {
        // Without labels a subset has all endpoints: the gateway distinguishes subsets by their server names.
        let subsets = service.subsets.iter().map(|name| json!({"name": name, "trafficPolicy": policy(name)}));
        spec["subsets"] = subsets.collect();
    }
    json!({
        "apiVersion": API_VERSION,
        "kind": "DestinationRule",
        "metadata": metadata(service, settings),
        "spec": spec,
    })
}

fn metadata(service: &ExportedService, settings: &ExportSettings) -> Value {
    let clusters: Vec<&str> = service.clusters().into_iter().collect();
    json!({
        "name": settings.object_name,
        "namespace": settings.namespace,
        "labels": settings.labels,
        "annotations": {EXPORTED_FROM: clusters.join(",")},
    })
}

/// Returns the server name by which a gateway finds a port of a service, as Istio's proxies send it.
fn server_name(port: u16, subset: &str, hostname: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{hostname}")
}

/// Returns the name of a port, which a ServiceEntry must have.
fn port_name(port: &ExportedPort) -> String {
    match (port.name.as_str(), port.protocol.as_str()) {
        ("", "") => format!("port-{}", port.number),
        ("", protocol) => format!("{}-{}", protocol.to_ascii_lowercase(), port.number),
        (name, _) => name.to_owned(),
    }
}

/// Returns the clusters that the annotation [`EXPORT_TO_CLUSTERS`] of an object names, at most `limit`, each once; none if it is absent.
pub fn target_clusters(metadata: &ObjectMeta, limit: usize) -> BTreeSet<String> {
    let text = metadata.annotations.as_ref().and_then(|of| of.get(EXPORT_TO_CLUSTERS)).map(String::as_str);
    let names = text.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
    names.take(limit).map(|name| name.chars().take(MAX_CLUSTER_NAME).collect()).collect()
}

/// The length of a cluster's name, which is the key of a Secret.
const MAX_CLUSTER_NAME: usize = 253;
