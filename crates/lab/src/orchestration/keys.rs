//! Certificates and kubeconfigs of a lab's API servers.

use std::net::{IpAddr, SocketAddr};

use apiserver::certificates::{CertificateError, ClusterCa, Pair, in_cluster_names, kubeconfig, service_account_key};

use super::state::{LabDirectory, StateError};
use crate::topology::Cluster;

/// Port of the API server inside of its cluster.
pub const IN_CLUSTER_PORT: u16 = 443;

/// The keys of a cluster could not be generated or written.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key or certificate could not be generated.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A file could not be written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The keys of one cluster's API server.
pub struct ClusterKeys {
    /// Certificate of the cluster's certificate authority, PEM.
    pub authority: String,
    /// Certificate and key of the API server.
    pub serving: Pair,
    /// Key that signs service account tokens.
    pub tokens: String,
    admin: Pair,
}

impl ClusterKeys {
    /// Generates the keys of a cluster.
    ///
    /// # Errors
    /// Returns an error if the system has no random numbers.
    pub fn generate(cluster: &Cluster) -> Result<Self, KeysError> {
        let ca = ClusterCa::generate(&cluster.name)?;
        let services: Vec<IpAddr> = cluster.ip_families.iter().map(|family| family.api_server()).collect();
        let mut names = in_cluster_names(&services);
        names.extend(cluster.uplinks().iter().map(ToString::to_string));
        Ok(Self {
            authority: ca.certificate().to_owned(),
            serving: ca.serving(&names)?,
            tokens: service_account_key()?,
            admin: ca.admin()?,
        })
    }

    /// Returns an administrator's kubeconfig for the API server at `server`.
    #[must_use]
    pub fn kubeconfig(&self, cluster: &str, server: &str) -> String {
        kubeconfig(cluster, server, &self.authority, &self.admin)
    }

    /// Writes the files that the cluster's processes read.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be written.
    pub fn write(&self, directory: &LabDirectory, cluster: &Cluster) -> Result<(), KeysError> {
        let inside = format!("https://{}", SocketAddr::new(cluster.first_family().api_server(), IN_CLUSTER_PORT));
        for (name, content) in [
            ("authority.pem", self.authority.as_str()),
            ("serving.pem", &self.serving.certificate),
            ("serving-key.pem", &self.serving.key),
            ("tokens-key.pem", &self.tokens),
            ("inside.kubeconfig", &self.kubeconfig(&cluster.name, &inside)),
        ] {
            directory.write(&format!("{}/{name}", cluster.name), content.as_bytes())?;
        }
        Ok(())
    }
}

/// Merges kubeconfigs: one context for each cluster, the first is current.
#[must_use]
pub fn merged(kubeconfigs: &[String]) -> String {
    use serde_json::{Value, json};
    let read = |text: &String| serde_saphyr::from_str::<Value>(text).ok();
    let parts: Vec<Value> = kubeconfigs.iter().filter_map(read).collect();
    let list = |name: &str| -> Vec<Value> {
        parts.iter().flat_map(|part| part[name].as_array().cloned().unwrap_or_default()).collect()
    };
    let whole = json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": list("clusters"), "users": list("users"), "contexts": list("contexts"),
        "current-context": parts.first().map(|part| part["current-context"].clone()),
    });
    // JSON is YAML.
    serde_json::to_string_pretty(&whole).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeconfigs_are_merged_by_context() {
        let text = "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  clusters:\n  \
                    - {name: west, role: primary}\n  - {name: east, role: remote}\n";
        let topology = crate::topology::Topology::parse(std::path::Path::new("t.yaml"), text).expect("a topology");
        let make = |cluster: &Cluster| {
            let keys = ClusterKeys::generate(cluster).expect("keys");
            keys.kubeconfig(&cluster.name, "https://127.0.0.1:1")
        };
        let merged = merged(&topology.clusters.iter().map(make).collect::<Vec<_>>());
        let config = kube::config::Kubeconfig::from_yaml(&merged).expect("a kubeconfig");
        let names: Vec<&str> = config.contexts.iter().map(|context| context.name.as_str()).collect();
        assert_eq!(names, ["west", "east"]);
        assert_eq!(config.current_context.as_deref(), Some("west"));
    }
}
