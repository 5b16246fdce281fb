//! Tests of SMI's and Linkerd's rules, as they reach proxies.

use api::linkerd::{ServiceAnnotations, ServiceProfile as ServiceProfileObject};
use api::smi::{HttpRouteGroup as HttpRouteGroupObject, TrafficSplit as TrafficSplitObject};
use serde_json::{Value, json};
use wire::discovery::http_route::Action;

use super::rules::{REVIEWS, virtual_service};
use super::*;

const RATINGS: &str = "ratings.default.svc.cluster.local";

fn object(namespace: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"});
    json!({"metadata": metadata, "spec": spec})
}

pub(super) fn split(namespace: &str, name: &str, spec: Value) -> TrafficSplit {
    TrafficSplit::extract(TrafficSplitObject::from_value(&object(namespace, name, spec))).unwrap()
}

fn group(namespace: &str, name: &str, matches: Value) -> HttpRouteGroup {
    let object = object(namespace, name, json!({"matches": matches}));
    HttpRouteGroup::extract(HttpRouteGroupObject::from_value(&object)).unwrap()
}

fn profile(namespace: &str, name: &str, spec: Value) -> ServiceProfile {
    ServiceProfile::extract(ServiceProfileObject::from_value(&object(namespace, name, spec))).unwrap()
}

/// An object of random histories: a TrafficSplit, an HTTPRouteGroup, a ServiceProfile, or a Service with annotations.
pub(super) fn random(kind: u8, name: usize, other: usize, namespace: usize, variant: u8) -> Object {
    let (service, other) = (NAMES[name], NAMES[other]);
    match kind {
        0 => {
            let backends = json!([{"service": other, "weight": 1}, {"service": service, "weight": variant % 3}]);
            let matches = if variant > 5 { json!([{"kind": "HTTPRouteGroup", "name": other}]) } else { json!([]) };
            let spec = json!({"service": service, "backends": backends, "matches": matches});
            let split = split(NAMESPACES[namespace], &format!("{service}-{}", variant % 2), spec);
            Object::TrafficSplit(TrafficSplit { created: variant.into(), ..split })
        }
        1 => Object::HttpRouteGroup(group(
            "default",
            service,
            json!([{"methods": ["GET"], "name": variant.to_string()}]),
        )),
        2 => {
            let routes =
                json!([{"name": "a", "condition": {"pathRegex": "/a"}, "isRetryable": variant.is_multiple_of(2)}]);
            let overrides = json!([{"authority": format!("{other}.default.svc.cluster.local"), "weight": 1}]);
            let spec = match variant % 4 {
                0 => json!({"routes": routes}),
                1 => json!({"dstOverrides": overrides}),
                2 => json!({"routes": routes, "opaquePorts": ["9080"]}),
                _ => json!({"routes": [{"name": "b"}]}),
            };
            let host = format!("{service}.default.svc.cluster.local");
            Object::ServiceProfile(profile(NAMESPACES[namespace], &host, spec))
        }
        _ => {
            let key = ["retry.linkerd.io/http", "timeout.linkerd.io/request"][usize::from(variant % 2)];
            let annotations = [(key.to_owned(), ["5xx", "3s"][usize::from(variant % 2)].to_owned())].into();
            let linkerd = ServiceAnnotations::read(&annotations).map(Arc::new);
            Object::Service(Service { linkerd, ..super::service(service, 1) })
        }
    }
}

/// Returns the kind, namespace and name of an object of [`random`].
pub(super) fn random_key(kind: u8, name: usize, namespace: usize, variant: u8) -> (Kind, &'static str, String) {
    let service = NAMES[name];
    match kind {
        0 => (Kind::TrafficSplit, NAMESPACES[namespace], format!("{service}-{}", variant % 2)),
        1 => (Kind::HttpRouteGroup, "default", service.to_owned()),
        2 => (Kind::ServiceProfile, NAMESPACES[namespace], format!("{service}.default.svc.cluster.local")),
        _ => (Kind::Service, "default", service.to_owned()),
    }
}

/// Returns the destinations of a route with their weights.
fn destinations(route: &discovery::HttpRoute) -> Vec<(&str, u32, u32)> {
    let Some(Action::Forward(forward)) = &route.action else { panic!("{route:?}") };
    forward.destinations.iter().map(|to| (&*to.host, to.port, to.weight)).collect()
}

impl World {
    #[track_caller]
    fn has_notice(&self, kind: Kind, text: &str) {
        let found = self.rule_notices().iter().any(|of| of.kind == kind && of.text.contains(text));
        assert!(found, "{text:?} is not in {:#?}", self.rule_notices());
    }
}

#[test]
fn a_split_has_the_weights_of_its_backends_also_of_another_cluster() {
    // The services are in east, and the split in the primary cluster.
    let mut world = World::services(&["reviews", "ratings", "details"]);
    let spec = json!({"service": "reviews", "backends": [
        {"service": "ratings", "weight": "900m"}, {"service": "details", "weight": "100m"}]});
    world.put("west", Object::TrafficSplit(split("default", "canary", spec)));
    world.compile();
    let table = world.table("shop", REVIEWS).unwrap();
    assert_eq!((&*table.source, &*table.source_kind, table.http.len()), ("default/canary", "TrafficSplit", 1));
    let expected = vec![(RATINGS, 0, 9), ("details.default.svc.cluster.local", 0, 1)];
    assert_eq!(destinations(&table.http[0]), expected);
    assert_eq!((table.tcp.len(), table.tcp[0].destinations.len()), (1, 2), "connections are split as well");
    assert!(world.rule_notices().is_empty(), "{:?}", world.rule_notices());

    // A backend that is gone receives nothing, until it is there again.
    world.delete("east", Kind::Service, "default", "details");
    world.compile();
    assert_eq!(destinations(&world.table("shop", REVIEWS).unwrap().http[0]), [(RATINGS, 0, 1)]);
    world.has_notice(Kind::TrafficSplit, "no service of the mesh has host details");
    world.put("east", Object::Service(service("details", 3)));
    world.compile();
    assert_eq!(destinations(&world.table("shop", REVIEWS).unwrap().http[0]), expected);
    world.delete("west", Kind::TrafficSplit, "default", "canary");
    world.compile();
    assert!(world.table("shop", REVIEWS).is_none() && world.rule_notices().is_empty());
}

#[test]
fn a_backend_receives_what_is_for_the_ports_that_it_shares() {
    let mut world = World::services(&["reviews", "ratings", "details"]);
    let port = |number: u16| ServicePort { name: number.to_string().into(), number, ..ServicePort::default() };
    let with = |name: &str, ip, ports: &[u16]| {
        Object::Service(Service { ports: ports.iter().map(|of| port(*of)).collect(), ..service(name, ip) })
    };
    world.put("east", with("reviews", 1, &[80, 81]));
    world.put("east", with("ratings", 2, &[80]));
    world.put("east", with("details", 3, &[8080]));
    let spec = json!({"service": "reviews", "backends": [
        {"service": "ratings", "weight": 1}, {"service": "details", "weight": 1}]});
    world.put("west", Object::TrafficSplit(split("default", "canary", spec)));
    world.compile();
    let table = world.table("shop", REVIEWS).unwrap();
    let routes: Vec<_> = table.http.iter().map(|route| (route.matches[0].port, destinations(route))).collect();
    assert_eq!(routes, [(80, vec![(RATINGS, 0, 1)]), (81, vec![(REVIEWS, 0, 1)])]);
    assert_eq!(table.tcp.len(), 1, "connections to port 81 go to the service itself");
    world.has_notice(Kind::TrafficSplit, "backends[0]: ratings.default.svc.cluster.local has no port 81 of");
    world.has_notice(Kind::TrafficSplit, "backends[1]: details.default.svc.cluster.local has no port 80, 81 of");
}

#[test]
fn requests_that_no_group_matches_go_to_the_root_service() {
    let mut world = World::services(&["reviews", "ratings"]);
    let spec = json!({"service": "reviews", "matches": [{"kind": "HTTPRouteGroup", "name": "beta"}],
        "backends": [{"service": "ratings", "weight": 1}]});
    world.put("west", Object::TrafficSplit(split("default", "beta", spec)));
    world.compile();
    assert!(world.table("shop", REVIEWS).is_none());
    world.has_notice(Kind::TrafficSplit, "no valid HTTPRouteGroup default/beta");
    let matches = json!([{"name": "a", "methods": ["GET", "HEAD"]}, {"name": "b", "headers": {"x-beta": "1"}}]);
    world.put("west", Object::HttpRouteGroup(group("default", "beta", matches)));
    assert_eq!(world.compile(), 1);
    let table = world.table("shop", REVIEWS).unwrap();
    let routes: Vec<_> = table.http.iter().map(|route| (route.matches.len(), destinations(route))).collect();
    assert_eq!(routes, [(3, vec![(RATINGS, 0, 1)]), (0, vec![(REVIEWS, 0, 1)])]);
    assert!(table.tcp.is_empty() && world.rule_notices().is_empty());
}

#[test]
fn a_virtual_service_takes_precedence_over_splits_and_profiles_for_those_who_see_it() {
    let mut world = World::services(&["reviews", "ratings"]);
    let spec = json!({"service": "reviews", "backends": [{"service": "ratings", "weight": 1}]});
    world.put("west", Object::TrafficSplit(split("default", "canary", spec)));
    let routes = json!({"routes": [{"name": "a", "condition": {"method": "GET"}}]});
    world.put("west", Object::ServiceProfile(profile("default", REVIEWS, routes)));
    let source = |world: &World, namespace: &str| world.table(namespace, REVIEWS).unwrap().source;
    let spec = |export: Value| json!({"hosts": [REVIEWS], "http": [{"route": [{"destination": {"host": REVIEWS}}]}], "exportTo": export});
    let profile_name = format!("default/{REVIEWS}");
    world.put("west", Object::VirtualService(virtual_service("shop", "own", spec(json!(["."])))));
    world.compile();
    assert_eq!([source(&world, "shop"), source(&world, "default")], ["shop/own".to_owned(), profile_name.clone()]);
    world.put("west", Object::VirtualService(virtual_service("shop", "own", spec(json!([])))));
    world.compile();
    assert_eq!([source(&world, "shop"), source(&world, "default")], ["shop/own", "shop/own"]);
    world.has_notice(Kind::TrafficSplit, "VirtualService shop/own is for the same host and takes precedence");
    world.has_notice(Kind::ServiceProfile, "VirtualService shop/own is for the same host and takes precedence");
    world.delete("west", Kind::VirtualService, "shop", "own");
    world.compile();
    assert_eq!(source(&world, "shop"), profile_name);
    assert!(world.rule_notices().is_empty(), "{:?}", world.rule_notices());
}

#[test]
fn of_several_splits_of_a_service_the_oldest_has_effect() {
    let mut world = World::services(&["reviews", "ratings", "details"]);
    for (name, to, created) in [("old", "ratings", 1), ("new", "details", 2)] {
        let spec = json!({"service": "reviews", "backends": [{"service": to, "weight": 1}]});
        world.put("west", Object::TrafficSplit(TrafficSplit { created, ..split("default", name, spec) }));
    }
    world.compile();
    assert_eq!(&*world.table("shop", REVIEWS).unwrap().source, "default/old");
    world.has_notice(Kind::TrafficSplit, "TrafficSplit default/old is for the same service and older");
    world.delete("west", Kind::TrafficSplit, "default", "old");
    world.compile();
    assert_eq!(&*world.table("shop", REVIEWS).unwrap().source, "default/new");
}

#[test]
fn a_split_within_another_has_a_notice_and_does_not_apply_there() {
    let mut world = World::services(&["reviews", "ratings", "details"]);
    let to = |root: &str, leaf: &str| json!({"service": root, "backends": [{"service": leaf, "weight": 1}]});
    world.put("west", Object::TrafficSplit(split("default", "outer", to("reviews", "ratings"))));
    world.compile();
    assert!(world.rule_notices().is_empty());
    world.put("west", Object::TrafficSplit(split("default", "inner", to("ratings", "details"))));
    world.compile();
    assert_eq!(destinations(&world.table("shop", REVIEWS).unwrap().http[0]), [(RATINGS, 0, 1)]);
    world.has_notice(Kind::TrafficSplit, "the TrafficSplit of ratings.default.svc.cluster.local has no effect");
    world.delete("west", Kind::TrafficSplit, "default", "inner");
    world.compile();
    assert!(world.rule_notices().is_empty());
}

#[test]
fn a_profile_has_routes_with_limits_retries_and_classes() {
    let mut world = World::services(&["reviews"]);
    let spec = json!({"routes": [
        {"name": "slow", "condition": {"pathRegex": "/slow.*"}, "timeout": "300ms"},
        {"name": "again", "condition": {"method": "GET", "pathRegex": "/again"}, "isRetryable": true},
    ]});
    world.put("west", Object::ServiceProfile(profile("default", REVIEWS, spec)));
    world.compile();
    let table = world.table("shop", REVIEWS).unwrap();
    let tokens = discovery::RetryTokens { ratio: 0.2, min_per_second: 10, ttl_ms: 10_000 };
    assert_eq!(table.retry_tokens, Some(tokens), "Linkerd's default");
    let forward = |index: usize| match &table.http[index].action {
        Some(Action::Forward(forward)) => forward.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((forward(0).timeout_ms, forward(0).retries), (300, None));
    let retries = forward(1).retries.unwrap();
    assert!(retries.budgeted && retries.retry_on.contains(&"5xx".to_owned()), "{retries:?}");
    assert_eq!((table.http.len(), &*table.http[2].name, table.http[2].matches.len()), (3, "[DEFAULT]", 0));
    assert!(table.http.iter().all(|route| route.response_classes.is_some()));
    assert_eq!(table.http[0].matches[0].path, Some(pattern("regex", "/slow.*")));
    assert_eq!(table.http[1].matches[0].path, Some(pattern("exact", "/again")));

    // The clients of a namespace have their own profile instead.
    let own = json!({"routes": [{"name": "own", "condition": {"method": "GET"}}]});
    world.put("west", Object::ServiceProfile(profile("shop", REVIEWS, own)));
    world.compile();
    let first = |namespace: &str| world.table(namespace, REVIEWS).unwrap().http[0].name.clone();
    assert_eq!([first("shop"), first("default"), first("istio-system")], ["own", "slow", "slow"]);
}

fn pattern(kind: &str, text: &str) -> discovery::StringMatch {
    use discovery::string_match::Pattern;
    let pattern = if kind == "exact" { Pattern::Exact(text.into()) } else { Pattern::Regex(text.into()) };
    discovery::StringMatch { pattern: Some(pattern), ignore_case: false }
}

#[test]
fn the_routes_of_a_profile_have_the_weights_of_a_split() {
    let mut world = World::services(&["reviews", "ratings", "details"]);
    let routes = json!([{"name": "a", "condition": {"pathRegex": "/a"}, "timeout": "1s"}]);
    let overrides = json!([{"authority": "details.default.svc.cluster.local:9080", "weight": 1}]);
    let spec = json!({"routes": routes, "dstOverrides": overrides});
    world.put("west", Object::ServiceProfile(profile("default", REVIEWS, spec)));
    world.compile();
    let to = |world: &World| -> Vec<String> {
        let table = world.table("shop", REVIEWS).unwrap();
        table.http.iter().map(|route| destinations(route)[0].0.to_owned()).collect()
    };
    assert_eq!(to(&world), ["details.default.svc.cluster.local"; 2]);
    let spec = json!({"service": "reviews", "backends": [{"service": "ratings", "weight": 1}]});
    world.put("west", Object::TrafficSplit(split("default", "canary", spec)));
    world.compile();
    assert_eq!(to(&world), [RATINGS; 2]);
    world.has_notice(Kind::ServiceProfile, "dstOverrides has no effect: TrafficSplit default/canary splits the host");
}

#[test]
fn a_profile_makes_ports_opaque_for_clients_and_for_the_pods() {
    let mut world = World::services(&["reviews"]);
    world.put("east", Object::Slice(slice("reviews", &[(1, true)])));
    world.put("east", Object::Pod(pod("reviews", 1)));
    world.compile();
    let protocols = |world: &World| {
        let service = world.view_of("east", "reviews").unwrap().ports[0].protocol;
        let workload = match world.body(wire::Kind::Workload, "east/default/reviews-1") {
            Some(Body::Workload(workload)) => workload.ports[0].protocol,
            other => panic!("{other:?}"),
        };
        [service, workload]
    };
    assert_eq!(protocols(&world), [Protocol::Http as i32; 2]);
    world.put("west", Object::ServiceProfile(profile("default", REVIEWS, json!({"opaquePorts": ["9080"]}))));
    world.compile();
    assert_eq!(protocols(&world), [Protocol::Tcp as i32; 2]);
    assert!(world.table("shop", REVIEWS).is_none(), "it has no routes");
    world.delete("west", Kind::ServiceProfile, "default", REVIEWS);
    world.compile();
    assert_eq!(protocols(&world), [Protocol::Http as i32; 2]);
}

#[test]
fn annotations_of_a_service_have_effect_without_a_profile() {
    let mut world = World::services(&["reviews"]);
    let annotations = [
        ("retry.linkerd.io/http".to_owned(), "gateway-error".to_owned()),
        ("timeout.linkerd.io/request".to_owned(), "2s".to_owned()),
    ];
    let linkerd = ServiceAnnotations::read(&annotations.into()).map(Arc::new);
    world.put("west", Object::Service(Service { linkerd, ..service("reviews", 1) }));
    world.compile();
    let table = world.table("shop", REVIEWS).unwrap();
    let Some(Action::Forward(forward)) = &table.http[0].action else { panic!("{table:?}") };
    assert_eq!((forward.timeout_ms, forward.retries.as_ref().unwrap().attempts), (2_000, 1));
    let routes = json!({"routes": [{"name": "a", "condition": {"method": "GET"}}]});
    world.put("west", Object::ServiceProfile(profile("default", REVIEWS, routes)));
    world.compile();
    let table = world.table("shop", REVIEWS).unwrap();
    let Some(Action::Forward(forward)) = &table.http[1].action else { panic!("{table:?}") };
    assert_eq!((&*table.source_kind, forward.timeout_ms), ("ServiceProfile", 0));
}

#[test]
fn failure_accrual_of_a_service_is_its_outlier_detection_unless_a_rule_or_a_profile_has_precedence() {
    let mut world = World::services(&["reviews"]);
    let annotations = [
        ("balancer.linkerd.io/failure-accrual".to_owned(), "consecutive".to_owned()),
        ("balancer.linkerd.io/failure-accrual-consecutive-max-failures".to_owned(), "3".to_owned()),
        ("timeout.linkerd.io/idle".to_owned(), "1s".to_owned()),
    ];
    let linkerd = ServiceAnnotations::read(&annotations.into()).map(Arc::new);
    world.put("west", Object::Service(Service { linkerd, ..service("reviews", 1) }));
    world.compile();
    let failures = |world: &World| {
        let policy = world.policy("shop", REVIEWS)?.variants[0].policy.clone()?;
        policy.outlier_detection?.consecutive_5xx_errors
    };
    assert_eq!(failures(&world), Some(3));
    world.has_notice(Kind::Service, "annotation timeout.linkerd.io/idle: has no effect");
    let spec = json!({"host": REVIEWS, "trafficPolicy": {"outlierDetection": {"consecutive5xxErrors": 9}}});
    world.put("west", Object::DestinationRule(super::rules::destination_rule("default", "reviews", spec)));
    world.compile();
    assert_eq!(failures(&world), Some(9));
    world.delete("west", Kind::DestinationRule, "default", "reviews");
    world.put("west", Object::ServiceProfile(profile("default", REVIEWS, json!({}))));
    world.compile();
    assert_eq!(failures(&world), None);
    world.has_notice(Kind::Service, "ServiceProfile default/reviews.default.svc.cluster.local takes precedence");
}

#[test]
fn what_is_invalid_keeps_the_last_valid_version_and_has_a_state() {
    let mut world = World::services(&["reviews", "ratings"]);
    let valid = json!({"service": "reviews", "backends": [{"service": "ratings", "weight": 1}]});
    world.put("west", Object::TrafficSplit(split("default", "canary", valid)));
    world.compile();
    let invalid = json!({"service": "reviews", "backends": [{"service": "ratings"}]});
    world.put("west", Object::TrafficSplit(split("default", "canary", invalid)));
    assert_eq!(world.compile(), 0);
    let states = world.inventory.rule_states();
    let state = states.iter().find(|state| state.kind == Kind::TrafficSplit).unwrap();
    assert!(state.refused && state.in_force && state.problems[0].text.contains("weight: is missing"), "{state:?}");
    assert_eq!(world.recomputed().all_resources(), world.all_resources());
}

#[test]
fn routes_and_conditions_are_bounded_and_requests_still_have_a_route() {
    let mut world = World::services(&["reviews", "ratings"]);
    let matches: Vec<Value> = (0..250).map(|of| json!({"name": "a", "headers": {format!("x-{of}"): "1"}})).collect();
    for index in 0..20 {
        let group = group("default", &format!("g{index}"), json!(matches));
        world.put("west", Object::HttpRouteGroup(group));
    }
    let references: Vec<Value> =
        (0..20).map(|of| json!({"kind": "HTTPRouteGroup", "name": format!("g{of}")})).collect();
    let spec = json!({"service": "reviews", "matches": references, "backends": [{"service": "ratings", "weight": 1}]});
    world.put("west", Object::TrafficSplit(split("default", "canary", spec)));
    let routes: Vec<Value> =
        (0..1_000).map(|of| json!({"name": "a", "condition": {"pathRegex": format!("/{of}")}})).collect();
    world.put("west", Object::ServiceProfile(profile("default", REVIEWS, json!({"routes": routes}))));
    let began = std::time::Instant::now();
    world.compile();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let table = world.table("shop", REVIEWS).unwrap();
    assert!(table.http.len() < 100 && table.http.last().unwrap().matches.is_empty(), "{}", table.http.len());
    world.has_notice(Kind::TrafficSplit, "more than 5000 conditions");
    world.has_notice(Kind::ServiceProfile, "more than 20000 routes and conditions");
}

/// The encoding of the deepest condition that is valid can be decoded.
#[test]
fn the_deepest_condition_is_decoded() {
    let mut world = World::services(&["reviews"]);
    let leaf = json!({"method": "GET"});
    let deep = (0..15).fold(leaf.clone(), |within, _| json!({"any": [within, leaf], "not": leaf, "method": "PUT"}));
    let spec = json!({"routes": [{"name": "a", "condition": deep}]});
    let profile = profile("default", REVIEWS, spec);
    assert!(!profile.refused(), "{profile:?}");
    world.put("west", Object::ServiceProfile(profile));
    world.compile();
    assert_eq!(world.table("shop", REVIEWS).unwrap().http.len(), 2);
}
