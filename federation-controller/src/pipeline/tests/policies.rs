//! Security policies in random histories.

use api::security;
use serde_json::{Value, json};

use super::*;
use crate::objects::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};

fn object(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec})
}

fn selector(variant: u8) -> Value {
    match variant % 3 {
        0 => json!({"matchLabels": {"app": "reviews"}}),
        1 => json!({"matchLabels": {"app": "details"}}),
        _ => Value::Null,
    }
}

pub(super) fn authorization(name: &str, namespace: u8, variant: u8) -> AuthorizationPolicy {
    let mut spec = json!({"selector": selector(variant), "rules": [{"from": [{"source": {"principals": ["*"]}}]}]});
    match variant / 3 {
        1 => spec["action"] = json!("DENY"),
        2 => spec["targetRefs"] = json!([{"kind": "Service", "name": "a"}]),
        // Invalid: the last valid version stays in force.
        3 => spec["rules"] = json!([{"from": [{}]}]),
        _ => {}
    }
    if variant / 3 == 2 {
        spec["selector"] = Value::Null;
    }
    let object = object(NAMESPACES[usize::from(namespace)], name, spec);
    AuthorizationPolicy::extract(security::AuthorizationPolicy::from_value(&object)).unwrap()
}

pub(super) fn modes(name: &str, namespace: u8, variant: u8) -> PeerAuthentication {
    let mode = ["STRICT", "DISABLE", "PERMISSIVE", "UNSET"][usize::from(variant / 3)];
    let mut spec = json!({"selector": selector(variant), "mtls": {"mode": mode}});
    if variant % 3 < 2 {
        spec["portLevelMtls"] = json!({"9080": {"mode": "DISABLE"}});
    }
    let object = object(NAMESPACES[usize::from(namespace)], name, spec);
    let policy = PeerAuthentication::extract(security::PeerAuthentication::from_value(&object)).unwrap();
    PeerAuthentication { created: i64::from(variant), ..policy }
}

pub(super) fn tokens(name: &str, namespace: u8, variant: u8) -> RequestAuthentication {
    let rule = match variant / 3 {
        0 => json!({"issuer": "a", "jwks": "{\"keys\": []}"}),
        1 => json!({"issuer": "https://a.example"}),
        2 => json!({"issuer": "a", "jwksUri": "https://a.example/keys"}),
        _ => json!({}),
    };
    let object =
        object(NAMESPACES[usize::from(namespace)], name, json!({"selector": selector(variant), "jwtRules": [rule]}));
    RequestAuthentication::extract(security::RequestAuthentication::from_value(&object)).unwrap()
}
