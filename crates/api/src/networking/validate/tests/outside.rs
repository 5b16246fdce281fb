//! ServiceEntries and WorkloadGroups.

use serde_json::{Value, json};

use crate::networking::{Problem, ServiceEntry, WorkloadEntry, WorkloadGroup};

fn found(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|of| format!("{:?} {} {}", of.severity, of.code, of.field)).collect()
}

fn entry(spec: Value) -> Vec<String> {
    let mut spec = spec;
    spec["hosts"].as_array().is_none().then(|| spec["hosts"] = json!(["a.example.com"]));
    found(&ServiceEntry::from_value(&json!({"metadata": {"namespace": "shop"}, "spec": spec})).validate())
}

fn group(spec: Value) -> Vec<String> {
    found(&WorkloadGroup::from_value(&json!({"spec": spec})).validate())
}

#[test]
fn a_port_of_tcp_needs_an_address() {
    let ports = |protocol: &str| json!([{"number": 80, "name": "a", "protocol": protocol}]);
    let warning = ["Warning IST0134 spec.ports[0]"];
    assert_eq!(entry(json!({"ports": ports("TCP")})), warning);
    assert_eq!(entry(json!({"ports": ports("")})), warning);
    assert_eq!(entry(json!({"ports": ports("HTTP")})), [""; 0]);
    assert_eq!(entry(json!({"ports": ports("TCP"), "addresses": ["192.0.2.1"]})), [""; 0]);
    assert_eq!(entry(json!({"ports": ports("TCP"), "resolution": "DNS"})), [""; 0], "one is allocated");
}

#[test]
fn names_of_endpoints_in_the_mesh_are_identities() {
    let spec =
        |location: &str| json!({"location": location, "resolution": "DNS", "subjectAltNames": ["spiffe://a/b", "a"]});
    assert_eq!(entry(spec("MESH_INTERNAL")), ["Warning IST0133 spec.subjectAltNames[1]"]);
    assert_eq!(entry(spec("MESH_EXTERNAL")), [""; 0]);
}

#[test]
fn hosts_of_wildcards_are_resolved_for_protocols_that_name_them() {
    let spec = |protocol: &str| {
        json!({"hosts": ["*.example.com"], "resolution": "DYNAMIC_DNS",
        "ports": [{"number": 80, "name": "a", "protocol": protocol}]})
    };
    assert_eq!(entry(spec("TLS")), [""; 0]);
    assert_eq!(entry(spec("TCP")), ["Warning IST0133 spec.ports[0].protocol"]);
}

#[test]
fn a_group_has_one_valid_probe() {
    for (spec, expected) in [
        (json!({"template": {"serviceAccount": "a"}}), vec![]),
        (json!({"template": {}, "probe": {"httpGet": {"port": 80}}}), vec![]),
        (json!({"template": {}, "probe": {}}), vec!["Error IST0106 spec.probe"]),
        (json!({"template": {}, "probe": {"httpGet": {"port": 0}}}), vec!["Error IST0106 spec.probe.httpGet.port"]),
        (json!({"template": {}, "probe": {"exec": {}}}), vec!["Error IST0106 spec.probe.exec.command"]),
        (
            json!({"template": {}, "probe": {"grpc": {"port": 1}, "tcpSocket": {"port": 1}}}),
            vec!["Error IST0106 spec.probe.grpc"],
        ),
        (json!({"template": {"address": "10.0.0.1"}}), vec!["Warning IST0133 spec.template.address"]),
        (json!({"template": {"address": "unix:///a"}}), vec!["Error IST0106 spec.template.address"]),
        (json!({"template": {"ports": {"a": 70000}}}), vec!["Error IST0106 spec.template.ports.a"]),
    ] {
        assert_eq!(group(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn a_registered_entry_is_ready_when_its_condition_says_so() {
    let read = |annotations: Value, conditions: Value| {
        let object = json!({"metadata": {"annotations": annotations}, "spec": {"address": "10.0.0.1"},
            "status": {"conditions": conditions}});
        let spec = WorkloadEntry::from_value(&object).spec;
        (spec.group, spec.unready)
    };
    let checked = json!({"istio.io/autoRegistrationGroup": "g", "proxy.istio.io/health-checks-enabled": "true"});
    let healthy =
        |status: &str| json!([{"type": "Reconciled", "status": "True"}, {"type": "Healthy", "status": status}]);
    assert_eq!(read(json!({}), json!([])), (String::new(), false));
    assert_eq!(read(checked.clone(), json!([])), ("g".into(), true));
    assert_eq!(read(checked.clone(), healthy("True")), ("g".into(), false));
    assert_eq!(read(checked, healthy("False")), ("g".into(), true));
    assert_eq!(read(json!({"istio.io/autoRegistrationGroup": "g"}), healthy("False")), ("g".into(), false));
}
