//! `isthmus check` and `isthmus services` in a lab: all is well, then single things are not.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Lab, User, eventually};

/// A role by which the reader would read Secrets.
const TOO_MUCH: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: too-much}
rules: [{apiGroups: [''], resources: [secrets], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: too-much}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: too-much}
subjects: [{kind: ServiceAccount, name: isthmus-reader, namespace: isthmus-system}]
";

/// Returns the findings of a check at a place.
fn findings<'a>(document: &'a Value, check: &str, place: &str) -> Vec<&'a Value> {
    let all = document["checks"].as_array().expect("checks").iter();
    all.filter(|finding| finding["check"] == check && finding["where"] == place).collect()
}

#[test]
fn a_mesh_is_checked_and_what_is_wrong_is_named() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    let outcome = eventually(Duration::from_secs(20), || {
        let outcome = lab.isthmus(&["check", "-o", "json"]);
        if outcome.code == Some(0) { Ok(outcome) } else { Err(outcome) }
    });
    let document = outcome.expect("all is well").json();
    println!("{}", lab.isthmus(&["check"]).stdout);
    for (check, place) in [
        ("API server", "west"),
        ("API server", "east"),
        ("clocks", "east"),
        ("controller", "west"),
        ("version", "west"),
        ("definitions", "east"),
        ("roots", "east"),
        ("intermediate", "west"),
        ("intermediate", "east"),
        ("network", "west"),
        ("network", "east"),
        ("link", "west -> east"),
        ("proxies", "east -> west"),
        ("reader", "east"),
        ("webhook", "west"),
        ("data path", "west -> east"),
        ("data path", "east -> west"),
        ("refusal", "west -> east"),
        ("refusal", "east -> west"),
    ] {
        let found = findings(&document, check, place);
        assert!(!found.is_empty() && found.iter().all(|of| of["outcome"] == "ok"), "{check} {place}: {document:#}");
    }
    let path = findings(&document, "data path", "west -> east")[0]["found"].as_str().expect("a text");
    assert!(path.contains("identity proven") && path.contains("issued by east's intermediate"), "{path}");

    services_show_exporters_and_importers(&lab);

    lab.apply("east", TOO_MUCH);
    let outcome = lab.isthmus(&["check"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains("isthmus-reader may get secrets, list secrets"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("failure east: reader:"), "{}", outcome.stdout);
    lab.kubectl("east", &["delete", "clusterrolebinding", "too-much"]).ok();

    lab.isthmus(&["lab", "fault", "kill-api", "east"]).ok();
    let outcome = lab.isthmus(&["check", "--timeout", "10s"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains("not reachable from here"), "{}", outcome.stdout);
    let outcome = lab.isthmus(&["check", "--wait", "--timeout", "3s"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains("waiting ("), "{}", outcome.stderr);
    lab.down();
}

fn services_show_exporters_and_importers(lab: &Lab) {
    let document = lab.isthmus(&["services", "-o", "json"]).json();
    let services = document["primaries"][0]["services"].as_array().expect("services").clone();
    let of = |name: &str, cluster: &str| {
        let service = services.iter().find(|service| service["name"] == name).expect("the service");
        let clusters = service["clusters"].as_array().expect("clusters");
        clusters.iter().find(|of| of["name"] == cluster).cloned().unwrap_or_default()
    };
    let (east, west) = (of("ratings", "east"), of("ratings", "west"));
    assert!(east["exports"] == "ServiceExport" && east["imports"] == false && east["readyEndpoints"] == 1, "{east:#}");
    assert!(west["exports"].is_null() && west["imports"] == true, "{west:#}");
    let table = lab.isthmus(&["services"]).ok();
    println!("{table}");
    let row = table.lines().find(|line| line.contains("reviews")).expect("a row");
    assert!(row.contains("9080/http") && row.contains("east, west") && row.contains("west 2"), "{table}");
    assert!(!table.contains("kubernetes"), "{table}");
    assert!(lab.isthmus(&["services", "-A"]).ok().contains("kubernetes"));
}
