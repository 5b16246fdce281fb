//! What operators see of authorization: policies that are proposed from traffic, and refusals in `isthmus status`.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Lab, Outcome, TestDirectory, User, eventually};

const SOON: Duration = Duration::from_secs(20);

const TOPOLOGY: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: feedback}
spec:
  networks:
    - {name: net-west, podCIDR: 10.244.0.0/16}
    - {name: net-east, podCIDR: 10.244.0.0/16}
  clusters:
    - {name: west, role: primary, network: net-west}
    - {name: east, role: remote, primary: west, network: net-east}
  workloads:
    - {name: frontend, cluster: west}
    - {name: other, cluster: west}
    - {name: legacy, cluster: west, inject: false}
    - {name: backend, cluster: west}
    - {name: frontend, cluster: east}
  exports:
    - {name: backend}
";

const DENY_ALL: &str =
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny-all}\nspec: {}\n";

fn lab() -> Lab {
    let directory = TestDirectory::new(User::Own);
    std::fs::write(directory.path("topologies").join("feedback.yaml"), TOPOLOGY).expect("written");
    Lab::up_in(directory, "feedback.yaml")
}

/// Returns the status with which a request is answered; 000 if the connection ends without an answer.
fn status(lab: &Lab, from: &str, arguments: &[&str]) -> String {
    let curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"];
    lab.exec(from, &[&curl, arguments].concat()).stdout
}

#[track_caller]
fn becomes(lab: &Lab, from: &str, arguments: &[&str], expected: &str) {
    let seen = eventually(SOON, || {
        let seen: Vec<String> = (0..3).map(|_| status(lab, from, arguments)).collect();
        if seen.iter().all(|status| status == expected) { Ok(()) } else { Err(seen) }
    });
    if let Err(seen) = seen {
        panic!("{from} {arguments:?}: {seen:?} instead of {expected}");
    }
}

fn echoes(lab: &Lab, from: &str) -> bool {
    let line = "echo ping | timeout 3 curl -s --max-time 2 telnet://backend:9090";
    lab.exec(from, &["sh", "-c", line]).stdout.contains("ping")
}

#[track_caller]
fn echo_becomes(lab: &Lab, from: &str, expected: bool) {
    let seen = eventually(SOON, || if echoes(lab, from) == expected { Ok(()) } else { Err(()) });
    assert!(seen.is_ok(), "{from}: echo is {}", !expected);
}

fn suggest(lab: &Lab, arguments: &[&str]) -> Outcome {
    lab.isthmus(&[&["authz", "suggest", "default"][..], arguments].concat())
}

#[test]
fn the_policies_that_traffic_suggests_admit_it_and_nothing_else() {
    let lab = lab();
    let (frontend, other, east) = ("west/default/frontend", "west/default/other", "east/default/frontend");
    let (items, legacy) = ("http://backend:9080/items", "west/default/legacy");

    // Without traffic, there is nothing to propose.
    let none = suggest(&lab, &[]);
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.stdout.is_empty() && none.stderr.contains("no traffic of a caller with an identity"), "{none:?}");

    for number in 1..=3 {
        becomes(&lab, frontend, &[&format!("{items}/{number}")], "200");
    }
    becomes(&lab, frontend, &["-X", "POST", "-d", "x", items], "200");
    becomes(&lab, east, &["http://backend:9080/stock"], "200");
    becomes(&lab, legacy, &["http://backend:9080/legacy"], "200");
    echo_becomes(&lab, other, true);

    let text = suggest(&lab, &[]).ok();
    for part in ["name: backend-observed", "/items/{*}", "source.cluster", "without mutual TLS at port", "legacy"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let list = suggest(&lab, &["--workload", "backend", "-o", "json", "--dry-run"]).json();
    let [policy] = list["items"].as_array().expect("a list").as_slice() else { panic!("{list}") };
    assert_eq!(policy["metadata"]["annotations"]["istio.io/dry-run"], "true", "{policy}");
    assert_eq!(policy["spec"]["selector"]["matchLabels"]["app"], "backend", "{policy}");
    let unknown = suggest(&lab, &["--workload", "nothing"]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("workloads: backend"), "{unknown:?}");

    // Applied as it is, with a policy that refuses everything else.
    lab.apply("west", &text);
    lab.apply("west", DENY_ALL);
    becomes(&lab, other, &["http://frontend:9080/"], "403");
    for (from, arguments, expected) in [
        (frontend, &["http://backend:9080/items/4711"][..], "200"),
        (frontend, &["-X", "POST", "-d", "x", items], "200"),
        (east, &["http://backend:9080/stock"], "200"),
        (frontend, &["-X", "DELETE", "http://backend:9080/items/1"], "403"),
        (frontend, &["http://backend:9080/items/1/x"], "403"),
        (frontend, &["http://backend:9080/stock"], "403"),
        (east, &["http://backend:9080/items/1"], "403"),
        (other, &["http://backend:9080/items/1"], "403"),
        (legacy, &["http://backend:9080/legacy"], "403"),
    ] {
        becomes(&lab, from, arguments, expected);
    }
    echo_becomes(&lab, other, true);
    echo_becomes(&lab, frontend, false);

    // What was refused is in no proposal.
    let again = suggest(&lab, &["--workload", "backend", "-o", "json"]).json();
    let rules = again["items"][0]["spec"]["rules"].to_string();
    assert!(rules.contains("/items/{*}") && !rules.contains("DELETE") && !rules.contains("/x"), "{rules}");
    lab.down();
}

#[test]
fn status_counts_refusals_by_policy() {
    let lab = lab();
    let (frontend, other, east) = ("west/default/frontend", "west/default/other", "east/default/frontend");
    let backend = "http://backend:9080/";
    becomes(&lab, frontend, &[backend], "200");
    assert!(!lab.isthmus(&["status"]).ok().contains("REFUSED"));
    lab.apply(
        "west",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: no-east}\nspec:\n  \
         action: DENY\n  selector: {matchLabels: {app: backend}}\n  \
         rules: [{when: [{key: source.cluster, values: [east]}]}]\n",
    );
    becomes(&lab, east, &[backend], "403");
    lab.apply("west", DENY_ALL);
    becomes(&lab, other, &["http://frontend:9080/"], "403");

    let find = |by: &str, policy: Option<&str>| {
        let document = lab.isthmus(&["status", "-o", "json"]).json();
        let rows = document["primaries"][0]["refusals"].as_array().cloned().unwrap_or_default();
        let is = |row: &Value| row["by"] == by && row["policy"].as_str() == policy && row["cluster"] == "west";
        rows.iter().find(|row| is(row)).cloned().ok_or(document)
    };
    let counted = eventually(Duration::from_secs(40), || {
        let (policy, none) = (find("policy", Some("default/no-east"))?, find("no policy", None)?);
        let enough = policy["count"].as_u64() >= Some(3) && none["count"].as_u64() >= Some(3);
        if enough { Ok(policy) } else { Err(policy) }
    });
    let policy = counted.unwrap_or_else(|seen| panic!("no refusals: {seen}"));
    assert!(policy["lastSeconds"].as_f64().is_some_and(|age| age < 120.0), "{policy}");
    let text = lab.isthmus(&["status"]).ok();
    for part in ["POLICY", "REFUSED", "default/no-east", "no ALLOW policy matches, in default"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }

    // They are reported again to a controller that was restarted.
    lab.kubectl("west", &["-n", "isthmus-system", "delete", "pod", "-l", "app=isthmus-controller"]).ok();
    eventually(Duration::from_secs(40), || {
        let outcome = lab.isthmus(&["status"]);
        if outcome.code == Some(0) && outcome.stdout.contains("default/no-east") { Ok(()) } else { Err(outcome) }
    })
    .unwrap_or_else(|seen| panic!("after a restart: {seen:?}"));
    lab.down();
}
