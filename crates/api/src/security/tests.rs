use serde_json::{Value, json};

use super::*;

/// Returns the fields of errors, and of warnings after a `~`.
fn found(kind: &str, spec: Value) -> Vec<String> {
    let object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec});
    let problems = validate(GROUP, kind, &object).into_iter();
    problems.map(|of| format!("{}{}", if of.is_error() { "" } else { "~" }, of.field)).collect()
}

#[test]
fn authorization_policies_are_refused_for_what_istio_refuses_or_does_not_mean() {
    let from = |source: Value| json!({"rules": [{"from": [{"source": source}]}]});
    let to = |operation: Value| json!({"rules": [{"to": [{"operation": operation}]}]});
    let when = |key: &str, values: Value| json!({"rules": [{"when": [{"key": key, "values": values}]}]});
    let deny = |mut spec: Value| {
        spec["action"] = json!("DENY");
        spec
    };
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({}), &[]),
        (json!({"rules": [{}]}), &[]),
        (json!({"action": "DENY"}), &["spec.rules"]),
        (json!({"action": "DENY", "rules": []}), &["spec.rules"]),
        (json!({"action": "AUDIT"}), &["~spec.rules"]),
        (json!({"action": "CUSTOM", "rules": [{}]}), &["spec.provider.name"]),
        (json!({"action": "CUSTOM", "provider": {"name": "p"}}), &["spec.rules"]),
        (json!({"action": "CUSTOM", "provider": {"name": "p"}, "rules": [{}]}), &[]),
        (json!({"provider": {"name": "p"}, "rules": [{}]}), &["spec.provider"]),
        (json!({"action": "allow"}), &["spec.action"]),
        (json!({"rules": [null]}), &["spec.rules[0]"]),
        (json!({"rules": [{"from": [{}]}]}), &["spec.rules[0].from[0].source"]),
        (from(json!({})), &["spec.rules[0].from[0].source"]),
        (from(json!({"principals": ["cluster.local/ns/a/sa/*", "*", "*/sa/b"]})), &[]),
        (from(json!({"principals": ["a*b"]})), &["spec.rules[0].from[0].source.principals[0]"]),
        (from(json!({"principals": ["*a*"]})), &["spec.rules[0].from[0].source.principals[0]"]),
        (from(json!({"principals": [""]})), &["spec.rules[0].from[0].source.principals[0]"]),
        (from(json!({"namespaces": ["a*b"]})), &[]),
        (from(json!({"notNamespaces": ["a"]})), &["~spec.rules[0].from[0].source"]),
        (from(json!({"notNamespaces": ["a"], "principals": ["*"]})), &[]),
        (from(json!({"serviceAccounts": ["a", "b/c"]})), &[]),
        (from(json!({"serviceAccounts": ["a/b/c"]})), &["spec.rules[0].from[0].source.serviceAccounts[0]"]),
        (from(json!({"serviceAccounts": ["a*"]})), &["spec.rules[0].from[0].source.serviceAccounts[0]"]),
        (
            from(json!({"serviceAccounts": ["a"], "namespaces": ["b"]})),
            &["spec.rules[0].from[0].source.serviceAccounts"],
        ),
        (from(json!({"trustDomains": ["a/b"]})), &["spec.rules[0].from[0].source.trustDomains[0]"]),
        (from(json!({"ipBlocks": ["10.0.0.0/8", "::1"]})), &[]),
        (from(json!({"ipBlocks": ["10.0.0.0/33"]})), &["spec.rules[0].from[0].source.ipBlocks[0]"]),
        (from(json!({"requestPrincipals": ["*", "https://a/*", "*/b"]})), &[]),
        (from(json!({"requestPrincipals": ["a"]})), &["spec.rules[0].from[0].source.requestPrincipals[0]"]),
        (to(json!({})), &["spec.rules[0].to[0].operation"]),
        (to(json!({"ports": ["80"], "methods": ["GET"], "paths": ["/a*", "/a/{*}/b/{**}"], "hosts": ["*.a"]})), &[]),
        (to(json!({"ports": ["80*"]})), &["spec.rules[0].to[0].operation.ports[0]"]),
        (to(json!({"ports": ["65536"]})), &["spec.rules[0].to[0].operation.ports[0]"]),
        (to(json!({"methods": ["get"]})), &["~spec.rules[0].to[0].operation.methods[0]"]),
        (to(json!({"paths": ["/{**}/{*}"]})), &["spec.rules[0].to[0].operation.paths[0]"]),
        (to(json!({"paths": ["/a/{*}.txt"]})), &["spec.rules[0].to[0].operation.paths[0]"]),
        (to(json!({"paths": ["/*/{*}"]})), &["spec.rules[0].to[0].operation.paths[0]"]),
        (deny(to(json!({"paths": ["/a"]}))), &["~spec.rules[0]"]),
        (deny(to(json!({"paths": ["/a"], "ports": ["80"]}))), &[]),
        (when("request.headers[x-user]", json!(["a"])), &[]),
        (when("request.headers[:authority]", json!(["a"])), &[]),
        (when("request.headers", json!(["a"])), &["spec.rules[0].when[0].key"]),
        (when("request.headers[a b]", json!(["a"])), &["spec.rules[0].when[0].key"]),
        (when("request.auth.claims[a][b]", json!(["*c"])), &[]),
        (when("request.auth.claims[]", json!(["c"])), &["spec.rules[0].when[0].key"]),
        (when("source.cluster", json!(["west"])), &[]),
        (when("source.ip", json!(["x"])), &["spec.rules[0].when[0].values[0]"]),
        (when("destination.port", json!(["0x50"])), &["spec.rules[0].when[0].values[0]"]),
        (when("destination.user", json!(["a"])), &["spec.rules[0].when[0].key"]),
        (when("source.user", json!(["a"])), &["spec.rules[0].when[0].key"]),
        (when("a", json!(["a"])), &["spec.rules[0].when[0].key"]),
        (when("connection.sni", json!([])), &["spec.rules[0].when[0]"]),
        (json!({"targetRef": {"kind": "Service", "name": "a"}}), &["~spec.targetRef"]),
        (json!({"targetRef": {"kind": "Pod", "name": "a"}}), &["spec.targetRef.kind"]),
        (json!({"selector": {"matchLabels": {"app": "a*"}}}), &["spec.selector.matchLabels[app]"]),
        (
            json!({"selector": {"matchLabels": {"app": "a"}}, "targetRefs": [{"kind": "Service", "name": "a"}]}),
            &["spec.targetRefs", "~spec.targetRefs[0]"],
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(found("AuthorizationPolicy", spec.clone()), expected, "{spec}");
    }
    let without_spec = json!({"metadata": {"name": "a"}});
    assert!(validate(GROUP, "AuthorizationPolicy", &without_spec).is_empty(), "it denies everything");
}

#[test]
fn peer_authentications_need_a_selector_for_ports() {
    let app = json!({"matchLabels": {"app": "a"}});
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({}), &[]),
        (json!({"mtls": {"mode": "STRICT"}}), &[]),
        (json!({"mtls": {"mode": "strict"}}), &["spec.mtls.mode"]),
        (json!({"portLevelMtls": {"80": {"mode": "DISABLE"}}}), &["spec.portLevelMtls"]),
        (json!({"selector": app, "portLevelMtls": {"80": {"mode": "DISABLE"}}}), &[]),
        (json!({"selector": app, "portLevelMtls": {"0": {"mode": "DISABLE"}}}), &["spec.portLevelMtls[0]"]),
        (json!({"selector": {}}), &["~spec.selector.matchLabels"]),
    ];
    for (spec, expected) in cases {
        assert_eq!(found("PeerAuthentication", spec.clone()), expected, "{spec}");
    }
}

#[test]
fn request_authentications_name_issuer_and_keys() {
    let rule = |rule: Value| json!({"jwtRules": [rule]});
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({}), &[]),
        (rule(json!({"issuer": "a", "jwksUri": "https://a/keys"})), &[]),
        (rule(json!({"issuer": "a", "jwks": r#"{"keys": [{"kty": "RSA", "n": "x", "e": "AQAB"}]}"#})), &[]),
        (rule(json!({})), &["spec.jwtRules[0].issuer"]),
        (rule(json!({"jwksUri": "https://a/keys"})), &["~spec.jwtRules[0].issuer"]),
        (rule(json!({"issuer": "a", "jwksUri": "file:///etc/passwd"})), &["spec.jwtRules[0].jwksUri"]),
        (rule(json!({"issuer": "a", "jwksUri": "https://u@a/"})), &["spec.jwtRules[0].jwksUri"]),
        (rule(json!({"issuer": "a", "jwks": "{"})), &["spec.jwtRules[0].jwks"]),
        (rule(json!({"issuer": "a", "jwks": r#"{"keys": [{"kty": "oct", "k": "x"}]}"#})), &["~spec.jwtRules[0].jwks"]),
        (rule(json!({"issuer": "a", "audiences": ["", "b"]})), &["spec.jwtRules[0].audiences[0]"]),
        (rule(json!({"issuer": "a", "fromHeaders": [{"name": "a b"}]})), &["spec.jwtRules[0].fromHeaders[0].name"]),
        (
            rule(json!({"issuer": "a", "outputClaimToHeaders": [{"header": "x"}]})),
            &["spec.jwtRules[0].outputClaimToHeaders[0].claim"],
        ),
        (rule(json!({"issuer": "a", "timeout": "1ns"})), &["spec.jwtRules[0].timeout"]),
    ];
    let both = |prefix: &str, other: Value| {
        let bare =
            json!({"issuer": "a", "jwksUri": "https://a/", "fromHeaders": [{"name": "X-Token", "prefix": prefix}]});
        json!({"jwtRules": [bare, {"issuer": "b", "jwksUri": "https://b/", "fromHeaders": [other]}]})
    };
    let cases = cases.into_iter().chain([
        (both("", json!({"name": "x-token", "prefix": "Bearer "})), &["~spec.jwtRules"] as &[&str]),
        (both("", json!({"name": "x-token"})), &[]),
        (both("Bearer ", json!({"name": "x-token", "prefix": "Token "})), &[]),
        (both("", json!({"name": "x-other", "prefix": "Bearer "})), &[]),
    ]);
    for (spec, expected) in cases {
        assert_eq!(found("RequestAuthentication", spec.clone()), expected, "{spec}");
    }
    let object = json!({"spec": {"jwtRules": [{"issuer": "a", "audiences": "b"}]}});
    let read = RequestAuthentication::from_value(&object);
    assert_eq!(read.spec.jwt_rules[0].audiences.0, ["b"], "a single text is a list of one");
}
