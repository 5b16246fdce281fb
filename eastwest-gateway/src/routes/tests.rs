//! Tests of the routes.

use super::*;

use wire::discovery;
use wire::discovery::endpoint::Kind;

use crate::fixtures::{RATINGS, SNI, endpoint, endpoint_name, push_endpoint, push_service, service, store};

const EXPORTED: &[(&str, &str)] = &[("east", "net-east")];

/// Returns the routes of a store with this service and these endpoints.
fn routes(service: discovery::Service, endpoints: &[(&str, discovery::Endpoint)]) -> Arc<Routes> {
    let mut store = store();
    push_service(&mut store, service);
    for (id, endpoint) in endpoints {
        push_endpoint(&mut store, &endpoint_name(id), endpoint.clone());
    }
    store.routes().load_full()
}

/// Returns the addresses of the candidates for a server name.
fn addresses(routes: &Routes, name: &str) -> Vec<String> {
    let route = routes.find(name).unwrap();
    routes.candidates(&route).map(|candidate| candidate.target.address.to_string()).collect()
}

#[test]
fn only_pods_of_the_gateways_network_and_of_exporting_clusters_are_candidates() {
    let pods = [("a", "east", "net-east"), ("b", "east", "net-west"), ("c", "other", "net-east")];
    let endpoints = pods.map(|(id, cluster, network)| (id, endpoint(cluster, network, [10, 244, 0, 9], 9080)));
    let routes = routes(service(EXPORTED), &endpoints);
    let candidates: Vec<_> = routes.candidates(&routes.find(SNI).unwrap()).collect();
    assert_eq!(candidates.len(), 1);
    assert_eq!(&*candidates[0].id, endpoint_name("a"));
    assert_eq!(candidates[0].target.address, "10.244.0.9:9080".parse().unwrap());
    let party = &candidates[0].target.party;
    assert_eq!((&*party.workload, &*party.cluster), ("ratings-v1", "east"));
    assert_eq!(&*party.principal, "spiffe://cluster.local/ns/default/sa/ratings");
}

#[test]
fn a_pod_without_mutual_tls_is_a_candidate_for_server_names_of_ports_only() {
    let mut pod = endpoint("east", "net-east", [10, 244, 0, 9], 9080);
    if let Some(Kind::Direct(direct)) = &mut pod.kind {
        direct.mutual_tls = false;
    }
    let mut service = service(EXPORTED);
    service.ports[0].server_names = vec!["ratings.mesh.svc".into()];
    let routes = routes(service, &[("a", pod)]);
    assert!(addresses(&routes, SNI).is_empty());
    assert_eq!(addresses(&routes, "ratings.mesh.svc"), ["10.244.0.9:9080"]);
}

#[test]
fn services_that_only_other_networks_export_have_no_route() {
    assert!(routes(service(&[("west", "net-west")]), &[]).find(SNI).is_none());
    assert!(routes(service(&[]), &[]).find(SNI).is_none());
    assert_eq!(routes(service(&[]), &[]).iter().count(), 0);
}

#[test]
fn a_server_name_selects_a_port_and_a_subset() {
    let mut message = service(EXPORTED);
    message.ports.push(discovery::Port {
        number: 15012,
        server_names: vec!["Isthmus-Controller.isthmus-system.svc.".into()],
        ..Default::default()
    });
    let routes = routes(message, &[]);
    let route = routes.find(SNI).unwrap();
    assert!(route.mesh_only && route.port == 9080 && route.subset.is_empty());
    let subset = routes.find("outbound_.9080_.v1_.ratings.default.svc.cluster.local").unwrap();
    assert!(subset.mesh_only && &*subset.subset == "v1" && subset.key() != route.key());
    let named = routes.find("isthmus-controller.isthmus-system.svc").unwrap();
    assert!(!named.mesh_only && named.port == 15012);
    for unknown in [
        RATINGS,
        "outbound_.9081_._.ratings.default.svc.cluster.local",
        "outbound_.9080_.v3_.ratings.default.svc.cluster.local",
        "outbound_.9080_._.reviews.default.svc.cluster.local",
        "outbound_.09080_._.ratings.default.svc.cluster.local",
        "",
    ] {
        assert!(routes.find(unknown).is_none(), "{unknown}");
    }
    // Two ports, each without a subset and with two, and the server name.
    assert_eq!(routes.iter().count(), 2 * 3 + 1);
}

#[test]
fn the_candidates_of_a_subset_have_its_labels() {
    let mut v2 = endpoint("east", "net-east", [10, 244, 0, 2], 9080);
    if let Some(Kind::Direct(direct)) = &mut v2.kind {
        direct.labels = [("app".into(), "ratings".into()), ("version".into(), "v2".into())].into();
    }
    let v1 = endpoint("east", "net-east", [10, 244, 0, 1], 9080);
    let routes = routes(service(EXPORTED), &[("a", v1), ("b", v2)]);
    assert_eq!(addresses(&routes, SNI).len(), 2);
    assert_eq!(addresses(&routes, "outbound_.9080_.v2_.ratings.default.svc.cluster.local"), ["10.244.0.2:9080"]);
}

#[test]
fn summaries_are_not_candidates() {
    let mut summary = endpoint("east", "net-east", [1, 2, 3, 4], 9080);
    summary.kind = Some(Kind::Summary(discovery::Summary { ready: 3, ..Default::default() }));
    assert!(addresses(&routes(service(EXPORTED), &[("a", summary)]), SNI).is_empty());
}
