//! Routes and policies of services, as users of Istio write them.

use serde_json::{Value, json};

use super::objects::{hostname, service_name};

/// The line that a route adds to the head of a response, which shows that the rules are in force.
pub const ROUTED: &str = "x-route: bytes";

/// A path that the policy of [`allow`] does not admit.
pub const REFUSED: &str = "/private";

const ENTRIES: &str = "/apis/networking.istio.io/v1/namespaces/default/serviceentries";
const ROUTES: &str = "/apis/networking.istio.io/v1/namespaces/default/virtualservices";
const DESTINATIONS: &str = "/apis/networking.istio.io/v1/namespaces/default/destinationrules";

/// The rules of a service.
pub fn both(service: usize) -> [(String, Value); 2] {
    [destination_rule(service), virtual_service(service, "bytes")]
}

/// A ServiceEntry of a host outside of the mesh: in turn one with addresses, one that is resolved by DNS, and a wildcard.
pub fn service_entry(number: usize) -> (String, Value) {
    let ports =
        json!([{"number": 443, "name": "tls", "protocol": "TLS"}, {"number": 80, "name": "http", "protocol": "HTTP"}]);
    let spec = match number % 3 {
        0 => json!({
            "hosts": [format!("e{number}.example.com")], "ports": ports, "location": "MESH_EXTERNAL", "resolution": "STATIC",
            "endpoints": [{"address": format!("192.0.2.{}", number % 250 + 1)}],
        }),
        1 => json!({"hosts": [format!("e{number}.example.com")], "ports": ports, "resolution": "DNS"}),
        _ => json!({"hosts": [format!("*.e{number}.example.com")], "ports": ports, "resolution": "NONE"}),
    };
    let name = format!("entry-{number}");
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": name}, "spec": spec,
    });
    (ENTRIES.to_owned(), object)
}

/// A policy that allows a client the requests that are measured.
pub fn allow(server: &str, client: &str) -> (String, Value) {
    let object = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": server},
        "spec": {"selector": {"matchLabels": {"app": server}}, "rules": [{
            "from": [{"source": {"principals": [format!("cluster.local/ns/default/sa/{client}")]}}],
            "to": [{"operation": {"methods": ["GET"], "paths": ["/bytes/*"]}}],
        }]},
    });
    ("/apis/security.istio.io/v1/namespaces/default/authorizationpolicies".to_owned(), object)
}

/// The path of a service's VirtualService.
pub fn path(service: usize) -> String {
    format!("{ROUTES}/{}", service_name(service))
}

/// A VirtualService with five routes, with retries and time limits. The one for `/bytes/` has a name, and splits requests between two
/// subsets.
pub fn virtual_service(service: usize, name: &str) -> (String, Value) {
    let host = hostname(service);
    let to = |subset: &str| json!({"host": host, "subset": subset});
    let all = json!([{"destination": to("v1")}]);
    let retries =
        json!({"attempts": 2, "perTryTimeout": "5s", "retryOn": "gateway-error,connect-failure,refused-stream"});
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": service_name(service)},
        "spec": {"hosts": [host], "http": [
            {"name": "testers", "match": [{"headers": {"end-user": {"exact": "tester"}}}], "timeout": "30s", "route": all},
            {
                "name": "admin", "match": [{"uri": {"exact": "/admin"}, "method": {"exact": "POST"}}],
                "timeout": "2s", "retries": {"attempts": 0}, "route": all,
            },
            {
                "name": "moved", "match": [{"uri": {"prefix": "/v0/"}}, {"uri": {"prefix": "/beta/"}}],
                "rewrite": {"uri": "/"}, "timeout": "5s", "retries": retries, "route": all,
            },
            {
                "name": name, "match": [{"uri": {"prefix": "/bytes/"}}], "timeout": "10s", "retries": retries,
                "headers": {"response": {"set": {"x-route": "bytes"}}},
                "route": [{"destination": to("v1"), "weight": 90}, {"destination": to("stable"), "weight": 10}],
            },
            {"name": "rest", "timeout": "10s", "retries": retries, "route": all},
        ]},
    });
    (ROUTES.to_owned(), object)
}

/// A DestinationRule with a connection pool, outlier detection, and two subsets.
fn destination_rule(service: usize) -> (String, Value) {
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": service_name(service)},
        "spec": {
            "host": hostname(service),
            "trafficPolicy": {
                "connectionPool": {
                    "tcp": {"maxConnections": 10_000, "connectTimeout": "2s"},
                    "http": {"http1MaxPendingRequests": 10_000, "http2MaxRequests": 10_000},
                },
                "outlierDetection": {
                    "consecutive5xxErrors": 5, "interval": "10s", "baseEjectionTime": "30s", "maxEjectionPercent": 50,
                },
            },
            "subsets": [
                {"name": "v1", "labels": {"version": "v1"}},
                {"name": "stable", "labels": {"track": "stable"}},
            ],
        },
    });
    (DESTINATIONS.to_owned(), object)
}
