//! Which pods get a sidecar.
//!
//! The webhook's selectors (see the install manifests) already ask the API server for pods of namespaces labelled
//! `istio-injection=enabled` and for pods labelled `sidecar.istio.io/inject=true`. Here is what selectors cannot say, and
//! the same once more for those who call the webhook otherwise. As in Istio, the pod's label counts more than its
//! annotation, and either more than the namespace.

use serde_json::Value;

/// Label and annotation by which a pod asks for a sidecar or for none.
pub const INJECT: &str = "sidecar.istio.io/inject";
/// Label of a namespace.
pub const NAMESPACE_INJECTION: &str = "istio-injection";
/// Annotation that says what was injected.
pub const STATUS: &str = "sidecar.istio.io/status";
/// Namespaces of the cluster itself, where nothing is ever injected.
const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// What a namespace says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceSays {
    /// `istio-injection=enabled`.
    Yes,
    /// `istio-injection=disabled`.
    No,
    /// Neither.
    Nothing,
}

impl NamespaceSays {
    /// Reads the label.
    pub fn of_label(value: Option<&str>) -> Self {
        match value {
            Some("enabled") => NamespaceSays::Yes,
            Some("disabled") => NamespaceSays::No,
            _ => NamespaceSays::Nothing,
        }
    }
}

/// Whether a pod gets a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It does.
    Inject,
    /// It does not, for this reason.
    Skip(&'static str),
}

/// Decides. `namespace` is the pod's, as the request names it.
pub fn decide(pod: &Value, namespace: &str, says: NamespaceSays) -> Decision {
    let metadata = &pod["metadata"];
    let spec = &pod["spec"];
    if spec["hostNetwork"] == Value::Bool(true) {
        return Decision::Skip("it is on the host's network, whose traffic is not its own");
    }
    if SYSTEM_NAMESPACES.contains(&namespace) {
        return Decision::Skip("its namespace belongs to the cluster itself");
    }
    let has = |list: &str, name: &str| spec[list].as_array().into_iter().flatten().any(|c| c["name"] == name);
    let taken =
        ["isthmus-proxy", "istio-proxy"].iter().any(|name| has("containers", name) || has("initContainers", name));
    if !metadata["annotations"][STATUS].is_null() || taken {
        return Decision::Skip("it has a sidecar already");
    }
    let word = |value: &Value| match value.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("true" | "yes" | "y" | "on") => Some(true),
        Some("false" | "no" | "n" | "off") => Some(false),
        _ => None,
    };
    match word(&metadata["labels"][INJECT]).or_else(|| word(&metadata["annotations"][INJECT])) {
        Some(true) if says == NamespaceSays::No => Decision::Skip("its namespace says istio-injection=disabled"),
        Some(true) => Decision::Inject,
        Some(false) => Decision::Skip("it says sidecar.istio.io/inject=false"),
        None if says == NamespaceSays::Yes => Decision::Inject,
        None => Decision::Skip("neither it nor its namespace asks for one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_rules_of_injection() {
        use NamespaceSays::{No, Nothing, Yes};
        let pod = |labels: Value, annotations: Value, spec: Value| json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec});
        let on = || json!({INJECT: "true"});
        let off = || json!({INJECT: "false"});
        let none = || json!({});
        let table = [
            (pod(none(), none(), none()), Yes, true),
            (pod(none(), none(), none()), Nothing, false),
            (pod(none(), none(), none()), No, false),
            (pod(on(), none(), none()), Nothing, true),
            (pod(on(), none(), none()), No, false),
            (pod(off(), none(), none()), Yes, false),
            (pod(none(), off(), none()), Yes, false),
            (pod(none(), on(), none()), Nothing, true),
            (pod(on(), off(), none()), Nothing, true),
            (pod(off(), on(), none()), Yes, false),
            (pod(json!({INJECT: "maybe"}), none(), none()), Yes, true),
            (pod(none(), none(), json!({"hostNetwork": true})), Yes, false),
            (pod(on(), none(), json!({"hostNetwork": true})), Yes, false),
            (pod(none(), json!({STATUS: "{}"}), none()), Yes, false),
            (pod(none(), none(), json!({"containers": [{"name": "isthmus-proxy"}]})), Yes, false),
            (pod(none(), none(), json!({"initContainers": [{"name": "istio-proxy"}]})), Yes, false),
            (json!({}), Yes, true),
        ];
        for (pod, says, expected) in table {
            assert_eq!(decide(&pod, "default", says) == Decision::Inject, expected, "{says:?} {pod}");
        }
        assert_ne!(decide(&pod(on(), none(), none()), "kube-system", Yes), Decision::Inject);
    }
}
