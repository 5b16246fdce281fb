//! What is installed into a lab's clusters: the mesh's components with their rights, and the topology's workloads.
//!
//! Manifests are made as JSON objects and applied by server-side apply, as `kubectl apply --server-side` would. A primary
//! gets the controller, its webhook and an east-west gateway; a remote gets the gateway, and two Services that lead to its
//! primary's controller through the primary's gateway.

pub mod access;
pub mod apply;
pub mod components;
pub mod definitions;
pub mod injection;

use std::collections::BTreeMap;
use std::time::Duration;

pub use api::reader::READER;
use identity::{Authority, CaError, Constraints};
use serde_json::{Value, json};

use crate::topology::{Cluster, Topology};

/// Where the components run.
pub const SYSTEM: &str = "isthmus-system";
/// Where mesh-wide settings, remote secrets and signing certificates are.
pub const ROOT: &str = "istio-system";
/// The controller's name.
pub const CONTROLLER: &str = "isthmus-controller";
/// The name of the Service by which the API server reaches the controller's webhook.
pub const WEBHOOKS: &str = "isthmus-webhooks";
/// The east-west gateway's name.
pub const GATEWAY: &str = "isthmus-eastwestgateway";
/// The gateway's port for mesh traffic.
pub const GATEWAY_PORT: u16 = 15443;
/// Signing certificates of a lab live as long as it may.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// The mesh's root of trust and each cluster's intermediate.
pub struct Authorities {
    roots_pem: String,
    cacerts: BTreeMap<String, BTreeMap<String, String>>,
}

impl Authorities {
    /// A new root, and an intermediate for each cluster of `topology`.
    ///
    /// # Errors
    /// When a certificate cannot be made.
    pub fn generate(topology: &Topology) -> Result<Self, CaError> {
        let root = Authority::self_signed_root(&topology.mesh.trust_domain, AUTHORITY_VALIDITY)?;
        let mut cacerts = BTreeMap::new();
        for cluster in &topology.clusters {
            let own = root.intermediate_for(&cluster.name, &Constraints::default(), AUTHORITY_VALIDITY)?;
            cacerts.insert(cluster.name.clone(), own.to_cacerts().to_entries());
        }
        Ok(Self { roots_pem: root.roots_pem(), cacerts })
    }

    /// The root certificate.
    #[must_use]
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// A Secret of the name `name` with the intermediate of `cluster`.
    fn secret(&self, name: &str, cluster: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "istio.io/ca-root",
            "metadata": {"name": name, "namespace": ROOT},
            "stringData": self.cacerts.get(cluster),
        })
    }
}

/// Everything of the mesh itself for one cluster, in the order in which it is needed.
#[must_use]
pub fn mesh(topology: &Topology, cluster: &Cluster, authorities: &Authorities) -> Vec<Value> {
    let mut objects = namespaces(topology, cluster);
    objects.extend(definitions::all());
    objects.extend(access::all(cluster));
    objects.push(mesh_config(topology));
    for namespace in namespaces_of(topology, cluster) {
        objects.push(root_certificate(&namespace, authorities.roots_pem()));
    }
    if cluster.is_primary() {
        objects.push(authorities.secret("cacerts", &cluster.name));
        for other in &topology.clusters {
            if other.name != cluster.name && other.primary() == cluster.name {
                objects.push(authorities.secret(&api::names::cacerts_of(&other.name), &other.name));
            }
        }
        objects.extend(components::controller(topology, cluster));
    } else if let Some(primary) = topology.cluster(cluster.primary()) {
        objects.extend(components::controller_elsewhere(primary));
    }
    objects.extend(components::gateway(topology, cluster));
    objects.push(injection::webhook(cluster, authorities.roots_pem()));
    objects
}

/// The namespaces of a cluster: the mesh's two, `default`, and those of its workloads.
fn namespaces_of(topology: &Topology, cluster: &Cluster) -> Vec<String> {
    let own = [SYSTEM, ROOT, "default"].map(str::to_owned);
    let mut all: Vec<String> = own.into_iter().collect();
    for workload in topology.workloads_of(&cluster.name) {
        if !all.contains(&workload.namespace) {
            all.push(workload.namespace.clone());
        }
    }
    all
}

fn namespaces(topology: &Topology, cluster: &Cluster) -> Vec<Value> {
    let labels = |name: &str| match name {
        SYSTEM | ROOT => json!({api::names::NETWORK_LABEL: cluster.network}),
        _ => json!({"istio-injection": "enabled"}),
    };
    namespaces_of(topology, cluster)
        .into_iter()
        .map(|name| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels(&name)}})
        })
        .collect()
}

fn mesh_config(topology: &Topology) -> Value {
    let mut settings = serde_json::Map::new();
    settings.insert("trustDomain".to_owned(), json!(topology.mesh.trust_domain));
    settings.insert("accessLogFile".to_owned(), json!("/dev/stdout"));
    if topology.mesh.export_all {
        settings.insert("federation".to_owned(), json!({"exportAll": true}));
    }
    for (key, value) in &topology.mesh.config {
        settings.insert(key.clone(), value.clone());
    }
    // JSON is YAML, which is what the key holds.
    let text = serde_json::to_string_pretty(&settings).unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": api::names::MESH_CONFIG_MAP, "namespace": ROOT},
        "data": {api::names::MESH_CONFIG_KEY: text},
    })
}

/// The root certificate where pods mount it. The controller keeps it up to date; written here as well, so that the
/// first pods need not wait for the controller.
fn root_certificate(namespace: &str, roots: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": api::names::ROOT_CONFIG_MAP, "namespace": namespace, "labels": {"istio.io/config": "true"}},
        "data": {api::names::ROOT_CONFIG_KEY: roots},
    })
}

#[cfg(test)]
mod tests;
