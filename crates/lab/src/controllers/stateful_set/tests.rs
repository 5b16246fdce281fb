use serde_json::{Value, json};

use super::*;

fn set(replicas: i32, spec: Value) -> StatefulSet {
    let mut object = json!({
        "metadata": {"name": "db", "namespace": "default", "uid": "set", "generation": 2},
        "spec": {
            "replicas": replicas, "serviceName": "peers", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}},
        },
        "status": {"replicas": 0, "currentRevision": "db-old"},
    });
    if let (Value::Object(into), Value::Object(more)) = (&mut object["spec"], spec) {
        into.extend(more);
    }
    serde_json::from_value(object).expect("a stateful set")
}

/// A pod; `marks`: r ready, d being deleted, f failed, o old revision.
fn pod(name: &str, marks: &str) -> Arc<Pod> {
    let has = |mark: char| marks.contains(mark);
    let revision = if has('o') { "db-old" } else { "db-new" };
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "db", REVISION_HASH: revision},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "set", "controller": true}]},
        "spec": {"containers": []}, "status": {"phase": if has('f') { "Failed" } else { "Running" }},
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

fn decided(set: &StatefulSet, pods: &[(&str, &str)]) -> StatefulSetDecision {
    let pods: Vec<Arc<Pod>> = pods.iter().map(|(name, marks)| pod(name, marks)).collect();
    let now = "2026-01-01T00:01:00Z".parse().expect("a time");
    decide(&StatefulSetState { set, pods: &pods, update: "db-new", now })
}

/// Ordinals of created pods, and names of deleted ones.
fn steps(set: &StatefulSet, pods: &[(&str, &str)]) -> (Vec<i32>, Vec<String>) {
    let decision = decided(set, pods);
    (decision.create.into_iter().map(|(ordinal, _)| ordinal).collect(), decision.delete)
}

#[test]
fn pods_are_created_and_deleted_one_after_another() {
    type Case<'a> = (&'a str, i32, &'a [(&'a str, &'a str)], &'a [i32], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        ("the first", 2, &[], &[0], &[]),
        ("waits until the first is ready", 2, &[("db-0", "")], &[], &[]),
        ("the second", 2, &[("db-0", "r")], &[1], &[]),
        ("a lower one first", 3, &[("db-0", "r"), ("db-2", "r")], &[1], &[]),
        ("waits for one that is being deleted", 2, &[("db-0", "rd"), ("db-1", "r")], &[], &[]),
        ("a failed one is replaced", 1, &[("db-0", "f")], &[], &["db-0"]),
        ("the highest goes first", 1, &[("db-0", "r"), ("db-1", "r"), ("db-2", "r")], &[], &["db-2"]),
        ("and the next after it", 1, &[("db-0", "r"), ("db-1", "r"), ("db-2", "d")], &[], &[]),
        ("not before the rest is ready", 1, &[("db-0", ""), ("db-1", "r")], &[], &[]),
        ("to zero", 0, &[("db-0", "r"), ("db-1", "r")], &[], &["db-1"]),
        ("pods of other names are not its own", 1, &[("db-x", "r"), ("other-0", "r")], &[0], &[]),
    ];
    for (name, replicas, pods, create, delete) in cases {
        let expected = (create.to_vec(), delete.iter().map(ToString::to_string).collect());
        assert_eq!(steps(&set(*replicas, json!({})), pods), expected, "{name}");
    }
}

#[test]
fn parallel_pods_do_not_wait() {
    let parallel = |replicas: i32| set(replicas, json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(steps(&parallel(3), &[("db-1", "")]), (vec![0, 2], vec![]));
    let all = [("db-0", ""), ("db-1", "r"), ("db-2", "r")];
    assert_eq!(steps(&parallel(1), &all), (vec![], vec!["db-2".to_owned(), "db-1".to_owned()]));
}

#[test]
fn ordinals_may_start_above_zero() {
    let set = set(2, json!({"ordinals": {"start": 5}}));
    assert_eq!(steps(&set, &[("db-5", "r")]), (vec![6], vec![]));
    assert_eq!(steps(&set, &[("db-5", "r"), ("db-6", "r"), ("db-0", "r")]), (vec![], vec!["db-0".to_owned()]));
}

#[test]
fn updates_replace_the_highest_pod_first_down_to_the_partition() {
    type Case<'a> = (&'a str, Value, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let partition =
        |number: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": number}}});
    let cases: &[Case<'_>] = &[
        ("the highest", partition(0), &[("db-0", "ro"), ("db-1", "ro")], &["db-1"]),
        ("waits for the new one", partition(0), &[("db-0", "ro"), ("db-1", "")], &[]),
        ("the next", partition(0), &[("db-0", "ro"), ("db-1", "r")], &["db-0"]),
        ("not below the partition", partition(1), &[("db-0", "ro"), ("db-1", "r")], &[]),
        ("only by hand", json!({"updateStrategy": {"type": "OnDelete"}}), &[("db-0", "ro"), ("db-1", "ro")], &[]),
        ("done", partition(0), &[("db-0", "r"), ("db-1", "r")], &[]),
    ];
    for (name, spec, pods, delete) in cases {
        let expected = delete.iter().map(ToString::to_string).collect();
        assert_eq!(steps(&set(2, spec.clone()), pods), (vec![], expected), "{name}");
    }
    let create = decided(&set(2, partition(1)), &[("db-1", "r")]).create;
    assert_eq!(create, [(0, "db-old".to_owned())], "below the partition pods keep their revision");
    assert_eq!(decided(&set(2, partition(1)), &[("db-0", "ro")]).create, [(1, "db-new".to_owned())]);
}

#[test]
fn the_status_follows_the_update() {
    let updating = decided(&set(2, json!({})), &[("db-0", "ro"), ("db-1", "r")]).status;
    assert_eq!((updating.replicas, updating.ready_replicas, updating.available_replicas), (2, Some(2), Some(2)));
    assert_eq!((updating.current_replicas, updating.updated_replicas), (Some(1), Some(1)));
    assert_eq!(updating.current_revision.as_deref(), Some("db-old"));
    assert_eq!((updating.update_revision.as_deref(), updating.observed_generation), (Some("db-new"), Some(2)));
    let updated = decided(&set(2, json!({})), &[("db-0", "r"), ("db-1", "r")]).status;
    assert_eq!((updated.current_replicas, updated.current_revision.as_deref()), (Some(2), Some("db-new")));
}

#[test]
fn a_pod_has_a_stable_name_and_host() {
    let set = set(1, json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
    let spec = set.spec.as_ref().expect("a spec");
    let pod = new_pod(&set, &spec.template, 3, "db-new");
    assert_eq!(pod.name_any(), "db-3");
    assert_eq!(ordinal_of(&set, &pod), Some(3));
    let labels = pod.labels();
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-3");
    assert_eq!((labels["apps.kubernetes.io/pod-index"].as_str(), labels[REVISION_HASH].as_str()), ("3", "db-new"));
    let spec = pod.spec.expect("a spec");
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-3"), Some("peers")));
    let volumes = spec.volumes.expect("volumes");
    assert!(volumes.len() == 1 && volumes[0].name == "data" && volumes[0].empty_dir.is_some());
}
