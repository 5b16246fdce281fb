use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::service_profile::RetryLimit;
use super::*;

fn profile(spec: Value) -> ServiceProfile {
    let metadata = json!({"name": "web.shop.svc.cluster.local", "namespace": "shop"});
    ServiceProfile::from_value(&json!({"metadata": metadata, "spec": spec}))
}

fn errors(problems: &[Problem]) -> Vec<String> {
    problems.iter().filter(|problem| problem.is_error()).map(ToString::to_string).collect()
}

#[test]
fn a_profile_is_read_with_its_defaults() {
    let of = profile(json!({
        "routes": [
            {"name": "users", "condition": {"method": "GET", "pathRegex": "/api/users"}, "timeout": "300ms",
             "isRetryable": true, "responseClasses": [{"condition": {"status": {"min": 500, "max": 599}}, "isFailure": true}]},
            {"name": "rest", "condition": {"any": [{"method": "PUT"}, {"all": [{"pathRegex": "/a"}, {"not": {"method": "GET"}}]}]}},
        ],
        "dstOverrides": [{"authority": "web-v2.shop.svc.cluster.local:8080", "weight": "500m"}],
        "opaquePorts": ["25", 3306],
    }));
    assert!(of.validate().is_empty(), "{:?}", of.validate());
    let spec = &of.spec;
    assert_eq!((spec.routes[0].timeout(), spec.routes[1].timeout()), (Some(Duration::from_millis(300)), None));
    assert_eq!((spec.routes[0].class_of(503), spec.routes[0].class_of(200)), (Some(true), None));
    assert_eq!(spec.retry_limit(), RetryLimit { ratio: 0.2, min_per_second: 10, ttl: Duration::from_secs(10) });
    assert_eq!(spec.dst_overrides[0].host_and_port(), Some(("web-v2.shop.svc.cluster.local", Some(8080))));
    assert!(spec.is_opaque(25) && spec.is_opaque(3306) && !spec.is_opaque(80));
    let text = serde_json::to_string(spec).unwrap();
    assert_eq!(serde_json::from_str::<ServiceProfileSpec>(&text).unwrap(), *spec);
    assert!(profile(json!({})).validate().is_empty(), "an empty profile says nothing");
}

#[test]
fn a_negation_is_one_condition_or_a_list() {
    let not = |not: Value| {
        let of = profile(json!({"routes": [{"name": "a", "condition": {"not": not}}]}));
        assert!(of.validate().is_empty(), "{:?}", of.validate());
        of.spec.routes[0].condition.as_ref().unwrap().not.0.len()
    };
    assert_eq!((not(json!({"method": "GET"})), not(json!([{"method": "GET"}, {"method": "PUT"}]))), (1, 2));
}

#[test]
fn paths_are_anchored_once() {
    for (pattern, expected) in
        [("/a", "/a"), ("^/a$", "/a"), ("/a$", "/a"), ("^/a", "/a"), (r"/a\$", r"/a\$"), (r"/a\\$", r"/a\\")]
    {
        let of = RequestMatch { path_regex: pattern.to_owned(), ..RequestMatch::default() };
        assert_eq!(of.unanchored_path(), expected, "{pattern}");
    }
}

#[test]
fn invalid_profiles_are_refused_with_the_field() {
    let deep = (0..20).fold(json!({"method": "GET"}), |within, _| json!({"all": [within]}));
    let route = |condition: Value| json!({"routes": [{"name": "a", "condition": condition}]});
    let class = |condition: Value| json!({"routes": [{"name": "a", "condition": {"method": "GET"}, "responseClasses": [{"condition": condition}]}]});
    for (spec, expected) in [
        (json!({"routes": [{"name": "a"}]}), "spec.routes[0].condition: is missing"),
        (route(json!({})), "spec.routes[0].condition: is empty"),
        (route(json!({"any": [{}]})), "spec.routes[0].condition.any[0]: is empty"),
        (route(json!({"pathRegex": "("})), "spec.routes[0].condition.pathRegex: is not a regular expression"),
        (route(json!({"pathRegex": "/".repeat(1_025)})), "spec.routes[0].condition.pathRegex: has 1025"),
        (route(json!({"method": "G T"})), "spec.routes[0].condition.method: is \"G T\""),
        (route(deep), "spec.routes[0].condition.all[0]"),
        (route(json!({"any": vec![json!({"method": "GET"}); 5_000]})), "spec.routes[0].condition.any[4095]: is beyond"),
        (class(json!({"status": {"min": 99}})), "spec.routes[0].responseClasses[0].condition.status.min: is 99"),
        (class(json!({"status": {"min": 500, "max": 400}})), "spec.routes[0].responseClasses[0].condition.status.max"),
        (class(json!({"status": {}})), "spec.routes[0].responseClasses[0].condition.status: is empty"),
        (class(json!(null)), "spec.routes[0].responseClasses[0].condition: is missing"),
        (json!({"retryBudget": {"retryRatio": -1, "ttl": "10s"}}), "spec.retryBudget.retryRatio: is -1"),
        (json!({"retryBudget": {"retryRatio": 1}}), "spec.retryBudget.ttl: is \"\""),
        (json!({"retryBudget": {"retryRatio": 1, "ttl": "2h"}}), "spec.retryBudget.ttl: is \"2h\""),
        (json!({"dstOverrides": [{"authority": "a:x", "weight": 1}]}), "spec.dstOverrides[0].authority: is \"a:x\""),
        (json!({"dstOverrides": [{"authority": "a", "weight": "x"}]}), "spec.dstOverrides[0].weight: is \"x\""),
        (json!({"opaquePorts": ["mysql"]}), "spec.opaquePorts[0]: is \"mysql\""),
        (json!({"opaquePorts": vec![1; 257]}), "spec.opaquePorts: has 257 items"),
    ] {
        let found = errors(&profile(spec.clone()).validate());
        assert!(found.iter().any(|error| error.starts_with(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn what_linkerd_ignores_has_a_warning() {
    let route = json!({"name": "a", "condition": {"method": "GET"}, "timeout": "soon"});
    let problems = profile(json!({"routes": [route]})).validate();
    assert!(errors(&problems).is_empty() && problems[0].field == "spec.routes[0].timeout", "{problems:?}");
    let short = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {}});
    let problems = validate(GROUP, "ServiceProfile", &short);
    assert!(errors(&problems).is_empty() && problems[0].field == "metadata.name", "{problems:?}");
}

#[test]
fn responses_match_by_their_status() {
    let of = |condition: Value| -> Vec<u16> {
        let class = json!([{"condition": condition, "isFailure": true}]);
        let of = profile(json!({"routes": [{"name": "a", "condition": {"method": "GET"}, "responseClasses": class}]}));
        (100..600).filter(|status| of.spec.routes[0].class_of(*status) == Some(true)).collect()
    };
    assert_eq!(of(json!({"status": {"min": 503}})), [503], "one end alone is that status");
    assert_eq!(of(json!({"any": [{"status": {"min": 404, "max": 404}}, {"status": {"max": 429}}]})), [404, 429]);
    let but = json!({"all": [{"status": {"min": 500, "max": 503}}, {"not": {"status": {"min": 501, "max": 502}}}]});
    assert_eq!(of(but), [500, 503]);
}

#[test]
fn annotations_of_services_are_read() {
    let read = |pairs: &[(&str, &str)]| {
        let all: BTreeMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ServiceAnnotations::read(&all)
    };
    assert_eq!(read(&[("linkerd.io/inject", "enabled")]), None);
    let of = read(&[
        ("retry.linkerd.io/http", "gateway-error, 404,500-502"),
        ("retry.linkerd.io/grpc", "unavailable"),
        ("retry.linkerd.io/limit", "3"),
        ("retry.linkerd.io/timeout", "100ms"),
        ("timeout.linkerd.io/request", "2s"),
        ("timeout.linkerd.io/response", "1s"),
        ("balancer.linkerd.io/failure-accrual", "consecutive"),
        ("balancer.linkerd.io/failure-accrual-consecutive-max-failures", "3"),
    ])
    .unwrap();
    let mut on = of.retry_on.clone();
    on.sort_unstable();
    assert_eq!(on, ["404", "500", "501", "502", "gateway-error", "unavailable"]);
    assert_eq!((of.retry_limit, of.retry_timeout_ms, of.timeout_ms), (3, 100, 1_000));
    assert_eq!(of.accrual.unwrap(), annotations::FailureAccrual { max_failures: 3, ..Default::default() });
    assert!(of.problems.is_empty(), "{:?}", of.problems);
    for (key, value, part) in [
        ("retry.linkerd.io/http", "6xx", "is no status"),
        ("retry.linkerd.io/grpc", "nope", "is none of"),
        ("retry.linkerd.io/limit", "-1", "is no number"),
        ("timeout.linkerd.io/request", "soon", "is no duration"),
        ("timeout.linkerd.io/idle", "1s", "has no effect"),
        ("balancer.linkerd.io/failure-accrual", "unified", "has no effect"),
        ("retry.linkerd.io/other", "1", "has no effect"),
    ] {
        let of = read(&[(key, value)]).unwrap();
        assert!(of.problems[0].contains(part), "{key}: {:?}", of.problems);
    }
}
