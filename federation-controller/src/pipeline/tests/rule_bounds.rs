//! Tests of rules of routing beyond their bounds: each is cut, in little time, and has a notice.

use serde_json::{Value, json};

use super::rules::{REVIEWS, destination_rule, virtual_service};
use super::*;

fn noted(world: &World, text: &str) -> bool {
    world.rule_notices().iter().any(|notice| notice.text.contains(text))
}

#[test]
fn a_table_has_a_bounded_number_of_routes_and_conditions() {
    let mut world = World::services(&["reviews"]);
    let route = |index: usize| json!({"match": [{"uri": {"exact": format!("/{index}")}}], "route": [{"destination": {"host": "reviews"}}]});
    let routes: Vec<Value> = (0..10_500).map(route).collect();
    world.put(
        "west",
        Object::VirtualService(virtual_service("default", "reviews", json!({"hosts": ["reviews"], "http": routes}))),
    );
    world.compile();
    assert_eq!(world.table("shop", REVIEWS).unwrap().http.len(), 10_000);
    assert!(noted(&world, "more than 20000 routes and conditions"), "{:?}", world.rule_notices());
}

#[test]
fn conditions_of_a_delegate_are_not_multiplied_without_end() {
    let mut world = World::services(&["reviews"]);
    let conditions = |name: &str| -> Vec<Value> {
        (0..2_000).map(|index| json!({"headers": {format!("x-{name}-{index}"): {"exact": "1"}}})).collect()
    };
    let root = json!({"hosts": ["reviews"], "http": [{"match": conditions("root"), "delegate": {"name": "part"}}]});
    let part = json!({"http": [{"match": conditions("part"), "route": [{"destination": {"host": "reviews"}}]}]});
    world.put("west", Object::VirtualService(virtual_service("default", "reviews", root)));
    world.put("west", Object::VirtualService(virtual_service("default", "part", part)));
    let began = std::time::Instant::now();
    world.compile();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(world.table("shop", REVIEWS).unwrap().http.is_empty());
    assert!(noted(&world, "too many together with those of http[0]"), "{:?}", world.rule_notices());
}

#[test]
fn namespaces_and_subsets_of_a_host_are_bounded() {
    let mut world = World::services(&["reviews"]);
    let subsets: Vec<Value> =
        (0..300).map(|index| json!({"name": format!("v{index}"), "labels": {"version": index.to_string()}})).collect();
    world.put(
        "west",
        Object::DestinationRule(destination_rule("default", "all", json!({"host": "reviews", "subsets": subsets}))),
    );
    for index in 0..300 {
        let namespace = format!("n{index:03}");
        let spec = json!({"host": REVIEWS, "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}});
        world.put("west", Object::DestinationRule(destination_rule(&namespace, "own", spec)));
        let spec =
            json!({"hosts": [REVIEWS], "exportTo": ["."], "http": [{"route": [{"destination": {"host": REVIEWS}}]}]});
        world.put("west", Object::VirtualService(virtual_service(&namespace, "own", spec)));
    }
    world.compile();
    for kind in [wire::Kind::DestinationPolicy, wire::Kind::RouteTable] {
        let variants = world.store.named(kind, REVIEWS).len();
        assert!((255..=257).contains(&variants), "{kind}: {variants}");
    }
    assert!(world.policy("n000", REVIEWS).unwrap().variants[0].subsets.is_empty());
    assert_eq!(
        world.policy("n299", REVIEWS).unwrap().variants[0].subsets.len(),
        256,
        "the rules of the service's namespace"
    );
    assert_eq!(
        world
            .service("reviews")
            .map(|service| service.subsets.len())
            .or(world.view_of("east", "reviews").map(|service| service.subsets.len())),
        Some(256)
    );
    assert!(noted(&world, "more than 256 namespaces"), "{:?}", world.rule_notices());
}
