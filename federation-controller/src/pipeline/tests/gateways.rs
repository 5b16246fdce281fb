//! Tests of Gateways and the VirtualServices that are bound to them, from objects to what routers receive.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wire::name::Role;

use super::*;

fn gateway(name: &str, created: u32, servers: Value) -> Object {
    let metadata =
        json!({"name": name, "namespace": "ingress", "creationTimestamp": format!("2026-01-{created:02}T00:00:00Z")});
    let object = json!({"metadata": metadata, "spec": {"selector": {"istio": "ingressgateway"}, "servers": servers}});
    Gateway::extract(serde_json::from_value(object).unwrap()).unwrap().into()
}

fn http(port: u16, hosts: &[&str]) -> Value {
    json!({"port": {"number": port, "name": format!("http-{port}"), "protocol": "HTTP"}, "hosts": hosts})
}

fn routes(name: &str, spec: Value) -> Object {
    let object = json!({"metadata": {"name": name, "namespace": "default", "generation": 1}, "spec": spec});
    VirtualService::extract(serde_json::from_value(object).unwrap()).unwrap().into()
}

fn to(host: &str, destination: &str) -> Value {
    json!({"hosts": [host], "gateways": ["ingress/public"], "http": [{"route": [{"destination": {"host": destination}}]}]})
}

/// A world with a router in `ingress`, and a sidecar with the same labels in `default`.
fn world() -> World {
    let mut world = World::new();
    world.cluster("west");
    for kind in Kind::ALL {
        world.event(Event::Listing { cluster: "west".into(), kind });
        world.event(Event::Listed { cluster: "west".into(), kind });
    }
    let labels = Labels::from([("istio".into(), "ingressgateway".into())]);
    for (namespace, name, role) in [("ingress", "gw-1", Role::Router), ("default", "reviews-1", Role::Sidecar)] {
        let (published, _) = oneshot::channel();
        let pod = Key::new(namespace, name);
        world.event(Event::ProxyConnected { cluster: "west".into(), pod, role, published });
        let template = Template {
            namespace: namespace.into(),
            service_account: "gw".into(),
            labels: labels.clone(),
            ..Template::default()
        };
        world.put("west", Object::Pod(Pod { name: name.into(), template: Arc::new(template), ..Pod::default() }));
    }
    for (name, ip) in [("reviews", 1), ("details", 2)] {
        world.put("west", Object::Service(service(name, ip)));
    }
    world
}

fn listeners(world: &World, pod: &str) -> Option<discovery::Listeners> {
    match world.body(wire::Kind::Listeners, &format!("west/{pod}"))? {
        Body::Listeners(listeners) => Some(listeners),
        other => panic!("{other:?}"),
    }
}

/// Returns the names of the tables of a collection.
fn tables(world: &World, collection: &str) -> Vec<String> {
    let viewer = viewer("west");
    let view = world.store.view(&viewer);
    wire::delta::Source::members(&view, wire::Kind::RouteTable, collection).map(|of| of.name().to_string()).collect()
}

fn notices_of(world: &World, object: &str) -> Vec<String> {
    world.inventory.notices().into_iter().filter(|line| line.contains(object)).collect()
}

#[test]
fn a_router_listens_on_the_gateways_that_select_it_and_has_their_routes() {
    let mut world = world();
    world.put("west", routes("reviews", to("a.example.com", "reviews")));
    world.compile();
    assert_eq!(listeners(&world, "ingress/gw-1"), Some(discovery::Listeners::default()));
    let missing = notices_of(&world, "default/reviews:");
    assert!(missing[0].contains("Gateway ingress/public, which does not exist"), "{missing:?}");

    world.put("west", gateway("public", 1, json!([http(80, &["*.example.com"])])));
    world.compile();
    let found = listeners(&world, "ingress/gw-1").unwrap();
    assert_eq!((found.listeners[0].port, found.listeners[0].servers.len()), (80, 1));
    assert_eq!(listeners(&world, "default/reviews-1"), None, "a sidecar does not listen");
    let collection = found.listeners[0].servers[0].routes.clone();
    assert_eq!(tables(&world, &collection), ["ingress/public/http-80|a.example.com"]);
    assert!(notices_of(&world, "default/reviews:").is_empty());
    assert!(world.body(wire::Kind::RouteTable, "a.example.com").is_none(), "sidecars do not route by it");

    world.put("west", gateway("public", 1, json!([http(81, &["b.example.com"])])));
    world.compile();
    assert!(tables(&world, &collection).is_empty() && tables(&world, "ingress/public/http-81").is_empty());
    assert_eq!(listeners(&world, "ingress/gw-1").unwrap().listeners[0].port, 81);
    assert!(notices_of(&world, "default/reviews:")[0].contains("(IST0132)"));

    world.delete("west", Kind::Gateway, "ingress", "public");
    world.compile();
    assert!(listeners(&world, "ingress/gw-1").unwrap().listeners.is_empty());
    world.event(Event::ProxyDisconnected { cluster: "west".into(), pod: Key::new("ingress", "gw-1") });
    world.compile();
    assert_eq!(listeners(&world, "ingress/gw-1"), None);
}

#[test]
fn an_invalid_version_of_a_gateway_leaves_the_last_valid_one_in_force() {
    let mut world = world();
    world.put("west", gateway("public", 1, json!([http(80, &["*"])])));
    world.compile();
    world.put("west", gateway("public", 1, json!([http(0, &["*"])])));
    world.compile();
    assert_eq!(listeners(&world, "ingress/gw-1").unwrap().listeners[0].port, 80);
    let notices = notices_of(&world, "ingress/public");
    assert!(notices[0].contains("the last valid version stays in effect"), "{notices:?}");
    let states = world.inventory.rule_states();
    let state = states.iter().find(|state| state.kind == Kind::Gateway).unwrap();
    assert!(state.refused && state.in_force);
}

#[test]
fn a_conflict_is_a_notice_of_the_younger_gateway_until_it_ends() {
    let mut world = world();
    world.put("west", gateway("young", 2, json!([http(80, &["*"])])));
    let tcp = json!({"port": {"number": 80, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]});
    world.put("west", gateway("old", 1, json!([tcp])));
    world.compile();
    let listening = |world: &World| listeners(world, "ingress/gw-1").unwrap().listeners[0].servers[0].gateway.clone();
    assert_eq!(listening(&world), "ingress/old");
    assert!(notices_of(&world, "ingress/young")[0].contains("conflicts with that of Gateway ingress/old"));
    world.delete("west", Kind::Gateway, "ingress", "old");
    world.compile();
    assert_eq!(listening(&world), "ingress/young");
    assert!(notices_of(&world, "ingress/young").is_empty());
}

#[test]
fn a_change_compiles_the_tables_that_it_concerns_alone() {
    let mut world = world();
    world.put("west", gateway("public", 1, json!([http(80, &["*"]), http(81, &["a.example.com"])])));
    for (name, host) in [("a", "a.example.com"), ("b", "b.example.com"), ("c", "c.example.com")] {
        world.put("west", routes(name, to(host, "reviews")));
    }
    world.put("west", routes("b", to("b.example.com", "details")));
    world.compile();
    let bound = |host: &str| Group::Bound(Key::new("ingress", "public"), host.into());
    world.put("west", routes("c", to("c.example.com", "details")));
    assert_eq!(world.inventory.take_changes(usize::MAX), [bound("c.example.com")]);
    // What a destination lacks is a part of the table.
    let mut changed = service("details", 2);
    changed.ports.push(ServicePort {
        name: "other".into(),
        number: 9999,
        protocol: Protocol::Http,
        node_port: 0,
        target: Default::default(),
    });
    world.put("west", Object::Service(changed));
    let groups = world.inventory.take_changes(usize::MAX);
    let tables: Vec<&Group> = groups.iter().filter(|group| matches!(group, Group::Bound(..))).collect();
    assert_eq!(tables, [&bound("b.example.com"), &bound("c.example.com")]);
    // A wildcard has routes of the hosts of servers within it.
    world.put("west", routes("all", to("*", "reviews")));
    assert_eq!(world.inventory.take_changes(usize::MAX), [bound("*"), bound("a.example.com")]);
}

#[test]
fn delegates_change_the_tables_of_their_roots() {
    let mut world = world();
    world.put("west", gateway("public", 1, json!([http(80, &["*"])])));
    let delegate = json!({"http": [{"route": [{"destination": {"host": "reviews"}}]}]});
    world.put("west", routes("delegate", delegate));
    let root = json!({"hosts": ["a.example.com"], "gateways": ["ingress/public"], "http": [{"delegate": {"name": "delegate"}}]});
    world.put("west", routes("root", root));
    world.compile();
    let route = |world: &World| match world.body(wire::Kind::RouteTable, "ingress/public/http-80|a.example.com") {
        Some(Body::RouteTable(table)) => format!("{:?}", table.http[0].action),
        other => panic!("{other:?}"),
    };
    assert!(route(&world).contains("reviews.default"));
    world.put("west", routes("delegate", json!({"http": [{"route": [{"destination": {"host": "details"}}]}]})));
    world.compile();
    assert!(route(&world).contains("details.default"));
}

#[test]
fn tables_are_those_of_a_full_compilation_in_any_order() {
    let objects = [
        gateway("public", 1, json!([http(80, &["*.example.com", "default/*"]), http(81, &["x/a.example.com"])])),
        routes("a", to("a.example.com", "reviews")),
        routes("all", to("*.example.com", "details")),
        routes("long", to("*.a.example.com", "details")),
    ];
    let of = |order: &[usize]| {
        let mut world = world();
        for at in order {
            world.put("west", objects[*at].clone());
            world.compile();
        }
        let mut all = world.all_resources();
        all.retain(|(kind, _), _| *kind == wire::Kind::RouteTable);
        all
    };
    let expected = of(&[0, 1, 2, 3]);
    assert_eq!(expected.len(), 3, "{expected:?}");
    for order in [[3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]] {
        assert_eq!(of(&order), expected, "{order:?}");
    }
}

#[test]
fn the_work_is_linear_in_the_number_of_hosts() {
    let took = |count: usize| {
        let mut world = world();
        let servers: Vec<Value> = (0..count)
            .map(|i| {
                let port = json!({"number": 80, "name": format!("p{i}"), "protocol": "HTTP"});
                json!({"port": port, "hosts": [format!("h{i}.example.com")]})
            })
            .collect();
        let gateway = gateway("public", 1, json!(servers));
        let mut all = vec![gateway];
        all.extend((0..count).map(|i| routes(&format!("r{i}"), to(&format!("h{i}.example.com"), "reviews"))));
        let began = Instant::now();
        for object in all {
            world.put("west", object);
        }
        world.compile();
        let took = began.elapsed();
        assert_eq!(world.store.all(wire::Kind::RouteTable).count(), count);
        took
    };
    let fastest = |count| (0..3).map(|_| took(count)).min().unwrap_or(Duration::MAX);
    let (few, many) = (fastest(250), fastest(2_000));
    assert!(many < few * 32, "8 times as many hosts took {many:?} instead of {few:?}");
}
