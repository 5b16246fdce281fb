//! Workloads that are no pods, and the hosts below wildcards of ServiceEntries.

use serde_json::{Value, json};

use super::*;

/// Returns the record of an object in namespace `default`.
fn record<T: Record>(name: &str, object: Value) -> Object {
    let mut object = object;
    object["metadata"]["name"] = name.into();
    object["metadata"]["namespace"] = "default".into();
    T::extract(serde_json::from_value(object).unwrap()).unwrap().into()
}

fn legacy_service() -> Object {
    record::<Service>(
        "legacy",
        json!({"spec": {"clusterIP": "10.96.0.9", "selector": {"app": "legacy"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
    )
}

fn machine(app: &str, healthy: bool) -> Object {
    let status = if healthy { "True" } else { "False" };
    record::<WorkloadEntry>(
        "vm",
        json!({
            "metadata": {"annotations": {"proxy.istio.io/health-checks-enabled": "true"}},
            "spec": {"address": "10.0.0.1", "labels": {"app": app}, "serviceAccount": "legacy"},
            "status": {"conditions": [{"type": "Healthy", "status": status}]},
        }),
    )
}

fn world() -> World {
    let mut world = World::new();
    world.cluster("west");
    world.cluster("east");
    world
}

#[test]
fn a_workload_entry_is_an_endpoint_of_services_whichever_comes_first() {
    let (first, second) = (legacy_service(), machine("legacy", true));
    for objects in [[first.clone(), second.clone()], [second, first]] {
        let mut world = world();
        for object in objects {
            world.put("west", object);
            world.compile();
        }
        let endpoints = world.endpoints("west", "legacy");
        let [endpoint] = endpoints.values().collect::<Vec<_>>()[..] else { panic!("{endpoints:?}") };
        let Some(endpoint::Kind::Direct(direct)) = &endpoint.kind else { panic!("{endpoint:?}") };
        assert_eq!((direct.pod.as_str(), direct.ports.get(&80), direct.mutual_tls), ("vm", Some(&8080), true));
        assert_eq!(direct.identity, "spiffe://cluster.local/ns/default/sa/legacy");
        assert_eq!(endpoint.health, Health::Ready as i32);
        let derived = |object: &Object| matches!(object.kind(), Kind::Pod | Kind::Slice);
        assert!(!world.inventory.cluster("west").unwrap().objects().any(|object| derived(&object)), "not in snapshots");
        assert_eq!(world.all_resources(), world.recomputed().all_resources());

        world.put("west", machine("legacy", false));
        world.compile();
        assert_eq!(world.endpoints("west", "legacy").values().next().unwrap().health, Health::Unready as i32);
        world.put("west", machine("other", true));
        world.compile();
        assert!(world.endpoints("west", "legacy").is_empty());
        world.put("west", machine("legacy", true));
        world.delete("west", Kind::Service, "default", "legacy");
        world.compile();
        assert!(world.inventory.cluster("west").unwrap().slices().is_empty());
        world.delete("west", Kind::WorkloadEntry, "default", "vm");
        world.compile();
        assert!(world.inventory.cluster("west").unwrap().pods().is_empty());
    }
}

#[test]
fn lists_of_pods_and_slices_keep_what_is_derived() {
    let mut world = world();
    world.put("west", legacy_service());
    world.put("west", machine("legacy", true));
    for kind in [Kind::Pod, Kind::Slice] {
        world.event(Event::Listing { cluster: "west".into(), kind });
        world.event(Event::Listed { cluster: "west".into(), kind });
    }
    world.compile();
    assert_eq!(world.endpoints("west", "legacy").len(), 1);
    assert_eq!(world.inventory.cluster("west").unwrap().doubtful(), [], "an empty list is believed");
}

#[test]
fn the_gateway_leads_to_the_controller_while_there_are_groups() {
    let mut world = world();
    let mut own = service("isthmus-controller", 7);
    own.namespace = "isthmus-system".into();
    own.ports = vec![ServicePort { name: "tls".into(), number: 15012, ..ServicePort::default() }];
    world.put("west", Object::Service(own.clone()));
    own.name = "isthmus-webhooks".into();
    own.ports[0].number = 443;
    world.put("west", Object::Service(own));
    world.event(Event::Trust(crate::objects::event::Trust::default()));
    let exposed = |world: &mut World, name: &str| {
        world.compile();
        match world.body(wire::Kind::Service, &format!("{name}.isthmus-system.svc.cluster.local")) {
            Some(Body::Service(service)) => service.ports.iter().any(|port| !port.server_names.is_empty()),
            _ => false,
        }
    };
    assert!(!exposed(&mut world, "isthmus-controller"));
    world.put("west", record::<WorkloadGroup>("legacy", json!({"spec": {"template": {"serviceAccount": "legacy"}}})));
    assert!(exposed(&mut world, "isthmus-controller") && !exposed(&mut world, "isthmus-webhooks"));
    world.delete("west", Kind::WorkloadGroup, "default", "legacy");
    assert!(!exposed(&mut world, "isthmus-controller"));
}

#[test]
fn a_host_below_a_wildcard_has_rules_of_its_own_whichever_comes_first() {
    let wildcard = record::<ServiceEntry>(
        "wildcard",
        json!({"spec": {"hosts": ["*.example.com"],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}}),
    );
    let rule = record::<VirtualService>(
        "api",
        json!({"spec": {"hosts": ["api.example.com"],
        "http": [{"directResponse": {"status": 418}}]}}),
    );
    let names = |world: &World, kind| -> Vec<String> {
        world.store.all(kind).map(|found| found.name().to_string()).filter(|name| name.contains("example")).collect()
    };
    for objects in [[wildcard.clone(), rule.clone()], [rule.clone(), wildcard]] {
        let mut world = world();
        for object in objects {
            world.put("west", object);
            world.compile();
        }
        let mut services = names(&world, wire::Kind::Service);
        services.sort();
        assert_eq!(services, ["*.example.com", "api.example.com"]);
        assert_eq!(names(&world, wire::Kind::RouteTable), ["api.example.com"]);
        assert_eq!(world.rule_notices(), BTreeSet::new());
        assert_eq!(world.all_resources(), world.recomputed().all_resources());
        world.delete("west", Kind::VirtualService, "default", "api");
        world.compile();
        assert_eq!(names(&world, wire::Kind::Service), ["*.example.com"]);
        world.put("west", rule.clone());
        world.compile();
        world.delete("west", Kind::ServiceEntry, "default", "wildcard");
        world.compile();
        assert_eq!(names(&world, wire::Kind::Service), Vec::<String>::new());
        assert_eq!(names(&world, wire::Kind::RouteTable), Vec::<String>::new());
    }
}
