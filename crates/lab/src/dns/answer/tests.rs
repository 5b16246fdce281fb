use serde_json::json;

use super::*;

fn view() -> ClusterView {
    let view = ClusterView::default();
    let put_service = |value| view.services.put(serde_json::from_value(value).expect("a service"));
    put_service(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {
        "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:10:96::7"], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}));
    put_service(json!({"metadata": {"name": "db", "namespace": "default"}, "spec": {
        "clusterIP": "None", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}}));
    put_service(json!({"metadata": {"name": "idle", "namespace": "default"}, "spec": {"clusterIP": "None"}}));
    put_service(json!({"metadata": {"name": "far", "namespace": "default"}, "spec": {
        "type": "ExternalName", "externalName": "example.test"}}));
    view.namespaces.put(serde_json::from_value(json!({"metadata": {"name": "default"}})).expect("a namespace"));
    view.slices.put(
        serde_json::from_value(json!({
            "metadata": {"name": "db-1", "namespace": "default", "labels": {SERVICE_NAME: "db"}},
            "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.0.6"], "conditions": {"ready": true}},
                {"addresses": ["10.244.0.7"], "conditions": {"ready": false}},
            ],
        }))
        .expect("a slice"),
    );
    view.slices.put(
        serde_json::from_value(json!({
            "metadata": {"name": "db-2", "namespace": "default", "labels": {SERVICE_NAME: "db"}},
            "addressType": "IPv6", "ports": [],
            "endpoints": [{"addresses": ["fd00:10:244::5"], "conditions": {"ready": true}}],
        }))
        .expect("a slice"),
    );
    view
}

/// The answer as text: `code` or the records' data.
fn asked(name: &str, kind: RecordType) -> String {
    let outside = [("auth.example.com".to_owned(), vec!["203.0.113.100".parse().expect("an address")])].into();
    let answer = answer(&view(), &outside, &Name::from_ascii(name).expect("a name"), kind);
    if answer.records.is_empty() {
        assert_eq!(answer.authoritative, answer.soa.is_some(), "{name}");
        return format!("{:?}", answer.code);
    }
    assert!(answer.authoritative, "{name}");
    let data: Vec<String> = answer.records.iter().map(|record| record.data.to_string()).collect();
    data.join(" ")
}

#[test]
fn names() {
    use RecordType::{A, AAAA, PTR, SRV};
    let cases: &[(&str, RecordType, &str)] = &[
        ("web.default.svc.cluster.local.", A, "10.96.0.7"),
        ("WEB.Default.svc.cluster.local.", A, "10.96.0.7"),
        ("web.default.svc.cluster.local.", AAAA, "fd00:10:96::7"),
        ("db.default.svc.cluster.local.", AAAA, "fd00:10:244::5"),
        ("fd00-10-244--5.db.default.svc.cluster.local.", AAAA, "fd00:10:244::5"),
        ("fd00-10-244--9.default.pod.cluster.local.", AAAA, "fd00:10:244::9"),
        ("10-244-0-6.db.default.svc.cluster.local.", AAAA, "NoError"),
        ("web.default.svc.cluster.local.", SRV, "0 100 80 web.default.svc.cluster.local."),
        ("_http._tcp.web.default.svc.cluster.local.", SRV, "0 100 80 web.default.svc.cluster.local."),
        ("_http._udp.web.default.svc.cluster.local.", SRV, "NXDomain"),
        ("db.default.svc.cluster.local.", A, "10.244.0.5 10.244.0.6"),
        ("db-0.db.default.svc.cluster.local.", A, "10.244.0.5"),
        ("10-244-0-6.db.default.svc.cluster.local.", A, "10.244.0.6"),
        ("10-244-0-7.db.default.svc.cluster.local.", A, "NXDomain"),
        (
            "_sql._tcp.db.default.svc.cluster.local.",
            SRV,
            "0 100 5432 db-0.db.default.svc.cluster.local. 0 100 5432 10-244-0-6.db.default.svc.cluster.local.",
        ),
        ("idle.default.svc.cluster.local.", A, "NXDomain"),
        ("far.default.svc.cluster.local.", A, "example.test."),
        ("nobody.default.svc.cluster.local.", A, "NXDomain"),
        ("web.other.svc.cluster.local.", A, "NXDomain"),
        ("web.svc.cluster.local.", A, "NXDomain"),
        ("default.svc.cluster.local.", A, "NoError"),
        ("cluster.local.", A, "NoError"),
        ("web.default.svc.xcluster.local.", A, "ServFail"),
        ("10-244-0-9.default.pod.cluster.local.", A, "10.244.0.9"),
        ("what.default.pod.cluster.local.", A, "NXDomain"),
        ("7.0.96.10.in-addr.arpa.", PTR, "web.default.svc.cluster.local."),
        (
            "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.",
            PTR,
            "web.default.svc.cluster.local.",
        ),
        ("5.0.244.10.in-addr.arpa.", PTR, "db-0.db.default.svc.cluster.local."),
        ("9.0.96.10.in-addr.arpa.", PTR, "NXDomain"),
        ("example.com.", A, "ServFail"),
        ("auth.example.com.", A, "203.0.113.100"),
        ("Auth.Example.com.", A, "203.0.113.100"),
        ("auth.example.com.", AAAA, "NoError"),
        ("x.auth.example.com.", A, "ServFail"),
        ("reviews.", A, "NXDomain"),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(asked(name, *kind), *expected, "{name} {kind}");
    }
}
