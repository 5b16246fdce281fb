//! Tests that a hostile remote cluster cannot affect the traffic of other clusters.

use super::*;

const HOSTNAME: &str = "isthmus-controller.isthmus-system.svc.cluster.local";

/// Returns a world with reviews in `west` and in `east`, which both export it.
fn world_with_export() -> World {
    let mut world = World::new();
    for cluster in ["west", "east"] {
        world.cluster(cluster);
        world.put(cluster, Object::Service(service("reviews", 1)));
        world.put(cluster, Object::Pod(pod("reviews", 1)));
        world.put(cluster, Object::Slice(slice("reviews", &[(1, true)])));
        world.put(cluster, Object::Export(export("reviews")));
    }
    world.compile();
    world
}

fn pod_on(pod: Pod, network: &str) -> Pod {
    let label = ("topology.istio.io/network".into(), network.into());
    let labels = pod.labels.iter().map(|(key, value)| (key.clone(), value.clone())).chain([label]).collect();
    labelled(pod, labels)
}

fn gateway(network: &str, last: u8) -> Service {
    let mut gateway = service("gateway", 8);
    gateway.network = Some(network.into());
    gateway.external_ips = [[203, 0, 113, last].into()].into();
    gateway.ports.push(ServicePort {
        name: "tls".into(),
        number: 15443,
        protocol: Protocol::Tls,
        ..Default::default()
    });
    gateway
}

fn gateways(world: &World, network: &str) -> Vec<String> {
    match world.body(wire::Kind::NetworkGateway, network) {
        Some(Body::NetworkGateway(gateway)) => gateway.addresses.into_iter().map(|at| at.cluster).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn a_remote_pod_cannot_name_the_network_of_another_cluster() {
    let mut world = world_with_export();
    // With that network, sidecars of `west` would connect to 10.244.0.3 within `west`.
    world.put("east", Object::Pod(pod_on(pod("reviews", 3), "net-west")));
    world.put("east", Object::Slice(slice("reviews", &[(1, true), (3, true)])));
    world.compile();
    let seen: Vec<_> = world.endpoints("west", "reviews").into_keys().collect();
    assert_eq!(seen, ["@*/east/net-east///", "@net-west/west/10.244.0.1"]);
    let service = world.service("reviews").unwrap();
    let of_east = service.exports.iter().filter(|export| export.cluster == "east");
    assert_eq!(of_east.map(|export| &*export.network).collect::<Vec<_>>(), ["net-east"]);
    let conflicts = &world.conflicts("reviews");
    assert!(conflicts.iter().any(|line| line.contains("1 endpoints of east")), "{conflicts:?}");
    let notices = world.inventory.notices();
    assert!(notices.iter().any(|line| line.contains("Cluster east") && line.contains("net-west")), "{notices:?}");
    // A pod may name a network that has no cluster, as in Istio for machines outside of the cluster.
    world.put("east", Object::Pod(pod_on(pod("reviews", 3), "net-machines")));
    world.compile();
    assert_eq!(world.endpoints("west", "reviews").len(), 3);
    let notices = world.inventory.notices();
    assert!(notices.iter().all(|line| !line.contains(": Service ")), "{notices:?}");
}

#[test]
fn a_remote_cluster_cannot_provide_a_gateway_of_the_network_of_another_cluster() {
    let mut world = world_with_export();
    world.cluster("south");
    world.put("west", Object::Service(gateway("net-west", 10)));
    world.put("east", Object::Service(gateway("net-east", 20)));
    world.compile();
    let mut thief = gateway("net-west", 66);
    world.put("south", Object::Service(thief.clone()));
    world.compile();
    assert_eq!(gateways(&world, "net-west"), ["west"]);
    assert!(world.inventory.notices().iter().any(|line| line.contains("Cluster south") && line.contains("refused")));
    thief.network = Some("net-east".into());
    world.put("south", Object::Service(thief));
    world.compile();
    assert_eq!(gateways(&world, "net-east"), ["east"]);
    // Without `east`, its network has no cluster, so `south` may provide a gateway of it until `east` returns.
    world.event(Event::ClusterRemoved { cluster: "east".into() });
    world.compile();
    assert_eq!(gateways(&world, "net-east"), ["south"]);
    world.cluster("east");
    world.put("east", Object::Service(gateway("net-east", 20)));
    world.compile();
    assert_eq!(gateways(&world, "net-east"), ["east"]);
}

#[test]
fn the_annotation_of_the_remote_secret_takes_precedence_over_the_label() {
    let mut world = world_with_export();
    // `World` adds clusters with a network, as an annotated secret does.
    let claim = Namespace { name: "istio-system".into(), network: Some("net-west".into()) };
    world.put("east", Object::Namespace(claim));
    world.put("east", Object::Service(gateway("net-west", 66)));
    world.compile();
    assert_eq!(&**world.inventory.cluster("east").unwrap().network(), "net-east");
    assert_eq!(gateways(&world, "net-west"), [""; 0]);
}

#[test]
fn the_label_of_a_remote_cluster_cannot_choose_the_network_of_another_one() {
    let mut world = world_with_export();
    let network = |world: &World, cluster: &str| world.inventory.cluster(cluster).unwrap().network().to_string();
    let join = |world: &mut World, name: &str, network: &str, joined| {
        let (name, network) = (name.into(), network.into());
        world.event(Event::ClusterAdded(Cluster { name, own: false, network, server: "".into(), joined }));
        world.compile();
    };
    let label = |world: &mut World, cluster: &str, network: &str| {
        let namespace = Namespace { name: "istio-system".into(), network: Some(network.into()) };
        world.put(cluster, Object::Namespace(namespace));
        world.compile();
    };
    let refused = |world: &World, cluster: &str| {
        let start = format!("Cluster {cluster}: its label names");
        world.inventory.notices().iter().any(|line| line.starts_with(&start) && line.contains("isthmus join --network"))
    };
    join(&mut world, "rogue", "", 1);
    label(&mut world, "rogue", "net-west");
    world.put("rogue", Object::Service(service("reviews", 1)));
    world.put("rogue", Object::Pod(pod("reviews", 1)));
    world.put("rogue", Object::Slice(slice("reviews", &[(1, true)])));
    world.put("rogue", Object::Export(export("reviews")));
    world.put("rogue", Object::Service(gateway("net-west", 66)));
    world.compile();
    assert_eq!(network(&world, "rogue"), "");
    assert!(refused(&world, "rogue"), "{:?}", world.inventory.notices());
    assert_eq!(gateways(&world, "net-west"), [""; 0]);
    assert!(world.endpoints("west", "reviews").keys().all(|name| !name.contains("rogue")));
    // A network of its own is the label's to choose, as in Istio.
    label(&mut world, "rogue", "net-rogue");
    assert_eq!((network(&world, "rogue"), refused(&world, "rogue")), ("net-rogue".into(), false));

    // Of two clusters that only labels put on one network, the one that joined first is on it.
    join(&mut world, "south", "", 2);
    label(&mut world, "south", "net-south");
    label(&mut world, "rogue", "net-south");
    assert_eq!((network(&world, "rogue"), network(&world, "south")), ("net-south".into(), "".into()));
    assert!(refused(&world, "south"));
    // The joining side decides, also that two clusters share a network.
    join(&mut world, "south", "net-south", 2);
    assert_eq!((network(&world, "rogue"), network(&world, "south")), ("".into(), "net-south".into()));
    join(&mut world, "rogue", "net-south", 1);
    assert_eq!((network(&world, "rogue"), network(&world, "south")), ("net-south".into(), "net-south".into()));
    assert!(!refused(&world, "rogue"));
    assert_eq!(world.recomputed().all_resources(), world.all_resources());
}

#[test]
fn a_cluster_without_a_gateway_of_its_own_on_a_shared_network_is_reported() {
    let mut world = world_with_export();
    let network: Text = "net-shared".into();
    for (name, last) in [("east", Some(20)), ("south", None)] {
        let (cluster, network) = (name.into(), network.clone());
        world.event(Event::ClusterAdded(Cluster { name: cluster, own: false, network, server: "".into(), joined: 0 }));
        for kind in Kind::watched_in(crate::objects::event::ClusterRole::Remote) {
            world.event(Event::Listing { cluster: name.into(), kind });
            if kind == Kind::Export {
                world.put(name, Object::Export(export("reviews")));
            }
            if let (Kind::Service, Some(last)) = (kind, last) {
                world.put(name, Object::Service(gateway("net-shared", last)));
            }
            world.event(Event::Listed { cluster: name.into(), kind });
        }
    }
    world.compile();
    assert_eq!(gateways(&world, "net-shared"), ["east"]);
    let notices = world.inventory.notices();
    let lacks = |cluster: &str| {
        let start =
            format!("Cluster {cluster}: it exports services and has no east-west gateway of network net-shared");
        notices.iter().any(|line| line.starts_with(&start))
    };
    assert!(lacks("south") && !lacks("east"), "{notices:?}");
}

#[test]
fn a_remote_cluster_cannot_impersonate_the_controller() {
    let mut world = world_with_export();
    let own = |selects| {
        let mut service = service("isthmus-controller", 5);
        service.namespace = "isthmus-system".into();
        service.ports = vec![ServicePort { name: "grpc".into(), number: 15012, ..Default::default() }];
        service.selects = selects;
        service
    };
    let pods = |ip| {
        let mut of = (pod("isthmus-controller", ip), slice("isthmus-controller", &[(ip, true)]));
        Arc::make_mut(&mut of.0.template).namespace = "isthmus-system".into();
        of.1.namespace = "isthmus-system".into();
        of.1.ports = [("grpc".into(), 15012)].into();
        of
    };
    let exporters = |world: &World| match world.body(wire::Kind::Service, HOSTNAME) {
        Some(Body::Service(service)) => service.exports.into_iter().map(|export| export.cluster).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    for cluster in ["west", "east"] {
        world.put(cluster, Object::Service(own(true)));
        let (pod, slice) = pods(if cluster == "west" { 1 } else { 2 });
        world.put(cluster, Object::Pod(pod));
        world.put(cluster, Object::Slice(slice));
        world.put(
            cluster,
            Object::Export(Export {
                namespace: "isthmus-system".into(),
                name: "isthmus-controller".into(),
                created: 1,
                ..Export::default()
            }),
        );
    }
    world.event(Event::Mesh(Mesh { export_all: true, ..Default::default() }));
    world.compile();
    assert_eq!(exporters(&world), ["west"]);
    // The gateway of `west`, which forwards the controller's server names, receives only the controller of `west`.
    let collection = format!("{HOSTNAME}@net-west");
    let viewer = viewer("west");
    let view = world.store.view(&viewer);
    let members = wire::delta::Source::members(&view, wire::Kind::Endpoint, &collection);
    let seen: Vec<_> = members.map(|item| item.name()[HOSTNAME.len()..].to_string()).collect();
    assert_eq!(seen, ["@net-west/west/10.244.0.1"]);
    // Every primary cluster has a controller, so no notice reports the one of `east`.
    let notices = world.inventory.notices();
    assert!(notices.iter().all(|line| !line.contains(": Service ")), "{notices:?}");
    // `east` does not export the service either when `west` has none.
    world.delete("west", Kind::Service, "isthmus-system", "isthmus-controller");
    world.compile();
    assert_eq!(exporters(&world), [""; 0]);
}

#[test]
fn the_export_of_all_services_excludes_system_namespaces() {
    let mut world = world_with_export();
    let export = |namespace: &str| Export {
        namespace: namespace.into(),
        name: "metrics".into(),
        created: 1,
        ..Export::default()
    };
    for namespace in ["kube-system", "isthmus-system"] {
        for cluster in ["west", "east"] {
            world.put(cluster, Object::Service(Service { namespace: namespace.into(), ..service("metrics", 6) }));
        }
        world.put("east", Object::Export(export(namespace)));
    }
    world.put("west", Object::Export(export("kube-system")));
    world.event(Event::Mesh(Mesh { export_all: true, ..Default::default() }));
    world.compile();
    for namespace in ["kube-system", "isthmus-system"] {
        assert_eq!(world.facts("metrics", namespace).exports, [], "{namespace}");
    }
    // The own cluster may export single services of the controller's namespace.
    world.put("west", Object::Export(export("isthmus-system")));
    world.compile();
    assert_eq!(world.facts("metrics", "isthmus-system").exports.len(), 1);
}

#[test]
fn a_cluster_that_does_not_export_a_service_cannot_change_its_definition() {
    let mut world = world_with_export();
    world.cluster("south");
    let with = |created, protocol| {
        let port = ServicePort { name: "p".into(), number: 80, protocol, ..Default::default() };
        Service { created, ports: vec![port], ..service("details", 3) }
    };
    world.put("east", Object::Service(with(100, Protocol::Http)));
    world.put("east", Object::Export(export("details")));
    // The definition of `south` claims to be older, and differs.
    world.put("south", Object::Service(Service { headless: true, ..with(1, Protocol::Tcp) }));
    world.compile();
    let details = world.service("details").unwrap();
    assert_eq!((details.ports[0].protocol(), details.headless), (Protocol::Http, false));
}

#[test]
fn the_number_of_networks_of_a_cluster_is_bounded() {
    let mut world = world_with_export();
    for i in 0..200u8 {
        let mut pod = pod_on(pod("reviews", 9), &format!("net-{i}"));
        pod.name = format!("reviews-{i}").into();
        world.put("east", Object::Pod(pod));
    }
    world.compile();
    assert!(world.inventory.networks().all().len() < 40, "{}", world.inventory.networks().all().len());
}

#[test]
fn objects_beyond_the_limit_of_a_remote_cluster_are_ignored_and_counted() {
    let mut world = World::new();
    world.cluster("west");
    world.cluster("east");
    let limit = Kind::Gateway.limit();
    for cluster in ["west", "east"] {
        for i in 0..limit + 5 {
            let gateway = Gateway::exporting("default", &format!("g{i}"), Labels::default(), &[]);
            world.put(cluster, Object::Gateway(gateway));
        }
        // A known object may still change.
        let changed = Gateway::exporting("default", "g0", Labels::default(), &["*.local"]);
        world.put(cluster, Object::Gateway(changed));
    }
    assert_eq!(world.inventory.cluster("east").unwrap().count(Kind::Gateway), limit);
    assert_eq!(
        world.inventory.cluster("west").unwrap().count(Kind::Gateway),
        limit + 5,
        "the own cluster is not bounded"
    );
    world.compile();
    let notices = world.inventory.notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("5 objects of kind Gateway"), "{notices:?}");
    assert!(world.inventory.cluster("east").unwrap().gateways().get(&Key::new("default", "g0")).unwrap().exports());
}

#[test]
fn a_cluster_beyond_its_budget_for_bytes_is_not_read_and_delays_no_other() {
    let mut world = world_with_export();
    world.cluster("south");
    let router = labelled(pod("router", 7), [("istio".into(), "eastwestgateway".into())].into());
    world.put("south", Object::Pod(router));
    for i in 0..2_000 {
        let mut service = service("filler", 1);
        service.name = format!("filler-{i}").into();
        world.put("south", Object::Service(service));
    }
    let hosts: Vec<String> = (0..2_000).map(|i| format!("filler-{i}.default.svc.cluster.local")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let flood = |world: &mut World, from: usize| {
        for i in from..from + 1_000 {
            let selector = [("istio".into(), "eastwestgateway".into())].into();
            let gateway = Gateway::exporting("istio-system", &format!("g{i}"), selector, &hosts);
            world.put("south", Object::Gateway(gateway));
        }
    };
    flood(&mut world, 0);
    let exceeded = world.inventory.take_exceeded();
    assert!(
        matches!(&exceeded[..], [(cluster, why)] if &**cluster == "south" && why.contains("256 MiB")),
        "{exceeded:?}"
    );
    assert_eq!(world.inventory.take_exceeded(), [], "it is reported once");
    let south = |world: &World| {
        let south = world.inventory.cluster("south").unwrap();
        (matches!(south.link.0, Link::Excluded(_)), south.count(Kind::Gateway))
    };
    let (excluded, kept) = south(&world);
    assert!(excluded && kept < 200, "{kept}");
    assert!(!world.inventory.incomplete().contains("south"), "nothing waits for it");
    // A change of another cluster is in the next turn, whatever waits.
    world.put("west", Object::Service(service("details", 3)));
    let taken = world.inventory.take_changes(64);
    assert!(taken.len() <= 64);
    let details = Group::Service("details.default.svc.cluster.local".into());
    assert!(taken.contains(&details));
    // Its objects stay, as in an outage, and what its link still sends has no effect.
    world.compile();
    world.delete("south", Kind::Gateway, "istio-system", "g0");
    world.put("south", Object::Service(service("more", 4)));
    assert!(!world.inventory.has_changes());
    assert_eq!(south(&world), (true, kept));
    // The next attempt may bring it below the budget, or not.
    world.event(Event::Link { cluster: "south".into(), link: Link::Connecting, since: world.now });
    world.delete("south", Kind::Gateway, "istio-system", "g0");
    assert_eq!(south(&world), (false, kept - 1));
    flood(&mut world, 1_000);
    assert!(south(&world).0);
    world.event(Event::ClusterRemoved { cluster: "south".into() });
    world.compile();
    assert!(world.service("filler-0").is_none());
}

#[test]
fn a_cluster_beyond_its_budget_for_work_is_not_read_and_the_own_cluster_has_none() {
    let mut world = world_with_export();
    let now = world.now;
    for cluster in ["west", "east"] {
        world.inventory.charge(&cluster.into(), crate::inventory::budget::WORK - 1_000, now);
        assert_eq!(world.inventory.take_exceeded(), []);
    }
    // One pod that makes a Gateway export and not export is the work of all services of the cluster.
    let selector = Labels::from([("istio".into(), "eastwestgateway".into())]);
    let gateway = Gateway::exporting("istio-system", "g", selector.clone(), &["*.local"]);
    for cluster in ["west", "east"] {
        world.put(cluster, Object::Gateway(gateway.clone()));
        for _ in 0..500 {
            world.put(cluster, Object::Pod(labelled(pod("router", 7), selector.clone())));
            world.delete(cluster, Kind::Pod, "default", "router-7");
        }
    }
    let exceeded = world.inventory.take_exceeded();
    assert!(matches!(&exceeded[..], [(cluster, why)] if &**cluster == "east" && why.contains("work")), "{exceeded:?}");
}

#[test]
fn a_gateway_with_only_a_host_name_is_reported() {
    let mut world = world_with_export();
    let mut named = gateway("net-east", 20);
    named.external_ips = Box::default();
    named.external_names = ["lb.example.com".into()].into();
    world.put("east", Object::Service(named.clone()));
    world.compile();
    assert_eq!(gateways(&world, "net-east"), [""; 0]);
    let notices = world.inventory.notices();
    assert!(notices.iter().any(|line| line.contains("lb.example.com") && line.contains("externalIPs")), "{notices:?}");
    named.external_ips = [[203, 0, 113, 20].into()].into();
    world.put("east", Object::Service(named));
    world.compile();
    assert_eq!(gateways(&world, "net-east"), ["east"]);
    let notices = world.inventory.notices();
    assert!(notices.iter().all(|line| !line.contains(": Service ")), "{notices:?}");
}

#[test]
fn an_export_cannot_take_over_a_name_that_another_cluster_does_not_export() {
    let mut world = World::new();
    for (cluster, ip) in [("west", 1), ("east", 2)] {
        world.cluster(cluster);
        world.put(cluster, Object::Node(node("node-1", "us-west-1")));
        world.put(cluster, Object::Service(service("details", ip)));
        world.put(cluster, Object::Pod(pod("details", ip)));
        world.put(cluster, Object::Slice(slice("details", &[(ip, true)])));
    }
    world.compile();
    let own = (world.endpoints("west", "details"), world.view_of("west", "details"));
    // East exports the name with a locality label of west, and with another port and account.
    let label = ("topology.istio.io/locality".into(), "us-west.us-west-1".into());
    let rogue = pod("details", 2);
    let labels = rogue.labels.iter().map(|(key, value)| (key.clone(), value.clone())).chain([label]).collect();
    let mut rogue = labelled(rogue, labels);
    Arc::make_mut(&mut rogue.template).service_account = "rogue".into();
    world.put("east", Object::Pod(rogue));
    let mut definition = service("details", 2);
    definition.ports[0].protocol = Protocol::Tcp;
    world.put("east", Object::Service(definition));
    world.put("east", Object::Export(export("details")));
    world.compile();
    assert_eq!((world.endpoints("west", "details"), world.view_of("west", "details")), own);
    let identities = world.view_of("west", "details").unwrap().identities;
    assert_eq!(identities, ["spiffe://cluster.local/ns/default/sa/details"]);
    // The addresses of west lead to west's own service.
    let viewer = viewer("west");
    let view = world.store.view(&viewer);
    let alias = wire::name::address("west", [10, 96, 0, 1].into());
    assert_eq!(wire::delta::Source::members(&view, wire::Kind::Service, &alias).count(), 1);
    // A cluster without the service uses the exported one.
    world.cluster("south");
    world.compile();
    assert_eq!(world.view_of("south", "details").unwrap().ports[0].protocol(), Protocol::Tcp);
    assert_eq!(world.endpoints("south", "details").len(), 1);
    // Once west exports it as well, the definitions are one service, and the conflict is recorded.
    world.put("west", Object::Export(Export { created: 0, ..export("details") }));
    world.compile();
    assert_eq!(world.endpoints("west", "details").len(), 2);
    assert_eq!(world.view_of("west", "details"), world.view_of("south", "details"));
    assert!(world.conflicts("details")[0].contains("west wins"));
}

#[test]
fn services_of_one_name_that_no_cluster_exports_are_independent() {
    let mut world = World::new();
    let with = |cluster: &str, protocol, target| {
        let port = ServicePort { name: "db".into(), number: 5432, protocol, ..Default::default() };
        let mut slice = slice("details", &[(1, true)]);
        slice.ports = [("db".into(), target)].into();
        let headless = cluster == "west";
        let service =
            Service { ports: vec![port], headless, created: if headless { 1 } else { 2 }, ..service("details", 1) };
        (service, slice)
    };
    for (cluster, protocol, target) in [("west", Protocol::Http, 9080), ("east", Protocol::Tcp, 9091)] {
        world.cluster(cluster);
        let (service, slice) = with(cluster, protocol, target);
        world.put(cluster, Object::Service(service));
        world.put(cluster, Object::Slice(slice));
        world.put(cluster, Object::Pod(pod("details", 1)));
    }
    world.compile();
    let views = ["west", "east"].map(|cluster| world.view_of(cluster, "details").unwrap());
    assert_eq!(views.each_ref().map(|view| view.ports[0].protocol()), [Protocol::Http, Protocol::Tcp]);
    assert_eq!(views.each_ref().map(|view| view.headless), [true, false]);
    assert!(world.conflicts("details").is_empty());
    for (cluster, target) in [("west", 9080), ("east", 9091)] {
        let endpoints = world.endpoints(cluster, "details");
        let Some(endpoint::Kind::Direct(direct)) = &endpoints.values().next().unwrap().kind else { panic!() };
        assert_eq!((endpoints.len(), &direct.ports), (1, &BTreeMap::from([(5432, target)])), "{cluster}");
    }
}

#[test]
fn an_export_cannot_take_over_the_name_of_an_external_name() {
    let mut world = World::new();
    for cluster in ["west", "east", "south"] {
        world.cluster(cluster);
    }
    let external = Service { external: true, cluster_ips: Box::default(), ports: Vec::new(), ..service("details", 1) };
    world.put("west", Object::Service(external));
    world.compile();
    assert!(world.view_of("west", "details").is_none(), "DNS resolves the name outside the mesh");
    world.put("east", Object::Service(service("details", 2)));
    world.put("east", Object::Export(export("details")));
    world.put("west", Object::Export(export("details")));
    world.compile();
    assert!(world.view_of("west", "details").is_none());
    assert!(world.view_of("south", "details").is_some());
    assert_eq!(world.facts("details", "default").exports.len(), 1, "an ExternalName is not exported");
}
