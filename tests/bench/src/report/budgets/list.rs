//! The list of budgets.

use super::{Bound, Budget, FLOOR};

const PAIR: &[&str] = &["envoy"];
const ISTIO: &[&str] = &["istio"];
const GATEWAYS: &[&str] = &["haproxy", "haproxy (splice)", "nginx", "envoy"];

/// Scenario, metric, parts of the load.
type Subject = (&'static str, &'static str, &'static [&'static str]);

const fn budget(what: &'static str, (scenario, metric, load): Subject, bound: Bound) -> Budget {
    Budget { what, row: None, scenario, metric, load, bound }
}

impl Budget {
    /// The same budget, shown in a row of the page.
    const fn on_page(self, row: &'static str) -> Budget {
        Budget { row: Some(row), ..self }
    }
}

const fn ratio_to(peers: &'static [&'static str], at_most: f64) -> Bound {
    Bound::Ratio { peers, at_most }
}

const fn value(at_most: f64, unit: &'static str) -> Bound {
    Bound::Value { at_most, unit }
}

const PER_REQUEST: &str = "CPU per request";
const OTHER_PROTOCOLS: &str = "the same: 1 connection / HTTP/2, 256 streams / gRPC unary, 16 connections";
const CONTROLLER: &str = "controller memory per endpoint: 10,000 / 100,000 endpoints";
const FAILOVER: &str = "cluster lost: first success elsewhere / failed requests";

/// All budgets.
pub(super) const BUDGETS: &[Budget] = &[
    budget(
        "CPU per request of two sidecars with mutual TLS, authorization and metrics: HTTP/1.1 keep-alive, 1 KiB, 32 connections",
        ("sidecar", PER_REQUEST, &["HTTP/1.1 keep-alive", "1 KiB", "32 connections"]),
        ratio_to(PAIR, 0.30),
    )
    .on_page("two sidecars, CPU per request: HTTP/1.1, 32 connections"),
    budget(
        "the same at 1 connection",
        ("sidecar", PER_REQUEST, &["HTTP/1.1 keep-alive", "1 KiB", "1 connection"]),
        ratio_to(PAIR, 0.36),
    )
    .on_page(OTHER_PROTOCOLS),
    budget(
        "the same over HTTP/2, 256 streams on 16 connections",
        ("sidecar", PER_REQUEST, &["HTTP/2", "1 KiB", "256 streams on 16 connections"]),
        ratio_to(PAIR, 0.28),
    )
    .on_page(OTHER_PROTOCOLS),
    budget(
        "the same, gRPC unary on 16 connections",
        ("sidecar", PER_REQUEST, &["gRPC unary", "1 KiB", "16 connections"]),
        ratio_to(PAIR, 0.45),
    )
    .on_page(OTHER_PROTOCOLS),
    budget(
        "the same without authorization, with routes, retries, time limits and outlier detection of ten services, beside Envoy configured by istiod: 32 connections and 1",
        ("routes", PER_REQUEST, &["HTTP/1.1 keep-alive", "1 KiB"]),
        ratio_to(ISTIO, 0.36),
    )
    .on_page("the same without authorization, with routes, retries, time limits and outlier detection of ten services, beside Envoy under istiod"),
    budget(
        "latency that two sidecars add at a fixed rate, p50, HTTP/1.1",
        ("sidecar", "latency p50", &["HTTP/1.1 keep-alive"]),
        Bound::Added { peer: "envoy", at_most: 0.33 },
    )
    .on_page("two sidecars, added latency, p50"),
    budget(
        "latency that two sidecars add at a fixed rate, p99, HTTP/1.1",
        ("sidecar", "latency p99", &["HTTP/1.1 keep-alive"]),
        Bound::Added { peer: "envoy", at_most: 0.5 },
    )
    .on_page("two sidecars, added latency, p99"),
    budget("east-west gateway, CPU per GiB", ("gateway", "CPU per GiB", &[]), ratio_to(GATEWAYS, 0.7))
        .on_page("gateway, CPU per GiB"),
    budget(
        "east-west gateway, CPU per new connection",
        ("gateway", "CPU per connection", &[]),
        ratio_to(GATEWAYS, 1.0),
    )
    .on_page("gateway, CPU per new connection"),
    budget(
        "ingress gateway, CPU per request with the routes of ten hosts, beside Envoy configured by istiod: 32 connections and 1",
        ("ingress", PER_REQUEST, &["HTTP/1.1 keep-alive", "1 KiB"]),
        ratio_to(ISTIO, 0.4),
    ),
    budget(
        "ingress gateway, memory with 1,000 hosts and certificates",
        ("ingress", "resident memory", &["1000 hosts with certificates"]),
        value(64.0, "MiB"),
    ),
    budget(
        "sidecar memory, 10 services used of 10,000 in the mesh, without rules and each with a VirtualService and a DestinationRule",
        ("memory", "resident memory of the sidecar", &["10 services used of 10000"]),
        value(12.0, "MiB"),
    )
    .on_page("sidecar memory, 10 services used of 10,000, each with a VirtualService and a DestinationRule"),
    budget(
        "endpoint change in one cluster until a sidecar of another uses it, p99: 1,000 services, 10,000 endpoints, 200 proxies",
        ("control-plane", "change to arrival, p99", &["10000 endpoints in 2 clusters"]),
        value(100.0, "ms"),
    )
    .on_page("endpoint change until a sidecar in another cluster uses it, p99"),
    budget(
        "changed VirtualService until 200 sidecars that use its service have it, p99, in the same mesh with a VirtualService and a DestinationRule for each service",
        ("control-plane", "VirtualService change to arrival, p99", &["10000 endpoints in 2 clusters"]),
        value(100.0, "ms"),
    )
    .on_page("VirtualService change until 200 sidecars have it, p99"),
    budget(
        "new AuthorizationPolicy until 200 sidecars that it selects have it, p99, in the mesh of 1,000 services",
        ("control-plane", "new AuthorizationPolicy to arrival, p99", &["10000 endpoints in 2 clusters"]),
        value(100.0, "ms"),
    )
    .on_page("AuthorizationPolicy created until 200 sidecars have it, p99"),
    budget(
        "controller memory per endpoint beyond the idle process, 10,000 endpoints",
        ("control-plane", "resident memory per endpoint", &["10000 endpoints in 2 clusters"]),
        value(600.0, "bytes"),
    )
    .on_page(CONTROLLER),
    budget(
        "controller memory per endpoint beyond the idle process, 100,000 endpoints",
        ("control-plane", "resident memory per endpoint", &["100000 endpoints in 2 clusters"]),
        value(350.0, "bytes"),
    )
    .on_page(CONTROLLER),
    budget(
        "cluster lost: time until the first success elsewhere",
        ("failover", "cluster lost to first success elsewhere", &[]),
        value(1000.0, "ms"),
    )
    .on_page(FAILOVER),
    budget(
        "cluster lost: failed requests with retries on",
        ("failover", "failed requests", &[]),
        value(0.0, ""),
    )
    .on_page(FAILOVER),
    budget(
        "CPU per request of two sidecars at 1 connection, bodies up to 1 MiB, HTTP/1.1",
        ("sidecar", PER_REQUEST, &["HTTP/1.1 keep-alive", "1 connection"]),
        ratio_to(PAIR, 0.36),
    ),
    budget(
        "CPU per request of two sidecars at 32 connections beside the floor: the price of features",
        ("sidecar", PER_REQUEST, &["HTTP/1.1 keep-alive", "32 connections"]),
        ratio_to(FLOOR, 1.15),
    ),
    budget(
        "context switches per request in one sidecar",
        ("sidecar", "context switches per request", &["HTTP/1.1 keep-alive", "32 connections"]),
        value(0.2, ""),
    ),
    budget(
        "system calls per request in one sidecar",
        ("sidecar", "system calls per request", &["HTTP/1.1 keep-alive", "32 connections"]),
        value(6.0, ""),
    ),
    budget(
        "east-west gateway, memory per idle connection, of 10,000 or as many as the limit on open files allows",
        ("gateway", "resident memory per connection", &[]),
        value(16.0, "KiB"),
    ),
    budget(
        "gRPC streams of small messages at full speed that are reset",
        ("stream", "streams reset", &[]),
        value(0.0, ""),
    ),
    budget("failed requests of an hour of mixed load", ("soak", "failed requests", &[]), value(0.0, "")),
];
