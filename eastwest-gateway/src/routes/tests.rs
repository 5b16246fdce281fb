use super::*;

use discovery::endpoint::Kind;

const RATINGS: &str = "ratings.default.svc.cluster.local";

/// A pod of the service behind 9080.
pub(crate) fn told_endpoint(cluster: &str, network: &str, ip: [u8; 4], port: u16) -> discovery::Endpoint {
    discovery::Endpoint {
        service: RATINGS.into(),
        cluster: cluster.into(),
        network: network.into(),
        weight: 1,
        kind: Some(Kind::Direct(discovery::Direct {
            ip: ip.to_vec().into(),
            ports: [(9080, port.into())].into(),
            identity: "spiffe://cluster.local/ns/default/sa/ratings".into(),
            mutual_tls: true,
            workload: Some(discovery::WorkloadLabels { workload: "ratings-v1".into(), ..Default::default() }),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// The service, exported by these clusters and networks.
pub(crate) fn told_service(exports: &[(&str, &str)]) -> discovery::Service {
    discovery::Service {
        hostname: RATINGS.into(),
        name: "ratings".into(),
        namespace: "default".into(),
        ports: vec![discovery::Port { number: 9080, name: "http".into(), ..Default::default() }],
        exports: exports
            .iter()
            .map(|(cluster, network)| discovery::Export { cluster: (*cluster).into(), network: (*network).into() })
            .collect(),
        ..Default::default()
    }
}

fn read(name: &str, told: &discovery::Endpoint) -> Option<Endpoint> {
    Endpoint::read(name, told, "net-east").unwrap()
}

#[test]
fn only_pods_of_the_own_network_and_of_exporting_clusters_are_candidates() {
    let endpoints: Vec<Endpoint> = [("a", "east", "net-east"), ("b", "east", "net-west"), ("c", "silent", "net-east")]
        .iter()
        .filter_map(|(name, cluster, network)| read(name, &told_endpoint(cluster, network, [10, 244, 0, 9], 9080)))
        .collect();
    assert_eq!(endpoints.len(), 2, "the pod of another network was read");
    let service = Service::new(&told_service(&[("east", "net-east")]), &endpoints, "net-east").unwrap().unwrap();
    let candidates: Vec<_> = service.candidates(9080, true).collect();
    assert_eq!(candidates.len(), 1);
    assert_eq!(&*candidates[0].id, "a");
    assert_eq!(candidates[0].target.address, "10.244.0.9:9080".parse().unwrap());
    assert_eq!(service.candidates(80, true).count(), 0);
}

#[test]
fn a_pod_without_mutual_tls_is_no_candidate() {
    let mut told = told_endpoint("east", "net-east", [10, 244, 0, 9], 9080);
    if let Some(Kind::Direct(direct)) = &mut told.kind {
        direct.mutual_tls = false;
    }
    let endpoint = read("a", &told).unwrap();
    let service = Service::new(&told_service(&[("east", "net-east")]), [&endpoint], "net-east").unwrap().unwrap();
    assert_eq!(service.candidates(9080, true).count(), 0);
    assert_eq!(service.candidates(9080, false).count(), 1);
}

#[test]
fn what_is_exported_elsewhere_has_no_route() {
    assert!(Service::new(&told_service(&[("west", "net-west")]), [], "net-east").unwrap().is_none());
    assert!(Service::new(&told_service(&[]), [], "net-east").unwrap().is_none());
}

#[test]
fn names_lead_to_ports() {
    let mut told = told_service(&[("east", "net-east")]);
    told.ports.push(discovery::Port {
        number: 15012,
        server_names: vec!["Isthmus-Controller.isthmus-system.svc.".into()],
        ..Default::default()
    });
    let service = Arc::new(Service::new(&told, [], "net-east").unwrap().unwrap());
    let routes = Routes::new([&service]);
    let route = routes.find("outbound_.9080_._.ratings.default.svc.cluster.local").unwrap();
    assert!(route.mesh_only && route.port == 9080);
    let named = routes.find("isthmus-controller.isthmus-system.svc").unwrap();
    assert!(!named.mesh_only && named.port == 15012);
    for unknown in [
        RATINGS,
        "outbound_.9081_._.ratings.default.svc.cluster.local",
        "outbound_.9080_.v1_.ratings.default.svc.cluster.local",
        "outbound_.9080_._.reviews.default.svc.cluster.local",
        "outbound_.09080_._.ratings.default.svc.cluster.local",
        "",
    ] {
        assert!(routes.find(unknown).is_none(), "{unknown}");
    }
}

#[test]
fn summaries_are_left_out_and_nonsense_is_refused() {
    let mut told = told_endpoint("east", "net-east", [1, 2, 3, 4], 9080);
    told.kind = Some(Kind::Summary(discovery::Summary { ready: 3, ..Default::default() }));
    assert!(read("a", &told).is_none());
    told.kind = Some(Kind::Direct(discovery::Direct { ip: vec![1, 2, 3].into(), ..Default::default() }));
    assert!(Endpoint::read("a", &told, "net-east").unwrap_err().contains("3 bytes"));
    let direct = discovery::Direct { ip: vec![1, 2, 3, 4].into(), ports: [(80, 70000)].into(), ..Default::default() };
    told.kind = Some(Kind::Direct(direct));
    assert!(Endpoint::read("a", &told, "net-east").unwrap_err().contains("70000"));
    let mut service = told_service(&[("east", "net-east")]);
    service.ports[0].number = 0;
    assert!(Service::new(&service, [], "net-east").is_err());
}
