//! Circuit breakers of a service with versions in two clusters: they open, their response flags are in the access log, and
//! they close.

use std::time::Duration;

use crate::support::{Lab, User, eventually};

const FRONTEND: &str = "west/default/frontend";
const SOON: Duration = Duration::from_secs(15);
/// Takes 400 ms.
const SLOW: &str = "http://reviews:9080/delay/400";
/// The header of users who see v2, which runs in east.
const TESTER: &str = "end-user: jason";

/// Applies the subsets of `reviews` with a traffic policy of v1 and of v2, and sends everyone but testers to v1.
fn apply(lab: &Lab, v1: &str, v2: &str) {
    let routes = include_str!("../../topologies/canary/routes.yaml");
    let routes = routes.replace("weight: 10\n", "weight: 0\n").replace("weight: 90\n", "weight: 100\n");
    let (services, _) = routes.split_once("---").expect("two documents");
    let subset = |version: &str, policy: &str| {
        format!("    - {{name: {version}, labels: {{version: {version}}}, trafficPolicy: {{{policy}}}}}\n")
    };
    let rule = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\nspec:\n  \
         host: reviews\n  subsets:\n{}{}",
        subset("v1", v1),
        subset("v2", v2)
    );
    lab.apply("west", &format!("{services}{rule}"));
}

/// Sends four requests at once and returns their statuses, in order.
fn four_at_once(lab: &Lab, header: &str) -> Vec<u16> {
    let urls = format!("{SLOW}?[1-4]");
    let arguments = ["curl", "-sS", "-Z", "--parallel-immediate", "--max-time", "10", "-H", header];
    let output = ["-o", "/dev/null", "-w", "%{http_code}\\n"];
    let answers = lab.exec(FRONTEND, &[&arguments[..], &output, &[&urls]].concat()).ok();
    let mut statuses: Vec<u16> = answers.lines().map(|line| line.trim().parse().expect("a status")).collect();
    statuses.sort_unstable();
    statuses
}

fn status(lab: &Lab, header: &str) -> u16 {
    let url = "http://reviews:9080/";
    let arguments = ["curl", "-sS", "--max-time", "10", "-H", header, "-o", "/dev/null", "-w", "%{http_code}", url];
    lab.exec(FRONTEND, &arguments).ok().trim().parse().expect("a status")
}

/// Returns what `isthmus config` shows of the endpoints of v2.
fn outlier_checks(lab: &Lab) -> Vec<String> {
    let arguments = ["config", "endpoints", "deployment/frontend", "--subset", "v2", "--port", "9080", "-o", "json"];
    let rows = lab.isthmus(&arguments).json();
    let rows = rows.as_array().expect("rows").iter();
    rows.map(|row| if row["health_status"]["failed_outlier_check"] == true { "FAILED" } else { "OK" }.to_owned())
        .collect()
}

/// Waits until the sidecar's access log, as kubectl shows it, has this many lines with a status and response flags.
#[track_caller]
fn logged(lab: &Lab, status_and_flags: &str, details: &str, count: usize) {
    let lines = eventually(SOON, || {
        let log = lab.kubectl("west", &["logs", "deployment/frontend", "-c", "isthmus-proxy"]).ok();
        let lines: Vec<String> =
            log.lines().filter(|line| line.contains(&format!("\" {status_and_flags} "))).map(str::to_owned).collect();
        if lines.len() >= count { Ok(lines) } else { Err(log) }
    });
    let lines = lines.unwrap_or_else(|log| panic!("the log lacks {count} lines of {status_and_flags}:\n{log}"));
    assert!(lines.iter().all(|line| line.contains(details)), "{lines:#?}");
}

#[test]
fn circuit_breakers_open_and_close_and_their_flags_are_in_the_access_log() {
    let lab = Lab::up("canary.yaml", User::Own);

    // One connection and one request that waits for it, to each version: of four requests at once, two are refused.
    let pool = "connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}";
    apply(&lab, pool, pool);
    for header in ["end-user: others", TESTER] {
        let opened = eventually(SOON, || match four_at_once(&lab, header) {
            statuses if statuses == [200, 200, 503, 503] => Ok(()),
            statuses => Err(statuses),
        });
        opened.unwrap_or_else(|statuses| panic!("{header}: {statuses:?}"));
        assert_eq!(status(&lab, header), 200, "closed again");
    }
    logged(&lab, "503 UO", "upstream_reset_before_response_started{overflow}", 4);

    // v2 answers 500 in all of its pods: it is ejected after three answers, and v1 stays as it is.
    let pods = lab.kubectl("east", &["get", "pods", "-l", "app=reviews", "-o", "name"]).ok();
    let pods: Vec<&str> = pods.lines().filter_map(|line| line.strip_prefix("pod/")).collect();
    assert_eq!(pods.len(), 2, "{pods:?}");
    let all = |path: &str| {
        for pod in &pods {
            let url = format!("http://localhost:9080/{path}");
            lab.exec(&format!("east/default/{pod}"), &["curl", "-sSf", "-X", "POST", &url]).ok();
        }
    };
    let detection = "consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 100";
    apply(&lab, "loadBalancer: {simple: ROUND_ROBIN}", &format!("outlierDetection: {{{detection}}}"));
    all("fail?percent=100&status=500");
    let opened = eventually(SOON, || match status(&lab, TESTER) {
        503 => Ok(()),
        status => Err(status),
    });
    opened.expect("the circuit breaker opens");
    assert_eq!(outlier_checks(&lab), ["FAILED"]);
    assert_eq!(status(&lab, "end-user: others"), 200, "v1 is not concerned");
    logged(&lab, "500 -", "via_upstream", 3);
    logged(&lab, "503 UH", "no_healthy_upstream", 1);
    all("heal");
    let closed = eventually(SOON, || match status(&lab, TESTER) {
        200 => Ok(()),
        status => Err(status),
    });
    closed.expect("the circuit breaker closes");
    assert_eq!(outlier_checks(&lab), ["OK"]);
    lab.down();
}
