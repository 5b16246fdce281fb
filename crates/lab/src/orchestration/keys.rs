//! Certificates and kubeconfigs of a lab's API servers.

use std::net::Ipv4Addr;

use apiserver::certificates::{CertificateError, ClusterCa, Pair, in_cluster_names, kubeconfig, service_account_key};

use super::state::{Directory, StateError};

/// Where the API server is, as pods and the cluster's own processes reach it.
pub const IN_CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The API server's port as other clusters reach it.
pub const API_PORT: u16 = 6443;

/// Keys could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Not made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Not written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The keys of one cluster.
pub struct Keys {
    /// The authority's certificate.
    pub authority: String,
    /// The API server's certificate and key.
    pub serving: Pair,
    /// The key that signs service account tokens.
    pub tokens: String,
    admin: Pair,
}

impl Keys {
    /// Makes the keys of a cluster whose address between clusters is `uplink`.
    ///
    /// # Errors
    /// When the machine has no randomness to give.
    pub fn generate(cluster: &str, uplink: Ipv4Addr) -> Result<Self, KeysError> {
        let ca = ClusterCa::generate(cluster)?;
        let mut names = in_cluster_names();
        names.push(uplink.to_string());
        Ok(Self {
            authority: ca.certificate().to_owned(),
            serving: ca.serving(&names)?,
            tokens: service_account_key()?,
            admin: ca.admin()?,
        })
    }

    /// A kubeconfig of the administrator, for the API server at `server`.
    #[must_use]
    pub fn kubeconfig(&self, cluster: &str, server: &str) -> String {
        kubeconfig(cluster, server, &self.authority, &self.admin)
    }

    /// Writes what the cluster's processes need to know into its directory.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write(&self, directory: &Directory, cluster: &str) -> Result<(), KeysError> {
        let inside = format!("https://{IN_CLUSTER}:443");
        for (name, content) in [
            ("authority.pem", self.authority.as_str()),
            ("serving.pem", &self.serving.certificate),
            ("serving-key.pem", &self.serving.key),
            ("tokens-key.pem", &self.tokens),
            ("inside.kubeconfig", &self.kubeconfig(cluster, &inside)),
        ] {
            directory.write(&format!("{cluster}/{name}"), content.as_bytes())?;
        }
        Ok(())
    }
}

/// One kubeconfig with a context for each cluster; the first is current.
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
        let make = |name: &str| {
            let keys = Keys::generate(name, Ipv4Addr::new(203, 0, 113, 1)).expect("keys");
            keys.kubeconfig(name, "https://127.0.0.1:1")
        };
        let merged = merged(&[make("west"), make("east")]);
        let config = kube::config::Kubeconfig::from_yaml(&merged).expect("a kubeconfig");
        let names: Vec<&str> = config.contexts.iter().map(|context| context.name.as_str()).collect();
        assert_eq!(names, ["west", "east"]);
        assert_eq!(config.current_context.as_deref(), Some("west"));
    }
}
