//! Tests of the rules of routing, as they reach proxies.

use api::networking::{DestinationRule as DestinationRuleObject, VirtualService as VirtualServiceObject};
use serde_json::{Value, json};

use super::*;

fn virtual_service(namespace: &str, name: &str, spec: Value) -> VirtualService {
    let metadata = json!({"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"});
    let object = json!({"metadata": metadata, "spec": spec});
    VirtualService::extract(VirtualServiceObject::from_value(&object)).unwrap()
}

fn destination_rule(namespace: &str, name: &str, spec: Value) -> DestinationRule {
    let metadata = json!({"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"});
    let object = json!({"metadata": metadata, "spec": spec});
    DestinationRule::extract(DestinationRuleObject::from_value(&object)).unwrap()
}

/// A VirtualService of random histories.
pub(super) fn routes(name: &str, host: &str, destination: &str, variant: u8) -> VirtualService {
    let namespace = NAMESPACES[usize::from(variant) % 3];
    let to = json!({"destination": {"host": format!("{destination}.default.svc.cluster.local"), "subset": "v1"}});
    let (mut route, mut export) = (json!({"route": [to]}), json!([]));
    let mut hosts = json!([host]);
    match variant / 3 {
        1 => export = json!(["."]),
        2 => hosts = json!([]),
        3 => (export, route) = (json!(["shop"]), json!({"delegate": {"name": "reviews", "namespace": "istio-system"}})),
        _ => {}
    }
    let spec = json!({"hosts": hosts, "http": [route], "exportTo": export});
    VirtualService { created: i64::from(variant), ..virtual_service(namespace, name, spec) }
}

/// A DestinationRule of random histories.
pub(super) fn policy(name: &str, host: &str, variant: u8) -> DestinationRule {
    let namespace = NAMESPACES[usize::from(variant) % 3];
    let mut spec = json!({"host": host, "subsets": [{"name": "v1", "labels": {"version": "v1"}}]});
    match variant / 3 {
        1 => spec["exportTo"] = json!(["."]),
        2 => spec = json!({"host": host, "workloadSelector": {"matchLabels": {"app": "reviews"}}}),
        3 => {
            spec = json!({"host": host, "exportTo": ["shop"], "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}})
        }
        _ => {}
    }
    DestinationRule { created: i64::from(variant), ..destination_rule(namespace, name, spec) }
}

impl World {
    /// Returns the table of a host as the proxies of a namespace see it.
    fn table(&self, namespace: &str, host: &str) -> Option<discovery::RouteTable> {
        match self.seen(wire::Kind::RouteTable, namespace, host)? {
            Body::RouteTable(table) => Some(table),
            other => panic!("{other:?}"),
        }
    }

    /// Returns the policy of a host as the proxies of a namespace see it.
    fn policy(&self, namespace: &str, host: &str) -> Option<discovery::DestinationPolicy> {
        match self.seen(wire::Kind::DestinationPolicy, namespace, host)? {
            Body::DestinationPolicy(policy) => Some(policy),
            other => panic!("{other:?}"),
        }
    }

    fn seen(&self, kind: wire::Kind, namespace: &str, host: &str) -> Option<Body> {
        let viewer = Viewer { namespace: namespace.into(), ..viewer("east") };
        let view = self.store.view(&viewer);
        let found = wire::delta::Source::get(&view, kind, host)?;
        Some(Body::decode(kind, kind.url(), found.body()).unwrap())
    }

    fn services(names: &[&str]) -> World {
        let mut world = World::new();
        world.cluster("west");
        world.cluster("east");
        for (ip, name) in (1..).zip(names) {
            world.put("east", Object::Service(service(name, ip)));
        }
        world.compile();
        world
    }
}

const REVIEWS: &str = "reviews.default.svc.cluster.local";

#[test]
fn a_host_with_rules_has_a_table_and_a_policy_and_others_have_none() {
    let mut world = World::services(&["reviews", "ratings"]);
    let spec = json!({"hosts": ["reviews"], "http": [{"route": [
        {"destination": {"host": "reviews", "subset": "v1"}, "weight": 90},
        {"destination": {"host": "ratings"}, "weight": 10},
    ]}]});
    world.put("west", Object::VirtualService(virtual_service("default", "reviews", spec)));
    let spec = json!({"host": "reviews", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]});
    world.put("west", Object::DestinationRule(destination_rule("default", "reviews", spec)));
    world.compile();
    let table = world.table("shop", REVIEWS).unwrap();
    assert_eq!((&*table.source, table.http.len()), ("default/reviews", 1));
    let Some(discovery::http_route::Action::Forward(forward)) = &table.http[0].action else { panic!("{table:?}") };
    let to: Vec<_> = forward.destinations.iter().map(|to| (&*to.host, to.port, &*to.subset, to.weight)).collect();
    assert_eq!(to, [(REVIEWS, 9080, "v1", 90), ("ratings.default.svc.cluster.local", 9080, "", 10)]);
    assert_eq!(world.policy("shop", REVIEWS).unwrap().variants[0].subsets[0].name, "v1");
    assert_eq!(world.view_of("east", "reviews").unwrap().subsets.len(), 1);
    assert!(world.table("shop", "ratings.default.svc.cluster.local").is_none());
    assert!(world.rule_notices().is_empty(), "{:?}", world.rule_notices());

    world.delete("west", Kind::DestinationRule, "default", "reviews");
    world.compile();
    assert!(world.policy("shop", REVIEWS).is_none() && world.view_of("east", "reviews").unwrap().subsets.is_empty());
    assert!(world.rule_notices().iter().any(|notice| notice.text.contains("subset v1")), "{:?}", world.rule_notices());
    world.delete("west", Kind::VirtualService, "default", "reviews");
    world.compile();
    assert!(world.table("shop", REVIEWS).is_none() && world.rule_notices().is_empty());
}
