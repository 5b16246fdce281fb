//! The webhook that gives pods their sidecar.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{SYSTEM, WEBHOOKS};
use crate::topology::Cluster;

/// The webhook configuration, with Istio's rule of who gets a sidecar: pods of namespaces labelled
/// `istio-injection=enabled` unless they say no, and pods that say yes wherever the namespace says nothing.
#[must_use]
pub fn webhook(cluster: &Cluster, roots_pem: &str) -> Value {
    let selects = |key: &str, operator: &str, values: &[&str]| match values {
        [] => json!({"matchExpressions": [{"key": key, "operator": operator}]}),
        values => json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
    };
    let hook = |name: &str, namespaces: Value, pods: Value| {
        json!({
            "name": name,
            "clientConfig": {
                "service": {
                    "name": WEBHOOKS, "namespace": SYSTEM, "port": 443,
                    "path": format!("/inject/cluster/{}/net/{}", cluster.name, cluster.network),
                },
                "caBundle": STANDARD.encode(roots_pem),
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
        "metadata": {"name": "isthmus-sidecar-injector"},
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
