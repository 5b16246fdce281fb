//! ServiceEntry, WorkloadEntry and WorkloadGroup (`networking.istio.io`).

use serde_json::Value;

use super::gateway::server_port;
use super::schema::{count, list, map, object, object_with, port, text, texts, word};

pub(super) fn service_entry() -> Value {
    object_with([
        ("hosts", texts()),
        ("addresses", texts()),
        ("ports", list(server_port())),
        ("location", word(["MESH_EXTERNAL", "MESH_INTERNAL"])),
        ("resolution", word(["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"])),
        ("endpoints", list(workload_entry())),
        ("workloadSelector", object([("labels", map(text()))])),
        ("exportTo", texts()),
        ("subjectAltNames", texts()),
    ])
}

pub(super) fn workload_entry() -> Value {
    object([
        ("address", text()),
        ("ports", map(port())),
        ("labels", map(text())),
        ("network", text()),
        ("locality", text()),
        ("weight", count()),
        ("serviceAccount", text()),
    ])
}

pub(super) fn workload_group() -> Value {
    object([
        ("metadata", object([("labels", map(text())), ("annotations", map(text()))])),
        ("template", workload_entry()),
        ("probe", probe()),
    ])
}

fn probe() -> Value {
    let header = object([("name", text()), ("value", text())]);
    let http = object([
        ("path", text()),
        ("port", port()),
        ("host", text()),
        ("scheme", text()),
        ("httpHeaders", list(header)),
    ]);
    object([
        ("initialDelaySeconds", count()),
        ("timeoutSeconds", count()),
        ("periodSeconds", count()),
        ("successThreshold", count()),
        ("failureThreshold", count()),
        ("httpGet", http),
        ("tcpSocket", object([("host", text()), ("port", port())])),
        ("exec", object([("command", texts())])),
        ("grpc", object([("port", port()), ("service", text())])),
    ])
}
