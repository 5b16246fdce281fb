//! A mesh of several clusters: services answered by other clusters, identities, and the traffic between networks.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{Lab, TestDirectory, User, eventually};

const FRONTEND: &str = "west/default/frontend";
const FRONTEND_ID: &str = "spiffe://cluster.local/ns/default/sa/frontend";
const RATINGS_SNI: &str = "outbound_.9080_._.ratings.default.svc.cluster.local";

/// Checks that a service of another cluster answers, with the caller's identity.
pub(crate) fn check_cross_cluster(lab: &Lab) {
    let answer = lab.get(FRONTEND, "http://ratings:9080/").expect("ratings answers");
    assert_ne!(answer["cluster"], "west", "west has no ratings: {answer}");
    assert_eq!(answer["identity"], FRONTEND_ID, "{answer}");
    let answer = lab.get(FRONTEND, "http://reviews.default.svc.cluster.local:9080/").expect("reviews answers");
    assert_eq!(answer["cluster"], "west", "a local pod is preferred: {answer}");
}

/// Checks that traffic moves to another cluster when the nearer pods are removed, and returns when they are back.
pub(crate) fn check_scaling(lab: &Lab) {
    lab.kubectl("west", &["scale", "deployment/reviews", "--replicas=0"]).ok();
    let answer = eventually(Duration::from_secs(10), || {
        let answer = lab.get(FRONTEND, "http://reviews:9080/")?;
        if answer["cluster"] != "west" { Ok(answer) } else { Err(format!("still answered by {answer}")) }
    })
    .expect("reviews is answered from elsewhere");
    assert_ne!(answer["version"], "v1", "{answer}");
    lab.kubectl("west", &["scale", "deployment/reviews", "--replicas=2"]).ok();
    eventually(Duration::from_secs(30), || {
        let answer = lab.get(FRONTEND, "http://reviews:9080/")?;
        if answer["cluster"] == "west" { Ok(()) } else { Err(format!("still answered by {answer}")) }
    })
    .expect("reviews returns to west");
}

#[test]
fn lab_run_exits_as_its_command_did() {
    let directory = TestDirectory::new(User::Own);
    let run = |command: &[&str]| {
        let mut isthmus = directory.isthmus();
        isthmus.args(["lab", "run", "topologies/primary-remote.yaml", "--"]).args(command);
        isthmus.stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("isthmus lab run")
    };
    let output = run(&["isthmus", "lab", "exec", FRONTEND, "--", "curl", "-sf", "http://ratings:9080/"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("the answer alone on standard output");
    assert_eq!(answer["cluster"], "east");
    assert_eq!(answer["identity"], FRONTEND_ID);
    directory.assert_nothing_left();

    let output = run(&["sh", "-c", "test -n \"$ISTHMUS_LAB\" && test -r \"$KUBECONFIG\" && exit 42"]);
    assert_eq!(output.status.code(), Some(42), "{}", String::from_utf8_lossy(&output.stderr));
    directory.assert_nothing_left();
}

/// Between the networks there is TLS with the service's SNI, and nothing in plain text.
#[test]
fn only_tls_crosses_between_the_networks() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    check_only_tls_crosses(&lab, FRONTEND);
    lab.down();
}

/// Checks that requests of `caller` to `ratings` in east cross between the networks in TLS alone.
pub(crate) fn check_only_tls_crosses(lab: &Lab, caller: &str) {
    let capture = lab.directory.path("run").join("between.pcap");
    let capturing = lab
        .directory
        .isthmus()
        .args(["lab", "capture", "--seconds", "6", "--write", &capture.display().to_string(), "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("isthmus lab capture");
    eventually(Duration::from_secs(5), || std::fs::metadata(&capture)).expect("the capture has begun");
    for _ in 0..5 {
        let answer =
            lab.exec(caller, &["curl", "-sf", "-H", "x-secret: plainly-visible-marker", "http://ratings:9080/"]).json();
        assert_eq!(answer["cluster"], "east");
        assert_eq!(answer["headers"]["x-secret"], "plainly-visible-marker");
    }
    let summary = capturing.wait_with_output().expect("the capture ends");
    let summary: serde_json::Value = serde_json::from_slice(&summary.stdout).expect("a summary");
    println!("between the networks: {summary}");
    let names = summary["serverNames"].as_object().expect("server names");
    assert!(names.contains_key(RATINGS_SNI), "{summary}");
    assert_eq!(summary["plaintext"], serde_json::json!([]), "{summary}");
    let frames = std::fs::read(&capture).expect("the frames");
    assert!(frames.len() > 2_000, "the capture holds the traffic");
    let holds = |needle: &[u8]| frames.windows(needle.len()).any(|window| window == needle);
    assert!(holds(RATINGS_SNI.as_bytes()), "the server name is in the frames");
    assert!(!holds(b"plainly-visible-marker"), "the request's header is not");
}
