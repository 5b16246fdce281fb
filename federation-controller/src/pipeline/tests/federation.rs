//! FederationPolicies: who may export a name, who consumes it, and how much of a peer is accepted.

use serde_json::{Value, json};

use super::*;
use crate::inventory::ExportRefusal;

/// Returns a policy.
fn policy(namespace: &str, name: &str, spec: Value) -> FederationPolicy {
    let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
    let policy = FederationPolicy::extract(serde_json::from_value(object).unwrap()).unwrap();
    assert!(!policy.refused(), "{policy:?}");
    policy
}

/// Returns one of some policies.
pub(super) fn random(name: &str, namespace: &str, variant: u8) -> FederationPolicy {
    let selector = json!({"services": [name]});
    let peer = |peer: Value| json!({"peers": [peer]});
    let spec = match variant {
        0 => json!({"selector": selector, "exporters": {"clusters": ["west", "east"]}}),
        1 => json!({"selector": selector, "consumers": {"clusters": ["south"]}}),
        2 => json!({"consumers": {"clusters": ["west"]}, "selector": {"clusters": ["east"]}}),
        3 => json!({"selector": selector, "namespaceSameness": "SEPARATE"}),
        4 => peer(json!({"cluster": "*", "limits": {"services": 1}})),
        5 => peer(json!({"cluster": "east", "ports": [9080], "limits": {"endpoints": 2}})),
        6 => peer(
            json!({"cluster": "south", "egressAddresses": ["198.51.100.0/24"], "limits": {"endpointsPerService": 1}}),
        ),
        _ => json!({"selector": selector, "consumers": {"clusters": []}}),
    };
    policy(namespace, name, spec)
}

/// Returns a world of three clusters, of which some export ratings. Each exporter has a pod.
fn world(exporters: &[&str]) -> World {
    let mut world = World::new();
    for cluster in CLUSTERS {
        world.cluster(cluster);
    }
    for (cluster, ip) in CLUSTERS.iter().zip(1..).filter(|(cluster, _)| exporters.contains(cluster)) {
        world.put(cluster, Object::Service(service("ratings", ip)));
        world.put(cluster, Object::Pod(pod("ratings", ip)));
        world.put(cluster, Object::Slice(slice("ratings", &[(ip, true)])));
        world.put(cluster, Object::Export(export("ratings")));
    }
    world.compile();
    world
}

/// Lists all kinds of a cluster, with the objects that are known.
fn list(world: &mut World, cluster: &str) {
    let of = world.inventory.cluster(cluster).expect("the cluster");
    let (role, objects): (_, Vec<Object>) = (of.info.role(), of.objects().collect());
    for kind in Kind::watched_in(role) {
        world.event(Event::Listing { cluster: cluster.into(), kind });
        objects.iter().filter(|of| of.kind() == kind).for_each(|of| world.put(cluster, of.clone()));
        world.event(Event::Listed { cluster: cluster.into(), kind });
    }
}

fn exporters(world: &World, cluster: &str) -> Vec<String> {
    let of = world.view_of(cluster, "ratings").map(|of| of.exports).unwrap_or_default();
    of.into_iter().map(|export| export.cluster).collect()
}

fn endpoints(world: &World, cluster: &str) -> Vec<String> {
    world.endpoints(cluster, "ratings").into_keys().collect()
}

/// Returns who may call the port of a pod of ratings.
fn callers(world: &World, cluster: &str, ip: u8) -> Option<discovery::Callers> {
    let workload =
        world.body(wire::Kind::Workload, &wire::name::workload(cluster, "default", &format!("ratings-{ip}")));
    let Some(Body::Workload(workload)) = workload else { panic!("{workload:?}") };
    workload.ports.into_iter().find(|port| port.number == 8080).expect("the port").callers
}

#[test]
fn a_service_is_sent_to_its_consumers_and_to_its_own_cluster_alone() {
    let mut world = world(&["east"]);
    for cluster in CLUSTERS {
        assert_eq!(exporters(&world, cluster), ["east"], "{cluster}");
    }
    assert_eq!(callers(&world, "east", 2), None);
    let spec = json!({"selector": {"services": ["ratings"]}, "consumers": {"clusters": ["south"]}});
    world.put("west", Object::FederationPolicy(policy("default", "ratings", spec)));
    world.compile();
    // West, whose cluster runs the controller, may not consume it: DNS has no answer, and no endpoint arrives.
    assert_eq!((world.view_of("west", "ratings"), endpoints(&world, "west")), (None, vec![]));
    assert_eq!(endpoints(&world, "south"), ["@*/east/net-east///"]);
    assert_eq!(endpoints(&world, "east"), ["@net-east/east/10.244.0.2"]);
    assert_eq!(exporters(&world, "east"), ["east"], "its gateway forwards it");
    let expected = discovery::Callers { clusters: vec!["east".into(), "south".into()], plaintext: true };
    assert_eq!(callers(&world, "east", 2), Some(expected));
    assert_eq!(world.recomputed().all_resources(), world.all_resources());
    // Of two policies, both have to permit a consumer.
    let spec = json!({"selector": {"namespaces": ["def*"]}, "consumers": {"clusters": ["west"]}});
    world.put("west", Object::FederationPolicy(policy("istio-system", "all", spec)));
    world.compile();
    assert_eq!((world.view_of("west", "ratings"), world.view_of("south", "ratings")), (None, None));
    assert_eq!(callers(&world, "east", 2).unwrap().clusters, ["east"]);
    world.delete("west", Kind::FederationPolicy, "default", "ratings");
    world.delete("west", Kind::FederationPolicy, "istio-system", "all");
    world.compile();
    assert_eq!((exporters(&world, "west"), callers(&world, "east", 2)), (vec!["east".to_owned()], None));
}

#[test]
fn consumers_of_several_exporters_see_what_each_of_them_exports_to_them() {
    let mut world = world(&["west", "east", "south"]);
    let spec = json!({"selector": {"clusters": ["east"]}, "consumers": {"clusters": ["south"]}});
    world.put("west", Object::FederationPolicy(policy("default", "east", spec)));
    world.compile();
    assert_eq!(exporters(&world, "west"), ["south", "west"]);
    assert_eq!(exporters(&world, "east"), ["east", "south", "west"]);
    assert_eq!(exporters(&world, "south"), ["east", "south", "west"]);
    assert_eq!(endpoints(&world, "west"), ["@*/south/net-south///", "@net-west/west/10.244.0.1"]);
    assert_eq!(endpoints(&world, "south").len(), 3);
    // The identities that west expects are those of the exports that it sees.
    assert_eq!(callers(&world, "west", 1), None);
    assert_eq!(world.recomputed().all_resources(), world.all_resources());
    let (names, all): (BTreeSet<_>, Vec<_>) = {
        let all: Vec<_> = world.store.all(wire::Kind::Endpoint).map(|of| of.name().to_string()).collect();
        (all.iter().cloned().collect(), all)
    };
    assert_eq!(names.len(), all.len(), "each endpoint is compiled once");
}

#[test]
fn a_rogue_cluster_s_export_changes_nothing_if_a_policy_names_the_exporters() {
    let mut world = world(&["east"]);
    let before = (world.view_of("west", "ratings"), endpoints(&world, "west"));
    let spec = json!({"selector": {"services": ["ratings"]}, "exporters": {"clusters": ["east", "central"]}});
    world.put("west", Object::FederationPolicy(policy("default", "ratings", spec)));
    // South claims to be older, with another protocol.
    let rogue = ServicePort { name: "tcp".into(), number: 9080, protocol: Protocol::Tcp, ..Default::default() };
    world.put("south", Object::Service(Service { created: 1, ports: vec![rogue], ..service("ratings", 3) }));
    world.put("south", Object::Pod(pod("ratings", 3)));
    world.put("south", Object::Slice(Slice { ports: [("tcp".into(), 8080)].into(), ..slice("ratings", &[(3, true)]) }));
    world.put("south", Object::Export(export("ratings")));
    // Its own policy does not count.
    let all = json!({"exporters": {"clusters": ["south"]}});
    world.put("south", Object::FederationPolicy(policy("istio-system", "mine", all)));
    world.compile();
    assert_eq!((world.view_of("west", "ratings"), endpoints(&world, "west")), before);
    assert_eq!(endpoints(&world, "south"), ["@net-south/south/10.244.0.3"], "its own name stays its own");
    let refused: Vec<_> = world.refused_exports().into_iter().collect();
    let [refused] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!((&*refused.cluster, &refused.refusal), ("south", &ExportRefusal::Exporter));
    assert_eq!(refused.policy, Some(Key::new("default", "ratings")));
    assert!(world.conflicts("ratings")[0].contains("the export of default/ratings by south is refused"));
    // The policy's status and the notices show it.
    let states = world.inventory.rule_states();
    let state = states.iter().find(|state| state.kind == Kind::FederationPolicy).expect("a state");
    let problems: Vec<_> = state.problems.iter().map(|of| (&*of.code, of.error)).collect();
    assert_eq!(problems, [("ISM0201", false), ("ISM0203", false)], "central has not joined: {state:?}");
    list(&mut world, "west");
    list(&mut world, "south");
    let notices = world.inventory.notices();
    let line = "Cluster south: ServiceExport default/ratings has no effect: the export of default/ratings by south";
    assert!(notices.iter().any(|of| of.starts_with(line)), "{notices:?}");
    assert!(
        notices.iter().any(|of| of.contains("FederationPolicy default/ratings") && of.contains("south")),
        "{notices:?}"
    );
    assert_eq!(world.inventory.refused_export_counts(), [(("south".into(), "exporter"), 1)].into());
    // An invalid change leaves the last valid version in force.
    let object =
        json!({"metadata": {"name": "ratings", "namespace": "default"}, "spec": {"exporters": {"clusters": ["*"]}}});
    let invalid = FederationPolicy::extract(serde_json::from_value(object).unwrap()).unwrap();
    assert!(invalid.refused() && invalid.spec.is_none());
    world.put("west", Object::FederationPolicy(invalid));
    world.compile();
    assert_eq!((world.view_of("west", "ratings"), endpoints(&world, "west")), before);
    world.delete("south", Kind::Export, "default", "ratings");
    world.compile();
    assert_eq!(world.refused_exports(), BTreeSet::new());
}

#[test]
fn a_namespace_that_is_not_the_same_everywhere_is_each_cluster_s_own() {
    let mut world = world(&["west", "east"]);
    assert_eq!(exporters(&world, "south"), ["east", "west"]);
    world.put("west", Object::FederationPolicy(policy("default", "own", json!({"namespaceSameness": "SEPARATE"}))));
    world.compile();
    assert_eq!(world.view_of("south", "ratings"), None);
    assert_eq!(endpoints(&world, "west"), ["@net-west/west/10.244.0.1"]);
    assert_eq!(endpoints(&world, "east"), ["@net-east/east/10.244.0.2"]);
    assert_eq!(world.refused_exports().len(), 2);
    assert_eq!(world.recomputed().all_resources(), world.all_resources());
}

#[test]
fn a_peer_exports_no_more_than_its_limits_and_keeps_its_oldest_exports() {
    let mut world = world(&["east"]);
    let peer = json!({"cluster": "east", "limits": {"services": 3, "endpoints": 5}});
    world.put("west", Object::FederationPolicy(policy("istio-system", "limits", json!({"peers": [peer]}))));
    world.compile();
    for (number, pods) in [(1, 2), (2, 4), (3, 1), (4, 1)] {
        let name = format!("extra-{number}");
        let pods: Vec<_> = (0..pods).map(|at| (10 + number * 10 + at, true)).collect();
        for (ip, _) in &pods {
            world.put("east", Object::Pod(pod(&name, *ip)));
        }
        world.put("east", Object::Service(Service { created: 100 + i64::from(number), ..service(&name, 20 + number) }));
        world.put("east", Object::Slice(slice(&name, &pods)));
        world.put("east", Object::Export(export(&name)));
        world.compile();
    }
    // The oldest three within five endpoints: ratings (1), extra-1 (2) and extra-3 (1); extra-2 has four.
    let refused: Vec<_> =
        world.refused_exports().into_iter().map(|of| (of.service.name.to_string(), of.refusal.label())).collect();
    assert_eq!(refused, [("extra-2".to_owned(), "endpoints"), ("extra-4".to_owned(), "services")]);
    assert!(world.view_of("west", "extra-1").is_some() && world.view_of("west", "extra-4").is_none());
    assert_eq!(world.recomputed().all_resources(), world.all_resources());
    assert_eq!(world.recomputed().refused_exports(), world.refused_exports());
    // Once an older one is gone, the next one is accepted.
    world.delete("east", Kind::Export, "default", "extra-3");
    world.compile();
    assert!(world.view_of("west", "extra-4").is_some());
    world.delete("west", Kind::FederationPolicy, "istio-system", "limits");
    world.compile();
    assert_eq!(world.refused_exports(), BTreeSet::new());
}

#[test]
fn the_endpoints_of_a_hostile_export_are_bounded_without_a_policy() {
    let mut world = world(&["east"]);
    let most = api::federation::PeerLimits::default().endpoints_per_service;
    // Slices of 1,000 endpoints, as many as the API admits in each, until they are beyond the limit.
    for number in 0..=most / 1_000 {
        let endpoint = |at: usize| SliceEndpoint {
            ip: [10, 200, (number % 250) as u8, (at % 250) as u8].into(),
            ready: true,
            terminating: false,
            serving: true,
            pod: None,
            named: false,
            spot: Spot::default().into(),
        };
        let endpoints = (0..1_000).map(endpoint).collect();
        world.put(
            "east",
            Object::Slice(Slice { name: format!("s{number}").into(), endpoints, ..slice("ratings", &[]) }),
        );
    }
    world.compile();
    assert_eq!((world.view_of("west", "ratings"), endpoints(&world, "west")), (None, vec![]));
    let refused: Vec<_> = world.refused_exports().into_iter().collect();
    assert_eq!((refused.len(), refused[0].refusal.label(), &refused[0].policy), (1, "endpoints_per_service", &None));
    assert!(refused[0].text().contains("the default limits of a peer"));
    // The rest of east's exports is not affected, and fewer endpoints are accepted again.
    for number in 0..=most / 1_000 {
        world.delete("east", Kind::Slice, "default", &format!("s{number}"));
    }
    world.compile();
    assert_eq!(exporters(&world, "west"), ["east"]);
}

#[test]
fn exports_of_foreign_namespaces_hosts_and_ports_are_refused_by_the_peer_s_entry() {
    let mut world = world(&["east"]);
    for (peer, expected) in [
        (json!({"cluster": "east", "namespaces": ["shop", "team-*"]}), Some("namespace")),
        (json!({"cluster": "east", "hosts": ["*.shop.svc.cluster.local"]}), Some("host")),
        (json!({"cluster": "east", "ports": [443]}), Some("port")),
        (json!({"cluster": "*", "namespaces": ["shop"]}), Some("namespace")),
        (json!({"cluster": "south", "namespaces": ["shop"]}), None),
        (json!({"cluster": "west", "namespaces": ["shop"]}), None),
        (json!({"cluster": "east", "namespaces": ["default"], "hosts": ["ratings.*"], "ports": [9080]}), None),
        (json!({"cluster": "east", "limits": {"portsPerService": 0}}), Some("ports_per_service")),
        (json!({"cluster": "east", "limits": {"endpointsPerService": 0}}), Some("endpoints_per_service")),
        (json!({"cluster": "east", "limits": {"bytesPerService": 100}}), Some("bytes_per_service")),
    ] {
        world.put("west", Object::FederationPolicy(policy("istio-system", "peers", json!({"peers": [peer]}))));
        world.compile();
        let refused: Vec<_> = world.refused_exports().into_iter().map(|of| of.refusal.label()).collect();
        assert_eq!(refused, expected.into_iter().collect::<Vec<_>>(), "{peer}");
        assert_eq!(world.view_of("west", "ratings").is_none(), expected.is_some(), "{peer}");
    }
    // A namespace's author does not decide about clusters, and learns of it.
    let peers = json!({"peers": [{"cluster": "east", "namespaces": ["shop"]}]});
    world.put("west", Object::FederationPolicy(policy("default", "peers", peers)));
    world.delete("west", Kind::FederationPolicy, "istio-system", "peers");
    world.compile();
    assert_eq!(world.refused_exports(), BTreeSet::new());
    list(&mut world, "west");
    let notices = world.inventory.notices();
    assert!(notices.iter().any(|of| of.contains("ISM0202") && of.contains("spec.peers")), "{notices:?}");
    let states = world.inventory.rule_states();
    let state = states.iter().find(|state| state.kind == Kind::FederationPolicy).expect("a state");
    let problems: Vec<_> = state.problems.iter().map(|of| (&*of.code, of.error)).collect();
    assert_eq!(problems, [("ISM0202", true)]);
}

#[test]
fn gateways_know_the_addresses_of_consumers_and_of_others() {
    let mut world = world(&["east"]);
    let peers = json!([
        {"cluster": "south", "egressAddresses": ["198.51.100.0/24"]},
        {"cluster": "west", "egressAddresses": ["203.0.113.7"]},
    ]);
    world.put("west", Object::FederationPolicy(policy("istio-system", "addresses", json!({"peers": peers}))));
    world.compile();
    let sources = |world: &World| world.view_of("east", "ratings").unwrap().exports.remove(0).sources;
    assert_eq!(sources(&world), None, "everyone may consume it");
    let consumers = json!({"consumers": {"clusters": ["south"]}});
    world.put("west", Object::FederationPolicy(policy("default", "ratings", consumers)));
    world.compile();
    let range = |ip: [u8; 4], length| discovery::AddressRange { ip: bytes::Bytes::copy_from_slice(&ip), length };
    let expected = discovery::SourceAddresses {
        permitted: vec![range([198, 51, 100, 0], 24)],
        refused: vec![range([203, 0, 113, 7], 32)],
        permitted_only: true,
    };
    assert_eq!(sources(&world), Some(expected.clone()));
    // A consumer whose addresses are not stated may come from any that is not another's.
    let consumers = json!({"consumers": {"clusters": ["south", "central"]}});
    world.put("west", Object::FederationPolicy(policy("default", "ratings", consumers)));
    world.compile();
    assert_eq!(sources(&world), Some(discovery::SourceAddresses { permitted_only: false, ..expected }));
}

#[test]
fn a_pod_of_several_services_is_called_by_whoever_may_call_one_of_them() {
    let mut world = world(&["east"]);
    world.put(
        "west",
        Object::FederationPolicy(policy(
            "default",
            "a",
            json!({
        "selector": {"services": ["ratings"]}, "consumers": {"clusters": ["south"]}}),
        )),
    );
    let second = |world: &mut World, exported: bool| {
        world.put("east", Object::Service(service("details", 9)));
        world.put(
            "east",
            Object::Slice(Slice {
                name: "details-x".into(),
                service: "details".into(),
                ..slice("ratings", &[(2, true)])
            }),
        );
        match exported {
            true => world.put("east", Object::Export(export("details"))),
            false => world.delete("east", Kind::Export, "default", "details"),
        }
        world.compile();
    };
    second(&mut world, false);
    assert_eq!(callers(&world, "east", 2).unwrap().clusters, ["east", "south"], "nobody else may call details");
    second(&mut world, true);
    assert_eq!(callers(&world, "east", 2), None, "everyone may call details");
    world.put(
        "west",
        Object::FederationPolicy(policy(
            "default",
            "b",
            json!({
        "selector": {"services": ["details"]}, "consumers": {"clusters": ["west"]}}),
        )),
    );
    world.compile();
    assert_eq!(callers(&world, "east", 2).unwrap().clusters, ["east", "south", "west"]);
    assert_eq!(world.recomputed().all_resources(), world.all_resources());
}

#[test]
fn a_label_that_changes_under_traffic_moves_the_peer_s_endpoints_alone() {
    let mut world = world(&["east", "south"]);
    let join = Cluster { name: "south".into(), own: false, network: "".into(), server: "".into(), joined: 0 };
    world.event(Event::ClusterAdded(join));
    let label = |world: &mut World, network: &str| {
        let namespace = Namespace { name: "istio-system".into(), network: Some(network.into()) };
        world.put("south", Object::Namespace(namespace));
        world.compile();
    };
    let of_east = |world: &World| {
        let mut all = endpoints(world, "west");
        all.retain(|name| name.contains("/east/"));
        all
    };
    label(&mut world, "net-south");
    let before = of_east(&world);
    assert_eq!(endpoints(&world, "west").len(), 2);
    // The network of another cluster: south is then on none, and its endpoints are of no use to others.
    for network in ["net-east", "net-west"] {
        label(&mut world, network);
        assert_eq!(endpoints(&world, "west"), before, "{network}");
        assert_eq!(endpoints(&world, "east"), ["@net-east/east/10.244.0.2"], "{network}");
    }
    label(&mut world, "net-moved");
    assert_eq!(endpoints(&world, "west"), ["@*/east/net-east///", "@*/south/net-moved///"]);
    assert_eq!(of_east(&world), before);
    assert_eq!(world.recomputed().all_resources(), world.all_resources());
}

#[test]
fn plaintext_is_refused_where_a_cluster_that_may_not_call_is_on_the_network() {
    let mut world = world(&["east"]);
    let consumers = json!({"consumers": {"clusters": []}});
    world.put("west", Object::FederationPolicy(policy("default", "ratings", consumers)));
    world.compile();
    assert!(callers(&world, "east", 2).unwrap().plaintext, "a gateway forwards mutual TLS alone");
    let network: Text = "net-east".into();
    world.event(Event::ClusterAdded(Cluster {
        name: "south".into(),
        own: false,
        network,
        server: "".into(),
        joined: 0,
    }));
    world.compile();
    assert!(!callers(&world, "east", 2).unwrap().plaintext);
    assert_eq!(world.recomputed().all_resources(), world.all_resources());
}
