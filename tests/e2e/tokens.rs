//! Tokens of an issuer outside of the clusters, whose keys the controller fetches as it does elsewhere.

use crate::load::{Load, assert_none_failed, now_ms};
use crate::policies::{SOON, accepted, becomes, echoes, lab, start_controller, status, stop_controller};
use crate::support::{Lab, eventually};

const ISSUER: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: tokens}
spec:
  clusters:
    - {name: west, role: primary}
  workloads:
    - {name: frontend, cluster: west}
    - {name: web-service, namespace: production, cluster: west}
    - {name: api-service, namespace: production, cluster: west}
  issuers:
    - host: auth.mycompany.com
";

const WEB: &str = "west/production/web-service";
const FRONTEND: &str = "west/default/frontend";
const API: &str = "http://api-service.production:9080/api/v1/items";
const HEALTH: &str = "http://api-service.production:9080/health";

/// Returns the header with a token of the issuer, for `api-service`.
fn bearer(lab: &Lab, options: &[&str]) -> String {
    let token = ["lab", "token", "--subject", "alice", "--audience", "api-service"];
    let token = lab.isthmus(&[&token[..], options].concat()).ok();
    assert_eq!(token.trim_end().split('.').count(), 3, "{token}");
    format!("authorization: Bearer {}", token.trim_end())
}

/// Checks who may call api-service with which token, by security.yaml.
#[track_caller]
fn check(lab: &Lab) {
    let valid = bearer(lab, &[]);
    // Each client's proxy learns of a replaced pod by itself.
    becomes(lab, WEB, &["-H", &valid, API], "200");
    becomes(lab, FRONTEND, &["-H", &valid, API], "403");
    let expired = bearer(lab, &["--expires", "-5m"]);
    let audience = format!(
        "authorization: Bearer {}",
        lab.isthmus(&["lab", "token", "--subject", "alice", "--audience", "other"]).ok().trim_end()
    );
    let issuer = bearer(lab, &["--claim", "iss=https://auth.example.com"]);
    // Of a signature, the last character alone is not always significant.
    let forged = format!("{}AAAA", &valid[..valid.len() - 4]);
    for (from, header, url, expected) in [
        (WEB, None, API, "200"),
        (FRONTEND, Some(&valid), API, "403"),
        (FRONTEND, None, API, "403"),
        (FRONTEND, None, HEALTH, "200"),
        (FRONTEND, Some(&valid), HEALTH, "200"),
        (WEB, Some(&expired), API, "401"),
        (FRONTEND, Some(&expired), HEALTH, "401"),
        (WEB, Some(&audience), API, "403"),
        (WEB, Some(&issuer), API, "401"),
        (WEB, Some(&forged), API, "401"),
    ] {
        let arguments: Vec<&str> = header.iter().flat_map(|header| ["-H", header.as_str()]).chain([url]).collect();
        assert_eq!(status(lab, from, &arguments), expected, "{from} {arguments:?}");
    }
    assert!(!echoes(lab, WEB, "api-service.production"), "a rule on methods and paths allows no opaque connection");
}

/// Checks that a pod finds the issuer's keys as any client does: by name, with the lab's certificate authority.
#[track_caller]
fn check_discovery(lab: &Lab) {
    let authority = lab.directory.path("run/labs/tokens/.issuers/authority.pem").display().to_string();
    let get = |url: &str| lab.exec(FRONTEND, &["curl", "-sS", "--fail", "--cacert", &authority, url]);
    let document = get("https://auth.mycompany.com/.well-known/openid-configuration").json();
    assert_eq!(document["issuer"], "https://auth.mycompany.com", "{document}");
    let keys = get(document["jwks_uri"].as_str().expect("a URL")).json();
    assert_eq!((&keys["keys"][0]["kid"], &keys["keys"][0]["alg"]), (&"1".into(), &"RS256".into()), "{keys}");
    assert!(keys["keys"][0]["d"].is_null() && keys["keys"][1].is_null(), "{keys}");
    let other = lab.exec(FRONTEND, &["curl", "-sS", "https://auth.mycompany.com/"]);
    assert_eq!(other.code, Some(60), "the system does not trust the lab's authority: {other:?}");
}

#[test]
fn tokens_of_the_issuer_that_a_policy_names_are_verified_with_its_keys() {
    let lab = lab(ISSUER);
    check_discovery(&lab);
    lab.apply("west", &accepted("security"));
    check(&lab);
    // The only message is that `audiences` is not a list: none says that the keys cannot be fetched.
    let without_errors = || {
        let path = "jsonpath={.status.conditions[*].status} {.status.validationMessages[*].level}";
        let get = ["-n", "production", "get", "requestauthentication", "api-service-authn", "-o", path];
        let status = lab.kubectl("west", &get).stdout;
        if status == "True True WARNING" { Ok(()) } else { Err(status) }
    };
    eventually(SOON, without_errors).expect("the keys are there, and the sidecar has them");

    stop_controller(&lab);
    check(&lab);
    start_controller(&lab);
    lab.kubectl("west", &["-n", "production", "delete", "pod", "-l", "app=api-service"]).ok();
    check(&lab);
    // The controller and the sidecar are new; the keys are those that the issuer serves.
    rotates_under_load(&lab);
    lab.down();
}

/// Replaces the issuer's key while tokens by either key are in use: none of them is refused.
fn rotates_under_load(lab: &Lab) {
    let rotate = |expected: &str| {
        let done = lab.isthmus(&["lab", "rotate-keys", "auth.mycompany.com"]).ok();
        assert!(done.contains(expected), "{done}");
    };
    let former = bearer(lab, &[]);
    let by_former = Load::start(lab, WEB, API, 50, 14, &["--header", &former]);
    rotate("publishes key 2 beside key 1");
    // The issuer signs with the further key when the proxies have it.
    let early = bearer(lab, &["--key", "2"]);
    becomes(lab, WEB, &["-H", &early, API], "200");
    rotate("signs with key 2");
    let new = bearer(lab, &[]);
    let by_new = Load::start(lab, WEB, API, 50, 3, &["--header", &new]).wait();
    let until = now_ms();
    rotate("publishes key 2 alone");
    becomes(lab, WEB, &["-H", &former, API], "401");
    assert_eq!(status(lab, WEB, &["-H", &new, API]), "200");
    let by_former = by_former.wait();
    // In flight when the key is dropped are calls of the last second at most.
    assert_none_failed(by_former.iter().filter(|call| call.at_ms < until - 1000.0), 100);
    assert_none_failed(by_new.iter(), 90);
    assert!(by_former.iter().any(|call| call.result["status"] == 401), "a key that was dropped still verifies");
}
