//! Changes of the mode of mutual TLS under load.

use crate::load::{Load, assert_none_failed, now_ms};
use crate::policies::{becomes, lab};
use crate::support::Lab;

const CALLERS: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: mutual-tls}
spec:
  clusters:
    - {name: west, role: primary}
  workloads:
    - {name: frontend, cluster: west}
    - {name: legacy, cluster: west, inject: false}
    - {name: backend, cluster: west, replicas: 2}
";

/// Sets the mode of the mesh, and returns when it was requested and when the status said that it is in force.
fn set_mode(lab: &Lab, mode: &str) -> (f64, f64) {
    let policy = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: default, namespace: istio-system}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    );
    let requested = now_ms();
    lab.apply("west", &policy);
    let wait =
        ["-n", "istio-system", "wait", "--for=condition=Enforced", "peerauthentication/default", "--timeout=30s"];
    lab.kubectl("west", &wait).ok();
    (requested, now_ms())
}

#[test]
fn a_change_to_strict_and_back_under_load_fails_no_mutual_tls_and_refuses_plaintext_once_it_is_in_force() {
    let lab = lab(CALLERS);
    set_mode(&lab, "PERMISSIVE");
    let loads = ["west/default/frontend", "west/default/legacy"]
        .map(|caller| Load::start(&lab, caller, "http://backend:9080/", 100, 20, &[]));
    // Part of the scenario: calls before the change. Their processes start late on a busy machine.
    std::thread::sleep(std::time::Duration::from_secs(3));
    becomes(&lab, "west/default/legacy", &["http://backend:9080/"], "200");
    let (strict_requested, strict) = set_mode(&lab, "STRICT");
    // Part of the scenario: calls in STRICT.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let (permissive_requested, permissive) = set_mode(&lab, "PERMISSIVE");
    let [mesh, plaintext] = loads.map(Load::wait);

    assert_none_failed(mesh.iter(), 1900);
    let between = |from: f64, to: f64| plaintext.iter().filter(move |call| from <= call.at_ms && call.at_ms < to);
    assert_none_failed(between(0.0, strict_requested - 500.0), 0);
    let accepted: Vec<_> = between(strict, permissive_requested).filter(|call| call.ok()).collect();
    assert!(accepted.is_empty(), "{} calls in plaintext after the status, first: {:?}", accepted.len(), accepted[0]);
    assert!(between(strict, permissive_requested).count() > 50, "calls while STRICT is in force");
    // On a busy machine the calls may have ended before PERMISSIVE is in force.
    assert_none_failed(between(permissive, f64::MAX), 0);
    becomes(&lab, "west/default/legacy", &["http://backend:9080/"], "200");
    lab.down();
}
