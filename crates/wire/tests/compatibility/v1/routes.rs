//! Routes and policies of destinations.

use std::collections::BTreeMap;

use bytes::Bytes;
use isthmus_wire::discovery::{
    ClientMatch, ClientTls, ClientTlsMode, ConnectionPool, ConsistentHash, Cors, DestinationPolicy, DestinationSubset,
    DestinationVariant, DirectResponse, Distribute, Fault, FieldMatch, Forward, HashCookie, HashCookieAttribute,
    HeaderEdit, HeaderEdits, HttpMatch, HttpRoute, LoadBalancer, LoadBalancerAlgorithm, LocalityPolicy, Mirror,
    OutlierDetection, ProxyProtocol, Redirect, RegexRewrite, RegionFailover, RequestCondition, RequestConditions,
    ResponseClasses, Retries, RetryBudget, RetryTokens, Rewrite, RouteDestination, RouteTable, StatusRange,
    StringMatch, TcpKeepalive, TcpMatch, TcpRoute, TlsMatch, TlsRoute, TrafficPolicy, Tunnel, WarmUp, consistent_hash,
    http_route, redirect, request_condition, rewrite, string_match,
};

use super::names;

pub(super) fn route_table() -> RouteTable {
    RouteTable {
        source: "bookinfo/reviews".into(),
        http: vec![forwarding(), redirecting(), answering()],
        tls: vec![TlsRoute {
            matches: vec![TlsMatch {
                server_names: names(&["a.example.com", "*.b.example.com"]),
                destination_subnets: names(&["10.0.0.0/8"]),
                port: 443,
                client: Some(client()),
                ..Default::default()
            }],
            destinations: vec![destination("v1", 1)],
            ..Default::default()
        }],
        tcp: vec![TcpRoute {
            matches: vec![TcpMatch {
                destination_subnets: names(&["2001:db8::/32"]),
                source_subnet: "10.244.0.0/16".into(),
                port: 3306,
                client: Some(client()),
                ..Default::default()
            }],
            destinations: vec![destination("v1", 90), destination("v2", 10)],
            ..Default::default()
        }],
        source_kind: "ServiceProfile".into(),
        retry_tokens: Some(RetryTokens { ratio: 0.2, min_per_second: 10, ttl_ms: 10_000, ..Default::default() }),
        ..Default::default()
    }
}

fn forwarding() -> HttpRoute {
    HttpRoute {
        name: "canary".into(),
        matches: vec![every_condition()],
        request_headers: Some(edits()),
        response_headers: Some(edits()),
        cors: Some(Cors {
            allow_origins: vec![matching(string_match::Pattern::Exact("https://example.com".into()))],
            allow_methods: names(&["GET", "PUT"]),
            allow_headers: names(&["x-tenant"]),
            expose_headers: names(&["x-version"]),
            max_age_s: Some(86_400),
            allow_credentials: Some(true),
            ignore_unmatched_preflights: true,
            ..Default::default()
        }),
        fault: Some(Fault {
            delay_share: 100_000,
            delay_ms: 250,
            abort_share: 5_000,
            abort_http_status: 503,
            abort_grpc_status: Some(14),
            ..Default::default()
        }),
        response_classes: Some(ResponseClasses {
            failures: vec![StatusRange { first: 500, last: 599, ..Default::default() }],
            successes: vec![StatusRange { first: 404, last: 404, ..Default::default() }],
            ..Default::default()
        }),
        action: Some(http_route::Action::Forward(Forward {
            destinations: vec![destination("v1", 90), destination("v2", 10)],
            timeout_ms: 5_000,
            retries: Some(Retries {
                attempts: 2,
                per_try_timeout_ms: 800,
                retry_on: names(&["connect-failure", "503"]),
                backoff_ms: 40,
                same_hosts: true,
                remote_localities: true,
                budgeted: true,
                ..Default::default()
            }),
            rewrite: Some(Rewrite {
                authority: "reviews.example.com".into(),
                path: Some(rewrite::Path::Regex(RegexRewrite {
                    pattern: "^/v([0-9]+)/".into(),
                    substitution: r"/\1/".into(),
                    ..Default::default()
                })),
                ..Default::default()
            }),
            mirrors: vec![Mirror { destination: Some(destination("v3", 1)), share: 250_000, ..Default::default() }],
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// A match with every field and every pattern.
fn every_condition() -> HttpMatch {
    let request = |path: string_match::Pattern| RequestCondition {
        condition: Some(request_condition::Condition::Request(HttpMatch {
            path: Some(matching(path)),
            ..Default::default()
        })),
        ..Default::default()
    };
    let either = RequestConditions {
        conditions: vec![
            request(string_match::Pattern::PathPrefix("/a".into())),
            request(string_match::Pattern::Exact("/b".into())),
        ],
        ..Default::default()
    };
    let any = RequestCondition { condition: Some(request_condition::Condition::Any(either)), ..Default::default() };
    let not = RequestCondition {
        condition: Some(request_condition::Condition::Not(Box::new(any.clone()))),
        ..Default::default()
    };
    let all = RequestConditions { conditions: vec![any, not], ..Default::default() };
    HttpMatch {
        path: Some(StringMatch { ignore_case: true, ..matching(string_match::Pattern::Prefix("/Reviews".into())) }),
        scheme: Some(matching(string_match::Pattern::Exact("https".into()))),
        method: Some(matching(string_match::Pattern::Regex("GET|HEAD".into()))),
        authority: Some(matching(string_match::Pattern::Exact("reviews:80".into()))),
        headers: vec![field("x-user"), FieldMatch { invert: true, ..field("x-bot") }],
        query: vec![field("debug")],
        port: 80,
        client: Some(client()),
        stat_prefix: "canary".into(),
        further: vec![RequestCondition {
            condition: Some(request_condition::Condition::All(all)),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn redirecting() -> HttpRoute {
    HttpRoute {
        name: "moved".into(),
        action: Some(http_route::Action::Redirect(Redirect {
            uri: "/new".into(),
            prefix_rewrite: "/newer".into(),
            authority: "new.example.com".into(),
            scheme: "https".into(),
            code: 308,
            to_port: Some(redirect::ToPort::Port(8443)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn answering() -> HttpRoute {
    HttpRoute {
        name: "closed".into(),
        action: Some(http_route::Action::DirectResponse(DirectResponse {
            status: 503,
            body: Bytes::from_static(b"closed"),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn destination(subset: &str, weight: u32) -> RouteDestination {
    RouteDestination {
        host: "reviews.bookinfo.svc.cluster.local".into(),
        port: 9080,
        subset: subset.into(),
        weight,
        request_headers: Some(edits()),
        response_headers: Some(edits()),
        ..Default::default()
    }
}

fn edits() -> HeaderEdits {
    let edit = |name: &str, value: &str| HeaderEdit { name: name.into(), value: value.into(), ..Default::default() };
    HeaderEdits {
        set: vec![edit("x-peer", "%DOWNSTREAM_PEER_URI_SAN%")],
        add: vec![edit("via", "isthmus")],
        remove: names(&["x-internal"]),
        ..Default::default()
    }
}

pub(super) fn matching(pattern: string_match::Pattern) -> StringMatch {
    StringMatch { pattern: Some(pattern), ..Default::default() }
}

pub(super) fn field(name: &str) -> FieldMatch {
    let value = Some(matching(string_match::Pattern::Present(true)));
    FieldMatch { name: name.into(), value, ..Default::default() }
}

fn client() -> ClientMatch {
    ClientMatch {
        labels: BTreeMap::from([("app".into(), "frontend".into())]),
        namespace: "shop".into(),
        ..Default::default()
    }
}

pub(super) fn destination_policy() -> DestinationPolicy {
    DestinationPolicy {
        variants: vec![DestinationVariant {
            client: Some(client()),
            sources: names(&["bookinfo/reviews", "istio-system/default"]),
            policy: Some(every_policy()),
            ports: BTreeMap::from([(9080, hashing(consistent_hash::Key::SourceIp(true)))]),
            subsets: vec![DestinationSubset {
                name: "v2".into(),
                labels: BTreeMap::from([("version".into(), "v2".into())]),
                policy: Some(hashing(consistent_hash::Key::Header("x-user".into()))),
                ports: BTreeMap::from([(9090, hashing(consistent_hash::Key::QueryParameter("user".into())))]),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn hashing(key: consistent_hash::Key) -> TrafficPolicy {
    let algorithm = Some(consistent_hash::Algorithm::MaglevSize(65_537));
    let consistent_hash = Some(ConsistentHash { key: Some(key), algorithm, ..Default::default() });
    let load_balancer = Some(LoadBalancer { consistent_hash, ..Default::default() });
    TrafficPolicy { load_balancer, ..Default::default() }
}

/// A policy with every field.
fn every_policy() -> TrafficPolicy {
    TrafficPolicy {
        load_balancer: Some(load_balancer()),
        connection_pool: Some(connection_pool()),
        outlier_detection: Some(OutlierDetection {
            split_external_local_origin_errors: true,
            consecutive_local_origin_failures: Some(3),
            consecutive_gateway_errors: Some(0),
            consecutive_5xx_errors: Some(7),
            interval_ms: 10_000,
            base_ejection_time_ms: 30_000,
            max_ejection_percent: Some(50),
            min_health_percent: 20,
            ..Default::default()
        }),
        tls: Some(ClientTls {
            mode: ClientTlsMode::Mutual as i32,
            client_certificate: "/certs/client.pem".into(),
            private_key: "/certs/key.pem".into(),
            ca_certificates: "/certs/ca.pem".into(),
            ca_crl: "/certs/crl.pem".into(),
            subject_alt_names: names(&["reviews.example.com"]),
            sni: "reviews.example.com".into(),
            insecure_skip_verify: true,
            ..Default::default()
        }),
        tunnel: Some(Tunnel {
            post: true,
            target_host: "target.example.com".into(),
            target_port: 443,
            ..Default::default()
        }),
        proxy_protocol: Some(ProxyProtocol { version: 2, ..Default::default() }),
        retry_budget: Some(RetryBudget {
            percent: 25.0,
            min_retry_concurrency: 5,
            budget_interval_ms: 10_000,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn load_balancer() -> LoadBalancer {
    LoadBalancer {
        algorithm: LoadBalancerAlgorithm::RoundRobin as i32,
        consistent_hash: Some(ConsistentHash {
            key: Some(consistent_hash::Key::Cookie(HashCookie {
                name: "session".into(),
                path: "/".into(),
                ttl_ms: Some(0),
                attributes: vec![HashCookieAttribute {
                    name: "SameSite".into(),
                    value: "Lax".into(),
                    ..Default::default()
                }],
                ..Default::default()
            })),
            algorithm: Some(consistent_hash::Algorithm::RingSize(2_048)),
            ..Default::default()
        }),
        locality: Some(LocalityPolicy {
            disabled: true,
            distribute: vec![Distribute {
                from: "region-1/*".into(),
                to: BTreeMap::from([("region-1/*".into(), 80), ("region-2/*".into(), 20)]),
                ..Default::default()
            }],
            failover: vec![RegionFailover { from: "region-1".into(), to: "region-2".into(), ..Default::default() }],
            failover_priority: names(&["topology.istio.io/network", "topology.kubernetes.io/region"]),
            ..Default::default()
        }),
        warm_up: Some(WarmUp { duration_ms: 60_000, minimum_percent: 10.0, aggression: 1.5, ..Default::default() }),
        ..Default::default()
    }
}

fn connection_pool() -> ConnectionPool {
    ConnectionPool {
        max_connections: 100,
        connect_timeout_ms: 3_000,
        tcp_keepalive: Some(TcpKeepalive { probes: 3, time_s: 60, interval_s: 10, ..Default::default() }),
        max_connection_duration_ms: 3_600_000,
        tcp_idle_timeout_ms: Some(0),
        http1_max_pending_requests: Some(64),
        http2_max_requests: Some(1_000),
        max_requests_per_connection: 10,
        max_retries: Some(3),
        http_idle_timeout_ms: Some(30_000),
        h2_upgrade: Some(true),
        use_client_protocol: true,
        max_concurrent_streams: 200,
        http2_keepalive_interval_ms: 20_000,
        http2_keepalive_timeout_ms: 5_000,
        ..Default::default()
    }
}
