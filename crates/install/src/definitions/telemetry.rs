//! Telemetry (`telemetry.istio.io`).

use serde_json::Value;

use super::schema::{boolean, duration, list, map, number, object, selector, target, text, tolerated, word};

const METRICS: [&str; 11] = [
    "ALL_METRICS",
    "REQUEST_COUNT",
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_OPENED_CONNECTIONS",
    "TCP_CLOSED_CONNECTIONS",
    "TCP_SENT_BYTES",
    "TCP_RECEIVED_BYTES",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
];

pub(super) fn telemetry() -> Value {
    object([
        ("selector", selector()),
        ("targetRef", target()),
        ("targetRefs", list(target())),
        ("tracing", list(tracing())),
        ("metrics", list(metrics())),
        ("accessLogging", list(access_logging())),
    ])
}

fn tracing() -> Value {
    let tag = object([
        ("literal", object([("value", text())])),
        ("environment", object([("name", text()), ("defaultValue", text())])),
        ("header", object([("name", text()), ("defaultValue", text())])),
        ("formatter", object([("value", text())])),
    ]);
    object([
        ("match", object([("mode", mode())])),
        ("providers", providers()),
        ("randomSamplingPercentage", number()),
        ("disableSpanReporting", boolean()),
        ("customTags", map(tag)),
        ("useRequestIdForTraceSampling", boolean()),
        ("enableIstioTags", boolean()),
        ("disableContextPropagation", boolean()),
    ])
}

fn metrics() -> Value {
    let tag = object([("operation", word(["UPSERT", "REMOVE"])), ("value", text())]);
    let metric = object([("metric", word(METRICS)), ("customMetric", text()), ("mode", mode())]);
    let override_ = object([("match", metric), ("disabled", boolean()), ("tagOverrides", map(tag))]);
    object([
        ("providers", providers()),
        ("overrides", list(override_)),
        ("reportingInterval", duration()),
        ("dimensions", tolerated()),
    ])
}

fn access_logging() -> Value {
    object([
        ("match", object([("mode", mode())])),
        ("providers", providers()),
        ("disabled", boolean()),
        ("filter", object([("expression", text())])),
    ])
}

fn mode() -> Value {
    word(["CLIENT_AND_SERVER", "CLIENT", "SERVER"])
}

fn providers() -> Value {
    list(object([("name", text())]))
}
