//! One situation each.

use super::*;

fn address(name: &str) -> String {
    format!("@net-west/west/{name}")
}

/// West has reviews, east has reviews and ratings; one pod each, in other regions.
fn two_clusters() -> World {
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
fn nothing_crosses_clusters_unless_exported() {
    let mut world = two_clusters();
    assert_eq!(world.endpoints("west", "reviews").into_keys().collect::<Vec<_>>(), ["@net-west/west/10.244.0.1"]);
    assert_eq!(world.endpoints("east", "reviews").into_keys().collect::<Vec<_>>(), ["@net-east/east/10.244.0.1"]);
    let viewer = viewer("west");
    let view = world.store.view(&viewer);
    let ratings = wire::delta::Source::get(&view, wire::Kind::Service, "ratings.default.svc.cluster.local");
    assert!(ratings.is_none(), "not even its name");

    world.put("east", Object::Export(export("reviews")));
    world.put("east", Object::Export(export("ratings")));
    world.compile();
    let seen = world.endpoints("west", "reviews");
    let summary = &seen["@*/east/net-east/us-east/us-east-1/"];
    assert_eq!(seen.len(), 2);
    assert_eq!((&*summary.cluster, &*summary.network, summary.weight), ("east", "net-east", 1));
    assert_eq!(summary.locality.as_ref().unwrap().region, "us-east");
    let Some(endpoint::Kind::Summary(sum)) = &summary.kind else { panic!("{summary:?}") };
    assert_eq!(
        (sum.ready, &sum.identities[..], &sum.ports[..]),
        (1, &["spiffe://cluster.local/ns/default/sa/reviews".to_string()][..], &[9080][..])
    );
    assert_eq!(world.endpoints("east", "reviews").len(), 1, "west does not export");
    // Only east has it, so west gets an address for it and one for reviews is not needed.
    let ratings = world.service("ratings").unwrap();
    let shared: Vec<_> = ratings.addresses.iter().filter(|address| address.cluster.is_empty()).collect();
    assert_eq!((shared.len(), &shared[0].ip[..2]), (1, &[240, 240][..]));
    assert_eq!(world.service("reviews").unwrap().addresses.len(), 2);
    let ip = wire::name::ip_of_bytes(&shared[0].ip).unwrap();
    let west = world.store.view(&viewer);
    let alias = wire::name::address("west", ip);
    let found = wire::delta::Source::members(&west, wire::Kind::Service, &alias);
    assert_eq!(found.map(|item| item.name().to_string()).collect::<Vec<_>>(), ["ratings.default.svc.cluster.local"]);

    world.delete("east", Kind::Export, "default", "reviews");
    world.compile();
    assert_eq!(world.endpoints("west", "reviews").len(), 1);
    assert_eq!(world.facts("reviews", "default").exports, []);
}

#[test]
fn a_pods_change_is_one_small_message() {
    let mut world = two_clusters();
    world.put("west", Object::Slice(slice("reviews", &[(1, true), (2, true), (3, true)])));
    (2..4).for_each(|ip| world.put("west", Object::Pod(pod("reviews", ip))));
    world.compile();
    world.put("west", Object::Slice(slice("reviews", &[(1, true), (2, false), (3, true)])));
    assert_eq!(world.compile(), 1);
    let endpoints = world.endpoints("west", "reviews");
    assert_eq!(endpoints["@net-west/west/10.244.0.2"].health(), Health::Unready);
    let mut going = pod("reviews", 3);
    going.terminating = true;
    world.put("west", Object::Pod(going));
    assert_eq!(world.compile(), 1);
    assert_eq!(world.endpoints("west", "reviews")["@net-west/west/10.244.0.3"].health(), Health::Draining);
    // The same again is nothing.
    world.put("west", Object::Slice(slice("reviews", &[(1, true), (2, false), (3, true)])));
    assert!(!world.inventory.has_changes());
}

#[test]
fn a_direct_endpoint_says_all_that_a_proxy_needs() {
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
fn a_pods_own_address_leads_to_its_services() {
    let mut world = two_clusters();
    let found = |world: &World, cluster: &str, ip: u8| -> Vec<String> {
        let (viewer, alias) = (viewer(cluster), wire::name::address(cluster, [10, 244, 0, ip].into()));
        let view = world.store.view(&viewer);
        let found = wire::delta::Source::members(&view, wire::Kind::Service, &alias);
        found.map(|item| item.name().split('.').next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(found(&world, "west", 1), ["reviews"]);
    assert_eq!(found(&world, "east", 2), ["ratings"]);
    // The same address is another pod, or none, in another network, also where the service is exported.
    world.put("east", Object::Export(export("ratings")));
    world.compile();
    assert!(found(&world, "west", 2).is_empty() && found(&world, "west", 9).is_empty());
    // A pod may serve several, and one of them may stop.
    world.put("west", Object::Service(service("details", 3)));
    let mut details = slice("details", &[(1, true)]);
    details.endpoints[0].pod = Some("reviews-1".into());
    world.put("west", Object::Slice(details));
    world.compile();
    assert_eq!(found(&world, "west", 1), ["details", "reviews"]);
    world.delete("west", Kind::Slice, "default", "reviews-x");
    world.compile();
    assert_eq!(found(&world, "west", 1), ["details"]);
    // Clusters that share a network share its pods' addresses.
    // Its secret says no network, so its own label counts.
    let info = Cluster { name: "north".into(), own: false, network: "".into(), server: "".into() };
    world.event(Event::ClusterAdded(info));
    let network = Namespace { name: "istio-system".into(), network: Some("net-east".into()) };
    world.put("north", Object::Namespace(network));
    world.compile();
    assert_eq!(found(&world, "north", 2), ["ratings"], "exported");
    assert!(found(&world, "north", 1).is_empty(), "not exported");
}

#[test]
fn a_lost_link_changes_nothing_and_a_deleted_secret_removes() {
    let mut world = two_clusters();
    world.put("east", Object::Export(export("ratings")));
    world.compile();
    let before = world.everything();
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
    assert_eq!(world.everything(), before, "as it was, the address included");
}

#[test]
fn a_list_removes_what_it_lacks_but_an_empty_one_is_doubted() {
    let mut world = two_clusters();
    let kind = Kind::Service;
    let east: Text = "east".into();
    world.event(Event::Link { cluster: east.clone(), link: Link::Connected, since: world.now });
    world.event(Event::Listing { cluster: east.clone(), kind });
    world.put("east", Object::Service(service("reviews", 1)));
    assert_eq!(world.compile(), 0, "nothing is removed while the list runs");
    world.event(Event::Listed { cluster: east.clone(), kind });
    world.compile();
    assert!(world.service("ratings").is_none());

    // What every new cluster has does not count.
    let mut kubernetes = service("kubernetes", 9);
    kubernetes.ports[0].number = 443;
    world.event(Event::Listing { cluster: east.clone(), kind });
    world.put("east", Object::Service(kubernetes));
    world.event(Event::Listed { cluster: east.clone(), kind });
    world.compile();
    assert_eq!(world.inventory.cluster("east").unwrap().doubtful(), [kind]);
    assert_eq!(world.endpoints("east", "reviews").len(), 1);
    world.now += CONFIRM - Duration::from_secs(1);
    world.inventory.tick(world.now);
    world.event(Event::Link { cluster: east.clone(), link: Link::Lost("gone".into()), since: world.now });
    world.now += Duration::from_secs(60);
    world.inventory.tick(world.now);
    assert!(!world.inventory.has_changes(), "while the link is down nothing is confirmed");
    world.event(Event::Link { cluster: east, link: Link::Connected, since: world.now });
    world.now += CONFIRM;
    world.inventory.tick(world.now);
    world.compile();
    assert!(world.endpoints("east", "reviews").is_empty());
    assert!(world.service("kubernetes").is_some());
    assert!(world.inventory.cluster("east").unwrap().doubtful().is_empty());
}

const CONFIRM: Duration = crate::inventory::CONFIRM_EMPTY;

#[test]
fn ports_follow_the_own_cluster_then_the_oldest() {
    let mut world = two_clusters();
    world.cluster("south");
    let with = |created, number, protocol| {
        let port = ServicePort { name: "p".into(), number, protocol };
        Service { created, ports: vec![port], ..service("details", 3) }
    };
    world.put("east", Object::Service(with(50, 80, Protocol::Tcp)));
    world.put("south", Object::Service(with(40, 80, Protocol::Http)));
    world.compile();
    assert_eq!(world.service("details").unwrap().ports[0].protocol(), Protocol::Http);
    let conflicts = &world.conflicts("details");
    assert_eq!(conflicts.len(), 1);
    assert!(conflicts[0].contains("south wins"), "{conflicts:?}");
    world.put("west", Object::Service(with(60, 80, Protocol::Grpc)));
    world.put("south", Object::Service(with(40, 81, Protocol::Http)));
    world.compile();
    let ports: Vec<_> =
        world.service("details").unwrap().ports.iter().map(|port| (port.number, port.protocol())).collect();
    assert_eq!(ports, [(80, Protocol::Grpc), (81, Protocol::Http)]);
}

#[test]
fn gateways_are_services_that_say_so() {
    let mut world = two_clusters();
    let mut gateway = service("gateway", 8);
    gateway.network = Some("net-east".into());
    gateway.external_ips = vec![[203, 0, 113, 20].into(), [203, 0, 113, 21].into()];
    world.put("east", Object::Service(gateway.clone()));
    world.compile();
    assert!(world.body(wire::Kind::NetworkGateway, "net-east").is_none(), "it does not expose the port");
    gateway.ports.push(ServicePort { name: "tls".into(), number: 15443, protocol: Protocol::Tls });
    world.put("east", Object::Service(gateway.clone()));
    world.put("east", Object::Slice(slice("gateway", &[(9, true)])));
    world.compile();
    let told = |world: &World| match world.body(wire::Kind::NetworkGateway, "net-east") {
        Some(Body::NetworkGateway(gateway)) => gateway.addresses,
        _ => Vec::new(),
    };
    assert_eq!(told(&world).len(), 2);
    assert_eq!(told(&world)[0].locality.as_ref().unwrap().region, "us-east");
    assert_eq!((told(&world)[0].port, &*told(&world)[0].cluster), (15443, "east"));
    gateway.gateway_port = Some(9080);
    world.put("east", Object::Service(gateway));
    world.compile();
    assert_eq!(told(&world)[0].port, 9080);
    world.delete("east", Kind::Service, "default", "gateway");
    world.compile();
    assert!(told(&world).is_empty());
}

#[test]
fn an_auto_passthrough_gateway_exports_while_it_has_pods() {
    let mut world = two_clusters();
    let east_exports = |world: &World| world.service("reviews").unwrap().exports.len();
    world.put(
        "east",
        Object::Gateway(Gateway {
            namespace: "istio-system".into(),
            name: "cross".into(),
            selector: [("istio".into(), "eastwestgateway".into())].into(),
            hosts: vec!["*.local".into()],
        }),
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
fn our_own_services_are_exported_by_their_server_names() {
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
    let Some(Body::Service(told)) = world.body(wire::Kind::Service, hostname) else { panic!("not told") };
    let names = |number: u32| told.ports.iter().find(|port| port.number == number).unwrap().server_names.clone();
    assert!(names(15012).contains(&"isthmus-controller.isthmus-system.svc".to_string()));
    assert!(names(15014).is_empty());
    let exports: Vec<_> = told.exports.iter().map(|export| (&*export.cluster, &*export.network)).collect();
    assert_eq!(exports, [("west", "net-west")]);
}

#[test]
fn a_view_outlives_the_process() {
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
    // Not complete: not kept.
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
    assert_eq!(after.everything(), world.everything());
    assert!(after.inventory.ready() && after.inventory.is_remembered("east"));
    assert!(after.inventory.incomplete().is_empty());
    assert!(snapshot::age(after.inventory.cluster("east").unwrap().heard, world.now).is_some());

    // Its secret is gone meanwhile.
    after.cluster("west");
    after.event(Event::ClustersListed { named: BTreeSet::from(["broken".into()]) });
    after.compile();
    assert!(after.inventory.cluster("east").is_none() && after.service("ratings").is_none());
}
