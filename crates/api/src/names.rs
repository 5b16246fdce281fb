//! Labels, annotations and names that people's clusters already carry (Istio's and Kubernetes' own).

/// Label and value that make a Secret a remote secret.
pub const REMOTE_SECRET_LABEL: &str = "istio/multiCluster";
/// Value of [`REMOTE_SECRET_LABEL`].
pub const REMOTE_SECRET_VALUE: &str = "true";
/// Annotation of a remote secret that repeats the cluster's name; the data key is what counts.
pub const CLUSTER_ANNOTATION: &str = "networking.istio.io/cluster";

/// The network of a pod, of a cluster (on its system namespace), or that a Service is the gateway of.
pub const NETWORK_LABEL: &str = "topology.istio.io/network";
/// The cluster of a pod.
pub const CLUSTER_LABEL: &str = "topology.istio.io/cluster";
/// Set to `istio` on pods whose proxy accepts the mesh's mutual TLS.
pub const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// Root namespace: mesh-wide settings, remote secrets, `cacerts`.
pub const ROOT_NAMESPACE: &str = "istio-system";
/// Where the components run.
pub const SYSTEM_NAMESPACE: &str = "isthmus-system";
/// ConfigMap of the mesh-wide settings.
pub const MESH_CONFIG_MAP: &str = "istio";
/// Key of the mesh-wide settings in [`MESH_CONFIG_MAP`].
pub const MESH_CONFIG_KEY: &str = "mesh";
/// ConfigMap with the roots, in every namespace.
pub const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
/// Key of the roots in [`ROOT_CONFIG_MAP`].
pub const ROOT_CONFIG_KEY: &str = "root-cert.pem";
/// Secret with the own cluster's signing certificate.
pub const CACERTS_SECRET: &str = "cacerts";
/// Secret with a root that the controller made by itself.
pub const SELF_SIGNED_SECRET: &str = "istio-ca-secret";
/// Audience of the tokens that workloads enrol with.
pub const TOKEN_AUDIENCE: &str = "istio-ca";

/// Name of the Secret with the signing certificate of a remote cluster, in the primary's root namespace.
pub fn cacerts_of(cluster: &str) -> String {
    format!("{CACERTS_SECRET}-{cluster}")
}
