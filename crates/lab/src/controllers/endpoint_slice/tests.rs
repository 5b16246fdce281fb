use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "s"},
        "spec": {
            "clusterIP": "10.96.0.7", "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "tcp", "port": 9090}],
        },
    });
    if let (Value::Object(into), Value::Object(more)) = (&mut object["spec"], spec) {
        into.extend(more);
    }
    serde_json::from_value(object).expect("a service")
}

/// A pod at 10.244.0.`number`; `marks`: r ready, d being deleted, f failed, n no address, x other label, p other port.
fn pod(number: u8, marks: &str) -> Arc<Pod> {
    let has = |mark: char| marks.contains(mark);
    let mut pod = json!({
        "metadata": {"name": format!("web-{number}"), "namespace": "default", "uid": format!("u{number}"),
            "labels": {"app": if has('x') {"other"} else {"web"}}},
        "spec": {"nodeName": "west-a", "hostname": "h1", "subdomain": "web",
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": if has('p') {8081} else {8080}}]}]},
        "status": {"phase": if has('f') {"Failed"} else {"Running"}, "podIP": format!("10.244.0.{number}")},
    });
    if has('n') {
        pod["status"]["podIP"] = Value::Null;
    }
    if has('d') {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    if has('r') {
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    }
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn zone(node: &str) -> Option<String> {
    (node == "west-a").then(|| "a".to_owned())
}

#[test]
fn conditions() {
    // Ready, serving, terminating.
    type Conditions = Option<(bool, bool, bool)>;
    let cases: &[(&str, Value, Conditions)] = &[
        ("r", json!({}), Some((true, true, false))),
        ("", json!({}), Some((false, false, false))),
        ("rd", json!({}), Some((false, true, true))),
        ("d", json!({}), Some((false, false, true))),
        ("", json!({"publishNotReadyAddresses": true}), Some((true, false, false))),
        ("rf", json!({}), None),
        ("rn", json!({}), None),
        ("rx", json!({}), None),
    ];
    for (marks, spec, expected) in cases {
        let slices = desired(&service(spec.clone()), &[pod(1, marks)], &zone).expect("kept here");
        let got = slices[0].endpoints.first().and_then(|endpoint| endpoint.conditions.clone());
        let got = got.map(|c| (c.ready == Some(true), c.serving == Some(true), c.terminating == Some(true)));
        assert_eq!(got, *expected, "pod {marks:?} of a service with {spec}");
    }
}

#[test]
fn an_endpoint_has_zone_node_and_pod() {
    let slices = desired(&service(json!({})), &[pod(1, "r")], &zone).expect("kept here");
    let [slice] = slices.as_slice() else { panic!("{slices:?}") };
    let endpoint = &slice.endpoints[0];
    assert_eq!((endpoint.zone.as_deref(), endpoint.node_name.as_deref()), (Some("a"), Some("west-a")));
    assert_eq!(endpoint.hostname.as_deref(), Some("h1"));
    assert_eq!(endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref()), Some("web-1"));
    let ports: Vec<_> = slice.ports.iter().flatten().map(|port| (port.name.as_deref(), port.port)).collect();
    assert_eq!(ports, [(Some("http"), Some(8080)), (Some("tcp"), Some(9090))]);
    assert_eq!(slice.labels()[SERVICE_NAME], "web");
    assert!(!slice.labels().contains_key(HEADLESS));
    let headless = desired(&service(json!({"clusterIP": "None"})), &[], &zone).expect("kept here");
    assert!(headless[0].labels().contains_key(HEADLESS) && headless[0].endpoints.is_empty());
}

#[test]
fn pods_with_other_ports_have_a_slice_of_their_own() {
    let slices = desired(&service(json!({})), &[pod(1, "r"), pod(2, "rp"), pod(3, "r")], &zone).expect("kept here");
    let sizes: Vec<usize> = slices.iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(sizes, [2, 1]);
}

#[test]
fn slices_of_other_controllers_are_kept() {
    assert!(desired(&service(json!({"selector": null})), &[pod(1, "r")], &zone).is_none());
    assert!(desired(&service(json!({"type": "ExternalName", "externalName": "x.test"})), &[], &zone).is_none());
}

#[test]
fn a_big_service_has_several_slices() {
    let pods: Vec<Arc<Pod>> = (1..=250).map(|number| pod(number, "r")).collect();
    let slices = desired(&service(json!({})), &pods, &zone).expect("kept here");
    let sizes: Vec<usize> = slices.iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
}

#[test]
fn only_differences_are_written() {
    let make = |marks: &str| desired(&service(json!({})), &[pod(1, marks)], &zone).expect("kept here");
    let present: Vec<Arc<EndpointSlice>> = make("r").into_iter().map(Arc::new).collect();
    assert_eq!(difference(make("r"), &present), []);
    assert!(matches!(difference(make(""), &present).as_slice(), [SliceAction::Replace(_)]));
    assert!(matches!(difference(make("r"), &[]).as_slice(), [SliceAction::Create(_)]));
    // Other ports: the new slice is created before the old one is deleted.
    let actions = difference(make("rp"), &present);
    assert!(matches!(actions.as_slice(), [SliceAction::Create(_), SliceAction::Delete(_)]), "{actions:?}");
}
