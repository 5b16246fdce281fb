//! The rules that decide which pods get a sidecar.
//!
//! The webhook's selectors (see the install manifests) already restrict its calls to pods of namespaces labelled
//! `istio-injection=enabled` and to pods labelled `sidecar.istio.io/inject=true`. This module applies the rules that
//! selectors cannot express, and repeats the selectors' rules for other callers of the webhook. As in Istio, the pod's
//! label takes precedence over its annotation, and both over the namespace's label.

use serde_json::Value;

use super::template::PROXY_CONTAINERS;

/// The label and annotation of a pod that enables or disables injection.
pub const INJECT: &str = "sidecar.istio.io/inject";
/// The label of a namespace that enables or disables injection.
pub const NAMESPACE_INJECTION: &str = "istio-injection";
/// The annotation that lists the injected containers and volumes.
pub const STATUS: &str = "sidecar.istio.io/status";
/// The annotation with the name of the template that a pod is injected with.
pub const TEMPLATES: &str = "inject.istio.io/templates";
/// The template of the proxy beside an application, which is the default.
pub const SIDECAR: &str = "sidecar";
/// The template of a pod that is a gateway itself.
pub const GATEWAY: &str = "gateway";
/// The namespaces of the cluster itself, which never get sidecars.
const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// The injection label of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceLabel {
    /// `istio-injection=enabled`.
    Enabled,
    /// `istio-injection=disabled`.
    Disabled,
    /// Neither value.
    Unset,
}

impl NamespaceLabel {
    /// Parses the value of the label.
    pub fn of_label(value: Option<&str>) -> Self {
        match value {
            Some("enabled") => NamespaceLabel::Enabled,
            Some("disabled") => NamespaceLabel::Disabled,
            _ => NamespaceLabel::Unset,
        }
    }
}

/// The decision whether a pod gets a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The pod gets a sidecar.
    Inject,
    /// The pod gets no sidecar, with the reason.
    Skip(&'static str),
}

/// Reports whether a pod is a gateway itself: its container is completed instead of a sidecar being added.
pub fn is_gateway(pod: &Value) -> bool {
    pod["metadata"]["annotations"][TEMPLATES].as_str().is_some_and(|template| template.trim() == GATEWAY)
}

/// Decides whether a pod gets a sidecar. `namespace` is the pod's namespace in the request.
pub fn decide(pod: &Value, namespace: &str, label: NamespaceLabel) -> Decision {
    let metadata = &pod["metadata"];
    let spec = &pod["spec"];
    if spec["hostNetwork"] == Value::Bool(true) {
        return Decision::Skip("the pod uses the host network, whose traffic is not its own");
    }
    if SYSTEM_NAMESPACES.contains(&namespace) {
        return Decision::Skip("the namespace belongs to the cluster itself");
    }
    let has = |list: &str, name: &str| spec[list].as_array().into_iter().flatten().any(|c| c["name"] == name);
    let taken = PROXY_CONTAINERS.iter().any(|name| has("containers", name) || has("initContainers", name));
    if !metadata["annotations"][STATUS].is_null() || (taken && !is_gateway(pod)) {
        return Decision::Skip("the pod already has a sidecar");
    }
    let parse = |value: &Value| match value.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("true" | "yes" | "y" | "on") => Some(true),
        Some("false" | "no" | "n" | "off") => Some(false),
        _ => None,
    };
    match parse(&metadata["labels"][INJECT]).or_else(|| parse(&metadata["annotations"][INJECT])) {
        Some(true) if label == NamespaceLabel::Disabled => {
            Decision::Skip("the namespace has the label istio-injection=disabled")
        }
        Some(true) => Decision::Inject,
        Some(false) => Decision::Skip("the pod has sidecar.istio.io/inject=false"),
        None if label == NamespaceLabel::Enabled => Decision::Inject,
        None => Decision::Skip("neither the pod nor its namespace enables injection"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_annotations_and_the_namespace_decide() {
        use NamespaceLabel::{Disabled, Enabled, Unset};
        let pod = |labels: Value, annotations: Value, spec: Value| json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec});
        let on = || json!({INJECT: "true"});
        let off = || json!({INJECT: "false"});
        let none = || json!({});
        let table = [
            (pod(none(), none(), none()), Enabled, true),
            (pod(none(), none(), none()), Unset, false),
            (pod(none(), none(), none()), Disabled, false),
            (pod(on(), none(), none()), Unset, true),
            (pod(on(), none(), none()), Disabled, false),
            (pod(off(), none(), none()), Enabled, false),
            (pod(none(), off(), none()), Enabled, false),
            (pod(none(), on(), none()), Unset, true),
            (pod(on(), off(), none()), Unset, true),
            (pod(off(), on(), none()), Enabled, false),
            (pod(json!({INJECT: "maybe"}), none(), none()), Enabled, true),
            (pod(none(), none(), json!({"hostNetwork": true})), Enabled, false),
            (pod(on(), none(), json!({"hostNetwork": true})), Enabled, false),
            (pod(none(), json!({STATUS: "{}"}), none()), Enabled, false),
            (pod(none(), none(), json!({"containers": [{"name": "isthmus-proxy"}]})), Enabled, false),
            (pod(none(), none(), json!({"initContainers": [{"name": "istio-proxy"}]})), Enabled, false),
            (
                pod(none(), json!({TEMPLATES: "gateway"}), json!({"containers": [{"name": "istio-proxy"}]})),
                Enabled,
                true,
            ),
            (
                pod(none(), json!({TEMPLATES: "sidecar"}), json!({"containers": [{"name": "istio-proxy"}]})),
                Enabled,
                false,
            ),
            (pod(off(), json!({TEMPLATES: "gateway"}), none()), Enabled, false),
            (json!({}), Enabled, true),
        ];
        for (pod, label, expected) in table {
            assert_eq!(decide(&pod, "default", label) == Decision::Inject, expected, "{label:?} {pod}");
        }
        assert_ne!(decide(&pod(on(), none(), none()), "kube-system", Enabled), Decision::Inject);
    }
}
