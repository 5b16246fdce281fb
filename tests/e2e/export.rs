//! `isthmus export`, and ServiceEntries that a controller keeps in another mesh: one mesh uses a service of another, of which it
//! knows nothing but the ServiceEntry. Both meshes have one root.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Lab, TestDirectory, User, eventually, kubectl_is_installed};

const SOON: Duration = Duration::from_secs(20);
const FRONTEND: &str = "west/default/frontend";
const RATINGS: &str = "http://ratings:9080/";

/// Two primaries. A lab's read each other, until their secrets are deleted.
const TOPOLOGY: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: apart}
spec:
  networks: [{name: net-west}, {name: net-east}]
  clusters:
    - {name: west, role: primary, secretsOf: [east], network: net-west, region: us-west}
    - {name: east, role: primary, secretsOf: [west], network: net-east, region: us-east}
  workloads:
    - {name: frontend, cluster: west}
    - {name: ratings, cluster: east}
    - {name: secret, cluster: east}
    - {name: reviews, cluster: west}
    - {name: reviews, cluster: east}
  exports:
    - name: ratings
    - {name: reviews, clusters: [east]}
";

/// The rights that a controller needs where it keeps ServiceEntries.
const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: exported-services}
rules:
- apiGroups: [networking.istio.io]
  resources: [serviceentries, destinationrules]
  verbs: [get, list, create, patch, delete]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: exported-services}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: exported-services}
subjects: [{kind: ServiceAccount, name: isthmus-reader, namespace: isthmus-system}]
";

fn lab() -> Lab {
    kubectl_is_installed();
    let directory = TestDirectory::new(User::Own);
    std::fs::write(directory.path("topologies").join("apart.yaml"), TOPOLOGY).expect("written");
    let lab = Lab::up_in(directory, "apart.yaml");
    for (cluster, other) in [("west", "east"), ("east", "west")] {
        let secret = format!("istio-remote-secret-{other}");
        lab.kubectl(cluster, &["-n", "istio-system", "delete", "secret", &secret]).ok();
    }
    lab
}

/// Requests ratings from west until east answers, and checks whom east's sidecar saw.
fn east_answers(lab: &Lab) {
    let answer = eventually(SOON, || lab.get(FRONTEND, RATINGS)).expect("ratings answers");
    assert_eq!((&answer["cluster"], &answer["service"]), (&Value::from("east"), &Value::from("ratings")), "{answer}");
    assert_eq!(answer["identity"], "spiffe://cluster.local/ns/default/sa/frontend", "{answer}");
}

fn nobody_answers(lab: &Lab) {
    let gone =
        eventually(SOON, || lab.get(FRONTEND, RATINGS).map_or_else(|_| Ok(()), |answer| Err(answer.to_string())));
    gone.expect("west does not know ratings");
}

/// `isthmus export --from east`, with what is to be done in west.
fn export(lab: &Lab, arguments: &[&str]) -> crate::support::Outcome {
    lab.isthmus(&[&["export", "--from", "east"][..], arguments].concat())
}

#[test]
fn another_mesh_uses_a_service_by_its_service_entry() {
    let lab = lab();
    nobody_answers(&lab);
    check_what_is_refused(&lab);
    check_command(&lab);
    check_drift(&lab);
    check_another_host(&lab);
    lab.kubectl("west", &["delete", "serviceentry,destinationrule", "--all"]).ok();
    nobody_answers(&lab);
    check_controller(&lab);
    lab.down();
}

fn check_what_is_refused(lab: &Lab) {
    for (arguments, expected) in [
        (&["default/secret"][..], "east does not export default/secret\n  export it by a ServiceExport"),
        (&["default/nothing"], "east has no service default/nothing\n  list the services: "),
        (&["-n", "kube-system"], "east exports no such service\n  export one by a ServiceExport"),
        (&["default/ratings", "--host", "Not A Host"], "would be refused: spec.hosts[0]"),
        (&["default/ratings", "--context", "west"], "add --apply or --check"),
        (
            &["default/reviews", "--apply", "--context", "west"],
            "west has a Service default/reviews of its own, so reviews.default.svc.cluster.local is not free there\n  give the service another host: --host reviews.default.global",
        ),
        (
            &["default/ratings", "--apply", "--context", "west", "--into", "absent"],
            "west has no namespace absent, or does not define ServiceEntry\n  create the namespace: ",
        ),
    ] {
        let refused = export(lab, arguments);
        assert!(refused.code == Some(1) && refused.stderr.contains(expected), "{arguments:?}: {refused:?}");
    }
    for arguments in [&["ratings"][..], &["default/ratings", "--apply"], &[]] {
        assert_eq!(export(lab, arguments).code, Some(2), "{arguments:?}");
    }
}

fn check_command(lab: &Lab) {
    let printed = export(lab, &["default/ratings"]).ok();
    for part in [
        "203.0.113.20",
        "locality: us-east/us-east-a",
        "outbound_.9080_._.ratings.default.svc.cluster.local",
        "spiffe://cluster.local/ns/default/sa/ratings",
    ] {
        assert!(printed.contains(part), "no {part:?} in\n{printed}");
    }
    // The same by other selections, and at another time.
    assert_eq!(export(lab, &["-n", "default", "-l", "app=ratings"]).ok(), printed);
    let missing = export(lab, &["default/ratings", "--check", "--context", "west"]);
    assert!(
        missing.code == Some(1) && missing.stdout.contains("ServiceEntry default/ratings-exported: does not exist")
    );
    lab.apply("west", &printed);
    east_answers(lab);
    export(lab, &["default/ratings", "--check", "--context", "west"]).ok();
}

fn check_drift(lab: &Lab) {
    let change = r#"[{"op": "replace", "path": "/spec/endpoints/0/address", "value": "203.0.113.99"}]"#;
    lab.kubectl("west", &["patch", "serviceentry", "ratings-exported", "--type", "json", "-p", change]).ok();
    let drift = export(lab, &["default/ratings", "--check", "--context", "west"]);
    assert_eq!(drift.code, Some(1), "{drift:?}");
    assert_eq!(
        drift.stdout.trim(),
        "ServiceEntry default/ratings-exported: spec.endpoints[0].address: is \"203.0.113.99\", expected \"203.0.113.20\""
    );
    export(lab, &["default/ratings", "--apply", "--context", "west"]).ok();
    export(lab, &["default/ratings", "--check", "--context", "west"]).ok();
    east_answers(lab);
}

/// West has reviews of its own. East's have another host there, and the server name that east's gateway knows.
fn check_another_host(lab: &Lab) {
    let host = "reviews.east.global";
    export(lab, &["default/reviews", "--host", host, "--apply", "--context", "west"]).ok();
    for (host, cluster) in [(host, "east"), ("reviews", "west")] {
        let url = format!("http://{host}:9080/");
        let answer = eventually(SOON, || lab.get(FRONTEND, &url)).expect("reviews answers");
        assert_eq!((&answer["cluster"], &answer["service"]), (&cluster.into(), &"reviews".into()), "{answer}");
    }
    let all = export(lab, &["-A", "--check", "--context", "west"]);
    assert!(
        all.stdout.contains("DestinationRule default/reviews-exported: spec.host: is \"reviews.east.global\""),
        "{all:?}"
    );
    lab.kubectl("east", &["delete", "serviceexport", "reviews"]).ok();
    let surplus = "ServiceEntry default/reviews-exported: exists, but its service is not exported";
    let named = eventually(SOON, || {
        let all = export(lab, &["-A", "--check", "--context", "west"]);
        if all.code == Some(1) && all.stdout.contains(surplus) { Ok(()) } else { Err(all) }
    });
    named.expect("the objects of a service that is not exported any more");
    export(lab, &["-A", "--apply", "--prune", "--context", "west"]).ok();
    export(lab, &["-A", "--check", "--context", "west"]).ok();
}

/// East's controller keeps the entry in west, and takes it away.
fn check_controller(lab: &Lab) {
    lab.isthmus(&["join", "--lab", "--context", "east", "west"]).ok();
    lab.apply("west", RIGHTS);
    let annotate = |value: &str| {
        lab.kubectl("east", &["annotate", "serviceexport", "ratings", "--overwrite", value]).ok();
    };
    annotate("federation.isthmus.dev/export-to=west,nowhere");
    east_answers(lab);
    let query = ["get", "destinationrule", "ratings-exported-by-east", "-o", "json"];
    let rule = lab.kubectl("west", &query).json();
    assert_eq!(rule["metadata"]["labels"]["federation.isthmus.dev/exported-by"], "east", "{rule}");
    let owner = &rule["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"]),
        (&"ServiceEntry".into(), &"ratings-exported-by-east".into()),
        "{rule}"
    );
    let status = lab.isthmus(&["status", "--context", "east"]).ok();
    let line = "problem: Cluster east: ServiceExport default/ratings: no ServiceEntry of it is kept in cluster nowhere: no cluster of that name is joined";
    assert!(status.contains(line), "{status}");

    annotate("federation.isthmus.dev/export-to-");
    let left = eventually(SOON, || {
        let left = lab.kubectl("west", &["get", "serviceentries,destinationrules", "-o", "name"]).ok();
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    });
    left.expect("the objects are deleted");
    nobody_answers(lab);
}
