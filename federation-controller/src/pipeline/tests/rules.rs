//! Tests of the rules of routing, as they reach proxies.

use api::networking::{DestinationRule as DestinationRuleObject, VirtualService as VirtualServiceObject};
use serde_json::{Value, json};

use super::*;

pub(super) fn virtual_service(namespace: &str, name: &str, spec: Value) -> VirtualService {
    let metadata = json!({"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"});
    let object = json!({"metadata": metadata, "spec": spec});
    VirtualService::extract(VirtualServiceObject::from_value(&object)).unwrap()
}

pub(super) fn destination_rule(namespace: &str, name: &str, spec: Value) -> DestinationRule {
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
    pub(super) fn table(&self, namespace: &str, host: &str) -> Option<discovery::RouteTable> {
        match self.seen(wire::Kind::RouteTable, namespace, host)? {
            Body::RouteTable(table) => Some(table),
            other => panic!("{other:?}"),
        }
    }

    /// Returns the policy of a host as the proxies of a namespace see it.
    pub(super) fn policy(&self, namespace: &str, host: &str) -> Option<discovery::DestinationPolicy> {
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

    pub(super) fn services(names: &[&str]) -> World {
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

pub(super) const REVIEWS: &str = "reviews.default.svc.cluster.local";

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
    assert_eq!(to, [(REVIEWS, 0, "v1", 90), ("ratings.default.svc.cluster.local", 0, "", 10)], "the request's port");
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

#[test]
fn an_invalid_version_leaves_the_last_valid_one_in_effect() {
    let mut world = World::services(&["reviews"]);
    let spec = |timeout: &str| json!({"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}], "timeout": timeout}]});
    world.put("west", Object::VirtualService(virtual_service("default", "reviews", spec("1us"))));
    world.compile();
    assert!(world.table("shop", REVIEWS).is_none());
    world.sync();
    let states = world.inventory.rule_states();
    assert!(states[0].refused && !states[0].in_force && states[0].problems[0].error, "{states:?}");
    let lines = world.inventory.notices();
    assert!(
        lines.iter().any(|line| line.contains("is invalid, and it has no effect: spec.http[0].timeout")),
        "{lines:?}"
    );

    world.put("west", Object::VirtualService(virtual_service("default", "reviews", spec("1s"))));
    world.compile();
    let timeout = |world: &World| match &world.table("shop", REVIEWS).unwrap().http[0].action {
        Some(discovery::http_route::Action::Forward(forward)) => forward.timeout_ms,
        other => panic!("{other:?}"),
    };
    assert_eq!(timeout(&world), 1000);
    assert!(!world.inventory.rule_states()[0].refused && world.inventory.notices().is_empty());
    world.put("west", Object::VirtualService(virtual_service("default", "reviews", spec("1us"))));
    assert_eq!(world.compile(), 0);
    assert_eq!(timeout(&world), 1000);
    let notices: Vec<_> = world.inventory.object_notices().into_iter().collect();
    assert_eq!(
        (notices.len(), notices[0].reason(), &notices[0].object),
        (1, "Ineffective", &Key::new("default", "reviews"))
    );
    assert!(notices[0].message.contains("the last valid version stays in effect"), "{notices:?}");
    // A restart knows the last valid version from the snapshot.
    assert_eq!(world.recomputed().all_resources(), world.all_resources());
}

impl World {
    /// Ends the first lists of all kinds in all clusters.
    pub(super) fn sync(&mut self) {
        let clusters: Vec<(Text, crate::objects::event::ClusterRole)> =
            self.inventory.clusters().map(|of| (of.info.name.clone(), of.info.role())).collect();
        for (cluster, role) in clusters {
            for kind in Kind::watched_in(role) {
                let objects: Vec<Object> = self.inventory.cluster(&cluster).unwrap().objects().collect();
                self.event(Event::Listing { cluster: cluster.clone(), kind });
                for object in objects.into_iter().filter(|object| object.kind() == kind) {
                    self.put(&cluster, object);
                }
                self.event(Event::Listed { cluster: cluster.clone(), kind });
            }
        }
    }
}

#[test]
fn a_new_service_has_the_rules_of_the_wildcards_that_match_it_and_a_change_of_one_affects_no_other() {
    let mut world = World::services(&["reviews", "ratings"]);
    let to_ratings = json!([{"route": [{"destination": {"host": "ratings"}}]}]);
    let spec = json!({"hosts": ["*.default.svc.cluster.local"], "http": to_ratings});
    world.put("west", Object::VirtualService(virtual_service("default", "all", spec)));
    assert_eq!(world.compile(), 2);
    world.put("east", Object::Service(service("details", 3)));
    world.compile();
    assert_eq!(&*world.table("shop", "details.default.svc.cluster.local").unwrap().source, "default/all");
    world.delete("east", Kind::Service, "default", "details");
    world.compile();
    assert!(world.table("shop", "details.default.svc.cluster.local").is_none());

    let spec = json!({"hosts": ["reviews"], "http": to_ratings});
    world.put("west", Object::VirtualService(virtual_service("default", "reviews", spec.clone())));
    let groups = world.inventory.take_changes(usize::MAX);
    assert_eq!(groups, [Group::Rules(REVIEWS.into())]);
    // Labels and a new generation change nothing.
    let same = VirtualService { generation: 7, ..virtual_service("default", "reviews", spec) };
    world.put("west", Object::VirtualService(same));
    assert!(!world.inventory.has_changes());
    // A service affects its own rules, and the routes to it.
    let mut ratings = service("ratings", 2);
    ratings.ports[0].number = 9090;
    world.put("east", Object::Service(ratings));
    let hosts = |groups: Vec<Group>| -> BTreeSet<String> {
        groups
            .into_iter()
            .map(|group| if let Group::Rules(host) = group { host.to_string() } else { String::new() })
            .collect()
    };
    let groups = hosts(world.inventory.take_changes(usize::MAX));
    assert!(groups.contains(REVIEWS) && groups.contains("ratings.default.svc.cluster.local"), "{groups:?}");
    let mut reviews = service("reviews", 1);
    reviews.cluster_ips = Box::default();
    world.put("east", Object::Service(reviews));
    assert_eq!(world.inventory.take_changes(usize::MAX), [Group::Service(REVIEWS.into())], "the ports are the same");
}

#[test]
fn a_destination_of_connections_without_a_port_has_the_only_one_of_its_service() {
    let mut world = World::services(&["reviews", "ratings"]);
    let spec = json!({"hosts": ["reviews"], "tcp": [{"route": [{"destination": {"host": "ratings"}}]}]});
    world.put("west", Object::VirtualService(virtual_service("default", "reviews", spec)));
    world.compile();
    let port = |world: &World| world.table("shop", REVIEWS).unwrap().tcp[0].destinations[0].port;
    assert_eq!(port(&world), 9080);
    let mut two = service("ratings", 2);
    two.ports.push(ServicePort { name: "admin".into(), number: 9081, ..ServicePort::default() });
    world.put("east", Object::Service(two));
    world.compile();
    assert_eq!(port(&world), 0);
    world.delete("east", Kind::Service, "default", "ratings");
    world.compile();
    assert!(world.rule_notices().iter().any(|notice| notice.text.contains("no service of the mesh")));
}

#[test]
fn a_cluster_that_does_not_export_a_service_does_not_decide_its_ports() {
    let mut world = World::services(&["reviews"]);
    let spec = json!({"hosts": ["reviews"], "tcp": [{"route": [{"destination": {"host": "ratings"}}]}]});
    world.put("west", Object::VirtualService(virtual_service("default", "reviews", spec)));
    let port = |world: &mut World| {
        world.compile();
        world.table("shop", REVIEWS).unwrap().tcp[0].destinations[0].port
    };
    world.cluster("south");
    let with_ports = |numbers: &[u16]| {
        let port =
            |number: &u16| ServicePort { name: number.to_string().into(), number: *number, ..ServicePort::default() };
        Object::Service(Service { ports: numbers.iter().map(port).collect(), ..service("ratings", 2) })
    };
    world.put("east", with_ports(&[9080]));
    world.put("south", with_ports(&[9080, 1]));
    assert_eq!(port(&mut world), 0, "no cluster exports it");
    world.put("east", Object::Export(export("ratings")));
    assert_eq!(port(&mut world), 9080);
    world.put("south", Object::Export(export("ratings")));
    assert_eq!(port(&mut world), 0, "both export it");
    world.delete("south", Kind::Export, "default", "ratings");
    assert_eq!(port(&mut world), 9080);
    world.put("west", with_ports(&[7]));
    world.delete("east", Kind::Export, "default", "ratings");
    assert_eq!(port(&mut world), 7, "the cluster with the rules");
}

#[test]
fn a_destination_of_requests_without_a_port_that_lacks_all_of_the_host_has_a_notice() {
    let mut world = World::services(&["reviews"]);
    let mut ratings = service("ratings", 2);
    ratings.ports[0].number = 7;
    world.put("west", Object::Service(ratings));
    let spec = json!({"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "ratings"}}]}]});
    world.put("west", Object::VirtualService(virtual_service("default", "reviews", spec)));
    world.compile();
    let has = |text: &str| world.rule_notices().iter().any(|notice| notice.text.contains(text));
    assert!(has("has no port of reviews.default.svc.cluster.local"), "{:?}", world.rule_notices());
}

#[test]
fn a_delegate_that_arrives_or_changes_changes_the_table_of_its_root() {
    let mut world = World::services(&["reviews", "ratings"]);
    let root = json!({"hosts": ["reviews"], "http": [{"delegate": {"name": "part", "namespace": "shop"}}]});
    world.put("west", Object::VirtualService(virtual_service("default", "reviews", root)));
    world.compile();
    assert!(world.table("shop", REVIEWS).unwrap().http.is_empty());
    let part = |name: &str| json!({"http": [{"name": name, "route": [{"destination": {"host": "ratings.default.svc.cluster.local"}}]}]});
    for name in ["one", "two"] {
        world.put("west", Object::VirtualService(virtual_service("shop", "part", part(name))));
        assert_eq!(world.compile(), 1);
        assert_eq!(world.table("shop", REVIEWS).unwrap().http[0].name, name);
    }
    world.delete("west", Kind::VirtualService, "shop", "part");
    world.compile();
    assert!(world.table("shop", REVIEWS).unwrap().http.is_empty());
}

#[test]
fn a_policy_of_the_mesh_settings_is_the_default_of_every_service() {
    let mut world = World::services(&["reviews", "ratings"]);
    let default = json!({"host": "x", "trafficPolicy": {
        "connectionPool": {"tcp": {"maxConnections": 5}}, "outlierDetection": {"consecutive5xxErrors": 9}}});
    let default = destination_rule("x", "x", default).spec;
    world.event(Event::Mesh(Mesh { default_policy: default, ..Mesh::default() }));
    let spec = json!({"host": "reviews", "trafficPolicy": {"outlierDetection": {"consecutive5xxErrors": 1}}});
    world.put("west", Object::DestinationRule(destination_rule("default", "reviews", spec)));
    world.put("east", Object::Service(service("details", 3)));
    world.compile();
    let of = |world: &World, name: &str| {
        let policy = world.policy("shop", &format!("{name}.default.svc.cluster.local"))?.variants[0].policy.clone()?;
        Some((policy.connection_pool?.max_connections, policy.outlier_detection?.consecutive_5xx_errors?))
    };
    assert_eq!(
        ["reviews", "ratings", "details"].map(|name| of(&world, name)),
        [Some((5, 1)), Some((5, 9)), Some((5, 9))]
    );
    world.event(Event::Mesh(Mesh::default()));
    world.compile();
    assert!(world.policy("shop", "ratings.default.svc.cluster.local").is_none() && of(&world, "reviews").is_none());
}

/// As many rules as services, with exact hosts and with wildcards, cost as much for each as a few of them.
#[test]
fn ten_thousand_services_with_rules_start_fast_and_one_change_is_one_change() {
    const SERVICES: usize = 10_000;
    let began = std::time::Instant::now();
    let mut world = World::new();
    world.cluster("west");
    for index in 0..SERVICES {
        let name = format!("s{index}");
        world.put("west", Object::Service(service(&name, 1)));
        let to = |subset: &str, weight: u8| json!({"destination": {"host": name, "subset": subset}, "weight": weight});
        let route = json!([{"route": [to("v1", 90), to("v2", 10)], "timeout": "1s"}]);
        world.put(
            "west",
            Object::VirtualService(virtual_service("default", &name, json!({"hosts": [name], "http": route}))),
        );
        let subsets = json!([{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]);
        let spec = json!({"host": name, "subsets": subsets, "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}});
        world.put("west", Object::DestinationRule(destination_rule("default", &name, spec)));
    }
    // Wildcards that match one service each.
    for index in 0..1_000 {
        let spec = json!({"host": format!("*s{index}.default.svc.cluster.local"), "trafficPolicy": {"tls": {"mode": "DISABLE"}}});
        world.put("west", Object::DestinationRule(destination_rule("shop", &format!("w{index}"), spec)));
    }
    let read = began.elapsed();
    world.compile();
    let compiled = began.elapsed() - read;
    assert_eq!(world.store.size(wire::Kind::RouteTable).0, SERVICES);
    println!("{SERVICES} services with rules: read in {read:?}, compiled in {compiled:?}");
    assert!(compiled < Duration::from_secs(60), "{compiled:?}");
    let began = std::time::Instant::now();
    let spec = json!({"hosts": ["s7"], "http": [{"route": [{"destination": {"host": "s8"}}]}]});
    world.put("west", Object::VirtualService(virtual_service("default", "s7", spec)));
    assert_eq!(world.compile(), 1);
    let states = world.inventory.rule_states().len();
    println!("one change: {:?}, with the states of {states} rules", began.elapsed());
    assert!(world.rule_notices().is_empty());
}
