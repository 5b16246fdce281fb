//! Tokens of end users: which are accepted, what the application receives of them, and what the others are answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use telemetry::istio::REQUESTS;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use wire::{Kind, discovery as d};

use crate::fixture::resources::policy_name;
use crate::fixture::{Pod, Sidecar, TestMesh, until};
use crate::issuer::{SigningKey, key_set};
use crate::raw::{self, header, status};

const PROTOCOL: d::Protocol = d::Protocol::Http;

/// Starts the service `reviews`, whose pod verifies tokens by these rules.
async fn reviews(rules: Vec<d::JwtRule>) -> (Arc<TestMesh>, Pod, Sidecar) {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", PROTOCOL).await;
    mesh.push_service("reviews", 1, PROTOCOL);
    mesh.push_endpoint("reviews", &pod, |_| {});
    mesh.push_token_rules(&pod, rules);
    let frontend = mesh.client("frontend").await;
    let address = pod.gate.address;
    until("the rules are in force", async || status(&get(address, "/", &bearer("bad")).await) == 401).await;
    (mesh, pod, frontend)
}

/// A rule for the tokens of an issuer, which sign by this key.
fn rule(issuer: &str, keys: &[&SigningKey]) -> d::JwtRule {
    let jwks = key_set(&keys.iter().map(|key| key.public()).collect::<Vec<_>>());
    d::JwtRule { issuer: issuer.into(), jwks, audiences: vec!["shop".into()], ..Default::default() }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of a valid token.
fn claims(issuer: &str) -> Value {
    json!({"iss": issuer, "sub": "alice", "aud": "shop", "exp": now() + 600, "level": 3, "scope": "read write"})
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

async fn get(address: SocketAddr, target: &str, headers: &str) -> String {
    raw::send(address, &format!("GET {target} HTTP/1.1\r\nhost: reviews\r\n{headers}\r\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_receives_claims_that_no_client_can_forge() {
    let key = SigningKey::generate("ES256", "k");
    let output = |header: &str, claim: &str| d::ClaimToHeader { header: header.into(), claim: claim.into() };
    let rule = d::JwtRule {
        output_payload_to_header: "x-payload".into(),
        output_claim_to_headers: vec![output("x-user", "sub"), output("x-level", "level"), output("x-none", "none")],
        ..rule("A", &[&key])
    };
    let (_mesh, pod, frontend) = reviews(vec![rule]).await;
    let forged = "x-user: root\r\nx-level: 9\r\nx-none: x\r\nx_user: root\r\nx-payload: x\r\n";
    let token = key.token(&claims("A"));
    let payload = token.split('.').nth(1).unwrap();
    for address in [frontend.service_address(1), pod.gate.address] {
        let response = get(address, "/p?a=%20", forged).await;
        assert_eq!(status(&response), 200, "{response}");
        for name in ["seen-x-user", "seen-x_user", "seen-x-level", "seen-x-none", "seen-x-payload"] {
            assert_eq!(header(&response, name), None, "{response}");
        }
        for (target, headers) in [
            ("/p?a=%20".to_owned(), format!("{forged}{}", bearer(&token))),
            (format!("/p?access_token={token}&a=%20"), forged.to_owned()),
        ] {
            let response = get(address, &target, &headers).await;
            assert_eq!(status(&response), 200, "{response}");
            let seen =
                ["seen-x-user", "seen-x-level", "seen-x-payload", "seen-path", "seen-authorization", "seen-x-none"]
                    .map(|name| header(&response, name));
            assert_eq!(seen, [Some("alice"), Some("3"), Some(payload), Some("/p?a=%20"), None, None]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_is_refused_with_a_reason_and_nothing_else_suffers() {
    let (key, other) = (SigningKey::generate("RS256", "k"), SigningKey::generate("RS256", "k"));
    let (mesh, pod, frontend) = reviews(vec![rule("A", &[&key])]).await;
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("access.log");
    mesh.push_settings(|settings| {
        settings.access_log_file = log.to_string_lossy().into_owned();
        settings.access_log_format = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n".into();
    });
    let with = |name: &str, value: Value| {
        let mut claims = claims("A");
        claims[name] = value;
        key.token(&claims)
    };
    let valid = key.token(&claims("A"));
    let huge = format!("{valid}{}", "A".repeat(40_000));
    let table = [
        ("garbage".to_owned(), 401, "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"),
        (huge, 401, "Jwt is too long"),
        (key.token_of(r#"{"alg":"none"}"#, &claims("A").to_string()), 401, "Jwt header [alg] is not supported"),
        (key.token_of(r#"{"alg":"HS256"}"#, &claims("A").to_string()), 401, "Jwt header [alg] is not supported"),
        (
            key.token_of(r#"{"alg":"RS256","kid":"../../dev/null"}"#, &claims("A").to_string()),
            401,
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        (key.token_of(r#"{"alg":"RS256"}"#, r#"{"iss":"A","iss":"B"}"#), 401, "Jwt payload is an invalid JSON"),
        (other.token(&claims("A")), 401, "Jwt verification fails"),
        (key.token(&claims("B")), 401, "Jwt issuer is not configured"),
        (with("exp", json!(now() - 61)), 401, "Jwt is expired"),
        (with("nbf", json!(now() + 90)), 401, "Jwt not yet valid"),
        (with("aud", json!("mail")), 403, "Audiences in Jwt are not allowed"),
    ];
    let before = pod.app.requests.load(Relaxed);
    let mut kept = TcpStream::connect(pod.gate.address).await.unwrap();
    for (token, code, reason) in &table {
        let response = get(frontend.service_address(1), "/a?b=c", &bearer(token)).await;
        assert_eq!((status(&response), response.split("\r\n\r\n").nth(1)), (*code, Some(*reason)));
        let challenge = "Bearer realm=\"http://reviews/a?b=c\", error=\"invalid_token\"";
        assert_eq!(header(&response, "www-authenticate"), Some(challenge), "{response}");
        // On one connection, a valid request follows.
        for (token, code) in [(token, *code), (&valid, 200)] {
            let request = format!("GET / HTTP/1.1\r\nhost: reviews\r\n{}\r\n", bearer(token));
            kept.write_all(request.as_bytes()).await.unwrap();
            let response = raw::read_response(&mut kept).await.expect("a response");
            assert_eq!(status(&response), code, "{reason}: {response}");
        }
    }
    assert_eq!(pod.app.requests.load(Relaxed) - before, table.len() as u64, "only valid requests arrive");
    let (expired, logged) = (with("exp", json!(1)), "401 - jwt_authn_access_denied{Jwt_is_expired}\n");
    until("the refusal is logged", async || {
        get(pod.gate.address, "/", &bearer(&expired)).await;
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains(logged))
    })
    .await;
    // gRPC has the reason in its own form.
    let grpc = format!("content-type: application/grpc\r\n{}", bearer("bad"));
    let response = get(pod.gate.address, "/a.B/C", &grpc).await;
    assert_eq!((status(&response), header(&response, "grpc-status")), (200, Some("16")), "{response}");
    // A preflight has no credentials of its own.
    let preflight = format!(
        "OPTIONS / HTTP/1.1\r\nhost: reviews\r\norigin: http://a\r\naccess-control-request-method: GET\r\n{}\r\n",
        bearer("bad")
    );
    assert_eq!(status(&raw::send(pod.gate.address, &preflight).await), 200);
    assert!(pod.sidecar.total(&REQUESTS, &[("response_code", "403")]) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn authorization_sees_the_claims_of_valid_tokens_alone() {
    let key = SigningKey::generate("EdDSA", "k");
    let (mesh, pod, frontend) = reviews(vec![rule("A", &[&key])]).await;
    let values = |value: &str| Some(d::Values { any_of: vec![value.into()], none_of: vec![] });
    let source = d::AuthorizationSource { request_principals: values("A/alice"), ..Default::default() };
    let conditions = [("request.auth.claims[scope]", "read"), ("request.auth.audiences", "shop")];
    let condition = |(key, value): (&str, &str)| d::Condition { key: key.into(), value: values(value) };
    let rule = d::AuthorizationRule {
        from: vec![source],
        conditions: conditions.into_iter().map(condition).collect(),
        ..Default::default()
    };
    let policy = d::AuthorizationPolicy { name: "default/users".into(), rules: vec![rule], ..Default::default() };
    mesh.resources().push(Kind::AuthorizationPolicy, &policy_name("west", "reviews-a"), &policy, &[]);
    until("the policy is in force", async || status(&get(pod.gate.address, "/", "").await) == 403).await;
    let token = |name: &str, value: &str| {
        let mut claims = claims("A");
        claims[name] = value.into();
        bearer(&key.token(&claims))
    };
    for address in [frontend.service_address(1), pod.gate.address] {
        for (headers, code) in [
            (token("sub", "alice"), 200),
            (token("sub", "mallory"), 403),
            (token("scope", "write"), 403),
            (token("scope", "reader"), 403),
            (bearer("bad"), 401),
            (String::new(), 403),
        ] {
            // Twice: a token that is known has the same claims.
            for _ in 0..2 {
                assert_eq!(status(&get(address, "/", &headers).await), code, "{headers}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_without_a_refused_token_and_broken_ones_affect_their_issuer_alone() {
    let (old, new) = (SigningKey::generate("ES256", "old"), SigningKey::generate("EdDSA", "new"));
    let (mesh, pod, _frontend) = reviews(vec![rule("A", &[&old]), rule("B", &[&old])]).await;
    let address = pod.gate.address;
    let (old_token, new_token) = (old.token(&claims("A")), new.token(&claims("A")));
    let of = async |token: &str| status(&get(address, "/", &bearer(token)).await);
    assert_eq!((of(&old_token).await, of(&new_token).await), (200, 401));
    // The issuer publishes the new key before it uses it, and keeps the old one while tokens of it are valid.
    mesh.push_token_rules(&pod, vec![rule("A", &[&old, &new]), rule("B", &[&old])]);
    until("the new key is known", async || {
        assert_eq!(of(&old_token).await, 200, "no valid token is refused meanwhile");
        of(&new_token).await == 200
    })
    .await;
    mesh.push_token_rules(&pod, vec![rule("A", &[&new]), rule("B", &[&old])]);
    until("the old key is forgotten", async || {
        assert_eq!(of(&new_token).await, 200, "no valid token is refused meanwhile");
        of(&old_token).await == 401
    })
    .await;
    // A broken key set: no key, rather than an old or another one.
    mesh.push_token_rules(&pod, vec![d::JwtRule { jwks: "{".into(), ..rule("A", &[]) }, rule("B", &[&old])]);
    until("the keys are gone", async || of(&new_token).await == 401).await;
    let response = get(address, "/", &bearer(&new_token)).await;
    assert!(response.ends_with("Jwks doesn't have any valid public key"), "{response}");
    assert_eq!(of(&old.token(&claims("B"))).await, 200, "another issuer");
    assert_eq!(status(&get(address, "/", "").await), 200, "no token");
    // Rules that cannot be read leave the previous ones in force.
    mesh.push_token_rules(&pod, vec![d::JwtRule { issuer: String::new(), ..rule("A", &[&new]) }]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(of(&new_token).await, 401);
    // Without rules, tokens are not read.
    mesh.push_token_rules(&pod, vec![]);
    until("the rules are gone", async || of("bad").await == 200).await;
}
