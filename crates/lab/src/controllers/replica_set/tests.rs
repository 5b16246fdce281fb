use serde_json::{Value, json};

use super::*;
use crate::controllers::owner::owned_by;

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "default", "uid": "set", "generation": 3},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
        },
    }))
    .expect("a replica set")
}

/// A pod; `marks`: r ready, d being deleted, f failed, o orphan, x other label, u not scheduled, n on node 2.
fn pod(name: &str, marks: &str) -> Arc<Pod> {
    let has = |mark: char| marks.contains(mark);
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": if has('x') {"other"} else {"web"}}},
        "spec": {"containers": [], "nodeName": if has('n') {"2"} else {"1"}},
        "status": {"phase": if has('f') {"Failed"} else if has('u') {"Pending"} else {"Running"}},
    });
    if has('u') {
        pod["spec"]["nodeName"] = Value::Null;
    }
    if has('d') {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    if has('r') {
        pod["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    }
    if !has('o') {
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "set", "controller": true}]);
    }
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

#[test]
fn pods_are_counted() {
    type Case<'a> = (&'a str, i32, &'a [(&'a str, &'a str)], usize, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        ("none yet", 2, &[], 2, &[]),
        ("enough", 2, &[("a", "r"), ("b", "")], 0, &[]),
        ("one leaves", 2, &[("a", "r"), ("b", "rd")], 1, &[]),
        ("one failed", 2, &[("a", "r"), ("b", "f")], 1, &[]),
        ("label gone", 2, &[("a", "r"), ("b", "rx")], 1, &[]),
        ("adopted", 2, &[("a", "r"), ("b", "ro")], 0, &[]),
        ("not placed goes first", 1, &[("a", "r"), ("b", "u")], 0, &["b"]),
        ("not ready goes first", 1, &[("a", ""), ("b", "r")], 0, &["a"]),
        ("crowded node goes first", 2, &[("a", "rn"), ("b", "r"), ("c", "r")], 0, &["b"]),
        ("to zero", 0, &[("a", "r")], 0, &["a"]),
        ("absurd size", 100_000, &[], BURST, &[]),
    ];
    for (name, replicas, pods, create, delete) in cases {
        let pods: Vec<Arc<Pod>> = pods.iter().map(|(name, marks)| pod(name, marks)).collect();
        let decision = decide(&set(*replicas), &pods, at("2026-01-01T00:01:00Z"));
        assert_eq!(
            (decision.create, decision.delete),
            (*create, delete.iter().map(ToString::to_string).collect()),
            "{name}"
        );
    }
}

#[test]
fn owners_follow_labels() {
    let decision =
        decide(&set(2), &[pod("a", "ro"), pod("b", "rx"), pod("c", "of"), pod("d", "od")], at("2026-01-01T00:01:00Z"));
    assert_eq!((decision.adopt, decision.release), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn status_counts_available_after_the_least_time() {
    let mut slow = set(2);
    slow.spec.as_mut().expect("spec").min_ready_seconds = Some(60);
    let pods = [pod("a", "r"), pod("b", "")];
    let decision = decide(&slow, &pods, at("2026-01-01T00:00:10Z"));
    assert_eq!((decision.status.ready_replicas, decision.status.available_replicas), (Some(1), None));
    assert_eq!(decision.next_look, Some(Duration::from_secs(50)));
    let decision = decide(&slow, &pods, at("2026-01-01T00:01:00Z"));
    assert_eq!((decision.status.available_replicas, decision.status.observed_generation), (Some(1), Some(3)));
    assert_eq!(decision.next_look, None);
}

#[test]
fn new_pod_is_owned_and_named_by_the_server() {
    let pod = new_pod(&set(1)).expect("a template");
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-1-"));
    assert!(owned_by(&pod.metadata, "set"));
}

#[test]
fn a_deleted_set_creates_no_pods() {
    let mut leaving = set(2);
    leaving.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at("2026-01-01T00:00:00Z")));
    let decision = decide(&leaving, &[pod("a", "ro")], at("2026-01-01T00:00:10Z"));
    assert_eq!((decision.create, decision.adopt), (0, vec![]));
}
