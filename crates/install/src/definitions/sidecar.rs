//! Sidecar and ProxyConfig (`networking.istio.io`).

use serde_json::Value;

use super::destination_rule::connection_pool;
use super::gateway::{server_port, server_tls};
use super::schema::{count, list, map, object, port, text, texts, word};

pub(super) fn sidecar() -> Value {
    let modes = word(["REGISTRY_ONLY", "ALLOW_ANY", "ALLOW_ANY_DYNAMIC_DNS"]);
    let egress_proxy = object([("host", text()), ("subset", text()), ("port", object([("number", port())]))]);
    object([
        ("workloadSelector", object([("labels", map(text()))])),
        ("ingress", list(ingress())),
        ("egress", list(egress())),
        ("inboundConnectionPool", connection_pool()),
        ("outboundTrafficPolicy", object([("mode", modes), ("egressProxy", egress_proxy)])),
    ])
}

pub(super) fn proxy_config() -> Value {
    object([
        ("selector", object([("matchLabels", map(text()))])),
        ("concurrency", count()),
        ("environmentVariables", map(text())),
        ("image", object([("imageType", text())])),
    ])
}

fn ingress() -> Value {
    object([
        ("port", server_port()),
        ("bind", text()),
        ("captureMode", capture_mode()),
        ("defaultEndpoint", text()),
        ("tls", server_tls()),
        ("connectionPool", connection_pool()),
    ])
}

fn egress() -> Value {
    object([("port", server_port()), ("bind", text()), ("captureMode", capture_mode()), ("hosts", texts())])
}

fn capture_mode() -> Value {
    word(["DEFAULT", "IPTABLES", "NONE"])
}
