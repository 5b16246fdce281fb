//! Tests of objects that no correct Kubernetes API server sends: invalid names and addresses, and excessive sizes.

use std::collections::BTreeMap;

use super::fields::{MAX_ENDPOINTS, MAX_LABELS, MAX_PORTS};
use super::*;

fn record<T: Record>(object: serde_json::Value) -> Option<T> {
    T::extract(serde_json::from_value(object).unwrap())
}

#[test]
fn objects_with_invalid_names_are_ignored() {
    // In a host name or a resource name, each of these would change the meaning of the name.
    let invalid = ["", "a.b", "a@b", "a/b", "A", "-a", "a-", "a b", "a\nb", "*", "\u{e4}", &"a".repeat(64)];
    for name in invalid {
        let service = |name: &str, namespace: &str| {
            record::<Service>(serde_json::json!({"metadata": {"name": name, "namespace": namespace}, "spec": {}}))
        };
        assert_eq!(service(name, "default"), None, "service {name:?}");
        assert_eq!(service("reviews", name), None, "namespace {name:?}");
        let slice = serde_json::json!({"metadata": {"name": "x", "namespace": "default",
            "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4"});
        assert_eq!(record::<Slice>(slice), None, "slice of {name:?}");
    }
    let pod = |name: &str| {
        record::<Pod>(serde_json::json!({"metadata": {"name": name, "namespace": "default"}, "spec": {}, "status": {}}))
    };
    assert!(pod("web-0.a").is_some());
    assert!(pod("web/0").is_none() && pod(&"a".repeat(254)).is_none());
}

#[test]
fn invalid_network_names_are_ignored() {
    for network in ["", "a/b", "a@b", "a b", &"a".repeat(64)] {
        let namespace =
            serde_json::json!({"metadata": {"name": "istio-system", "labels": {"topology.istio.io/network": network}}});
        let found = record::<Namespace>(namespace).unwrap();
        assert_eq!(found.network, None, "{network:?}");
    }
}

#[test]
fn local_and_multicast_addresses_are_not_endpoints() {
    let local = [
        "127.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "ff02::1",
        "::ffff:127.0.0.1",
    ];
    let endpoints: Vec<_> =
        local.iter().chain(&["10.0.0.1"]).map(|ip| serde_json::json!({"addresses": [ip]})).collect();
    let slice = serde_json::json!({"metadata": {"name": "x", "namespace": "default",
        "labels": {"kubernetes.io/service-name": "reviews"}}, "addressType": "IPv4", "endpoints": endpoints});
    let slice = record::<Slice>(slice).unwrap();
    let found: Vec<String> = slice.endpoints.iter().map(|endpoint| endpoint.ip.to_string()).collect();
    assert_eq!(found, ["10.0.0.1"]);
    let ingress: Vec<_> = local.iter().map(|ip| serde_json::json!({"ip": ip})).collect();
    let gateway = serde_json::json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"externalIPs": local},
        "status": {"loadBalancer": {"ingress": ingress}}});
    let gateway = record::<Service>(gateway).unwrap();
    assert!(gateway.external_ips.is_empty(), "{:?}", gateway.external_ips);
}

#[test]
fn huge_objects_become_bounded_records() {
    let ports: Vec<_> = (1..5_000).map(|port| serde_json::json!({"name": format!("p{port}"), "port": port})).collect();
    let service = serde_json::json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"ports": ports}});
    let service = record::<Service>(service).unwrap();
    assert_eq!(service.ports.len(), MAX_PORTS);
    let endpoints: Vec<_> =
        (0..5_000).map(|i| serde_json::json!({"addresses": [format!("10.0.{}.{}", i / 250, i % 250)]})).collect();
    let slice = serde_json::json!({"metadata": {"name": "x", "namespace": "b", "labels": {"kubernetes.io/service-name": "a"}},
        "addressType": "IPv4", "endpoints": endpoints});
    let slice = record::<Slice>(slice).unwrap();
    assert_eq!(slice.endpoints.len(), MAX_ENDPOINTS);
    let mut labels: BTreeMap<String, String> = (0..5_000).map(|i| (format!("l{i}"), "v".into())).collect();
    labels.insert("a".into(), "v".repeat(1 << 20));
    let pod =
        serde_json::json!({"metadata": {"name": "x", "namespace": "b", "labels": labels}, "spec": {}, "status": {}});
    let pod = record::<Pod>(pod).unwrap();
    assert_eq!(pod.labels.iter().count(), MAX_LABELS);
    assert_eq!(pod.labels.get("a"), None);
}
