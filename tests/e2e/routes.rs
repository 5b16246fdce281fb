//! Routing objects that users already have, applied unchanged: each takes effect.
//!
//! Some of them name subsets that another file of theirs defines; the subsets are defined here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{Lab, TestDirectory, User, eventually};

const TOPOLOGY: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: routes}
spec:
  clusters:
    - {name: west, role: primary}
  workloads:
    - {name: frontend, cluster: west}
    - {name: my-service, cluster: west, version: v1}
    - {name: my-service, cluster: west, version: v2}
    - {name: reviews, cluster: west, version: v1}
    - {name: reviews, cluster: west, version: v2}
    - {name: api-service, namespace: production, cluster: west, version: v1}
    - {name: api-service, namespace: production, cluster: west, version: v2}
";
const FRONTEND: &str = "west/default/frontend";
const SOON: Duration = Duration::from_secs(15);

fn accepted(name: &str) -> String {
    let path = format!("{}/../install/tests/accepted/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("a configuration")
}

fn subsets(host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: subsets-of-{host}}}\nspec:\n  host: {host}\n  \
         subsets:\n    - {{name: v1, labels: {{version: v1}}}}\n    - {{name: v2, labels: {{version: v2}}}}\n"
    )
}

fn lab() -> Lab {
    let directory = TestDirectory::new(User::Own);
    std::fs::write(directory.path("topologies").join("routes.yaml"), TOPOLOGY).expect("written");
    Lab::up_in(directory, "routes.yaml")
}

/// Returns the version that answers a request with further arguments of curl.
fn version(lab: &Lab, url: &str, arguments: &[&str]) -> String {
    let answer = lab.exec(FRONTEND, &[&["curl", "-sSf", "--max-time", "5", url][..], arguments].concat());
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let answer: serde_json::Value = serde_json::from_str(&answer.stdout).expect("an answer");
    answer["version"].as_str().expect("a version").to_owned()
}

/// Returns how many of 300 requests each version answers. They are sent by one curl.
fn shares(lab: &Lab, url: &str, arguments: &[&str]) -> BTreeMap<String, usize> {
    let urls = format!("{url}?[1-300]");
    let answers = lab.exec(FRONTEND, &[&["curl", "-sSf", "--max-time", "60"][..], arguments, &[&urls]].concat());
    assert_eq!(answers.code, Some(0), "{answers:?}");
    let mut shares = BTreeMap::new();
    for line in answers.stdout.lines().filter(|line| line.contains("\"version\"")) {
        let version = if line.contains("\"v2\"") { "v2" } else { "v1" };
        *shares.entry(version.to_owned()).or_default() += 1;
    }
    shares
}

/// Asserts that v2 has about a tenth of 300 requests. The standard deviation is five.
#[track_caller]
fn assert_a_tenth(shares: &BTreeMap<String, usize>) {
    assert_eq!(shares.values().sum::<usize>(), 300, "{shares:?}");
    assert!((8..60).contains(&shares["v2"]), "{shares:?}");
}

/// Waits until a request with these arguments is answered by a version each time.
#[track_caller]
fn becomes(lab: &Lab, url: &str, arguments: &[&str], expected: &str) {
    eventually(SOON, || {
        let seen: Vec<String> = (0..4).map(|_| version(lab, url, arguments)).collect();
        if seen.iter().all(|version| version == expected) {
            Ok(())
        } else {
            Err(format!("{url} is answered by {seen:?}"))
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn routing_objects_that_users_have_take_effect_unchanged() {
    let lab = lab();
    for host in ["my-service", "reviews"] {
        lab.apply("west", &subsets(host));
    }

    // canary.yaml: 10 % to v2.
    lab.apply("west", &accepted("canary"));
    let my_service = "http://my-service:9080/";
    eventually(SOON, || {
        let shares = shares(&lab, my_service, &[]);
        if shares.get("v2").is_some_and(|v2| *v2 < 80) { Ok(shares) } else { Err(format!("{shares:?}")) }
    })
    .map(|shares| assert_a_tenth(&shares))
    .unwrap_or_else(|error| panic!("{error}"));

    // header-route.yaml: jason sees v2, others v1.
    lab.apply("west", &accepted("header-route"));
    let (reviews, jason) = ("http://reviews:9080/", ["-H", "end-user: jason"]);
    becomes(&lab, reviews, &jason, "v2");
    becomes(&lab, reviews, &[], "v1");

    // reviews-canary.yaml: the same, and 10 % of the others. The oldest object of a host takes effect alone.
    lab.kubectl("west", &["delete", "virtualservice", "reviews-route"]).ok();
    lab.apply("west", &accepted("reviews-canary"));
    becomes(&lab, reviews, &jason, "v2");
    eventually(SOON, || {
        let shares = shares(&lab, reviews, &[]);
        if shares.get("v2").is_some_and(|v2| *v2 < 80) { Ok(shares) } else { Err(format!("{shares:?}")) }
    })
    .map(|shares| assert_a_tenth(&shares))
    .unwrap_or_else(|error| panic!("{error}"));

    // api-service-routing.yaml: 10 % of /api/v1, Chrome sees v2, everything else v1.
    lab.apply("west", &accepted("api-service-routing"));
    let api = "http://api-service.production:9080";
    becomes(&lab, api, &["-A", "Mozilla/5.0 Chrome/120"], "v2");
    becomes(&lab, api, &["-A", "curl"], "v1");
    assert_a_tenth(&shares(&lab, &format!("{api}/api/v1/items"), &["-A", "Mozilla/5.0 Chrome/120"]));
    lab.down();
}
