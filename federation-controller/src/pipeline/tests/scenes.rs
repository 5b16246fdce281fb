//! Tests of compiling, with one situation each: exports, pod changes, outages, lists, gateways and snapshots.

use super::*;

fn address(name: &str) -> String {
    format!("@net-west/west/{name}")
}

/// Returns a world with two clusters in different regions: `west` with reviews, and `east` with reviews and ratings.
/// Each service has one pod.
pub(super) fn two_clusters() -> World {
    let mut world = World::new();
    world.cluster("west");
    world.cluster("east");
    world.put("west", Object::Node(node("node-1", "us-west-1")));
    world.put("east", Object::Node(node("node-1", "us-east-1")));
    for (cluster, name, ip) in [("west", "reviews", 1), ("east", "reviews", 1), ("east", "ratings", 2)] {
        world.put(cluster, Object::Service(service(name, ip)));
        world.put(cluster, Object::Pod(pod(name, ip)));
        world.put(cluster, Object::Slice(slice(name, &[(ip, true)])));
    }
    world.compile();
    world
}

#[test]
fn another_cluster_sees_a_service_only_when_it_is_exported() {
    let mut world = two_clusters();
    assert_eq!(world.endpoints("west", "reviews").into_keys().collect::<Vec<_>>(), ["@net-west/west/10.244.0.1"]);
    assert_eq!(world.endpoints("east", "reviews").into_keys().collect::<Vec<_>>(), ["@net-east/east/10.244.0.1"]);
    let viewer = viewer("west");
    let view = world.store.view(&viewer);
    let ratings = wire::delta::Source::get(&view, wire::Kind::Service, "ratings.default.svc.cluster.local");
    assert!(ratings.is_none(), "ratings is not exported");

    world.put("east", Object::Export(export("reviews")));
    world.put("east", Object::Export(export("ratings")));
    world.compile();
    assert_eq!(world.endpoints("west", "reviews").len(), 1, "west does not export reviews, so the name is its own");
    world.put("west", Object::Export(export("reviews")));
    world.compile();
    let seen = world.endpoints("west", "reviews");
    let endpoint = &seen["@*/east/net-east/us-east/us-east-1/"];
    assert_eq!(seen.len(), 2);
    assert_eq!((&*endpoint.cluster, &*endpoint.network, endpoint.weight), ("east", "net-east", 1));
    assert_eq!(endpoint.locality.as_ref().unwrap().region, "us-east");
    let Some(endpoint::Kind::Summary(summary)) = &endpoint.kind else { panic!("{endpoint:?}") };
    assert_eq!(
        (summary.ready, &summary.identities[..], &summary.ports[..]),
        (1, &["spiffe://cluster.local/ns/default/sa/reviews".to_string()][..], &[9080][..])
    );
    assert_eq!(world.endpoints("east", "reviews").len(), 2);
    // West has no Service for ratings, so ratings has an automatic address. Reviews has an address in each cluster.
    let ratings = world.service("ratings").unwrap();
    let shared: Vec<_> = ratings.addresses.iter().filter(|address| address.cluster.is_empty()).collect();
    assert_eq!((shared.len(), &shared[0].ip[..2]), (1, &[240, 240][..]));
    let reviews = world.service("reviews").unwrap().addresses;
    let clusterset = reviews.iter().filter(|address| address.cluster.is_empty()).count();
    assert_eq!((reviews.len(), clusterset), (3, 1), "one of each cluster, and the clusterset address");
    let ip = wire::name::ip_of_bytes(&shared[0].ip).unwrap();
    let west = world.store.view(&viewer);
    let alias = wire::name::address("west", ip);
    let found = wire::delta::Source::members(&west, wire::Kind::Service, &alias);
    assert_eq!(found.map(|item| item.name().to_string()).collect::<Vec<_>>(), ["ratings.default.svc.cluster.local"]);

    world.delete("east", Kind::Export, "default", "reviews");
    world.compile();
    assert_eq!(world.endpoints("west", "reviews").len(), 1);
    assert_eq!(world.endpoints("east", "reviews").len(), 1);
    assert_eq!(world.facts("reviews", "default").exports.len(), 1);
}

/// Returns the endpoints of a slice at IPv6 addresses.
fn ipv6(mut slice: Slice) -> Slice {
    slice.name = format!("{}-6", slice.service).into();
    for endpoint in &mut slice.endpoints {
        let std::net::IpAddr::V4(ip) = endpoint.ip else { continue };
        endpoint.ip = format!("fd00:10:244::{:x}", ip.octets()[3]).parse().unwrap();
    }
    slice
}

/// Returns the addresses, each with the further ones, of a service's direct endpoints as a cluster's proxies receive them.
fn addresses(world: &World, cluster: &str, name: &str) -> Vec<String> {
    let ip = |bytes: &bytes::Bytes| wire::name::ip_of_bytes(bytes).unwrap().to_string();
    let direct = |endpoint: discovery::Endpoint| match endpoint.kind {
        Some(endpoint::Kind::Direct(direct)) => {
            Some([&direct.ip].into_iter().chain(&direct.further_ips).map(ip).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    };
    world.endpoints(cluster, name).into_values().filter_map(direct).collect()
}

#[test]
fn a_pod_in_slices_of_both_families_is_one_endpoint_with_two_addresses() {
    let mut world = two_clusters();
    for name in ["reviews", "ratings"] {
        world.put("east", Object::Export(export(name)));
    }
    world.put("west", Object::Export(export("reviews")));
    world.compile();
    let both = slice("reviews", &[(1, true), (3, true)]);
    world.put("east", Object::Pod(pod("reviews", 3)));
    world.put("east", Object::Slice(both.clone()));
    world.put("east", Object::Slice(ipv6(both.clone())));
    world.compile();
    let expected = ["10.244.0.1 fd00:10:244::1", "10.244.0.3 fd00:10:244::3"];
    assert_eq!(addresses(&world, "east", "reviews"), expected);
    // Other networks balance by the number of pods, not of addresses.
    let summary = &world.endpoints("west", "reviews")["@*/east/net-east/us-east/us-east-1/"];
    assert_eq!(summary.weight, 2);
    assert_eq!(world.inventory.cluster("east").unwrap().ready_endpoints(&Key::new("default", "reviews")), 2);
    // Either address finds the service.
    for ip in ["10.244.0.3", "fd00:10:244::3"] {
        let (viewer, alias) = (viewer("east"), wire::name::address("east", ip.parse().unwrap()));
        let view = world.store.view(&viewer);
        let found = wire::delta::Source::members(&view, wire::Kind::Service, &alias);
        assert_eq!(found.count(), 1, "{ip}");
    }

    // The order in which the slices arrive does not matter, and each family may go.
    world.delete("east", Kind::Slice, "default", "reviews-x");
    world.compile();
    assert_eq!(addresses(&world, "east", "reviews"), ["fd00:10:244::1", "fd00:10:244::3"]);
    world.put("east", Object::Slice(both));
    world.compile();
    assert_eq!(addresses(&world, "east", "reviews"), expected);
    world.delete("east", Kind::Slice, "default", "reviews-6");
    world.compile();
    assert_eq!(addresses(&world, "east", "reviews"), ["10.244.0.1", "10.244.0.3"]);
    let (viewer, alias) = (viewer("east"), wire::name::address("east", "fd00:10:244::3".parse().unwrap()));
    let view = world.store.view(&viewer);
    assert_eq!(wire::delta::Source::members(&view, wire::Kind::Service, &alias).count(), 0);
}

/// Returns the further fields of a service's direct endpoints as a cluster's proxies receive them.
fn direct(world: &World, cluster: &str, name: &str) -> Vec<discovery::Direct> {
    let direct = |endpoint: discovery::Endpoint| match endpoint.kind {
        Some(endpoint::Kind::Direct(direct)) => Some(direct),
        _ => None,
    };
    world.endpoints(cluster, name).into_values().filter_map(direct).collect()
}

#[test]
fn a_service_of_internal_traffic_policy_local_serves_the_nodes_of_its_own_cluster_alone() {
    let mut world = two_clusters();
    world.put("west", Object::Export(export("reviews")));
    world.put("east", Object::Export(export("reviews")));
    world.compile();
    assert_eq!((world.endpoints("west", "reviews").len(), world.endpoints("east", "reviews").len()), (2, 2));
    assert!(!direct(&world, "east", "reviews")[0].node_local);
    let with = |node_local| Object::Service(Service { node_local, ..service("reviews", 1) });
    world.put("east", with(true));
    world.compile();
    // East uses its own endpoints, each on its node; others do not use them, and their gateway does not forward to them.
    let own = direct(&world, "east", "reviews");
    assert_eq!((own.len(), own[0].node_local, &*own[0].node), (1, true, "node-1"));
    assert_eq!(world.endpoints("east", "reviews").len(), 1);
    assert_eq!(world.endpoints("west", "reviews").into_keys().collect::<Vec<_>>(), ["@net-west/west/10.244.0.1"]);
    assert!(!direct(&world, "west", "reviews")[0].node_local);
    assert!(world.view_of("east", "reviews").unwrap().exports.is_empty());
    for kind in Kind::watched_in(crate::objects::event::ClusterRole::Remote) {
        let cluster: Text = "east".into();
        let easts = world.inventory.cluster("east").unwrap();
        let objects: Vec<Object> = easts.objects().filter(|of| of.kind() == kind).collect();
        world.event(Event::Listing { cluster: cluster.clone(), kind });
        for object in objects {
            world.put("east", object);
        }
        world.event(Event::Listed { cluster, kind });
    }
    let notices = world.inventory.notices();
    assert!(notices.iter().any(|line| line.contains("internalTrafficPolicy Local")), "{notices:?}");
    world.put("east", with(false));
    world.compile();
    assert_eq!((world.endpoints("west", "reviews").len(), world.endpoints("east", "reviews").len()), (2, 2));
}

#[test]
fn members_of_a_headless_service_have_their_hostnames() {
    let mut world = two_clusters();
    let mut members = slice("reviews", &[(1, true), (2, true), (3, true)]);
    (2..4).for_each(|ip| world.put("west", Object::Pod(pod("reviews", ip))));
    members.endpoints[0].named = true;
    Arc::make_mut(&mut members.endpoints[1].spot).hostname = Some("second".into());
    world.put("west", Object::Slice(members.clone()));
    world.compile();
    let hostnames = |world: &World| -> Vec<String> {
        direct(world, "west", "reviews").into_iter().map(|direct| direct.pod_hostname).collect()
    };
    assert_eq!(hostnames(&world), ["reviews-1", "second", ""]);
    members.endpoints[0].named = false;
    world.put("west", Object::Slice(members));
    assert_eq!(world.compile(), 1);
    assert_eq!(hostnames(&world), ["", "second", ""]);
}

#[test]
fn a_pod_with_a_new_address_has_one_endpoint_at_it() {
    let mut world = two_clusters();
    // A stateful pod was created again: for a moment its old address is in one slice and the new one in another.
    let mut old = slice("reviews", &[(1, false)]);
    old.endpoints[0].ip = [10, 244, 0, 9].into();
    old.name = "reviews-a".into();
    world.put("west", Object::Slice(old));
    world.compile();
    assert_eq!(addresses(&world, "west", "reviews"), ["10.244.0.1"]);
}

#[test]
fn a_cluster_with_ipv6_has_allocated_addresses_of_both_families() {
    let mut world = two_clusters();
    world.put("east", Object::Export(export("ratings")));
    world.compile();
    let allocated = |world: &World| {
        let service = world.service("ratings").unwrap();
        let shared = service.addresses.into_iter().filter(|address| address.cluster.is_empty());
        shared.map(|address| wire::name::ip_of_bytes(&address.ip).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(allocated(&world).len(), 1);
    let mut dual = service("details", 7);
    dual.cluster_ips = [dual.cluster_ips[0], "fd00:10:96::7".parse().unwrap()].into();
    world.put("west", Object::Service(dual.clone()));
    world.compile();
    let both = allocated(&world);
    assert_eq!(both.len(), 2);
    for ip in both {
        let (viewer, alias) = (viewer("west"), wire::name::address("west", ip));
        let view = world.store.view(&viewer);
        assert_eq!(wire::delta::Source::members(&view, wire::Kind::Service, &alias).count(), 1, "{ip}");
    }
    let own: Vec<_> = world.service("details").unwrap().addresses;
    assert_eq!(own.iter().filter(|address| address.cluster == "west").count(), 2);
    dual.cluster_ips = [dual.cluster_ips[0]].into();
    world.put("west", Object::Service(dual));
    world.compile();
    assert_eq!(allocated(&world).len(), 1);
}

#[test]
fn a_change_of_a_pod_changes_one_resource() {
    let mut world = two_clusters();
    world.put("west", Object::Slice(slice("reviews", &[(1, true), (2, true), (3, true)])));
    (2..4).for_each(|ip| world.put("west", Object::Pod(pod("reviews", ip))));
    world.compile();
    world.put("west", Object::Slice(slice("reviews", &[(1, true), (2, false), (3, true)])));
    assert_eq!(world.compile(), 1);
    let endpoints = world.endpoints("west", "reviews");
    assert_eq!(endpoints["@net-west/west/10.244.0.2"].health(), Health::Unready);
    let mut terminating = pod("reviews", 3);
    terminating.terminating = true;
    world.put("west", Object::Pod(terminating));
    assert_eq!(world.compile(), 1);
    assert_eq!(world.endpoints("west", "reviews")["@net-west/west/10.244.0.3"].health(), Health::Draining);
    // The same slice again is not a change.
    world.put("west", Object::Slice(slice("reviews", &[(1, true), (2, false), (3, true)])));
    assert!(!world.inventory.has_changes());
}

#[test]
fn a_direct_endpoint_has_the_locality_ports_identity_and_workload_of_its_pod() {
    let world = two_clusters();
    let endpoint = world.endpoints("west", "reviews").remove(&address("10.244.0.1")).unwrap();
    assert_eq!(endpoint.locality.unwrap().zone, "us-west-1");
    let Some(endpoint::Kind::Direct(direct)) = endpoint.kind else { panic!("not direct") };
    assert_eq!(direct.ports, BTreeMap::from([(9080, 8080)]));
    assert_eq!(direct.identity, "spiffe://cluster.local/ns/default/sa/reviews");
    assert!(direct.mutual_tls);
    let workload = direct.workload.unwrap();
    assert_eq!(
        (&*workload.canonical_service, &*workload.canonical_revision, &*workload.workload),
        ("reviews", "v1", "reviews")
    );
    let Some(Body::Workload(own)) = world.body(wire::Kind::Workload, "west/default/reviews-1") else {
        panic!("no workload")
    };
    assert_eq!(own.ports.len(), 1);
    assert_eq!((own.ports[0].number, own.ports[0].service_port, own.ports[0].protocol()), (8080, 9080, Protocol::Http));
    assert_eq!(own.network, "net-west");
}

#[test]
fn the_address_of_a_pod_finds_its_services() {
    let mut world = two_clusters();
    let found = |world: &World, cluster: &str, ip: u8| -> Vec<String> {
        let (viewer, alias) = (viewer(cluster), wire::name::address(cluster, [10, 244, 0, ip].into()));
        let view = world.store.view(&viewer);
        let found = wire::delta::Source::members(&view, wire::Kind::Service, &alias);
        found.map(|item| item.name().split('.').next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(found(&world, "west", 1), ["reviews"]);
    assert_eq!(found(&world, "east", 2), ["ratings"]);
    // In another network the same address belongs to another pod or to none, also when the service is exported.
    world.put("east", Object::Export(export("ratings")));
    world.compile();
    assert!(found(&world, "west", 2).is_empty() && found(&world, "west", 9).is_empty());
    // A pod may serve several services, and one of them may lose its slice.
    world.put("west", Object::Service(service("details", 3)));
    let mut details = slice("details", &[(1, true)]);
    details.endpoints[0].pod = Some("reviews-1".into());
    world.put("west", Object::Slice(details));
    world.compile();
    assert_eq!(found(&world, "west", 1), ["details", "reviews"]);
    world.delete("west", Kind::Slice, "default", "reviews-x");
    world.compile();
    assert_eq!(found(&world, "west", 1), ["details"]);
    // Clusters of one network share the addresses of its pods.
    let info = Cluster { name: "north".into(), own: false, network: "net-east".into(), server: "".into(), joined: 0 };
    world.event(Event::ClusterAdded(info));
    world.compile();
    assert_eq!(found(&world, "north", 2), ["ratings"], "ratings is exported");
    assert!(found(&world, "north", 1).is_empty(), "reviews is not exported");
}

#[test]
fn a_lost_link_changes_nothing_and_a_removed_cluster_removes_its_resources() {
    let mut world = two_clusters();
    world.put("east", Object::Export(export("ratings")));
    world.compile();
    let before = world.all_resources();
    world.event(Event::Link { cluster: "east".into(), link: Link::Lost("refused".into()), since: world.now });
    assert_eq!(world.compile(), 0);
    world.event(Event::ClusterRemoved { cluster: "east".into() });
    world.compile();
    assert!(world.service("ratings").is_none());
    assert!(world.endpoints("east", "ratings").is_empty());
    world.cluster("east");
    let mut rest = World::new();
    rest.cluster("east");
    world.put("east", Object::Node(node("node-1", "us-east-1")));
    for (name, ip) in [("reviews", 1), ("ratings", 2)] {
        world.put("east", Object::Service(service(name, ip)));
        world.put("east", Object::Pod(pod(name, ip)));
        world.put("east", Object::Slice(slice(name, &[(ip, true)])));
    }
    world.put("east", Object::Export(export("ratings")));
    world.compile();
    assert_eq!(world.all_resources(), before, "the resources are as before, with the same automatic address");
}

#[test]
fn a_list_removes_the_objects_it_lacks_but_an_empty_list_awaits_confirmation() {
    let mut world = two_clusters();
    let kind = Kind::Service;
    let east: Text = "east".into();
    world.event(Event::Link { cluster: east.clone(), link: Link::Connected, since: world.now });
    world.event(Event::Listing { cluster: east.clone(), kind });
    world.put("east", Object::Service(service("reviews", 1)));
    assert_eq!(world.compile(), 0, "nothing is removed before the list is complete");
    world.event(Event::Listed { cluster: east.clone(), kind });
    world.compile();
    assert!(world.service("ratings").is_none());

    // A list with only the objects of every new cluster counts as empty.
    let mut kubernetes = service("kubernetes", 9);
    kubernetes.ports[0].number = 443;
    let list = |world: &mut World| {
        world.event(Event::Listing { cluster: "east".into(), kind });
        world.put("east", Object::Service(kubernetes.clone()));
        world.event(Event::Listed { cluster: "east".into(), kind });
        world.compile();
    };
    list(&mut world);
    assert_eq!(world.inventory.cluster("east").unwrap().doubtful(), [kind]);
    assert_eq!(world.endpoints("east", "reviews").len(), 1);
    world.now += CONFIRM - Duration::from_secs(1);
    world.inventory.tick(world.now);
    world.event(Event::Link { cluster: east.clone(), link: Link::Lost("refused".into()), since: world.now });
    world.now += Duration::from_secs(60);
    world.inventory.tick(world.now);
    assert!(!world.inventory.has_changes(), "an empty list is not confirmed while the link is down");
    world.event(Event::Link { cluster: east.clone(), link: Link::Connected, since: world.now });
    world.now += CONFIRM;
    world.inventory.tick(world.now);
    assert!(!world.inventory.has_changes(), "the list was not repeated");
    assert_eq!(world.inventory.take_relists(world.now), [east]);
    assert_eq!(world.inventory.take_relists(world.now), []);
    list(&mut world);
    world.inventory.tick(world.now);
    world.compile();
    assert!(world.endpoints("east", "reviews").is_empty());
    assert!(world.service("kubernetes").is_some());
    assert!(world.inventory.cluster("east").unwrap().doubtful().is_empty());
}

const CONFIRM: Duration = crate::inventory::CONFIRM_EMPTY;

#[test]
fn the_oldest_export_defines_a_port_and_without_exports_the_own_cluster() {
    let mut world = two_clusters();
    world.cluster("south");
    let with = |created, number, protocol| {
        let port = ServicePort { name: "p".into(), number, protocol, ..Default::default() };
        Service { created, ports: vec![port], ..service("details", 3) }
    };
    for (cluster, created) in [("west", 3), ("east", 2), ("south", 1)] {
        world.put(cluster, Object::Export(Export { created, ..export("details") }));
    }
    world.put("east", Object::Service(with(40, 80, Protocol::Tcp)));
    world.put("south", Object::Service(with(50, 80, Protocol::Http)));
    world.compile();
    assert_eq!(world.service("details").unwrap().ports[0].protocol(), Protocol::Http);
    let conflicts = &world.conflicts("details");
    assert_eq!(conflicts.len(), 1);
    assert!(conflicts[0].contains("south wins"), "{conflicts:?}");
    world.put("west", Object::Service(with(30, 80, Protocol::Grpc)));
    world.put("south", Object::Service(with(50, 81, Protocol::Http)));
    world.compile();
    let ports = |world: &World| -> Vec<_> {
        world.service("details").unwrap().ports.iter().map(|port| (port.number, port.protocol())).collect()
    };
    assert_eq!(ports(&world), [(80, Protocol::Tcp), (81, Protocol::Http)]);
    world.event(Event::Mesh(Mesh { export_all: true, ..Default::default() }));
    for cluster in ["west", "east", "south"] {
        world.delete(cluster, Kind::Export, "default", "details");
    }
    world.compile();
    assert_eq!(ports(&world), [(80, Protocol::Grpc), (81, Protocol::Http)]);
}

#[test]
fn a_service_with_a_network_and_a_gateway_port_is_an_east_west_gateway() {
    let mut world = two_clusters();
    let mut gateway = service("gateway", 8);
    gateway.network = Some("net-east".into());
    gateway.external_ips = [[203, 0, 113, 20].into(), [203, 0, 113, 21].into()].into();
    world.put("east", Object::Service(gateway.clone()));
    world.compile();
    assert!(world.body(wire::Kind::NetworkGateway, "net-east").is_none(), "port 15443 is not exposed");
    gateway.ports.push(ServicePort {
        name: "tls".into(),
        number: 15443,
        protocol: Protocol::Tls,
        ..Default::default()
    });
    world.put("east", Object::Service(gateway.clone()));
    world.put("east", Object::Slice(slice("gateway", &[(9, true)])));
    world.compile();
    let addresses = |world: &World| match world.body(wire::Kind::NetworkGateway, "net-east") {
        Some(Body::NetworkGateway(gateway)) => gateway.addresses,
        _ => Vec::new(),
    };
    assert_eq!(addresses(&world).len(), 2);
    assert_eq!(addresses(&world)[0].locality.as_ref().unwrap().region, "us-east");
    assert_eq!((addresses(&world)[0].port, &*addresses(&world)[0].cluster), (15443, "east"));
    gateway.gateway_port = Some(9080);
    world.put("east", Object::Service(gateway));
    world.compile();
    assert_eq!(addresses(&world)[0].port, 9080);
    world.delete("east", Kind::Service, "default", "gateway");
    world.compile();
    assert!(addresses(&world).is_empty());
}

#[test]
fn an_auto_passthrough_gateway_exports_while_it_has_pods() {
    let mut world = two_clusters();
    let east_exports = |world: &World| world.service("reviews").unwrap().exports.len();
    world.put(
        "east",
        Object::Gateway(Gateway::exporting(
            "istio-system",
            "cross",
            [("istio".into(), "eastwestgateway".into())].into(),
            &["*.local"],
        )),
    );
    world.compile();
    assert_eq!(east_exports(&world), 0, "no pod is selected");
    let router = labelled(pod("router", 7), [("istio".into(), "eastwestgateway".into())].into());
    world.put("east", Object::Pod(router));
    world.compile();
    assert_eq!(east_exports(&world), 1);
    world.delete("east", Kind::Pod, "default", "router-7");
    world.compile();
    assert_eq!(east_exports(&world), 0);
}

#[test]
fn the_own_cluster_exports_the_services_of_the_controller_with_their_server_names() {
    let mut world = two_clusters();
    let mut own = service("isthmus-controller", 5);
    own.namespace = "isthmus-system".into();
    own.ports = [15012, 15014]
        .map(|number| ServicePort { name: format!("p{number}").into(), number, ..Default::default() })
        .into();
    world.put("west", Object::Service(own.clone()));
    own.selects = false;
    world.put("east", Object::Service(own));
    world.compile();
    let hostname = "isthmus-controller.isthmus-system.svc.cluster.local";
    let Some(Body::Service(service)) = world.body(wire::Kind::Service, hostname) else { panic!("no service") };
    let names = |number: u32| service.ports.iter().find(|port| port.number == number).unwrap().server_names.clone();
    assert!(names(15012).contains(&"isthmus-controller.isthmus-system.svc".to_string()));
    assert!(names(15014).is_empty());
    let exports: Vec<_> = service.exports.iter().map(|export| (&*export.cluster, &*export.network)).collect();
    assert_eq!(exports, [("west", "net-west")]);

    // A controller that signs for its own cluster alone is reachable from no other cluster.
    let exported = |world: &World| match world.body(wire::Kind::Service, hostname) {
        Some(Body::Service(service)) => service.ports.iter().any(|port| !port.server_names.is_empty()),
        _ => false,
    };
    for serves_others in [false, true, false] {
        world.event(Event::Trust(crate::objects::event::Trust { serves_others, ..Default::default() }));
        world.compile();
        assert_eq!(exported(&world), serves_others);
    }
}

#[test]
fn a_snapshot_on_disk_restores_the_same_resources() {
    let mut world = two_clusters();
    world.put("east", Object::Export(export("ratings")));
    for cluster in ["west", "east"] {
        for kind in Kind::ALL {
            if matches!(kind, Kind::Gateway | Kind::Namespace) {
                world.event(Event::Listing { cluster: cluster.into(), kind });
            }
        }
    }
    world.compile();
    let directory = tempfile::tempdir().unwrap();
    // A cluster whose lists are not complete has no snapshot.
    assert!(snapshot::File::of_cluster(directory.path(), world.inventory.cluster("east").unwrap()).is_none());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    for cluster in ["west", "east"] {
        let objects: Vec<Object> = world.inventory.cluster(cluster).unwrap().objects().collect();
        for kind in Kind::ALL {
            world.event(Event::Listing { cluster: cluster.into(), kind });
            let of_kind = objects.iter().filter(|object| object.kind() == kind);
            of_kind.for_each(|object| world.put(cluster, object.clone()));
            world.event(Event::Listed { cluster: cluster.into(), kind });
        }
        let of = world.inventory.cluster(cluster).unwrap();
        snapshot::File::of_cluster(directory.path(), of).unwrap().write().unwrap();
    }
    snapshot::File::of_mesh(directory.path(), world.inventory.mesh()).write().unwrap();

    let mut after = World::new();
    std::fs::write(directory.path().join("cluster-broken.jsonl"), "{\n").unwrap();
    snapshot::restore(&mut after.inventory, directory.path());
    after.compile();
    assert_eq!(after.all_resources(), world.all_resources());
    assert!(after.inventory.ready() && after.inventory.is_remembered("east"));
    assert!(after.inventory.incomplete().is_empty());
    assert!(snapshot::age(after.inventory.cluster("east").unwrap().heard, world.now).is_some());

    // The remote secret of `east` was deleted while the controller was down.
    after.cluster("west");
    after.event(Event::ClustersListed { named: BTreeSet::from(["broken".into()]) });
    after.compile();
    assert!(after.inventory.cluster("east").is_none() && after.service("ratings").is_none());
}

#[test]
fn endpoints_that_terminate_and_serve_are_used_while_no_endpoint_is_ready() {
    let mut world = two_clusters();
    let with = |endpoints: &[(u8, bool, bool, bool)]| {
        let mut slice = slice("reviews", &endpoints.iter().map(|(ip, ready, ..)| (*ip, *ready)).collect::<Vec<_>>());
        for (endpoint, (.., terminating, serving)) in slice.endpoints.iter_mut().zip(endpoints) {
            (endpoint.terminating, endpoint.serving) = (*terminating, *serving);
        }
        slice
    };
    let health = |world: &World| -> Vec<Health> {
        world.endpoints("west", "reviews").values().map(|endpoint| endpoint.health()).collect()
    };
    (2..4).for_each(|ip| world.put("west", Object::Pod(pod("reviews", ip))));
    world.put("west", Object::Slice(with(&[(1, false, true, true), (2, false, true, false), (3, true, false, true)])));
    world.compile();
    assert_eq!(health(&world), [Health::Draining, Health::Draining, Health::Ready]);
    world
        .put("west", Object::Slice(with(&[(1, false, true, true), (2, false, true, false), (3, false, false, false)])));
    world.compile();
    assert_eq!(health(&world), [Health::Ready, Health::Draining, Health::Unready]);
    // With publishNotReadyAddresses, the slice of a terminating endpoint is ready.
    let mut service = service("reviews", 1);
    service.publish_not_ready = true;
    world.put("west", Object::Service(service));
    world.put("west", Object::Slice(with(&[(1, true, true, true), (2, true, true, false), (3, false, false, false)])));
    world.compile();
    assert_eq!(health(&world), [Health::Ready; 3]);
}

#[test]
fn an_endpoint_without_a_node_has_the_locality_that_the_nodes_of_its_cluster_share() {
    let mut world = two_clusters();
    let mut manual = slice("reviews", &[(1, true)]);
    manual.endpoints[0].pod = None;
    manual.endpoints[0].spot = Default::default();
    world.put("west", Object::Slice(manual));
    let locality = |world: &World| {
        let locality = world.endpoints("west", "reviews").remove(&address("10.244.0.1")).unwrap().locality.unwrap();
        (locality.region, locality.zone)
    };
    world.compile();
    assert_eq!(locality(&world), ("us-west".into(), "us-west-1".into()));
    world.put("west", Object::Node(node("node-2", "us-west-2")));
    world.compile();
    assert_eq!(locality(&world), ("us-west".into(), String::new()));
    world.put("west", Object::Node(node("node-3", "eu-north-1")));
    world.compile();
    assert_eq!(locality(&world), (String::new(), String::new()));
    world.delete("west", Kind::Node, "", "node-3");
    world.delete("west", Kind::Node, "", "node-2");
    world.compile();
    assert_eq!(locality(&world), ("us-west".into(), "us-west-1".into()));
}

#[test]
fn exports_and_gateways_without_effect_are_reported_with_the_reason() {
    let mut world = two_clusters();
    let objects: Vec<Object> = world.inventory.cluster("east").unwrap().objects().collect();
    for kind in Kind::ALL {
        world.event(Event::Listing { cluster: "east".into(), kind });
        let of_kind = objects.iter().filter(|object| object.kind() == kind);
        of_kind.for_each(|object| world.put("east", object.clone()));
        world.event(Event::Listed { cluster: "east".into(), kind });
    }
    world.put("east", Object::Export(export("reveiws")));
    world.put("east", Object::Export(export("reviews")));
    world.put("east", Object::Service(service("details", 3)));
    world.put("east", Object::Export(export("details")));
    world.put("east", Object::Pod(labelled(pod("details", 3), Labels::default())));
    world.put("east", Object::Slice(slice("details", &[(3, true)])));
    // Scaled to zero is no mistake.
    world.put("east", Object::Slice(slice("reviews", &[])));
    let selector = [("istio".into(), "eastwestgateway".into())].into();
    world.put("east", Object::Gateway(Gateway::exporting("istio-system", "cross", selector, &["*.local"])));
    let ingress = serde_json::json!({"metadata": {"name": "ingress", "namespace": "default"}, "spec": {"servers": [
        {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}});
    let ingress = Gateway::extract(serde_json::from_value(ingress).unwrap()).unwrap();
    world.put("east", Object::Gateway(ingress));
    for (name, ip, ports, label) in [("no-address", 0, 1, None), ("no-port", 1, 1, None), ("no-number", 1, 2, Some(0))]
    {
        let mut gateway = service(name, 8);
        gateway.network = Some("net-east".into());
        gateway.external_ips = (0..ip).map(|_| [203, 0, 113, 20].into()).collect();
        gateway.gateway_port = label;
        if ports > 1 {
            gateway.ports.push(ServicePort {
                name: "tls".into(),
                number: 15443,
                protocol: Protocol::Tls,
                ..Default::default()
            });
        }
        world.put("east", Object::Service(gateway));
    }
    world.compile();
    let notices = world.inventory.notices();
    for expected in [
        "ServiceExport default/reveiws has no effect: the cluster has no such Service",
        "ServiceExport default/details has no effect: no endpoint has a sidecar",
        "Gateway istio-system/cross exports nothing: its selector matches no pod",
        "Gateway default/ingress: has no effect: Gateways of ingress and egress gateways are read from the primary cluster",
        "Service default/no-address is a gateway of network net-east without an address",
        "Service default/no-port is a gateway of network net-east that does not expose port 15443",
        "Service default/no-number is a gateway of network net-east whose label networking.istio.io/gatewayPort is not a port",
    ] {
        assert!(notices.iter().any(|notice| notice.contains(expected)), "{expected}: {notices:#?}");
    }
    assert_eq!(notices.len(), 7, "{notices:#?}");
}

#[test]
fn a_cluster_is_incomplete_until_its_last_resource_is_published() {
    let metrics = Metrics::new(&telemetry::metrics::Registry::new());
    let state = State::new(Inventory::new(settings()), metrics);
    let mut pipeline = Pipeline::new(state.clone(), None);
    let add = |name: &str| {
        let network = format!("net-{name}").into();
        Event::ClusterAdded(Cluster { name: name.into(), own: name == "west", network, server: "".into(), joined: 0 })
    };
    let list = |name: &str, services: usize| {
        let cluster: Text = name.into();
        let mut events: Vec<Event> =
            Kind::ALL.into_iter().map(|kind| Event::Listing { cluster: cluster.clone(), kind }).collect();
        events.extend((0..services).map(|i| {
            let object = Object::Service(service(&format!("s{i}"), 1));
            Event::Upsert { cluster: cluster.clone(), object }
        }));
        events.extend(Kind::ALL.into_iter().map(|kind| Event::Listed { cluster: cluster.clone(), kind }));
        events
    };
    let certain = || {
        let viewer = viewer("west");
        let store = state.store();
        let view = store.view(&viewer);
        wire::delta::Source::certain(&view, wire::Kind::Service, "s0.default.svc.cluster.local")
    };
    pipeline.apply(&mut vec![add("west")]);
    pipeline.apply(&mut list("west", 1));
    pipeline.compile();
    assert!(state.ready() && certain());
    pipeline.apply(&mut vec![add("east")]);
    pipeline.compile();
    assert!(!certain());
    pipeline.apply(&mut list("east", GROUPS + 10));
    pipeline.compile();
    assert!(state.inventory().has_changes() && !certain());
    pipeline.compile();
    assert!(!state.inventory().has_changes() && certain());
}
