//! Limits on the rate of requests: Istio's documented EnvoyFilter as it is, and the mesh's own resource.

use crate::policies::{SOON, accepted, becomes, lab, status};
use crate::support::{Lab, Outcome, eventually, kubectl_is_installed};

const TOPOLOGY: &str = "
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
";

/// Runs a command of `kubectl` on a manifest.
fn kubectl(lab: &Lab, command: &str, manifest: &str) -> Outcome {
    let file = lab.directory.path("manifest.yaml");
    std::fs::write(&file, manifest).expect("written");
    lab.kubectl("west", &[command, "-f", &file.display().to_string()])
}

/// Returns the statuses of requests to a URL, in order.
fn statuses(lab: &Lab, arguments: &[&str], count: usize) -> Vec<String> {
    (0..count).map(|_| status(lab, "west/default/frontend", arguments)).collect()
}

#[test]
fn documented_limits_take_effect_as_they_are() {
    kubectl_is_installed();
    let lab = lab(TOPOLOGY);
    becomes(&lab, "west/default/frontend", &["http://backend:9080/"], "200");
    becomes(&lab, "west/default/frontend", &["http://other:9080/api/a"], "200");
    let applied = kubectl(&lab, "apply", &accepted("rate-limits"));
    assert!(applied.code == Some(0) && !applied.stderr.contains("Warning"), "{applied:?}");

    // Four requests a minute, each of which may have been counted before this one saw the limit.
    becomes(&lab, "west/default/frontend", &["http://backend:9080/"], "429");
    let headers = lab.exec("west/default/frontend", &["curl", "-sS", "-i", "http://backend:9080/"]).stdout;
    assert!(headers.contains("429") && headers.contains("x-local-rate-limit: true"), "{headers}");
    assert!(headers.contains("local_rate_limited"), "{headers}");

    // A user has two requests an hour. Others, and other paths, have theirs.
    let in_force = eventually(SOON, || {
        let seen = statuses(&lab, &["-H", "x-user: probe", "http://other:9080/api/a"], 4);
        if seen.last().is_some_and(|status| status == "429") { Ok(()) } else { Err(seen) }
    });
    assert!(in_force.is_ok(), "{in_force:?}");
    let user = ["-H", "x-user: alice", "http://other:9080/api/a"];
    assert_eq!(statuses(&lab, &user, 4), ["200", "200", "429", "429"]);
    assert_eq!(statuses(&lab, &["-H", "x-user: alice", "http://other:9080/else"], 3), ["200"; 3]);
    assert_eq!(statuses(&lab, &["http://other:9080/api/a"], 3), ["200"; 3]);
    let headers = lab
        .exec("west/default/frontend", &["curl", "-sS", "-i", "-H", "x-user: bob", "http://other:9080/api/a"])
        .stdout;
    assert!(headers.contains("x-ratelimit-limit: 2") && headers.contains("x-ratelimit-remaining: 1"), "{headers}");

    // Both say that they are in force.
    for (kind, name, namespace) in
        [("envoyfilter", "filter-local-ratelimit-svc", "istio-system"), ("ratelimit", "by-user", "default")]
    {
        let path = "-o=jsonpath={.status.conditions[?(@.type==\"Enforced\")].status}";
        let enforced = eventually(SOON, || {
            let seen = lab.kubectl("west", &["-n", namespace, "get", kind, name, path]).stdout;
            if seen.trim() == "True" { Ok(()) } else { Err(seen) }
        });
        assert!(enforced.is_ok(), "{kind} {name}: {enforced:?}");
    }

    // An invalid one is refused, with the reason.
    let wrong = "apiVersion: federation.isthmus.dev/v1alpha1\nkind: RateLimit\nmetadata: {name: wrong}\nspec: {rules: [{requests: 0}]}\n";
    let refused = kubectl(&lab, "apply", wrong);
    assert!(refused.stderr.contains("spec.rules[0].requests"), "{refused:?}");

    // Without the limits, requests are carried.
    kubectl(&lab, "delete", &accepted("rate-limits"));
    becomes(&lab, "west/default/frontend", &["http://backend:9080/"], "200");
}

const LINKERD: &str = "
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: other-http, namespace: default}
spec: {podSelector: {matchLabels: {app: other}}, port: 9080, proxyProtocol: HTTP/1}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: HTTPLocalRateLimitPolicy
metadata: {name: other, namespace: default}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: other-http}
  identity: {requestsPerSecond: 2}
  overrides:
    - {requestsPerSecond: 1000, clientRefs: [{kind: ServiceAccount, namespace: default, name: backend}]}
";

/// Sends twenty requests at once. Returns the number of those that are answered 429.
fn limited(lab: &Lab, from: &str) -> usize {
    let urls = "http://other:9080/[1-20]";
    let curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}\n", "--max-time", "10", urls];
    let seen = lab.exec(from, &curl).stdout;
    assert!(seen.lines().all(|status| status == "200" || status == "429"), "{seen}");
    seen.lines().filter(|status| *status == "429").count()
}

#[test]
fn a_policy_of_linkerd_limits_each_client_but_those_with_an_override() {
    kubectl_is_installed();
    let lab = lab(TOPOLOGY);
    becomes(&lab, "west/default/frontend", &["http://other:9080/"], "200");
    becomes(&lab, "west/default/backend", &["http://other:9080/"], "200");
    lab.apply("west", LINKERD);
    let in_force = eventually(SOON, || if limited(&lab, "west/default/frontend") > 0 { Ok(()) } else { Err(()) });
    assert!(in_force.is_ok(), "frontend is not limited");
    assert_eq!(limited(&lab, "west/default/backend"), 0, "backend has a limit of its own");
    let condition = |name: &str| {
        let path = "-o=jsonpath={.status.conditions[?(@.type==\"Accepted\")].reason}";
        lab.kubectl("west", &["get", "httplocalratelimitpolicies", name, path]).stdout
    };
    let accepted = eventually(SOON, || if condition("other") == "Accepted" { Ok(()) } else { Err(condition("other")) });
    assert!(accepted.is_ok(), "{accepted:?}");
    // A younger one for the same Server has no effect, and says so.
    lab.apply("west", &LINKERD.replace("metadata: {name: other,", "metadata: {name: younger,"));
    let refused = eventually(SOON, || {
        let reason = condition("younger");
        if reason == "RateLimitReasonAlreadyExists" { Ok(()) } else { Err(reason) }
    });
    assert!(refused.is_ok(), "{refused:?}");
}
