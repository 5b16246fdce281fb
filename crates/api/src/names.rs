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
/// Annotation of a Service: the namespaces whose clients see it, with commas between them.
pub const EXPORT_TO_ANNOTATION: &str = "networking.istio.io/exportTo";
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
/// The configuration of the admission webhook that injects sidecars.
pub const INJECTION_WEBHOOK: &str = "isthmus-sidecar-injector";
/// The configuration of the admission webhook that denies invalid objects and warns of those without effect.
pub const WARNING_WEBHOOK: &str = "isthmus-configuration-warnings";
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

/// Most characters of a DNS label.
const MAX_LABEL: usize = 63;
/// The form of a DNS label, for messages.
pub const DNS_LABEL: &str =
    "lower-case letters, digits and dashes, at most 63, beginning and ending with a letter or digit";

/// Returns whether a text is a DNS label (RFC 1123), as names of labs, clusters, namespaces and workloads are.
pub fn is_dns_label(text: &str) -> bool {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|byte| edge(byte) || *byte == b'-')
}

/// Returns a name that is a DNS label. `what` says what has the name, such as `namespace`.
///
/// # Errors
/// Returns a message with the name and the form that it must have.
pub fn dns_label(text: &str, what: &str) -> Result<String, String> {
    match is_dns_label(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("\"{text}\" is not a valid {what} name ({DNS_LABEL})")),
    }
}

/// Parses the name of a namespace, for options of commands.
///
/// # Errors
/// Returns a message with the name and the form that it must have.
pub fn namespace(text: &str) -> Result<String, String> {
    dns_label(text, "namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label() {
        for good in ["a", "0", "west-1", &"a".repeat(63)] {
            assert_eq!(namespace(good).as_deref(), Ok(good));
        }
        for bad in
            ["", ".", "..", "../evil", "a/b", "Bad Name", "West", "-a", "a-", "a.b", "a_b", "ü", "a\n", &"a".repeat(64)]
        {
            let error = namespace(bad).expect_err(bad);
            assert!(error.contains("not a valid namespace name (lower-case"), "{error}");
        }
    }
}
