use serde_json::{Value, json};

use super::mirror::mirrored;
use super::*;

fn service(spec: Value) -> Service {
    let object = json!({"metadata": {"name": "web", "namespace": "default", "labels": {"team": "a"}}, "spec": spec});
    serde_json::from_value(object).expect("a service")
}

fn slice(family: &str, port: i32, endpoints: Value) -> Arc<EndpointSlice> {
    let object = json!({
        "metadata": {"name": "web-1"}, "addressType": family, "endpoints": endpoints,
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    });
    Arc::new(serde_json::from_value(object).expect("a slice"))
}

#[test]
fn endpoints_are_derived_from_slices() {
    let ip = |ip: &str, ready: bool, terminating: bool| json!({"addresses": [ip], "nodeName": "n", "conditions": {"ready": ready, "terminating": terminating}});
    let slices = [
        slice("IPv4", 80, json!([ip("10.0.0.2", true, false), ip("10.0.0.1", true, false)])),
        slice("IPv4", 80, json!([ip("10.0.0.3", false, false), ip("10.0.0.4", false, true)])),
        slice("IPv4", 81, json!([ip("10.0.0.5", true, false)])),
        slice("IPv6", 80, json!([ip("fd00::1", true, false)])),
    ];
    let endpoints = desired(&service(json!({"selector": {"app": "web"}})), &slices).expect("derived");
    let subset = |ready: &[&str], unready: &[&str], port: i32| {
        let list = |ips: &[&str]| ips.iter().map(|ip| json!({"ip": ip, "nodeName": "n"})).collect::<Vec<_>>();
        let mut subset =
            json!({"addresses": list(ready), "ports": [{"name": "http", "port": port, "protocol": "TCP"}]});
        if !unready.is_empty() {
            subset["notReadyAddresses"] = json!(list(unready));
        }
        subset
    };
    let expected = json!([subset(&["10.0.0.1", "10.0.0.2"], &["10.0.0.3"], 80), subset(&["10.0.0.5"], &[], 81)]);
    assert_eq!(json!(endpoints.subsets), expected);
    assert_eq!((endpoints.name_any(), endpoints.labels()["team"].as_str()), ("web".to_owned(), "a"));
    assert_eq!(endpoints.labels()[MANAGED_BY], CONTROLLER);
}

#[test]
fn only_services_that_select_pods_have_derived_endpoints() {
    assert!(desired(&service(json!({})), &[]).is_none());
    assert!(desired(&service(json!({"type": "ExternalName", "selector": {"app": "web"}})), &[]).is_none());
    let empty = desired(&service(json!({"selector": {"app": "web"}, "clusterIP": "None"})), &[]).expect("derived");
    assert!(empty.subsets.is_none() && empty.labels().contains_key(HEADLESS));
}

#[test]
fn written_endpoints_are_mirrored() {
    let mut endpoints: Endpoints = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "e"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}],
            "ports": [{"port": 80}]}],
    }))
    .expect("endpoints");
    let plain = service(json!({"ports": [{"port": 80}]}));
    let slices = mirrored(&endpoints, Some(&plain));
    let [v4, v6] = slices.as_slice() else { panic!("{slices:?}") };
    assert_eq!((v4.address_type.as_str(), v6.address_type.as_str()), ("IPv4", "IPv6"));
    let ready: Vec<_> = v4.endpoints.iter().map(|e| e.conditions.as_ref().and_then(|c| c.ready)).collect();
    assert_eq!(ready, [Some(true), Some(false)]);
    assert_eq!(json!(v4.ports), json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    assert_eq!(v4.labels()[endpoint_slice::MANAGED_BY], "endpointslicemirroring-controller.k8s.io");
    assert_eq!(v4.labels()[SERVICE_NAME], "web");

    assert_eq!(mirrored(&endpoints, None), [], "without a Service");
    assert_eq!(
        mirrored(&endpoints, Some(&service(json!({"selector": {"app": "web"}})))),
        [],
        "the Service selects pods"
    );
    endpoints.labels_mut().insert("endpointslice.kubernetes.io/skip-mirror".to_owned(), "true".to_owned());
    assert_eq!(mirrored(&endpoints, Some(&plain)), [], "by label");
}
