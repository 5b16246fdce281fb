//! DestinationRule (`networking.istio.io`).

use serde_json::Value;

use super::schema::{
    boolean, count, duration, integer_or_text, list, map, number, object, object_with, port, selector, text, texts,
    tolerated, word,
};

pub(super) fn destination_rule() -> Value {
    object_with([
        ("host", text()),
        ("trafficPolicy", traffic_policy()),
        (
            "subsets",
            list(object_with([("name", text()), ("labels", map(text())), ("trafficPolicy", traffic_policy())])),
        ),
        ("exportTo", texts()),
        ("workloadSelector", selector()),
    ])
}

fn traffic_policy() -> Value {
    object([
        ("loadBalancer", load_balancer()),
        ("connectionPool", connection_pool()),
        ("outlierDetection", outlier_detection()),
        ("tls", client_tls()),
        ("portLevelSettings", list(of_a_port())),
        ("tunnel", object([("protocol", text()), ("targetHost", text()), ("targetPort", port())])),
        ("proxyProtocol", object([("version", word(["V1", "V2"]))])),
        (
            "retryBudget",
            object([("percent", number()), ("minRetryConcurrency", count()), ("budgetInterval", duration())]),
        ),
    ])
}

fn of_a_port() -> Value {
    object([
        ("port", object([("number", port())])),
        ("loadBalancer", load_balancer()),
        ("connectionPool", connection_pool()),
        ("outlierDetection", outlier_detection()),
        ("tls", client_tls()),
    ])
}

fn load_balancer() -> Value {
    let simple = word(["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"]);
    object([
        ("simple", simple),
        ("consistentHash", consistent_hash()),
        ("localityLbSetting", locality()),
        ("zoneAwareLbSetting", zone_aware()),
        ("warmup", object([("duration", duration()), ("minimumPercent", number()), ("aggression", number())])),
        ("warmupDurationSecs", duration()),
    ])
}

fn consistent_hash() -> Value {
    let attributes = list(object([("name", text()), ("value", text())]));
    let cookie = object([("name", text()), ("path", text()), ("ttl", duration()), ("attributes", attributes)]);
    object([
        ("httpHeaderName", text()),
        ("httpCookie", cookie),
        ("useSourceIp", boolean()),
        ("httpQueryParameterName", text()),
        ("ringHash", object([("minimumRingSize", count())])),
        ("maglev", object([("tableSize", count())])),
        ("minimumRingSize", count()),
    ])
}

fn locality() -> Value {
    object([
        ("distribute", list(object([("from", text()), ("to", map(count()))]))),
        ("failover", list(object([("from", text()), ("to", text())]))),
        ("failoverPriority", texts()),
        ("enabled", boolean()),
    ])
}

fn zone_aware() -> Value {
    object([
        ("enabled", boolean()),
        ("failover", list(object([("from", text()), ("to", text())]))),
        ("failoverPriority", texts()),
        ("minClusterSize", count()),
    ])
}

/// `connectionPool`, which Sidecars have as well.
pub(super) fn connection_pool() -> Value {
    let keepalive = object([("probes", count()), ("time", duration()), ("interval", duration())]);
    let tcp = object([
        ("maxConnections", count()),
        ("connectTimeout", duration()),
        ("tcpKeepalive", keepalive),
        ("maxConnectionDuration", duration()),
        ("idleTimeout", duration()),
    ]);
    let http = object([
        ("http1MaxPendingRequests", count()),
        ("http2MaxRequests", count()),
        ("maxRequestsPerConnection", count()),
        ("maxRetries", count()),
        ("idleTimeout", duration()),
        ("h2UpgradePolicy", word(["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"])),
        ("useClientProtocol", boolean()),
        ("maxConcurrentStreams", count()),
        ("http2KeepAlive", object([("interval", duration()), ("timeout", duration())])),
    ]);
    object([("tcp", tcp), ("http", http)])
}

fn outlier_detection() -> Value {
    object([
        ("consecutiveErrors", tolerated()),
        ("minRequestVolume", tolerated()),
        ("splitExternalLocalOriginErrors", boolean()),
        ("consecutiveLocalOriginFailures", count()),
        ("consecutiveGatewayErrors", count()),
        ("consecutive5xxErrors", count()),
        ("interval", duration()),
        ("baseEjectionTime", duration()),
        ("maxEjectionPercent", count()),
        ("minHealthPercent", count()),
        ("outlierDetectionHttpErrorCodes", list(integer_or_text())),
    ])
}

fn client_tls() -> Value {
    object([
        ("mode", word(["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"])),
        ("clientCertificate", text()),
        ("privateKey", text()),
        ("caCertificates", text()),
        ("credentialName", text()),
        ("subjectAltNames", texts()),
        ("sni", text()),
        ("insecureSkipVerify", boolean()),
        ("caCrl", text()),
    ])
}
