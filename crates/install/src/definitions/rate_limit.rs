//! The mesh's own RateLimit (`federation.isthmus.dev`), and Linkerd's HTTPLocalRateLimitPolicy with its Server.

use serde_json::Value;

use super::schema::{boolean, count, duration, integer_or_text, list, map, object, selector, text, texts, word};

pub(super) fn rate_limit() -> Value {
    let requests = object([
        ("paths", texts()),
        ("methods", texts()),
        ("hosts", texts()),
        ("headers", map(texts())),
        ("principals", texts()),
        ("namespaces", texts()),
        ("clusters", texts()),
        ("ipBlocks", texts()),
        ("ports", texts()),
    ]);
    let key = object([
        ("header", text()),
        ("queryParameter", text()),
        ("source", word(["NONE", "PATH", "METHOD", "IDENTITY", "ADDRESS"])),
    ]);
    let rule = object([
        ("name", text()),
        ("match", list(requests)),
        ("key", list(key)),
        ("requests", integer_or_text()),
        ("unit", word(["SECOND", "MINUTE", "HOUR", "DAY"])),
        ("burst", integer_or_text()),
    ]);
    let global = object([
        ("host", text()),
        ("port", integer_or_text()),
        ("domain", text()),
        ("timeout", duration()),
        ("failClosed", boolean()),
    ]);
    object([
        ("selector", selector()),
        ("rules", list(rule)),
        ("global", global),
        ("mode", word(["ENFORCE", "SHADOW"])),
        ("headers", boolean()),
    ])
}

pub(super) fn server() -> Value {
    let expression = object([("key", text()), ("operator", text()), ("values", texts())]);
    let pods = || object([("matchLabels", map(text())), ("matchExpressions", list(expression.clone()))]);
    object([
        ("podSelector", pods()),
        ("externalWorkloadSelector", pods()),
        ("port", integer_or_text()),
        ("proxyProtocol", text()),
        ("accessPolicy", text()),
    ])
}

pub(super) fn local_policy() -> Value {
    let rate = || object([("requestsPerSecond", count())]);
    let client = object([("group", text()), ("kind", text()), ("namespace", text()), ("name", text())]);
    object([
        ("targetRef", object([("group", text()), ("kind", text()), ("name", text())])),
        ("total", rate()),
        ("identity", rate()),
        ("overrides", list(object([("requestsPerSecond", count()), ("clientRefs", list(client))]))),
    ])
}
