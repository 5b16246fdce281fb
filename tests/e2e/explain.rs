//! `isthmus explain` agrees with where the next 100 requests go, in five states of a mesh; and what cannot be reached is explained.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Lab, TestDirectory, User, eventually};

const TOPOLOGY: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: explain}
spec:
  networks:
    - {name: net-west, podCIDR: 10.244.0.0/16}
    - {name: net-east, podCIDR: 10.244.0.0/16}
    - {name: net-central, podCIDR: 10.244.0.0/16}
  clusters:
    - {name: west, role: primary, network: net-west, region: us-west, zones: [us-west-1a]}
    - {name: east, role: remote, primary: west, network: net-east, region: us-east, zones: [us-east-1a]}
    - {name: central, role: remote, primary: west, network: net-central, region: us-central, zones: [us-central-1a]}
  workloads:
    - {name: frontend, cluster: west}
    - {name: legacy, cluster: west, inject: false}
    - {name: reviews, cluster: west, version: v1}
    - {name: reviews, cluster: east, version: v2}
    - {name: reviews, cluster: central, version: v3}
  exports:
    - {name: reviews}
";
const FRONTEND: &str = "west/default/frontend";
const REVIEWS: &str = "http://reviews:9080/";
const SOON: Duration = Duration::from_secs(20);
/// By how many of 100 requests the counts may differ from the shares: three standard deviations of a half.
const TOLERANCE: f64 = 15.0;

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
    - {name: v3, labels: {version: v3}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
    - name: testers
      match: [{headers: {x-tester: {exact: 'yes'}}}]
      route: [{destination: {host: reviews, subset: v3}}]
    - name: everyone
      route:
        - {destination: {host: reviews, subset: v1}, weight: 75}
        - {destination: {host: reviews, subset: v2}, weight: 25}
";

const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-private}
spec:
  action: DENY
  selector: {matchLabels: {app: reviews}}
  rules:
    - to: [{operation: {paths: [/private]}}]
";

fn explain(lab: &Lab, url: &str, arguments: &[&str]) -> Value {
    lab.isthmus(&[&["explain", FRONTEND, url, "-o", "json"][..], arguments].concat()).json()
}

fn text(lab: &Lab, url: &str, arguments: &[&str]) -> String {
    lab.isthmus(&[&["explain", FRONTEND, url][..], arguments].concat()).ok()
}

/// Returns the shares of clusters in percent, as explained.
fn shares(explained: &Value) -> BTreeMap<String, f64> {
    let outcome = explained["outcome"].as_array().unwrap_or_else(|| panic!("no outcome in {explained:#}"));
    let share = |of: &Value| Some((of["cluster"].as_str()?.to_owned(), of["percent"].as_f64()?));
    outcome.iter().filter_map(share).collect()
}

/// Sends 100 requests, each on a connection of its own so that all workers of the sidecar carry some, and returns how many each
/// cluster answered; those with another status than 200 by their status.
fn answers(lab: &Lab, url: &str, arguments: &[&str]) -> BTreeMap<String, f64> {
    let urls = format!("{url}?[1-100]");
    let curl = ["curl", "-sS", "--max-time", "60", "-H", "Connection: close", "-w", "\nstatus %{http_code}\n"];
    let outcome = lab.exec(FRONTEND, &[&curl[..], arguments, &[&urls]].concat());
    let mut answers: BTreeMap<String, f64> = BTreeMap::new();
    let mut cluster = None;
    for line in outcome.stdout.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("\"cluster\": \"") {
            cluster = Some(name.trim_end_matches(['"', ',']).to_owned());
        } else if let Some(status) = line.strip_prefix("status ") {
            let by = if status == "200" { cluster.take() } else { None };
            *answers.entry(by.unwrap_or_else(|| status.to_owned())).or_default() += 1.0;
        }
    }
    assert_eq!(answers.values().sum::<f64>(), 100.0, "{outcome:?}");
    answers
}

/// Asserts that 100 requests go where the explanation says, once it gives these clusters a share.
#[track_caller]
fn agrees(lab: &Lab, state: &str, arguments: &[&str], clusters: &[&str]) -> Value {
    let explained = eventually(SOON, || {
        // Traffic is what proxies learn ejections from.
        let explained = explain(lab, REVIEWS, arguments);
        let shares = shares(&explained);
        if shares.keys().map(String::as_str).eq(clusters.iter().copied()) {
            return Ok(explained);
        }
        answers(lab, REVIEWS, arguments);
        Err(explained)
    });
    let explained = explained.unwrap_or_else(|last| panic!("{state}: {clusters:?} have no share in {last:#}"));
    let (shares, seen) = (shares(&explained), answers(lab, REVIEWS, arguments));
    println!("{state}: explained {shares:?}, seen {seen:?}\n{}", text(lab, REVIEWS, arguments));
    assert!(seen.keys().eq(shares.keys()), "{state}: explained {shares:?}, seen {seen:?}");
    for (cluster, share) in &shares {
        assert!((seen[cluster] - share).abs() <= TOLERANCE, "{state}: explained {shares:?}, seen {seen:?}");
    }
    explained
}

#[test]
fn explanations_agree_with_where_requests_go() {
    let directory = TestDirectory::new(User::Own);
    std::fs::write(directory.path("topologies").join("explain.yaml"), TOPOLOGY).expect("written");
    let lab = Lab::up_in(directory, "explain.yaml");
    what_cannot_be_reached_is_explained(&lab);

    let normal = agrees(&lab, "normal", &[], &["west"]);
    assert_eq!(normal["authorization"][0]["decision"]["allowed"], true, "{normal:#}");
    let shown = text(&lab, REVIEWS, &[]);
    assert!(shown.contains("HTTP, mutual TLS, no route rules") && shown.contains("<- takes 100%"), "{shown}");
    assert!(shown.contains("sa/reviews, issued by west's intermediate"), "{shown}");

    lab.apply("west", ROUTES);
    agrees(&lab, "a route by weights", &[], &["east", "west"]);
    let tester = ["-H", "x-tester: yes"];
    agrees(&lab, "a route by a header", &tester, &["central"]);
    let shown = text(&lab, REVIEWS, &tester);
    assert!(
        shown.contains("route: 1 of 2 of VirtualService default/reviews \"testers\": header x-tester is yes"),
        "{shown}"
    );
    lab.kubectl("west", &["delete", "virtualservice,destinationrule", "reviews"]).ok();

    a_policy_that_denies_is_named(&lab);

    lab.kubectl("west", &["scale", "deployment/reviews", "--replicas=0"]).ok();
    let away = agrees(&lab, "local scaled to zero", &[], &["central", "east"]);
    // The ended pod is among them until it is gone.
    let endpoints = away["destinations"][0]["endpoints"].as_array().expect("endpoints");
    let remote = endpoints.iter().filter(|of| of["throughGateway"] == true && of["endpointsBehind"] == 1);
    assert_eq!(remote.count(), 2, "{away:#}");
    let shown = text(&lab, REVIEWS, &[]);
    assert!(shown.contains("no endpoints") && shown.contains("1 endpoint behind gateway"), "{shown}");
    assert!(shown.contains("(east)") && shown.contains("updated "), "{shown}");
    lab.down();
}

fn a_policy_that_denies_is_named(lab: &Lab) {
    lab.apply("west", DENY);
    let private = "http://reviews:9080/private";
    let refused = eventually(SOON, || {
        let explained = explain(lab, private, &[]);
        let decision = &explained["authorization"][0]["decision"];
        if decision["allowed"] == false { Ok(explained) } else { Err(explained) }
    });
    let refused = refused.expect("the policy arrives");
    assert_eq!(refused["authorization"][0]["decision"]["by"]["policy"], "default/no-private", "{refused:#}");
    assert_eq!(answers(lab, private, &[]), BTreeMap::from([("403".to_owned(), 100.0)]));
    let shown = text(lab, private, &[]);
    assert!(
        shown.contains("authorization: refused with 403") && shown.contains("policy default/no-private"),
        "{shown}"
    );
    println!("a policy that denies:\n{shown}");
    agrees(lab, "another path", &[], &["west"]);
    lab.kubectl("west", &["delete", "authorizationpolicy", "no-private"]).ok();
}

fn what_cannot_be_reached_is_explained(lab: &Lab) {
    let unknown = text(lab, "http://nowhere:9080", &[]);
    assert!(unknown.contains("no address: the request is never sent"), "{unknown}");
    let outside = text(lab, "http://192.0.2.1:9080", &[]);
    assert!(outside.contains("not part of the mesh: passed through"), "{outside}");
    let alone = lab.isthmus(&["explain", "west/default/legacy", REVIEWS]).ok();
    assert!(alone.contains("has no sidecar, so the mesh does not carry its requests"), "{alone}");
    for (arguments, parts) in [
        (["explain", "west/default/frontned", REVIEWS], ["no pod or workload frontned", "did you mean \"frontend\"?"]),
        (["explain", "wset/default/frontend", REVIEWS], ["no cluster \"wset\"", "did you mean \"west\"?"]),
        (["explain", "west/defualt/frontend", REVIEWS], ["namespace defualt", "did you mean \"default\"?"]),
        (["explain", FRONTEND, "reviews:9080"], ["has no scheme", "http://reviews:9080/path"]),
    ] {
        let outcome = lab.isthmus(&arguments);
        assert_eq!(outcome.code, Some(1), "{arguments:?}: {outcome:?}");
        assert!(parts.iter().all(|part| outcome.stderr.contains(part)), "{arguments:?}: {}", outcome.stderr);
    }
}
