use serde_json::{Value, json};

use super::*;

fn set(spec: Value) -> DaemonSet {
    let mut object = json!({
        "metadata": {"name": "agent", "namespace": "default", "uid": "set", "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": []}},
        },
    });
    if let (Value::Object(into), Value::Object(more)) = (&mut object["spec"], spec) {
        into.extend(more);
    }
    serde_json::from_value(object).expect("a daemon set")
}

/// A node in the zone of its name; `marks`: u not ready, c cordoned, t tainted, x tainted for running pods too.
fn node(name: &str, marks: &str) -> Arc<Node> {
    let has = |mark: char| marks.contains(mark);
    let taint = |effect: &str| json!([{"key": "gpu", "effect": effect}]);
    let taints = if has('t') {
        taint("NoSchedule")
    } else if has('x') {
        taint("NoExecute")
    } else {
        json!([])
    };
    let node = json!({
        "metadata": {"name": name, "labels": {"zone": name}},
        "spec": {"unschedulable": has('c'), "taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": if has('u') { "Unknown" } else { "True" }}]},
    });
    Arc::new(serde_json::from_value(node).expect("a node"))
}

/// A pod on the node of its name's first letter; `marks`: r ready, d being deleted, f failed, o old template.
fn pod(name: &str, marks: &str) -> Arc<Pod> {
    let has = |mark: char| marks.contains(mark);
    let hash = if has('o') { "old" } else { "new" };
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "agent", REVISION_HASH: hash},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "set", "controller": true}]},
        "spec": {"containers": [], "nodeName": &name[..1]},
        "status": {"phase": if has('f') { "Failed" } else { "Running" }},
    });
    if has('d') {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    if has('r') {
        pod["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    }
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn decided(set: &DaemonSet, nodes: &[(&str, &str)], pods: &[(&str, &str)]) -> DaemonSetDecision {
    let pods: Vec<Arc<Pod>> = pods.iter().map(|(name, marks)| pod(name, marks)).collect();
    let nodes: Vec<Arc<Node>> = nodes.iter().map(|(name, marks)| node(name, marks)).collect();
    let now = "2026-01-01T00:01:00Z".parse().expect("a time");
    decide(&DaemonSetState { set, pods: &pods, nodes: &nodes, hash: "new", now })
}

type Marked<'a> = &'a [(&'a str, &'a str)];

#[test]
fn each_node_that_fits_has_one_pod() {
    type Case<'a> = (&'a str, Marked<'a>, Marked<'a>, &'a [&'a str], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        ("none yet", &[("a", ""), ("b", "")], &[], &["a", "b"], &[]),
        ("one is missing", &[("a", ""), ("b", "")], &[("a1", "r")], &["b"], &[]),
        ("waits for one that is being deleted", &[("a", "")], &[("a1", "d")], &[], &[]),
        ("a failed one is replaced", &[("a", "")], &[("a1", "f")], &[], &["a1"]),
        ("one too many", &[("a", "")], &[("a1", "r"), ("a2", "r")], &[], &["a2"]),
        ("a node that is gone", &[("a", "")], &[("a1", "r"), ("b1", "r")], &[], &["b1"]),
        ("a cordoned node is tolerated", &[("a", "c")], &[], &["a"], &[]),
        ("a taint forbids a new pod", &[("a", "t")], &[], &[], &[]),
        ("but not one that runs", &[("a", "t")], &[("a1", "r")], &[], &[]),
        ("unless it is for running pods", &[("a", "x")], &[("a1", "r")], &[], &["a1"]),
        ("a silent node keeps its pod", &[("a", "u")], &[("a1", "")], &[], &[]),
    ];
    for (name, nodes, pods, create, delete) in cases {
        let decision = decided(&set(json!({})), nodes, pods);
        let expected: (Vec<String>, Vec<String>) =
            (create.iter().map(ToString::to_string).collect(), delete.iter().map(ToString::to_string).collect());
        assert_eq!((decision.create, decision.delete), expected, "{name}");
    }
}

#[test]
fn a_node_selector_chooses_nodes() {
    let template =
        json!({"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [], "nodeSelector": {"zone": "b"}}});
    let decision = decided(&set(json!({"template": template})), &[("a", ""), ("b", "")], &[("a1", "r")]);
    assert_eq!((decision.create, decision.delete), (vec!["b".to_owned()], vec!["a1".to_owned()]));
    assert_eq!((decision.status.desired_number_scheduled, decision.status.number_misscheduled), (1, 1));
}

#[test]
fn an_update_keeps_its_bounds() {
    type Case<'a> = (&'a str, Value, Marked<'a>, &'a [&'a str], &'a [&'a str]);
    let all: [(&str, &str); 3] = [("a1", "ro"), ("b1", "ro"), ("c1", "ro")];
    let rolling = |unavailable: Value, surge: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}});
    let cases: &[Case<'_>] = &[
        ("one at a time by default", json!({}), &all, &[], &["a1"]),
        ("waits for the new one", json!({}), &[("a2", ""), ("b1", "ro"), ("c1", "ro")], &[], &[]),
        ("continues", json!({}), &[("a2", "r"), ("b1", "ro"), ("c1", "ro")], &[], &["b1"]),
        ("two at a time", rolling(json!(2), json!(0)), &all, &[], &["a1", "b1"]),
        ("a percentage", rolling(json!("50%"), json!(0)), &all, &[], &["a1", "b1"]),
        ("unready ones at once", json!({}), &[("a1", "o"), ("b1", "ro"), ("c1", "o")], &[], &["a1", "c1"]),
        ("a new one beside the old", rolling(json!(0), json!(1)), &all, &["a"], &[]),
        (
            "the old one stays until the new is ready",
            rolling(json!(0), json!(1)),
            &[("a1", "ro"), ("a2", ""), ("b1", "ro"), ("c1", "r")],
            &[],
            &[],
        ),
        (
            "and goes then",
            rolling(json!(0), json!(1)),
            &[("a1", "ro"), ("a2", "r"), ("b1", "r"), ("c1", "r")],
            &[],
            &["a1"],
        ),
        ("by hand", json!({"updateStrategy": {"type": "OnDelete"}}), &all, &[], &[]),
    ];
    for (name, spec, pods, create, delete) in cases {
        let decision = decided(&set(spec.clone()), &[("a", ""), ("b", ""), ("c", "")], pods);
        let expected: (Vec<String>, Vec<String>) =
            (create.iter().map(ToString::to_string).collect(), delete.iter().map(ToString::to_string).collect());
        assert_eq!((decision.create, decision.delete), expected, "{name}");
    }
}

#[test]
fn the_status_counts_nodes() {
    let nodes = [("a", ""), ("b", ""), ("c", ""), ("d", "t")];
    let status = decided(&set(json!({})), &nodes, &[("a1", "r"), ("b1", "o"), ("d1", "r")]).status;
    assert_eq!((status.desired_number_scheduled, status.current_number_scheduled), (3, 2));
    assert_eq!((status.number_ready, status.number_available, status.number_unavailable), (1, Some(1), Some(2)));
    assert_eq!((status.updated_number_scheduled, status.number_misscheduled), (Some(1), 1));
    assert_eq!(status.observed_generation, Some(1));
}

#[test]
fn a_pod_is_bound_for_its_node() {
    let set = set(json!({}));
    let pod = new_pod(&set, &set.spec.as_ref().expect("a spec").template, "b", "new");
    assert_eq!((pod.metadata.generate_name.as_deref(), node_of(&pod).as_deref()), (Some("agent-"), Some("b")));
    assert_eq!(pod.labels()[REVISION_HASH], "new");
    let spec = pod.spec.expect("a spec");
    assert!(meets_affinity(&spec, &node("b", "")) && !meets_affinity(&spec, &node("a", "")));
    assert!(untolerated(&spec, &node("b", "c"), &["NoSchedule"]).is_none());
}
