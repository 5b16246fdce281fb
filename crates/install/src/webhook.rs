//! The admission webhook that injects sidecars.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::components::WEBHOOKS;
use crate::settings::Installation;

/// Name of the webhook configuration.
pub const CONFIGURATION: &str = "isthmus-sidecar-injector";

/// The webhook configuration. It selects pods as Istio does: pods of namespaces labelled `istio-injection=enabled` unless
/// the pod is labelled `sidecar.istio.io/inject=false`, and pods labelled `true` in namespaces without the label.
#[must_use]
pub fn configuration(of: &Installation) -> Value {
    let selects = |key: &str, operator: &str, values: &[&str]| match values {
        [] => json!({"matchExpressions": [{"key": key, "operator": operator}]}),
        values => json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
    };
    let hook = |name: &str, namespaces: Value, pods: Value| {
        json!({
            "name": name,
            "clientConfig": {
                "service": {
                    "name": WEBHOOKS, "namespace": of.namespace, "port": 443,
                    "path": format!("/inject/cluster/{}/net/{}", of.cluster, of.network),
                },
                "caBundle": STANDARD.encode(&of.roots_pem),
            },
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "namespaceSelector": namespaces,
            "objectSelector": pods,
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "timeoutSeconds": 5,
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": CONFIGURATION},
        "webhooks": [
            hook(
                "namespace.sidecar-injector.istio.io",
                selects("istio-injection", "In", &["enabled"]),
                selects("sidecar.istio.io/inject", "NotIn", &["false"]),
            ),
            hook(
                "object.sidecar-injector.istio.io",
                selects("istio-injection", "DoesNotExist", &[]),
                selects("sidecar.istio.io/inject", "In", &["true"]),
            ),
        ],
    })
}
