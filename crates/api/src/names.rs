//! Labels, annotations and names of Istio and Kubernetes that existing clusters already use.

/// Label that marks a Secret as a remote secret.
pub const REMOTE_SECRET_LABEL: &str = "istio/multiCluster";
/// Value of [`REMOTE_SECRET_LABEL`].
pub const REMOTE_SECRET_VALUE: &str = "true";
/// Annotation of a remote secret with the cluster's name. The data key is authoritative.
pub const CLUSTER_ANNOTATION: &str = "networking.istio.io/cluster";

/// Label with the network of a pod, of a cluster (on its root namespace), or of the network whose gateway a Service is.
pub const NETWORK_LABEL: &str = "topology.istio.io/network";
/// Annotation of a gateway Service with node ports: the labels, as a JSON map, of the nodes at whose addresses it is reached.
pub const NODE_SELECTOR_ANNOTATION: &str = "traffic.istio.io/nodeSelector";
/// Label with the cluster of a pod.
pub const CLUSTER_LABEL: &str = "topology.istio.io/cluster";
/// Label with value `istio` on pods whose proxy accepts the mesh's mutual TLS.
pub const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// The root namespace: mesh-wide settings, remote secrets, `cacerts`.
pub const ROOT_NAMESPACE: &str = "istio-system";
/// The namespace of the components.
pub const SYSTEM_NAMESPACE: &str = "isthmus-system";
/// The ConfigMap with the mesh-wide settings.
pub const MESH_CONFIG_MAP: &str = "istio";
/// The key of the mesh-wide settings in [`MESH_CONFIG_MAP`].
pub const MESH_CONFIG_KEY: &str = "mesh";
/// The ConfigMap with the root certificates, in every namespace.
pub const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
/// The key of the root certificates in [`ROOT_CONFIG_MAP`].
pub const ROOT_CONFIG_KEY: &str = "root-cert.pem";
/// The key of the certificate that signs the controller's own, in [`ROOT_CONFIG_MAP`]: proxies accept no other signer of it.
pub const CONTROLLER_ISSUER_KEY: &str = "controller-issuer.pem";
/// The ConfigMap of the root namespace with the clusters that published intermediates belong to, by the key's hash.
pub const CLAIMS_CONFIG_MAP: &str = "isthmus-intermediates";
/// The Secret with the intermediate of the controller's own cluster.
pub const CACERTS_SECRET: &str = "cacerts";
/// The Secret with the self-signed root that the controller creates if there is no other.
pub const SELF_SIGNED_SECRET: &str = "istio-ca-secret";
/// The audience of the service account tokens that workloads enrol with.
pub const TOKEN_AUDIENCE: &str = "istio-ca";
/// The audience of the tokens with which clients read the controller's debug pages.
pub const DEBUG_AUDIENCE: &str = "isthmus-debug";
/// The service account that may read the controller's debug pages, and its role.
pub const DEBUG_READER: &str = "isthmus-debug";
/// The header with the token of a request for a debug page that an API server proxies.
pub const DEBUG_TOKEN_HEADER: &str = "x-isthmus-debug-token";

/// Returns the name of the Secret with the intermediate of a remote cluster, in the primary cluster's root namespace.
pub fn cacerts_of(cluster: &str) -> String {
    format!("{CACERTS_SECRET}-{cluster}")
}
