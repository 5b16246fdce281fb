//! A TrafficSplit and a ServiceProfile that users already have, applied unchanged: each takes effect. A split reaches a service
//! that is in the other cluster alone; routes of a profile have their own retries and time limits.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{Lab, Outcome, TestDirectory, User, eventually, kubectl_is_installed};

/// `my-service-v2` is in east alone.
const TOPOLOGY: &str = "
apiVersion: lab.isthmus.dev/v1alpha1
kind: Topology
metadata: {name: splits}
spec:
  networks:
    - {name: net-west, podCIDR: 10.244.0.0/16}
    - {name: net-east, podCIDR: 10.244.0.0/16}
  clusters:
    - {name: west, role: primary, network: net-west, region: us-west, zones: [us-west-1a]}
    - {name: east, role: remote, primary: west, network: net-east, region: us-east, zones: [us-east-1a]}
  workloads:
    - {name: frontend, cluster: west}
    - {name: my-service, cluster: west, version: root}
    - {name: my-service-v1, cluster: west, version: v1}
    - {name: my-service-v2, cluster: east, version: v2}
    - {name: reviews, cluster: west, version: v1}
  exports:
    - name: my-service-v2
";
const FRONTEND: &str = "west/default/frontend";
const SOON: Duration = Duration::from_secs(20);

const PROFILE: &str = "
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: reviews.default.svc.cluster.local}
spec:
  routes:
    - name: again
      condition: {pathRegex: /again, method: GET}
      isRetryable: true
    - name: limited
      condition: {pathRegex: '/delay/\\d+'}
      timeout: 400ms
    - name: teapots
      condition: {all: [{pathRegex: '/status/.*'}, {not: {method: POST}}]}
      responseClasses:
        - {condition: {status: {min: 418, max: 418}}, isFailure: true}
  retryBudget: {retryRatio: 1, minRetriesPerSecond: 10, ttl: 10s}
";
const MATCHING: &str = "
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: beta}
spec: {matches: [{name: beta, headers: {x-beta: \"yes\"}}]}
---
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: my-service-split}
spec:
  service: my-service
  matches: [{kind: HTTPRouteGroup, name: beta}]
  backends:
    - {service: my-service-v2, weight: 1}
";
const MISTAKEN: &str = "
apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {name: mistaken}
spec: {service: reviews, backends: [{service: reviews-v9, weight: 1}]}
";
const INVALID: &str = "
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: reviews.default.svc.cluster.local}
spec: {routes: [{name: a, condition: {pathRegex: '('}}]}
";

fn accepted(name: &str) -> String {
    let path = format!("{}/../install/tests/accepted/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("a configuration")
}

/// Returns how many of 300 requests each version answers. They are sent by one curl.
fn shares(lab: &Lab, arguments: &[&str]) -> BTreeMap<String, usize> {
    let urls = "http://my-service:9080/?[1-300]";
    let answers = lab.exec(FRONTEND, &[&["curl", "-sSf", "--max-time", "60"][..], arguments, &[urls]].concat());
    assert_eq!(answers.code, Some(0), "{answers:?}");
    let mut shares = BTreeMap::new();
    for line in answers.stdout.lines().filter(|line| line.contains("\"version\"")) {
        let version = ["root", "v1", "v2"].into_iter().find(|version| line.contains(&format!("\"{version}\"")));
        *shares.entry(version.unwrap_or("none").to_owned()).or_default() += 1;
    }
    shares
}

/// Waits until the shares of 300 requests are as expected.
#[track_caller]
fn become_shares(lab: &Lab, arguments: &[&str], expected: impl Fn(&BTreeMap<String, usize>) -> bool) {
    let found = eventually(SOON, || {
        let shares = shares(lab, arguments);
        if expected(&shares) { Ok(()) } else { Err(shares) }
    });
    assert!(found.is_ok(), "{found:?}");
}

/// Returns the statuses of requests.
fn statuses(lab: &Lab, url: &str) -> Vec<String> {
    let format = ["curl", "-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}\n"];
    let answers = lab.exec(FRONTEND, &[&format[..], &[url]].concat());
    answers.stdout.lines().filter(|line| line.len() == 3).map(str::to_owned).collect()
}

/// Returns the sum of a metric of the frontend over the series with these labels.
fn metric(lab: &Lab, name: &str, labels: &[&str]) -> u64 {
    let page = lab.exec(FRONTEND, &["curl", "-sS", "--fail", "http://127.0.0.1:15090/stats/prometheus"]).ok();
    let of = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
    page.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Runs `kubectl apply` on a manifest.
fn try_apply(lab: &Lab, manifest: &str) -> Outcome {
    let file = lab.directory.path("manifest.yaml");
    std::fs::write(&file, manifest).expect("written");
    lab.kubectl("west", &["apply", "-f", &file.display().to_string()])
}

#[test]
fn a_traffic_split_and_a_service_profile_that_users_have_take_effect_unchanged() {
    kubectl_is_installed();
    let directory = TestDirectory::new(User::Own);
    std::fs::write(directory.path("topologies").join("splits.yaml"), TOPOLOGY).expect("written");
    let lab = Lab::up_in(directory, "splits.yaml");
    assert_eq!(shares(&lab, &[]), BTreeMap::from([("root".to_owned(), 300)]));

    // traffic-split.yaml: 900m to v1 and 100m to v2, which is in the other cluster. The standard deviation is five.
    let applied = try_apply(&lab, &accepted("traffic-split"));
    assert_eq!((applied.code, &*applied.stderr), (Some(0), ""), "{applied:?}");
    become_shares(&lab, &[], |shares| {
        let v2 = shares.get("v2").copied().unwrap_or_default();
        (8..60).contains(&v2) && shares.get("v1") == Some(&(300 - v2))
    });

    // service-profile.yaml: responses of a route are counted, and the weights stay.
    let applied = try_apply(&lab, &accepted("service-profile"));
    assert_eq!((applied.code, &*applied.stderr), (Some(0), ""), "{applied:?}");
    let route = "route=\"GET /api/users\"";
    let counted = |class: &str| metric(&lab, "isthmus_route_responses_total", &[route, class]);
    let found = eventually(SOON, || {
        statuses(&lab, "http://my-service:9080/api/users?[1-3]");
        if counted("\"success\"") > 0 { Ok(()) } else { Err(()) }
    });
    assert!(found.is_ok(), "no response of the route was counted");
    let before = (counted("\"success\""), counted("\"failure\""));
    assert_eq!(statuses(&lab, "http://my-service:9080/api/users?status=500"), ["500"]);
    assert_eq!(statuses(&lab, "http://my-service:9080/api/users?status=404"), ["404"]);
    assert_eq!(statuses(&lab, "http://my-service:9080/api/users/7?status=500"), ["500"], "of another route");
    assert_eq!((counted("\"success\""), counted("\"failure\"")), (before.0 + 1, before.1 + 1));
    become_shares(&lab, &[], |shares| (8..60).contains(&shares.get("v2").copied().unwrap_or_default()));

    // A group: only its requests are split, and the others go to the root service.
    lab.kubectl("west", &["delete", "serviceprofile", "my-service.default.svc.cluster.local"]).ok();
    lab.apply("west", MATCHING);
    become_shares(&lab, &["-H", "x-beta: yes"], |shares| shares.get("v2") == Some(&300));
    become_shares(&lab, &[], |shares| shares.get("root") == Some(&300));

    retries_and_time_limits(&lab);
    mistakes(&lab);
    lab.down();
}

fn retries_and_time_limits(lab: &Lab) {
    let reviews = "http://reviews:9080";
    let fail = |percent: u8| {
        let url = format!("{reviews}/fail?percent={percent}");
        lab.exec(FRONTEND, &["curl", "-sSf", "-X", "POST", &url]).ok();
    };
    lab.apply("west", PROFILE);
    let limited = eventually(SOON, || {
        let statuses = statuses(lab, &format!("{reviews}/delay/3000"));
        if statuses == ["504"] { Ok(()) } else { Err(statuses) }
    });
    assert!(limited.is_ok(), "{limited:?}");
    assert_eq!(statuses(lab, &format!("{reviews}/other?delay=1000")), ["200"], "of another route");
    fail(50);
    let of = |path: &str| -> usize {
        let found = statuses(lab, &format!("{reviews}{path}?[1-40]"));
        assert_eq!(found.len(), 40, "{found:?}");
        found.iter().filter(|status| *status == "200").count()
    };
    assert_eq!(of("/again"), 40, "failed requests of the route are repeated");
    assert!((15..=25).contains(&of("/other")), "those of another route are not");
    fail(0);
    assert_eq!(statuses(lab, &format!("{reviews}/status/418")), ["418"]);
    let failures = metric(lab, "isthmus_route_responses_total", &["route=\"teapots\"", "\"failure\""]);
    assert_eq!(failures, 1);
}

/// What is invalid is refused, and what has no effect has a status, an Event and a line in `isthmus status`.
fn mistakes(lab: &Lab) {
    let refused = try_apply(lab, INVALID);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let text = "spec.routes[0].condition.pathRegex: is not a regular expression";
    assert!(refused.stderr.contains(text), "{refused:?}");
    lab.apply("west", MISTAKEN);
    let missing = "no service of the mesh has host reviews-v9.default.svc.cluster.local";
    let status = || lab.kubectl("west", &["get", "trafficsplit", "mistaken", "-o", "yaml"]).stdout;
    let written = eventually(SOON, || {
        let status = status();
        if status.contains(missing) { Ok(()) } else { Err(status) }
    });
    assert!(written.is_ok(), "{written:?}");
    let line = lab.isthmus(&["status"]).ok();
    assert!(line.contains("TrafficSplit default/mistaken: backends[0]: no service"), "{line}");
    let analyzed = lab.isthmus(&["analyze"]);
    assert!(analyzed.stdout.contains("reviews-v9"), "{analyzed:?}");
}
