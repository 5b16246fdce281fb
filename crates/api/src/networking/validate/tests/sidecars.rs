//! Sidecars and ProxyConfigs.

use serde_json::{Value, json};

use crate::networking::{GROUP, validate};

/// Returns the field and severity of each problem of a spec.
fn problems(kind: &str, spec: Value) -> Vec<String> {
    let object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec});
    let all = validate(GROUP, kind, &object);
    all.iter().map(|of| format!("{} {}", if of.is_error() { "error" } else { "warning" }, of.field)).collect()
}

#[test]
fn a_sidecar_that_istio_accepts_is_accepted() {
    let spec = json!({
        "workloadSelector": {"labels": {"app": "web"}},
        "ingress": [
            {"port": {"number": 9080, "protocol": "HTTP", "name": "http"}, "defaultEndpoint": "127.0.0.1:8080"},
            {"port": {"number": 9081, "protocol": "TCP", "name": "tcp"}, "defaultEndpoint": "unix:///run/app.sock"},
        ],
        "egress": [
            {"port": {"number": 3306, "protocol": "MYSQL", "name": "mysql"}, "hosts": ["*/mysql.foo.com"]},
            {"hosts": ["./*", "~bank/*", "*/*.example.com", "shop/a.shop.svc.cluster.local"]},
        ],
        "inboundConnectionPool": {"tcp": {"maxConnections": 3}, "http": {"http2MaxRequests": 4}},
        "outboundTrafficPolicy": {"mode": "ALLOW_ANY", "egressProxy": {"host": "exit.shop.svc.cluster.local", "port": {"number": 443}}},
    });
    assert_eq!(problems("Sidecar", spec), Vec::<String>::new());
    assert_eq!(problems("Sidecar", json!({"egress": [{"hosts": ["~/*"]}]})), Vec::<String>::new());
}

#[test]
fn what_is_wrong_with_a_sidecar_is_named() {
    let port = |number: u32| json!({"number": number, "protocol": "HTTP", "name": "http"});
    for (spec, expected) in [
        (json!({}), "error spec"),
        (json!({"egress": [{}]}), "error spec.egress[0].hosts"),
        (json!({"ingress": [{"port": port(1), "tls": {"mode": "SIMPLE"}}]}), "error spec.ingress[0].tls"),
        (
            json!({"ingress": [{"port": port(1), "tls": {"credentialName": "a"}}]}),
            "error spec.ingress[0].tls.credentialName",
        ),
        (json!({"ingress": [{"port": port(1), "defaultEndpoint": ":80"}]}), "warning spec.ingress[0].defaultEndpoint"),
        (
            json!({"ingress": [{"port": {"number": 1, "protocol": "TCP"}, "connectionPool": {"http": {"http2MaxRequests": 1}}}]}),
            "warning spec.ingress[0].connectionPool.http",
        ),
        (json!({"egress": [{"hosts": ["reviews"]}]}), "error spec.egress[0].hosts[0]"),
        (json!({"egress": [{"hosts": ["UP/*"]}]}), "error spec.egress[0].hosts[0]"),
        (json!({"egress": [{"hosts": ["./a b"]}]}), "error spec.egress[0].hosts[0]"),
        (json!({"egress": [{"hosts": ["./reviews"]}]}), "error spec.egress[0].hosts[0]"),
        (json!({"egress": [{"hosts": ["./*"]}, {"hosts": ["./*"]}]}), "error spec.egress"),
        (
            json!({"egress": [{"port": port(1), "hosts": ["./*"]}, {"port": port(1), "hosts": ["./*"]}]}),
            "error spec.egress[1].port.number",
        ),
        (json!({"egress": [{"port": port(0), "hosts": ["./*"]}]}), "error spec.egress[0].port.number"),
        (json!({"egress": [{"bind": "127.0.0.1", "hosts": ["./*"]}]}), "warning spec.egress[0].bind"),
        (
            json!({"egress": [{"port": port(1), "captureMode": "NONE", "hosts": ["./*"]}]}),
            "warning spec.egress[0].bind",
        ),
        (json!({"ingress": [{}]}), "error spec.ingress[0].port"),
        (
            json!({"ingress": [{"port": port(1), "defaultEndpoint": "10.0.0.1:1"}]}),
            "error spec.ingress[0].defaultEndpoint",
        ),
        (json!({"ingress": [{"port": port(1)}, {"port": port(1)}]}), "error spec.ingress[1].port.number"),
        (
            json!({"ingress": [{"port": {"number": 1, "protocol": "HTTPS"}, "tls": {"mode": "SIMPLE"}}]}),
            "warning spec.ingress[0].tls",
        ),
        (json!({"ingress": [{"port": port(1), "bind": "0.0.0.0"}]}), "warning spec.ingress[0].bind"),
        (json!({"inboundConnectionPool": {}}), "error spec.inboundConnectionPool"),
        (
            json!({"inboundConnectionPool": {"tcp": {"maxConnections": -1}}}),
            "error spec.inboundConnectionPool.tcp.maxConnections",
        ),
        (
            json!({"inboundConnectionPool": {"http": {"maxRetries": 3}}}),
            "warning spec.inboundConnectionPool.http.maxRetries",
        ),
        (json!({"outboundTrafficPolicy": {"mode": "SOME"}}), "error spec.outboundTrafficPolicy.mode"),
        (
            json!({"outboundTrafficPolicy": {"egressProxy": {"host": "a", "port": {"number": 1}}}}),
            "error spec.outboundTrafficPolicy.egressProxy",
        ),
        (
            json!({"outboundTrafficPolicy": {"mode": "ALLOW_ANY", "egressProxy": {"host": "a"}}}),
            "error spec.outboundTrafficPolicy.egressProxy.port",
        ),
        (json!({"workloadSelector": {"labels": {"a b": "c"}}}), "error spec.workloadSelector.labels"),
        (json!({"egress": [{"hosts": ["./*"]}], "egres": []}), "warning spec.egres"),
    ] {
        let found = problems("Sidecar", spec.clone());
        assert!(found.iter().any(|of| of.starts_with(expected)), "{spec}: {expected} is not in {found:?}");
    }
}

#[test]
fn what_is_wrong_with_a_proxy_config_is_named() {
    let valid =
        json!({"selector": {"matchLabels": {"app": "a"}}, "concurrency": 0, "environmentVariables": {"A_B": "c"}});
    assert_eq!(problems("ProxyConfig", valid), Vec::<String>::new());
    for (spec, expected) in [
        (json!({"concurrency": 5000}), "error spec.concurrency"),
        (json!({"concurrency": "many"}), "error spec.concurrency"),
        (json!({"environmentVariables": {"a b": "c"}}), "error spec.environmentVariables"),
        (json!({"image": {"imageType": "debug"}}), "warning spec.image"),
    ] {
        assert_eq!(problems("ProxyConfig", spec.clone()), [expected], "{spec}");
    }
}
