//! Policies of a gateway: authorization, tokens, and routes by the claims of tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use wire::{Kind, discovery as d};

use crate::client::get;
use crate::fixture::{Gateway, app, at, free_port, http_route, http_server, listener, table};
use crate::issuer::{SigningKey, key_set};

const HTTP: d::Protocol = d::Protocol::Http;

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_policies_deny_are_refused_at_the_gateway() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.route("one", "*", "a");
    let paths = d::Values { any_of: vec!["/admin*".into()], ..Default::default() };
    let to = vec![d::AuthorizationOperation { paths: Some(paths), ..Default::default() }];
    let addresses = d::Values { any_of: vec!["6.6.6.6".into()], ..Default::default() };
    let from = vec![d::AuthorizationSource { remote_ip_blocks: Some(addresses), ..Default::default() }];
    let deny = d::AuthorizationPolicy {
        name: "istio-system/deny".into(),
        action: d::PolicyAction::Deny.into(),
        rules: vec![
            d::AuthorizationRule { to, ..Default::default() },
            d::AuthorizationRule { from, ..Default::default() },
        ],
        ..Default::default()
    };
    gateway.resources().push(Kind::AuthorizationPolicy, "deny", &deny, &[]);
    gateway.push_workload(|workload| workload.authorization_policies = vec!["deny".into()]);
    let listeners = vec![listener(port, vec![http_server("one", &["*"])])];
    gateway.push(d::Listeners { listeners, trusted_proxies: 1, ..Default::default() });
    gateway.start().await;
    for (path, forwarded, expected) in [
        ("/", "1.1.1.1", 200),
        ("/admin/users", "1.1.1.1", 403),
        ("/x/../admin", "1.1.1.1", 403),
        ("/", "6.6.6.6", 403),
        // Only the address that the trusted proxy added counts.
        ("/", "6.6.6.6, 1.1.1.1", 200),
    ] {
        let answer = get(at(port), "a", path, &format!("x-forwarded-for: {forwarded}\r\n")).await;
        assert_eq!(answer.status, expected, "{path} {forwarded}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_chosen_by_the_claims_of_a_valid_token() {
    let (a, b) = (app("a").await, app("b").await);
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.push_service("b", b.address, HTTP);
    let value = d::StringMatch { pattern: Some(d::string_match::Pattern::Exact("beta".into())), ignore_case: false };
    let claim = |name: &str| d::FieldMatch { name: name.into(), value: Some(value.clone()), invert: false };
    let by = |name| vec![d::HttpMatch { headers: vec![claim(name)], ..Default::default() }];
    let routes = vec![
        http_route(by("@request.auth.claims.groups"), "b"),
        http_route(by("@request.auth.claims[org.name][unit]"), "b"),
        http_route(vec![], "a"),
    ];
    gateway.push_routes("one", "*", &table(routes));
    let (key, stranger) = (SigningKey::generate("ES256", "k"), SigningKey::generate("ES256", "k"));
    let jwks = key_set(&[key.public()]);
    let rule = d::JwtRule { issuer: "https://issuer.example".into(), jwks, ..Default::default() };
    let rules = d::RequestAuthentication { name: "istio-system/users".into(), rules: vec![rule] };
    gateway.resources().push(Kind::RequestAuthentication, "users", &rules, &[]);
    gateway.push_workload(|workload| workload.request_authentications = vec!["users".into()]);
    gateway.push_listeners(vec![listener(port, vec![http_server("one", &["*"])])]);
    gateway.start().await;
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600;
    let token = |key: &SigningKey, mut claims: serde_json::Value| {
        claims["iss"] = json!("https://issuer.example");
        claims["exp"] = json!(expires);
        format!("authorization: Bearer {}\r\n", key.token(&claims))
    };
    for (lines, expected) in [
        (String::new(), "a"),
        (token(&key, json!({"groups": ["alpha", "beta"]})), "b"),
        (token(&key, json!({"groups": "beta"})), "b"),
        (token(&key, json!({"groups": "alpha"})), "a"),
        (token(&key, json!({"org.name": {"unit": "beta"}})), "b"),
        // A claim is not a header.
        ("@request.auth.claims.groups: beta\r\n".replace('@', "x-"), "a"),
    ] {
        let answer = get(at(port), "a", "/", &lines).await;
        assert_eq!(answer.header("answered-by"), expected, "{lines}");
    }
    let forged = token(&stranger, json!({"groups": "beta"}));
    assert_eq!(get(at(port), "a", "/", &forged).await.status, 401);
}
