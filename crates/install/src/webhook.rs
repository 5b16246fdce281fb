//! The admission webhooks: one injects sidecars, the other denies invalid objects and warns of those without effect.

use api::names::{INJECTION_WEBHOOK, WARNING_WEBHOOK};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::components::WEBHOOKS;
use crate::definitions;
use crate::settings::Installation;

/// The configuration of the webhook that injects sidecars. It selects pods as Istio does: pods of namespaces labelled `istio-injection=enabled` unless
/// the pod is labelled `sidecar.istio.io/inject=false`, and pods labelled `true` in namespaces without the label.
#[must_use]
pub fn injection(of: &Installation) -> Value {
    let selects = |key: &str, operator: &str, values: &[&str]| match values {
        [] => json!({"matchExpressions": [{"key": key, "operator": operator}]}),
        values => json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
    };
    let hook = |name: &str, namespaces: Value, pods: Value| {
        json!({
            "name": name,
            "clientConfig": client(of, &format!("/inject/cluster/{}/net/{}", of.cluster, of.network)),
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
        "metadata": {"name": INJECTION_WEBHOOK},
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

/// The configuration of the webhook that denies invalid objects and warns of those without effect. If it does not answer,
/// objects are admitted: the controller validates what is stored as well.
#[must_use]
pub fn warnings(of: &Installation) -> Value {
    // Exports have effect, and are applied while the controller of a remote cluster may be out of reach.
    let resources = definitions::resources().filter(|(_, plural)| *plural != "serviceexports");
    let rules: Vec<Value> = resources
        .map(|(group, plural)| {
            json!({
                "operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["*"], "resources": [plural],
            })
        })
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": WARNING_WEBHOOK},
        "webhooks": [{
            "name": "validation.isthmus.dev",
            "clientConfig": client(of, &format!("/validate/cluster/{}", of.cluster)),
            "rules": rules,
            "admissionReviewVersions": ["v1"],
            "matchPolicy": "Equivalent",
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "timeoutSeconds": 5,
        }],
    })
}

fn client(of: &Installation, path: &str) -> Value {
    json!({
        "service": {"name": WEBHOOKS, "namespace": of.namespace, "port": 443, "path": path},
        "caBundle": STANDARD.encode(&of.roots_pem),
    })
}
