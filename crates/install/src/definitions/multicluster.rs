//! ServiceExport and ServiceImport (`multicluster.x-k8s.io`, KEP-1645).

use serde_json::Value;

use super::schema::{count, list, map, object, port, text, texts, word};

pub(super) fn service_export() -> Value {
    object([("exportedLabels", map(text())), ("exportedAnnotations", map(text()))])
}

pub(super) fn service_import() -> Value {
    let service_port = object([("name", text()), ("protocol", text()), ("appProtocol", text()), ("port", port())]);
    let client_ip = object([("clientIP", object([("timeoutSeconds", count())]))]);
    object([
        ("type", word(["ClusterSetIP", "Headless"])),
        ("ips", texts()),
        ("ipFamilies", texts()),
        ("ports", list(service_port)),
        ("sessionAffinity", text()),
        ("sessionAffinityConfig", client_ip),
        ("internalTrafficPolicy", text()),
        ("trafficDistribution", text()),
    ])
}
