//! Rate limits, scopes, and policies that ask a server.

use std::collections::BTreeMap;

use isthmus_wire::discovery::{
    AuthorizationPolicy, AuthorizationRule, AuthorizationSource, CheckedBody, Condition, DescriptorEntry,
    DescriptorLimit, EgressProxy, ExternalAuthorization, GlobalLimit, HeaderValueMatch, HostPattern, HttpCheck,
    LocalLimit, PolicyAction, RateLimit, RateLimitAction, RateLimitAddress, RateLimitCondition, RateLimitDescriptor,
    RateLimitHeader, RateLimitMatch, RateLimitRule, RateLimitSide, RouteDescriptors, Scope, ScopeListener, TokenBucket,
    rate_limit_action, rate_limit_rule,
};

use super::routes::field;
use super::{names, values};

pub(super) fn rate_limit() -> RateLimit {
    RateLimit {
        name: "RateLimit/shop/api".into(),
        rules: vec![
            local_rule(),
            RateLimitRule {
                side: RateLimitSide::Gateway as i32,
                limit: Some(rate_limit_rule::Limit::Global(GlobalLimit {
                    hostname: "ratelimit.istio-system.svc.cluster.local".into(),
                    port: 8081,
                    domain: "edge".into(),
                    timeout_ms: 20,
                    fail_closed: true,
                    status_on_error: 503,
                    without_marker: true,
                    ..Default::default()
                })),
                ..Default::default()
            },
        ],
        route_descriptors: vec![RouteDescriptors {
            side: RateLimitSide::Outbound as i32,
            matches: vec![condition()],
            descriptors: vec![descriptor()],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn local_rule() -> RateLimitRule {
    let bucket = TokenBucket { max_tokens: 100, tokens_per_fill: 10, fill_interval_us: 250_000, ..Default::default() };
    let entry = |value: Option<&str>| DescriptorEntry {
        key: "user".into(),
        value: value.map(str::to_owned),
        ..Default::default()
    };
    RateLimitRule {
        side: RateLimitSide::Inbound as i32,
        matches: vec![condition()],
        alternative: 1,
        enabled_ppm: 1_000_000,
        enforced_ppm: 500_000,
        descriptors: vec![descriptor()],
        uses_route_descriptors: true,
        stage: 2,
        limit: Some(rate_limit_rule::Limit::Local(LocalLimit {
            bucket: Some(bucket),
            descriptors: vec![DescriptorLimit {
                entries: vec![entry(Some("")), entry(None)],
                bucket: Some(bucket),
                ..Default::default()
            }],
            bucket_of_others: true,
            per_connection: true,
            ..Default::default()
        })),
        status: 430,
        response_headers: vec![RateLimitHeader {
            name: "x-limited".into(),
            value: "yes".into(),
            append: true,
            ..Default::default()
        }],
        quota_headers: true,
        retry_after: true,
        resource_exhausted: true,
        ..Default::default()
    }
}

fn condition() -> RateLimitMatch {
    RateLimitMatch {
        conditions: vec![RateLimitCondition {
            attribute: "request.path".into(),
            any_of: names(&["/api/*"]),
            none_of: names(&["/api/health"]),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A descriptor with every action.
fn descriptor() -> RateLimitDescriptor {
    let action = |key: &str, value| RateLimitAction {
        key: key.into(),
        skip_if_absent: true,
        value: Some(value),
        ..Default::default()
    };
    let address = RateLimitAddress { v4_bits: 24, v6_bits: 64, ..Default::default() };
    let header_value = HeaderValueMatch {
        value: "mobile".into(),
        headers: vec![field("x-mobile")],
        invert: true,
        ..Default::default()
    };
    RateLimitDescriptor {
        actions: vec![
            action("all", rate_limit_action::Value::Constant("yes".into())),
            action("user", rate_limit_action::Value::Header("x-user".into())),
            action("tenant", rate_limit_action::Value::QueryParameter("tenant".into())),
            action("", rate_limit_action::Value::RemoteAddress(address)),
            action("device", rate_limit_action::Value::HeaderValueMatch(header_value)),
            action("path", rate_limit_action::Value::Path(true)),
            action("peer", rate_limit_action::Value::SourceIdentity(true)),
            action("", rate_limit_action::Value::SourceCluster(true)),
            action("", rate_limit_action::Value::DestinationCluster(true)),
        ],
        stage: 2,
        ..Default::default()
    }
}

pub(super) fn scope() -> Scope {
    let pattern = |namespace: &str, host: &str, exclude| HostPattern {
        namespace: namespace.into(),
        host: host.into(),
        exclude,
        ..Default::default()
    };
    Scope {
        source: "bookinfo/default".into(),
        listeners: vec![
            ScopeListener {
                port: 9080,
                hosts: vec![pattern(".", "*", false), pattern("*", "*.example.com", true)],
                ..Default::default()
            },
            ScopeListener { hosts: vec![pattern("istio-system", "*", false)], ..Default::default() },
        ],
        registry_only: Some(false),
        egress_proxy: Some(EgressProxy {
            hostname: "egress.istio-system.svc.cluster.local".into(),
            port: 80,
            subset: "v1".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A policy with the fields that policies of requests in plaintext, of tokens and of servers have.
pub(super) fn custom_policy() -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: "bookinfo/external".into(),
        action: PolicyAction::Custom as i32,
        rules: vec![AuthorizationRule {
            from: vec![AuthorizationSource {
                service_accounts: values(&["bookinfo/reviews"], &["bookinfo/default"]),
                trust_domains: values(&["mesh.example"], &["old.example"]),
                request_principals: values(&["https://issuer.example/*"], &["*/guest"]),
                remote_ip_blocks: values(&["198.51.100.0/24"], &["198.51.100.7"]),
                ..Default::default()
            }],
            conditions: vec![Condition {
                key: "request.auth.claims[group]".into(),
                value: values(&["admin"], &["intern"]),
                ..Default::default()
            }],
            ..Default::default()
        }],
        dry_run: true,
        provider: "opa".into(),
        external: Some(ExternalAuthorization {
            hostname: "opa.opa.svc.cluster.local".into(),
            port: 9191,
            timeout_ms: 500,
            fail_open: true,
            status_on_error: 503,
            body: Some(CheckedBody {
                max_bytes: 8_192,
                allow_partial: true,
                pack_as_bytes: true,
                ..Default::default()
            }),
            http: Some(HttpCheck {
                path_prefix: "/check".into(),
                request_headers: names(&["cookie", "x-*"]),
                added_headers: BTreeMap::from([("x-mesh".into(), "mesh1".into())]),
                upstream_on_allow: names(&["x-user"]),
                downstream_on_deny: names(&["www-authenticate"]),
                downstream_on_allow: names(&["set-cookie"]),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
