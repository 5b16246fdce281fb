//! Remote secrets: Secrets labelled `istio/multiCluster: "true"`, with a cluster's name as data key and a kubeconfig as
//! value. The format is that of `istioctl create-remote-secret`: Istio and Isthmus read each other's remote secrets.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::core::ObjectMeta;
use serde::Serialize;

use crate::kubeconfig::{is_bearer_token, is_https_url};
use crate::names;

/// The address of a cluster and the credential for it.
#[derive(Clone)]
pub struct Access<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The URL of the API server (`https://…`), as reachable from the primary cluster.
    pub server: &'a str,
    /// The name in the server's certificate, if it differs from the host of `server`.
    pub tls_server_name: Option<&'a str>,
    /// The CA of the API server, in PEM; empty: the system's CAs.
    pub ca_pem: &'a [u8],
    /// The bearer token of the reader.
    pub token: &'a str,
}

/// Why a remote secret cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteSecretError {
    /// The cluster's name is invalid.
    #[error("{0:?} is not a valid cluster name (lower-case letters, digits and '-', at most 63 characters)")]
    Name(String),
    /// The server is not an https URL.
    #[error("the server {0:?} is not an https:// URL")]
    Server(String),
    /// The server name is not a name.
    #[error("the server name {0:?} is not a DNS name or an address")]
    ServerName(String),
    /// The token is not a bearer token.
    #[error("the API server's answer is not a token: it has characters that no token has, or is too long")]
    Token,
    /// The kubeconfig has no YAML form.
    #[error("the kubeconfig cannot be written: {0}")]
    Yaml(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RemoteKubeconfig<'a> {
    api_version: &'a str,
    kind: &'a str,
    clusters: [KubeconfigEntry<'a, KubeconfigCluster<'a>>; 1],
    contexts: [KubeconfigEntry<'a, KubeconfigContext<'a>>; 1],
    #[serde(rename = "current-context")]
    current_context: &'a str,
    users: [KubeconfigEntry<'a, KubeconfigUser<'a>>; 1],
}

struct KubeconfigEntry<'a, T> {
    name: &'a str,
    kind: &'static str,
    value: T,
}

impl<T: Serialize> Serialize for KubeconfigEntry<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("name", self.name)?;
        map.serialize_entry(self.kind, &self.value)?;
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct KubeconfigCluster<'a> {
    #[serde(skip_serializing_if = "String::is_empty")]
    certificate_authority_data: String,
    server: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<&'a str>,
}

#[derive(Serialize)]
struct KubeconfigContext<'a> {
    cluster: &'a str,
    user: &'a str,
}

#[derive(Serialize)]
struct KubeconfigUser<'a> {
    token: &'a str,
}

/// Returns whether a text is a valid cluster name: a DNS-1123 label.
pub fn is_cluster_name(name: &str) -> bool {
    names::is_dns_label(name)
}

fn is_server_name(name: &str) -> bool {
    let of_name = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    !name.is_empty() && name.len() <= 253 && name.bytes().all(of_name)
}

/// Returns the kubeconfig of a remote secret.
///
/// # Errors
/// Returns an error if a part of `access` does not have the form that it must have. Some parts are answers of the cluster.
pub fn kubeconfig(access: &Access<'_>) -> Result<String, RemoteSecretError> {
    use base64::Engine as _;
    let name = access.cluster;
    if !is_cluster_name(name) {
        return Err(RemoteSecretError::Name(name.to_owned()));
    }
    if !is_https_url(access.server) {
        return Err(RemoteSecretError::Server(access.server.to_owned()));
    }
    if let Some(server_name) = access.tls_server_name.filter(|name| !is_server_name(name)) {
        return Err(RemoteSecretError::ServerName(server_name.to_owned()));
    }
    if !is_bearer_token(access.token) {
        return Err(RemoteSecretError::Token);
    }
    let config = RemoteKubeconfig {
        api_version: "v1",
        kind: "Config",
        clusters: [KubeconfigEntry {
            name,
            kind: "cluster",
            value: KubeconfigCluster {
                certificate_authority_data: base64::engine::general_purpose::STANDARD.encode(access.ca_pem),
                server: access.server,
                tls_server_name: access.tls_server_name,
            },
        }],
        contexts: [KubeconfigEntry { name, kind: "context", value: KubeconfigContext { cluster: name, user: name } }],
        current_context: name,
        users: [KubeconfigEntry { name, kind: "user", value: KubeconfigUser { token: access.token } }],
    };
    crate::yaml::to_string(&config).map_err(RemoteSecretError::Yaml)
}

/// Returns a remote secret for the root namespace of a primary cluster.
///
/// # Errors
/// Returns an error if a part of `access` does not have the form that it must have.
pub fn remote_secret(root_namespace: &str, access: &Access<'_>) -> Result<Secret, RemoteSecretError> {
    let kubeconfig = kubeconfig(access)?;
    let one = |key: &str, value: &str| Some(BTreeMap::from([(key.to_owned(), value.to_owned())]));
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(secret_name(access.cluster)),
            namespace: Some(root_namespace.to_owned()),
            labels: one(names::REMOTE_SECRET_LABEL, names::REMOTE_SECRET_VALUE),
            annotations: one(names::CLUSTER_ANNOTATION, access.cluster),
            ..ObjectMeta::default()
        },
        string_data: Some(BTreeMap::from([(access.cluster.to_owned(), kubeconfig)])),
        ..Secret::default()
    })
}

/// Returns the name of a cluster's remote secret.
pub fn secret_name(cluster: &str) -> String {
    format!("istio-remote-secret-{cluster}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_secrets_pass_validation() {
        let access = Access {
            cluster: "east",
            server: "https://203.0.113.2:6443",
            tls_server_name: Some("kubernetes.default.svc"),
            ca_pem: b"-----BEGIN CERTIFICATE-----\n",
            token: "a.b.c",
        };
        let secret = remote_secret("istio-system", &access).unwrap();
        assert_eq!(secret.metadata.name.as_deref(), Some("istio-remote-secret-east"));
        assert_eq!(secret.metadata.labels.as_ref().unwrap()["istio/multiCluster"], "true");
        let read = crate::kubeconfig::sanitize(secret.string_data.unwrap()["east"].as_bytes()).unwrap();
        assert_eq!(read.server, access.server);
        let cluster = read.config.clusters[0].cluster.clone().unwrap();
        assert_eq!(cluster.tls_server_name.as_deref(), Some("kubernetes.default.svc"));
        assert!(cluster.certificate_authority_data.is_some());
        for bad in ["", "-a", "a-", "A", "a/b", "a.b", &"a".repeat(64)] {
            assert!(kubeconfig(&Access { cluster: bad, ..access.clone() }).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_an_api_server_answers_cannot_add_fields() {
        let good = Access {
            cluster: "east",
            server: "https://203.0.113.2:6443",
            tls_server_name: None,
            ca_pem: b"\nusers: [{name: x}]\n---\n",
            token: "a.b.c",
        };
        // Certificates are encoded, whatever they contain.
        let read: serde_json::Value = crate::yaml::from_str(&kubeconfig(&good).unwrap()).unwrap();
        assert_eq!(read["users"].as_array().map(Vec::len), Some(1));
        let refused = |access: Access<'_>| kubeconfig(&access).unwrap_err();
        let injected = "a.b.c\n    exec:\n      command: sh";
        let error = refused(Access { token: injected, ..good.clone() });
        assert_eq!(error, RemoteSecretError::Token);
        assert!(!error.to_string().contains("exec"));
        for server in ["http://203.0.113.2:6443", "https://a\n  insecure-skip-tls-verify: true", "https://a b", ""] {
            assert_eq!(refused(Access { server, ..good.clone() }), RemoteSecretError::Server(server.into()));
        }
        for name in ["a\nproxy-url: x", "a b", ""] {
            let access = Access { tls_server_name: Some(name), ..good.clone() };
            assert_eq!(refused(access), RemoteSecretError::ServerName(name.into()));
        }
    }
}
