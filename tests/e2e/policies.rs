//! Security policies, in one cluster and across clusters, in HTTP and TCP.

use std::time::Duration;

use crate::support::{Lab, TestDirectory, User, eventually};

pub(crate) const SOON: Duration = Duration::from_secs(15);

const ONE_CLUSTER: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: policies}
spec:
  clusters:
    - {name: west, role: primary}
  workloads:
    - {name: frontend, cluster: west}
    - {name: backend, cluster: west}
    - {name: other, cluster: west}
    - {name: legacy, cluster: west, inject: false}
    - {name: web-service, namespace: production, cluster: west}
    - {name: api-service, namespace: production, cluster: west}
";

const TWO_CLUSTERS: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: policies}
spec:
  networks:
    - {name: net-west, podCIDR: 10.244.0.0/16}
    - {name: net-east, podCIDR: 10.244.0.0/16}
  clusters:
    - {name: west, role: primary, network: net-west}
    - {name: east, role: remote, primary: west, network: net-east}
  workloads:
    - {name: frontend, cluster: west}
    - {name: frontend, cluster: east}
    - {name: ratings, cluster: east}
    - {name: local, cluster: west}
  exports:
    - {name: ratings}
";

pub(crate) fn accepted(name: &str) -> String {
    let path = format!("{}/../install/tests/accepted/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("a configuration")
}

pub(crate) fn lab(topology: &str) -> Lab {
    let directory = TestDirectory::new(User::Own);
    std::fs::write(directory.path("topologies").join("policies.yaml"), topology).expect("written");
    Lab::up_in(directory, "policies.yaml")
}

/// Returns the status with which a request is answered; 000 if the connection ends without an answer.
pub(crate) fn status(lab: &Lab, from: &str, arguments: &[&str]) -> String {
    let curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"];
    lab.exec(from, &[&curl, arguments].concat()).stdout
}

/// Waits until requests are answered with a status, four times in a row.
#[track_caller]
pub(crate) fn becomes(lab: &Lab, from: &str, arguments: &[&str], expected: &str) {
    let seen = eventually(SOON, || {
        let seen: Vec<String> = (0..4).map(|_| status(lab, from, arguments)).collect();
        if seen.iter().all(|status| status == expected) { Ok(()) } else { Err(seen) }
    });
    if let Err(seen) = seen {
        panic!("{from} {arguments:?}: {seen:?} instead of {expected}");
    }
}

/// Returns whether bytes that a client sends to an opaque port come back.
pub(crate) fn echoes(lab: &Lab, from: &str, host: &str) -> bool {
    let line = format!("echo ping | timeout 3 curl -s --max-time 2 telnet://{host}:9090");
    lab.exec(from, &["sh", "-c", &line]).stdout.contains("ping")
}

#[track_caller]
fn echo_becomes(lab: &Lab, from: &str, host: &str, expected: bool) {
    let seen = eventually(SOON, || if echoes(lab, from, host) == expected { Ok(()) } else { Err(()) });
    assert!(seen.is_ok(), "{from} to {host}: echo is {}", !expected);
}

/// Stops the controller of west, and waits until it is gone.
pub(crate) fn stop_controller(lab: &Lab) {
    scale_controller(lab, "--replicas=0");
    eventually(SOON, || {
        let pods = lab.kubectl("west", &["-n", "isthmus-system", "get", "pods", "-l", "app=isthmus-controller"]).stdout;
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    })
    .expect("the controller is away");
}

/// Starts the controller of west again.
pub(crate) fn start_controller(lab: &Lab) {
    scale_controller(lab, "--replicas=1");
}

fn scale_controller(lab: &Lab, replicas: &str) {
    lab.kubectl("west", &["-n", "isthmus-system", "scale", "deployment/isthmus-controller", replicas]).ok();
}

#[test]
fn policies_that_users_have_take_effect_unchanged() {
    let lab = lab(ONE_CLUSTER);
    let (frontend, other, legacy, web) =
        ("west/default/frontend", "west/default/other", "west/default/legacy", "west/production/web-service");
    let (backend, api) = ("http://backend:9080/", "http://api-service.production:9080/api/v1/items");
    becomes(&lab, legacy, &[backend], "200");
    echo_becomes(&lab, legacy, "backend", true);

    // mtls-strict.yaml: plaintext is refused, in HTTP and TCP.
    lab.apply("west", &accepted("mtls-strict"));
    becomes(&lab, legacy, &[backend], "000");
    echo_becomes(&lab, legacy, "backend", false);
    becomes(&lab, frontend, &[backend], "200");
    echo_becomes(&lab, frontend, "backend", true);

    // security.yaml: web-service may GET and POST below /api/v1, and everyone may ask for health.
    becomes(&lab, frontend, &[api], "200");
    lab.apply("west", &accepted("security"));
    becomes(&lab, frontend, &[api], "403");
    becomes(&lab, web, &[api], "200");
    for (from, arguments, expected) in [
        (web, &["-X", "DELETE", api][..], "403"),
        (web, &["http://api-service.production:9080/api/v2"], "403"),
        (web, &["--path-as-is", "http://api-service.production:9080/api/v1/../../admin"], "403"),
        (frontend, &["http://api-service.production:9080/health"], "200"),
        (frontend, &["-X", "POST", "http://api-service.production:9080/health"], "403"),
    ] {
        assert_eq!(status(&lab, from, arguments), expected, "{from} {arguments:?}");
    }
    // A rule on methods and paths allows no opaque connection.
    echo_becomes(&lab, web, "api-service.production", false);

    // zero-trust.yaml: nothing in default is allowed but GET and POST of frontend to backend.
    lab.apply("west", &accepted("zero-trust"));
    becomes(&lab, other, &[backend], "403");
    becomes(&lab, frontend, &[backend], "200");
    becomes(&lab, frontend, &["http://other:9080/"], "403");
    assert_eq!(status(&lab, frontend, &["-X", "PUT", backend]), "403");
    echo_becomes(&lab, frontend, "backend", false);

    // The status says that the policies are in force, and the access log names the rule.
    let reconciled = || {
        let path = "jsonpath={.status.conditions[?(@.type==\"Reconciled\")].status}";
        let status = lab.kubectl("west", &["get", "authorizationpolicy", "deny-all", "-o", path]).stdout;
        if status == "True" { Ok(()) } else { Err(status) }
    };
    eventually(SOON, reconciled).expect("a status");
    let log = lab.kubectl("west", &["logs", "deployment/other", "-c", "isthmus-proxy", "--tail=20"]).ok();
    assert!(log.contains("rbac_access_denied_matched_policy[none]"), "{log}");

    // They hold while the controller is away, and after restarts.
    stop_controller(&lab);
    assert_eq!(status(&lab, other, &[backend]), "403");
    assert_eq!(status(&lab, frontend, &[backend]), "200");
    start_controller(&lab);
    lab.kubectl("west", &["delete", "pod", "-l", "app=backend"]).ok();
    becomes(&lab, frontend, &[backend], "200");
    becomes(&lab, other, &[backend], "403");
    lab.down();
}

#[test]
fn a_policy_protects_its_cluster_against_callers_in_others() {
    let lab = lab(TWO_CLUSTERS);
    let (west, east, ratings) = ("west/default/frontend", "east/default/frontend", "http://ratings:9080/");
    becomes(&lab, west, &[ratings], "200");
    becomes(&lab, east, &[ratings], "200");
    lab.apply(
        "east",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny-all}\nspec: {}\n",
    );
    becomes(&lab, west, &[ratings], "403");
    becomes(&lab, east, &[ratings], "403");
    becomes(&lab, west, &["http://local:9080/"], "200");
    echo_becomes(&lab, west, "ratings", false);

    // The caller's cluster is that of the certificate's issuer. Both callers have the same account.
    lab.apply(
        "east",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: west-only}\nspec:\n  \
         rules:\n    - from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]\n      \
         when: [{key: source.cluster, values: [west]}]\n",
    );
    becomes(&lab, west, &[ratings], "200");
    assert_eq!(status(&lab, east, &[ratings]), "403");
    echo_becomes(&lab, west, "ratings", true);
    echo_becomes(&lab, east, "ratings", false);

    // A policy of the primary is for the workloads of all clusters that it serves.
    lab.kubectl("east", &["delete", "authorizationpolicy", "--all"]).ok();
    becomes(&lab, east, &[ratings], "200");
    lab.apply(
        "west",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: no-west}\nspec:\n  \
         action: DENY\n  rules:\n    - when: [{key: source.cluster, values: [west]}]\n",
    );
    becomes(&lab, west, &[ratings], "403");
    becomes(&lab, west, &["http://local:9080/"], "403");
    assert_eq!(status(&lab, east, &[ratings]), "200");
    lab.down();
}

/// A key set with the public key by which the tokens below are signed. The private key is gone.
const TOKENS: &str = r#"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec:
  selector: {matchLabels: {app: backend}}
  jwtRules:
    - issuer: https://issuer.example
      audiences: [api-service]
      outputClaimToHeaders: [{header: x-sub, claim: sub}]
      jwks: '{"keys": [{"kty": "EC", "crv": "P-256", "kid": "a", "alg": "ES256", "x": "SLGJFLUjk7zx8hn8zQelXJzcpd9ZsUzxATGv39toFjs", "y": "YnV2r20uyEPbadOQA9iT8kYSR8qgNl5zEszmh3ex8xs"}]}'
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: operators}
spec:
  selector: {matchLabels: {app: backend}}
  rules:
    - from: [{source: {requestPrincipals: [https://issuer.example/*]}}]
      when: [{key: "request.auth.claims[groups]", values: [ops]}]
"#;
/// Of ada, who is in `ops`, until the year 2100.
const ADA: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoiYXBpLXNlcnZpY2UiLCJleHAiOjQxMDI0NDQ4MDAsImdyb3VwcyI6WyJvcHMiXX0.0ppDvB_It679uFr2uaSymNUG8eBQrOcXODfIFZsanCCEo37znZIVkUk-T1qHyUgywq7jkvZJRN5fhqEqgXTHVQ";
/// Of ada, until the year 2020.
const EXPIRED: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoiYXBpLXNlcnZpY2UiLCJleHAiOjE2MDAwMDAwMDB9.7cANyuw1tLMgcr6XGps7aW7XSUMhmtFDQEBBA2xpa90QR8NKYddnSDHUHAP1FUJmURmvP5Ryb862uyng58YBtA";
/// Of eve, who is in no group.
const EVE: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiZXZlIiwiYXVkIjoiYXBpLXNlcnZpY2UiLCJleHAiOjQxMDI0NDQ4MDB9.5dwxk9zrg5BB6sNUygWx34AzmUwVQWd3-E8EKULYqM4WEID21ZhKdhNH_0GW-Th0n6xOkPpbkWZePZACrgeBiw";

#[test]
fn tokens_decide_and_authz_explains_the_decision() {
    let lab = lab(ONE_CLUSTER);
    let (frontend, backend) = ("west/default/frontend", "http://backend:9080/");
    lab.apply("west", TOKENS);
    becomes(&lab, frontend, &[backend], "403");
    let with = |token: &str| format!("authorization: Bearer {token}");
    let (ada, expired, eve) = (with(ADA), with(EXPIRED), with(EVE));
    becomes(&lab, frontend, &["-H", &ada, backend], "200");
    assert_eq!(status(&lab, frontend, &["-H", &expired, backend]), "401");
    assert_eq!(status(&lab, frontend, &["-H", &eve, backend]), "403");
    let seen = lab.exec(frontend, &["curl", "-sS", "-H", &ada, "-H", "x-sub: admin", backend]).json();
    assert_eq!(seen["headers"]["x-sub"], "ada", "{seen}");
    assert!(seen["headers"]["authorization"].is_null(), "{seen}");

    // The same, asked.
    let (from, to) = ("deployment/frontend", "deployment/backend");
    let authz = |arguments: &[&str]| lab.isthmus(&[&["authz"][..], arguments].concat());
    let check = authz(&["check", to]).ok();
    assert!(check.contains("default/operators   ALLOW") && check.contains("Mutual TLS: PERMISSIVE"), "{check}");
    let refused = authz(&["test", from, to, "GET", "/"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for part in ["refused: no ALLOW policy matches", "from[0].source.requestPrincipals", "request.auth.claims[groups]"]
    {
        assert!(refused.stdout.contains(part), "{part} is not in {}", refused.stdout);
    }
    let claims = r#"{"iss": "https://issuer.example", "sub": "ada", "groups": ["ops"]}"#;
    assert_eq!(authz(&["test", from, to, "GET", "/", "--claims", claims]).ok(), "allowed\n");
    lab.apply(
        "west",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: no-frontend}\nspec:\n  \
         action: DENY\n  rules: [{from: [{source: {serviceAccounts: [frontend]}}]}]\n",
    );
    becomes(&lab, frontend, &["-H", &ada, backend], "403");
    let denied = authz(&["test", from, to, "GET", "/", "--claims", claims]);
    assert!(denied.stdout.contains("(policy default/no-frontend, rule 0)"), "{denied:?}");
    lab.down();
}
