//! VirtualService (`networking.istio.io`).

use serde_json::Value;

use super::schema::{
    boolean, count, duration, list, map, number, object, object_with, port, text, texts, tolerated, word,
};

pub(super) fn virtual_service() -> Value {
    object([
        ("hosts", texts()),
        ("gateways", texts()),
        ("http", list(http_route())),
        ("tls", list(object([("match", list(tls_match())), ("route", list(weighted()))]))),
        ("tcp", list(object([("match", list(tcp_match())), ("route", list(weighted()))]))),
        ("exportTo", texts()),
    ])
}

fn http_route() -> Value {
    object([
        ("name", text()),
        ("match", list(http_match())),
        ("route", list(object([("destination", destination()), ("weight", count()), ("headers", headers())]))),
        ("redirect", redirect()),
        ("directResponse", object([("status", count()), ("body", object([("string", text()), ("bytes", text())]))])),
        ("delegate", object([("name", text()), ("namespace", text())])),
        ("rewrite", rewrite()),
        ("timeout", duration()),
        ("retries", retries()),
        ("fault", fault()),
        ("mirror", destination()),
        ("mirrors", list(object([("destination", destination()), ("percentage", percentage())]))),
        ("mirrorPercent", count()),
        ("mirror_percent", count()),
        ("mirrorPercentage", percentage()),
        ("corsPolicy", cors_policy()),
        ("headers", headers()),
        ("websocketUpgrade", tolerated()),
        ("appendHeaders", tolerated()),
        ("appendRequestHeaders", tolerated()),
        ("removeRequestHeaders", tolerated()),
        ("appendResponseHeaders", tolerated()),
        ("removeResponseHeaders", tolerated()),
    ])
}

fn http_match() -> Value {
    object([
        ("name", text()),
        ("uri", text_match()),
        ("scheme", text_match()),
        ("method", text_match()),
        ("authority", text_match()),
        ("headers", map(text_match())),
        ("withoutHeaders", map(text_match())),
        ("port", port()),
        ("sourceLabels", map(text())),
        ("sourceNamespace", text()),
        ("gateways", texts()),
        ("queryParams", map(text_match())),
        ("ignoreUriCase", boolean()),
        ("statPrefix", text()),
    ])
}

fn tls_match() -> Value {
    object([
        ("sniHosts", texts()),
        ("destinationSubnets", texts()),
        ("port", port()),
        ("sourceLabels", map(text())),
        ("sourceNamespace", text()),
        ("gateways", texts()),
    ])
}

fn tcp_match() -> Value {
    object([
        ("destinationSubnets", texts()),
        ("port", port()),
        ("sourceSubnet", text()),
        ("sourceLabels", map(text())),
        ("sourceNamespace", text()),
        ("gateways", texts()),
    ])
}

fn text_match() -> Value {
    object([("exact", text()), ("prefix", text()), ("regex", text())])
}

fn destination() -> Value {
    object_with([("host", text()), ("subset", text()), ("port", object([("number", port())]))])
}

fn weighted() -> Value {
    object([("destination", destination()), ("weight", count())])
}

fn headers() -> Value {
    let changes = || object([("set", map(text())), ("add", map(text())), ("remove", texts())]);
    object([("request", changes()), ("response", changes())])
}

fn redirect() -> Value {
    object([
        ("uri", text()),
        ("prefixRewrite", text()),
        ("authority", text()),
        ("port", port()),
        ("derivePort", word(["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"])),
        ("scheme", text()),
        ("redirectCode", count()),
    ])
}

fn rewrite() -> Value {
    let by_expression = object([("match", text()), ("rewrite", text())]);
    object([("uri", text()), ("authority", text()), ("uriRegexRewrite", by_expression)])
}

fn retries() -> Value {
    object([
        ("attempts", count()),
        ("perTryTimeout", duration()),
        ("retryOn", text()),
        ("retryRemoteLocalities", boolean()),
        ("retryIgnorePreviousHosts", boolean()),
        ("backoff", duration()),
    ])
}

fn fault() -> Value {
    let delay = object([
        ("fixedDelay", duration()),
        ("exponentialDelay", duration()),
        ("percentage", percentage()),
        ("percent", count()),
    ]);
    let abort = object([
        ("httpStatus", count()),
        ("grpcStatus", text()),
        ("http2Error", text()),
        ("percentage", percentage()),
        ("percent", count()),
    ]);
    object([("delay", delay), ("abort", abort)])
}

fn percentage() -> Value {
    object([("value", number())])
}

fn cors_policy() -> Value {
    object([
        ("allowOrigin", texts()),
        ("allowOrigins", list(text_match())),
        ("allowMethods", texts()),
        ("allowHeaders", texts()),
        ("exposeHeaders", texts()),
        ("maxAge", duration()),
        ("allowCredentials", boolean()),
        ("unmatchedPreflights", word(["UNSPECIFIED", "FORWARD", "IGNORE"])),
    ])
}
