//! The Secret by which a cluster joins: labelled `istio/multiCluster: "true"`, with the cluster's name as data key and a
//! kubeconfig as value. The form is that of `istioctl create-remote-secret`, so either tool's secrets serve either mesh.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::core::ObjectMeta;
use serde::Serialize;

use crate::names;

/// How to reach a cluster and as whom.
#[derive(Clone)]
pub struct Access<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// `https://…`, as reachable from the primary.
    pub server: &'a str,
    /// The name to verify the server's certificate against, where it is not that of `server`.
    pub tls_server_name: Option<&'a str>,
    /// CA of the API server, PEM. Empty: the system's.
    pub ca_pem: &'a [u8],
    /// Bearer token of the reader account.
    pub token: &'a str,
}

/// Why no remote secret can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteSecretError {
    /// A name that no cluster can have.
    #[error("{0:?} is no name for a cluster: use lower-case letters, digits and '-', at most 63")]
    Name(String),
    /// Writing YAML failed.
    #[error("the kubeconfig cannot be written: {0}")]
    Yaml(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kubeconfig<'a> {
    api_version: &'a str,
    kind: &'a str,
    clusters: [Named<'a, Cluster<'a>>; 1],
    contexts: [Named<'a, Context<'a>>; 1],
    #[serde(rename = "current-context")]
    current_context: &'a str,
    users: [Named<'a, User<'a>>; 1],
}

struct Named<'a, T> {
    name: &'a str,
    kind: &'static str,
    value: T,
}

impl<T: Serialize> Serialize for Named<'_, T> {
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
struct Cluster<'a> {
    #[serde(skip_serializing_if = "String::is_empty")]
    certificate_authority_data: String,
    server: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<&'a str>,
}

#[derive(Serialize)]
struct Context<'a> {
    cluster: &'a str,
    user: &'a str,
}

#[derive(Serialize)]
struct User<'a> {
    token: &'a str,
}

/// Whether a text can name a cluster: a DNS-1123 label.
pub fn is_cluster_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.len() <= 63 && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// The kubeconfig of a remote secret.
///
/// # Errors
/// [`RemoteSecretError`].
pub fn kubeconfig(access: &Access<'_>) -> Result<String, RemoteSecretError> {
    use base64::Engine as _;
    let name = access.cluster;
    if !is_cluster_name(name) {
        return Err(RemoteSecretError::Name(name.to_owned()));
    }
    let config = Kubeconfig {
        api_version: "v1",
        kind: "Config",
        clusters: [Named {
            name,
            kind: "cluster",
            value: Cluster {
                certificate_authority_data: base64::engine::general_purpose::STANDARD.encode(access.ca_pem),
                server: access.server,
                tls_server_name: access.tls_server_name,
            },
        }],
        contexts: [Named { name, kind: "context", value: Context { cluster: name, user: name } }],
        current_context: name,
        users: [Named { name, kind: "user", value: User { token: access.token } }],
    };
    crate::yaml::to_string(&config).map_err(RemoteSecretError::Yaml)
}

/// The Secret, to be applied to the primary's root namespace.
///
/// # Errors
/// [`RemoteSecretError`].
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

/// The name of a cluster's remote secret.
pub fn secret_name(cluster: &str) -> String {
    format!("istio-remote-secret-{cluster}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_accepted() {
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
}
