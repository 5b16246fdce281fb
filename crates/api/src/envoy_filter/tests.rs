use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::rate_limit::{ActionValue, Bucket, Condition, Limit, Side};

fn filter(patches: Value) -> EnvoyFilter {
    let selector = json!({"labels": {"app": "productpage"}});
    EnvoyFilter::from_value(&json!({"metadata": {"name": "f", "namespace": "istio-system"},
        "spec": {"workloadSelector": selector, "configPatches": patches}}))
}

fn problems(patches: Value) -> Vec<String> {
    filter(patches).validate().iter().map(ToString::to_string).collect()
}

/// The configuration of Istio's documentation.
fn local() -> Value {
    json!({
        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
        "type_url": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "value": {
            "stat_prefix": "http_local_rate_limiter",
            "token_bucket": {"max_tokens": 4, "tokens_per_fill": 4, "fill_interval": "60s"},
            "filter_enabled": {"runtime_key": "e", "default_value": {"numerator": 100, "denominator": "HUNDRED"}},
            "filter_enforced": {"runtime_key": "f", "default_value": {"numerator": 100, "denominator": "HUNDRED"}},
            "response_headers_to_add": [{"append": false, "header": {"key": "x-local-rate-limit", "value": "true"}}],
        },
    })
}

fn http_filter(context: &str, config: Value) -> Value {
    json!({
        "applyTo": "HTTP_FILTER",
        "match": {"context": context, "listener": {"filterChain": {"filter": {"name": "envoy.filters.network.http_connection_manager"}}}},
        "patch": {"operation": "INSERT_BEFORE", "value": {"name": "envoy.filters.http.local_ratelimit", "typed_config": config}},
    })
}

fn route(context: &str, host: &str, value: Value) -> Value {
    json!({
        "applyTo": "HTTP_ROUTE",
        "match": {"context": context, "routeConfiguration": {"vhost": {"name": host, "route": {"action": "ANY"}}}},
        "patch": {"operation": "MERGE", "value": value},
    })
}

#[test]
fn the_documented_local_limit_is_translated() {
    let filter = filter(json!([http_filter("SIDECAR_INBOUND", local())]));
    assert_eq!(filter.validate(), Vec::new());
    let (limits, _) = filter.spec.translate();
    let [rule] = limits.rules.as_slice() else { panic!("{limits:?}") };
    assert_eq!((rule.side, rule.enabled, rule.enforced), (Side::Inbound, 1_000_000, 1_000_000));
    assert_eq!(rule.response_headers, [("x-local-rate-limit".to_owned(), "true".to_owned(), false)]);
    let expected = Bucket { max_tokens: 4, tokens_per_fill: 4, fill_interval: Duration::from_secs(60) };
    assert!(matches!(rule.limit, Limit::Local { bucket: Some(of), .. } if of == expected), "{rule:?}");
    // The same message, without the wrapper and in the other form of names.
    let direct = json!({"@type": format!("type.googleapis.com/{}", filters::LOCAL),
        "tokenBucket": {"maxTokens": 4, "tokensPerFill": "4", "fillInterval": "60s"},
        "filterEnabled": {"defaultValue": {"numerator": 5, "denominator": "TEN_THOUSAND"}}});
    let (limits, problems) = self::filter(json!([http_filter("SIDECAR_INBOUND", direct)])).spec.translate();
    assert_eq!(problems, Vec::new());
    assert_eq!((limits.rules[0].enabled, limits.rules[0].enforced), (500, 0));
}

#[test]
fn the_limit_of_a_route_takes_the_place_of_that_of_the_filter() {
    let with = |host: &str| {
        let mut of_all = local();
        of_all["value"] = json!({"stat_prefix": "http_local_rate_limiter"});
        let of_route = json!({"typed_per_filter_config": {"envoy.filters.http.local_ratelimit": local()}});
        filter(json!([http_filter("SIDECAR_INBOUND", of_all), route("SIDECAR_INBOUND", host, of_route)]))
    };
    let filter = with("inbound|http|9080");
    assert_eq!(filter.validate(), Vec::new());
    let (limits, _) = filter.spec.translate();
    assert_eq!(limits.rules.len(), 1);
    assert_eq!(limits.rules[0].matches, [[Condition::any("destination.port", vec!["9080".into()])]]);
    let other = with("outbound|9080").validate();
    assert!(other.iter().any(|of| of.message.contains("no virtual host of a workload")), "{other:?}");
    assert!(!with("other").spec.has_effect());
}

#[test]
fn the_documented_global_limit_is_translated() {
    let service = |cluster: &str| {
        json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit",
            "domain": "ratelimit", "failure_mode_deny": true, "timeout": "10s",
            "rate_limit_service": {"transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": cluster, "authority": "ratelimit.default.svc.cluster.local"}}}})
    };
    let check = |patches: Value| {
        let (limits, problems) = filter(patches).spec.translate();
        assert_eq!(problems, Vec::new());
        let Limit::Global(global) = &limits.rules[0].limit else { panic!("{limits:?}") };
        assert_eq!((&*global.hostname, global.port), ("ratelimit.default.svc.cluster.local", 8081));
        assert_eq!((global.timeout, global.fail_closed), (Duration::from_secs(10), true));
        assert_eq!(limits.rules[0].side, Side::Gateway);
    };
    check(json!([http_filter("GATEWAY", service("outbound|8081||ratelimit.default.svc.cluster.local"))]));
    let cluster = json!({"applyTo": "CLUSTER", "match": {"cluster": {"service": "ratelimit.default.svc.cluster.local"}},
        "patch": {"operation": "ADD", "value": {"name": "rate_limit_cluster", "type": "STRICT_DNS", "connect_timeout": "10s",
            "load_assignment": {"cluster_name": "rate_limit_cluster", "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
                {"socket_address": {"address": "ratelimit.default.svc.cluster.local", "port_value": 8081}}}}]}]}}}});
    check(json!([http_filter("GATEWAY", service("rate_limit_cluster")), cluster]));
    let unknown = problems(json!([http_filter("GATEWAY", service("elsewhere"))]));
    assert!(unknown[0].contains("no CLUSTER patch of this object"), "{unknown:?}");

    let actions = json!({"rate_limits": [{"actions": [{"request_headers": {"header_name": ":path", "descriptor_key": "PATH"}}]}]});
    let mut of_hosts = route("GATEWAY", "*:80", actions);
    of_hosts["applyTo"] = json!("VIRTUAL_HOST");
    let (limits, problems) = filter(json!([of_hosts])).spec.translate();
    assert_eq!(problems, Vec::new());
    let [of] = limits.route_descriptors.as_slice() else { panic!("{limits:?}") };
    assert_eq!((of.matches.len(), &*of.descriptors[0].actions[0].key), (0, "PATH"));
    assert_eq!(of.descriptors[0].actions[0].value, ActionValue::Header(":path".into()));
}

#[test]
fn what_is_not_a_limit_has_no_effect_and_is_named() {
    let lua = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "inlineCode": "x"});
    for (patches, expected) in [
        (json!([http_filter("SIDECAR_INBOUND", lua)]), "spec.configPatches[0]: has no effect: no proxy is Envoy"),
        (
            json!([{"applyTo": "LISTENER", "patch": {"operation": "MERGE", "value": {}}}]),
            "spec.configPatches[0]: has no effect",
        ),
        (json!([http_filter("SIDECAR_OUTBOUND", local())]), "spec.configPatches[0].match.context: has no effect"),
        (
            json!([route("SIDECAR_INBOUND", "inbound|http|80", json!({"route": {"timeout": "1s"}}))]),
            "spec.configPatches[0]: has no effect",
        ),
    ] {
        assert!(!filter(patches.clone()).spec.has_effect());
        let found = problems(patches);
        assert!(found[0].starts_with(expected), "{found:?}");
    }
    let mut disabled = local();
    disabled["value"]["filter_enabled"] = Value::Null;
    assert!(problems(json!([http_filter("ANY", disabled)]))[0].contains("filter_enabled is unset"));
    let mut unknown = local();
    unknown["value"]["vh_rate_limits"] = json!("INCLUDE");
    let partly = filter(json!([http_filter("SIDECAR_INBOUND", unknown)]));
    assert!(partly.spec.has_effect());
    assert_eq!(partly.validate()[0].field, "spec.configPatches[0].patch.value.typed_config.vh_rate_limits");
    let mut bad = local();
    bad["value"]["token_bucket"]["max_tokens"] = json!(-1);
    assert!(problems(json!([http_filter("SIDECAR_INBOUND", bad)]))[0].contains("token_bucket: has no effect"));
}
