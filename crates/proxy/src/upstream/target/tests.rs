//! Tests of targets.

use std::collections::HashMap;

use balance::{Health, Locality};

use super::*;
use crate::mesh::{
    DestinationPolicy, DirectEndpoint, LocalityRules, MeshSettings, PortPolicies, Summary, TrafficPolicy,
};

fn endpoint(id: &str, cluster: &str, network: &str, weight: u32, reach: Reach) -> Endpoint {
    Endpoint {
        id: id.into(),
        cluster: cluster.into(),
        network: network.into(),
        locality: Locality::new(network, "", ""),
        health: Health::Ready,
        weight,
        reach,
    }
}

fn pod(ip: &str, mutual_tls: bool, identity: Option<&str>) -> Reach {
    Reach::Direct(Arc::new(DirectEndpoint {
        ip: ip.parse().unwrap(),
        further_ip: None,
        ports: [(80, 9080)].into(),
        identity: identity.map(|id| id.parse().unwrap()),
        mutual_tls,
        plaintext_ports: Box::default(),
        workload: Arc::default(),
        labels: [("version".into(), "v1".into())].into(),
        pod: "p".into(),
        hostname: "".into(),
        node: "".into(),
        only_node: None,
    }))
}

#[test]
fn an_endpoint_of_one_node_is_used_on_that_node_alone_unless_its_own_address_was_chosen() {
    let on = |node: &str| {
        let Reach::Direct(direct) = pod("10.0.0.1", true, None) else { unreachable!() };
        let direct = DirectEndpoint { only_node: Some(node.into()), ..DirectEndpoint::clone(&direct) };
        endpoint("a", "c", "n", 1, Reach::Direct(Arc::new(direct)))
    };
    let from = |node: &str| {
        let own = OwnWorkload { node: node.into(), ..OwnWorkload::default() };
        MeshSnapshot { own: Some(Arc::new(own)), ..MeshSnapshot::default() }
    };
    let service = service(vec![on("node-1")]);
    assert_eq!(all(&service, 80, &from("node-1")).len(), 1);
    assert_eq!(all(&service, 80, &from("node-2")).len(), 0, "never another node");
    // A proxy that does not know its node is on none, and an endpoint without a node has no proxy on it.
    assert_eq!(all(&service, 80, &from("")).len(), 0);
    assert_eq!(all(&service, 80, &MeshSnapshot::default()).len(), 0);
    assert_eq!(all(&self::service(vec![on("")]), 80, &from("")).len(), 0);
    let chosen = |id: &str| ClusterKey { endpoint: Some(id.into()), ..ClusterKey::of(&service, 80, "") };
    assert_eq!(targets(&service, &chosen("a"), &from("node-2")).len(), 1);
    assert_eq!(targets(&service, &chosen("b"), &from("node-1")).len(), 0);
}

#[test]
fn endpoints_of_other_clusters_have_a_path_and_are_the_last_resort_if_their_cluster_is_drained() {
    let own = OwnWorkload { cluster: "1a".into(), ..OwnWorkload::default() };
    let drained = MeshSettings { drained: ["2a".into()].into(), ..MeshSettings::default() };
    let snapshot = MeshSnapshot {
        own: Some(Arc::new(own)),
        settings: Arc::new(drained),
        ..snapshot(&[("n2", &[("2.2.2.2", "2a"), ("2.2.2.20", "2b")])])
    };
    let service = service(vec![
        endpoint("a", "1a", "n1", 1, pod("10.0.0.1", true, None)),
        endpoint("b", "1b", "n1", 1, pod("10.0.0.2", true, None)),
        endpoint("c", "2a", "n2", 1, summary()),
        endpoint("d", "2b", "n2", 1, summary()),
    ]);
    let found = all(&service, 80, &snapshot);
    let path = |at: &Candidate<Arc<Target>>| at.target.path.as_ref().map(|path| path.cluster().to_string());
    let found: Vec<_> = found.iter().map(|at| (path(at), at.health)).collect();
    assert_eq!(
        found,
        [
            (None, Health::Ready),
            (Some("1b".to_owned()), Health::Ready),
            (Some("2a".to_owned()), Health::Degraded),
            (Some("2b".to_owned()), Health::Ready),
        ]
    );
    assert_eq!(snapshot.paths.all().len(), 3);
}

fn summary() -> Reach {
    summary_of("")
}

fn summary_of(subset: &str) -> Reach {
    Reach::Gateways(Summary {
        identities: ["spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap()].into(),
        ports: [80].into(),
        subset: subset.into(),
    })
}

fn service(endpoints: Vec<Endpoint>) -> Service {
    Service {
        hostname: "reviews.default.svc.cluster.local".into(),
        name: "reviews".into(),
        namespace: "default".into(),
        subsets: [subset("v1"), subset("v2")].into(),
        endpoints: Some(endpoints.into()),
        ..Service::default()
    }
}

fn subset(version: &str) -> Subset {
    Subset { name: version.into(), labels: [("version".into(), version.into())].into() }
}

/// Returns the targets of all endpoints, without a subset.
fn all(service: &Service, port: u16, snapshot: &MeshSnapshot) -> Vec<Candidate<Arc<Target>>> {
    targets(service, &ClusterKey::of(service, port, ""), snapshot)
}

fn snapshot(gateways: &[(&str, &[(&str, &str)])]) -> MeshSnapshot {
    let gateways: HashMap<Arc<str>, Arc<[GatewayAddress]>> = gateways
        .iter()
        .map(|(network, addresses)| {
            let gateway = |(ip, cluster): &(&str, &str)| GatewayAddress {
                address: SocketAddr::new(ip.parse().unwrap(), 15443),
                cluster: (*cluster).into(),
            };
            ((*network).into(), addresses.iter().map(gateway).collect())
        })
        .collect();
    MeshSnapshot { gateways: Arc::new(gateways), ..MeshSnapshot::default() }
}

fn weights(targets: &[Candidate<Arc<Target>>]) -> Vec<(String, u32)> {
    targets.iter().map(|candidate| (candidate.target.address.ip().to_string(), candidate.weight)).collect()
}

/// The reference vector of Istio's network filter, for a proxy in network1.
#[test]
fn endpoints_of_other_networks_are_reached_through_gateways() {
    let service = service(vec![
        endpoint("a", "1a", "n1", 1, pod("10.0.0.1", true, None)),
        endpoint("b", "1a", "n1", 1, pod("10.0.0.2", true, None)),
        endpoint("c", "1b", "n1", 1, pod("10.0.0.3", true, None)),
        endpoint("d", "2a", "n2", 1, summary()),
        endpoint("e", "2b", "n2", 2, summary()),
    ]);
    let snapshot =
        snapshot(&[("n1", &[("1.1.1.1", "1a")]), ("n2", &[("2.2.2.2", "2a"), ("2.2.2.20", "2b"), ("2.2.2.21", "2b")])]);
    let expected =
        [("10.0.0.1", 2), ("10.0.0.2", 2), ("10.0.0.3", 2), ("2.2.2.2", 2), ("2.2.2.20", 2), ("2.2.2.21", 2)];
    let expected: Vec<_> = expected.map(|(ip, weight)| (ip.to_owned(), weight)).into();
    assert_eq!(weights(&all(&service, 80, &snapshot)), expected);
}

#[test]
fn another_clusters_gateway_on_the_same_network_is_not_used() {
    let service = service(vec![endpoint("c", "2c", "n2", 3, summary()), endpoint("b", "2b", "n2", 3, summary())]);
    let snapshot = snapshot(&[("n2", &[("2.2.2.2", "2a"), ("2.2.2.20", "2b")])]);
    assert_eq!(weights(&all(&service, 80, &snapshot)), [("2.2.2.20".to_owned(), 3)]);
}

#[test]
fn endpoints_without_a_gateway_or_without_the_port_have_no_target() {
    let service = service(vec![
        endpoint("d", "2a", "n2", 1, summary()),
        endpoint("a", "1a", "n1", 1, pod("10.0.0.1", false, None)),
    ]);
    let none = snapshot(&[("n2", &[])]);
    assert_eq!(weights(&all(&service, 80, &none)), [("10.0.0.1".to_owned(), 1)]);
    assert_eq!(all(&service, 81, &snapshot(&[("n2", &[("2.2.2.2", "2a")])])).len(), 0);
}

#[test]
fn tls_sends_the_service_port_and_expects_the_pushed_identities() {
    let id = "spiffe://cluster.local/ns/default/sa/reviews";
    let service = service(vec![
        endpoint("tls", "1a", "n1", 1, pod("10.0.0.1", true, Some(id))),
        endpoint("unknown", "1a", "n1", 1, pod("10.0.0.2", true, None)),
        endpoint("plaintext", "1a", "n1", 1, pod("10.0.0.3", false, Some(id))),
        endpoint("remote", "2a", "n2", 1, summary()),
    ]);
    let candidates = all(&service, 80, &snapshot(&[("n2", &[("2.2.2.2", "2a")])]));
    let tls: Vec<_> = candidates.iter().map(|candidate| candidate.target.tls.as_ref()).collect();
    let names: Vec<_> = tls.iter().map(|tls| tls.map(|tls| tls.sni.to_str().into_owned())).collect();
    let sni = Some("outbound_.80_._.reviews.default.svc.cluster.local".to_owned());
    assert_eq!(names, [sni.clone(), sni.clone(), None, sni]);
    assert_eq!(candidates[0].target.address.to_string(), "10.0.0.1:9080");
    assert!(!tls[0].unwrap().expected.is_empty());
    assert!(tls[1].unwrap().expected.is_empty(), "no certificate matches an unknown identity");
    assert_eq!(tls[3].unwrap().expected, tls[0].unwrap().expected);
    assert_eq!(
        candidates.iter().map(|candidate| candidate.target.remote).collect::<Vec<_>>(),
        [false, false, false, true]
    );
}

#[test]
fn certificates_must_come_from_the_clusters_intermediate_if_it_is_known() {
    let id = "spiffe://cluster.local/ns/default/sa/reviews";
    let service = service(vec![endpoint("a", "1a", "n1", 1, pod("10.0.0.1", true, Some(id)))]);
    let mut snapshot = snapshot(&[]);
    let expected = |snapshot: &MeshSnapshot| all(&service, 80, snapshot)[0].target.tls.clone().unwrap().expected;
    let any_cluster = Expectation::any_of([id.parse().unwrap()]);
    assert_eq!(expected(&snapshot), any_cluster);
    snapshot.issuers = Arc::new(["1a".into()].into());
    assert_eq!(expected(&snapshot), any_cluster.in_clusters(["1a".into()]));
}

#[test]
fn a_subset_has_its_own_endpoints_summaries_and_server_name() {
    let service = service(vec![
        endpoint("v1-here", "1a", "n1", 1, pod("10.0.0.1", true, None)),
        endpoint("all", "2a", "n2", 5, summary()),
        endpoint("v1-there", "2a", "n2", 3, summary_of("v1")),
        endpoint("v2-there", "2a", "n2", 2, summary_of("v2")),
    ]);
    let snapshot = snapshot(&[("n2", &[("2.2.2.2", "2a")])]);
    let of = |subset: &str| targets(&service, &ClusterKey::of(&service, 80, subset), &snapshot);
    let addresses =
        |list: &[(&str, u32)]| list.iter().map(|(ip, weight)| ((*ip).to_owned(), *weight)).collect::<Vec<_>>();
    assert_eq!(weights(&of("")), addresses(&[("10.0.0.1", 1), ("2.2.2.2", 5)]));
    assert_eq!(weights(&of("v1")), addresses(&[("10.0.0.1", 1), ("2.2.2.2", 3)]));
    assert_eq!(weights(&of("v2")), addresses(&[("2.2.2.2", 2)]));
    let sni = of("v2")[0].target.tls.as_ref().unwrap().sni.to_str().into_owned();
    assert_eq!(sni, "outbound_.80_.v2_.reviews.default.svc.cluster.local");
}

/// Returns the service with this policy.
fn with_policy(service: Service, policy: TrafficPolicy) -> Service {
    let policies = PortPolicies { policy: Arc::new(policy), ..PortPolicies::default() };
    Service { policy: Arc::new(DestinationPolicy { policies, ..DestinationPolicy::default() }), ..service }
}

#[test]
fn a_policy_decides_on_tls() {
    let id = "spiffe://cluster.local/ns/default/sa/reviews";
    let other: SpiffeId = "spiffe://cluster.local/ns/default/sa/other".parse().unwrap();
    let snapshot = snapshot(&[("n2", &[("2.2.2.2", "2a")])]);
    let of = |tls: ClientTls| {
        let service = service(vec![
            endpoint("sidecar", "1a", "n1", 1, pod("10.0.0.1", true, Some(id))),
            endpoint("none", "1a", "n1", 1, pod("10.0.0.2", false, Some(id))),
            endpoint("remote", "2a", "n2", 1, summary()),
        ]);
        let candidates = all(&with_policy(service, TrafficPolicy { tls, ..TrafficPolicy::default() }), 80, &snapshot);
        candidates.into_iter().map(|candidate| Target::clone(&candidate.target)).collect::<Vec<_>>()
    };
    let has_tls = |targets: &[Target]| targets.iter().map(|target| target.tls.is_some()).collect::<Vec<_>>();
    assert_eq!(has_tls(&of(ClientTls::Auto)), [true, false, true]);
    assert_eq!(has_tls(&of(ClientTls::Disable)), [false, false], "a gateway forwards nothing else");
    assert_eq!(has_tls(&of(ClientTls::Mesh { sni: None, identities: None })), [true, true, true]);
    let sni = Some(ServerName::try_from("example.org").unwrap());
    let mesh = of(ClientTls::Mesh { sni, identities: Some([other.clone()].into()) });
    let names: Vec<_> = mesh.iter().map(|target| target.tls.as_ref().unwrap().sni.to_str().into_owned()).collect();
    assert_eq!(names[..2], ["example.org", "example.org"]);
    assert_eq!(names[2], "outbound_.80_._.reviews.default.svc.cluster.local", "gateways forward by it");
    assert!(mesh.iter().all(|target| target.tls.as_ref().unwrap().expected == Expectation::any_of([other.clone()])));
    let originated = of(ClientTls::Originate(Arc::default()));
    assert_eq!(has_tls(&originated), [false, false]);
    assert!(originated.iter().all(|target| target.origination.is_some()));
}

#[test]
fn an_address_that_was_chosen_is_the_only_target() {
    let service = || service(vec![endpoint("a", "c", "n1", 1, pod("10.0.0.1", true, Some("spiffe://d/ns/n/sa/a")))]);
    let of = |tls: ClientTls| {
        let service = with_policy(service(), TrafficPolicy { tls, ..TrafficPolicy::default() });
        let address = Some("10.96.0.1:80".parse().unwrap());
        let key = ClusterKey { address, ..ClusterKey::of(&service, 80, "") };
        let found = targets(&service, &key, &MeshSnapshot::default());
        assert_eq!((found.len(), Some(found[0].target.address)), (1, address));
        Target::clone(&found[0].target)
    };
    assert_eq!(of(ClientTls::Auto), Target::plaintext("10.96.0.1:80".parse().unwrap()));
    assert!(of(ClientTls::Originate(Arc::default())).origination.is_some());
    let tls = of(ClientTls::Mesh { sni: None, identities: None }).tls.unwrap();
    assert_eq!(tls.expected, Expectation::any_of(["spiffe://d/ns/n/sa/a".parse().unwrap()]), "of any of the pods");
}

#[test]
fn failover_priority_ranks_by_labels_and_places() {
    let own = OwnWorkload {
        cluster: "1a".into(),
        network: "n1".into(),
        node: "node-1".into(),
        locality: Locality::new("n1", "z", ""),
        pod_labels: [("version".into(), "v1".into())].into(),
        ..OwnWorkload::default()
    };
    let snapshot = MeshSnapshot { own: Some(Arc::new(own)), ..snapshot(&[("n2", &[("2.2.2.2", "2a")])]) };
    let endpoints = || {
        vec![
            endpoint("a", "1a", "n1", 1, pod("10.0.0.1", true, None)),
            endpoint("b", "1b", "n1", 1, pod("10.0.0.2", true, None)),
            endpoint("c", "2a", "n2", 1, summary()),
        ]
    };
    for (labels, ranks) in [
        (&["version"][..], [0, 0, 1]),
        (&["version=v2"], [1, 1, 1]),
        (&["topology.istio.io/cluster"], [0, 1, 1]),
        (&["topology.kubernetes.io/region"], [0, 0, 1]),
        (&["topology.kubernetes.io/zone"], [1, 1, 1]),
        (&["kubernetes.io/hostname"], [1, 1, 1]),
        (&["topology.istio.io/network", "topology.istio.io/cluster"], [0, 1, 3]),
        (&["topology.istio.io/network", "topology.kubernetes.io/region=n2"], [1, 1, 2]),
    ] {
        let mut policy = TrafficPolicy::default();
        let priority = FailoverPriority::parse(labels.iter().copied());
        policy.balancing.locality = Some(LocalityRules { priority, ..LocalityRules::default() });
        let found = all(&with_policy(service(endpoints()), policy), 80, &snapshot);
        assert_eq!(found.iter().map(|candidate| candidate.priority).collect::<Vec<_>>(), ranks, "{labels:?}");
    }
}
