//! Tests of the route store.

use super::*;

use std::time::Duration;

use wire::Kind;
use wire::client::Store as _;
use wire::delta::Body;
use wire::discovery;

use crate::fixtures::{
    RATINGS, SNI, changed, endpoint, endpoint_name, location, push_endpoint, push_service, service, store, update,
};

const EXPORTED: &[(&str, &str)] = &[("east", "net-east")];

fn push(store: &mut RouteStore, id: &str, ip: u8) {
    push_endpoint(store, &endpoint_name(id), endpoint("east", "net-east", [10, 244, 0, ip], 9080));
}

fn candidates(store: &RouteStore) -> Option<usize> {
    let routes = store.routes().load_full();
    routes.find(SNI).map(|route| routes.candidates(&route).count())
}

#[test]
fn services_and_endpoints_may_arrive_in_any_order() {
    let mut store = store();
    push(&mut store, "a", 1);
    assert_eq!(candidates(&store), None);
    push_service(&mut store, service(EXPORTED));
    assert_eq!(candidates(&store), Some(1));
    push(&mut store, "b", 2);
    push(&mut store, "a", 3);
    assert_eq!(candidates(&store), Some(2));
    store.apply(update(Kind::Endpoint, vec![], &[&endpoint_name("a"), "nonsense"])).unwrap();
    assert_eq!(candidates(&store), Some(1));
    store.apply(update(Kind::Service, vec![], &[RATINGS, "exported@net-east"])).unwrap();
    assert_eq!(candidates(&store), None);
    store.apply(update(Kind::Endpoint, vec![], &[&endpoint_name("b")])).unwrap();
    push_service(&mut store, service(EXPORTED));
    assert_eq!(candidates(&store), Some(0), "removed endpoints are forgotten");
}

#[test]
fn only_endpoints_of_the_gateways_own_cluster_are_forwarded_to() {
    let mut store = store();
    push_service(&mut store, service(&[("east", "net-east"), ("rogue", "net-east")]));
    push(&mut store, "a", 1);
    // Another cluster on the network lists the address of east's API server as an endpoint.
    push_endpoint(&mut store, &endpoint_name("rogue"), endpoint("rogue", "net-east", [10, 96, 0, 1], 443));
    assert_eq!(candidates(&store), Some(1));
    // Only the other cluster exports the service: this gateway has no route.
    push_service(&mut store, service(&[("rogue", "net-east")]));
    assert_eq!(candidates(&store), None);
}

#[test]
fn a_service_that_is_no_longer_exported_loses_its_route() {
    let mut store = store();
    push_service(&mut store, service(EXPORTED));
    push_service(&mut store, service(&[("west", "net-west")]));
    assert_eq!(candidates(&store), None);
}

#[test]
fn server_names_follow_the_service() {
    let mut store = store();
    let named = |name: &str| {
        let mut service = service(EXPORTED);
        service.ports[0].server_names = vec![name.into()];
        service
    };
    push_service(&mut store, named("one.mesh"));
    push_service(&mut store, named("two.mesh"));
    let routes = store.routes().load_full();
    assert!(routes.find("one.mesh").is_none() && routes.find("two.mesh").is_some());
    store.apply(update(Kind::Service, vec![], &[RATINGS])).unwrap();
    assert!(store.routes().load().find("two.mesh").is_none());
}

#[test]
fn pushing_an_equal_endpoint_keeps_the_service() {
    let mut store = store();
    push_service(&mut store, service(EXPORTED));
    push(&mut store, "a", 1);
    let current = |store: &RouteStore| store.routes().load().find(SNI).unwrap().service;
    let before = current(&store);
    push(&mut store, "a", 1);
    assert!(Arc::ptr_eq(&before, &current(&store)));
    push(&mut store, "a", 2);
    assert!(!Arc::ptr_eq(&before, &current(&store)));
}

#[test]
fn invalid_resources_are_rejected_and_the_rest_is_applied() {
    let mut store = store();
    push(&mut store, "a", 1);
    let mut invalid = service(EXPORTED);
    invalid.ports[0].number = 99_999;
    let services =
        vec![changed("invalid.default", Body::Service(invalid)), changed(RATINGS, Body::Service(service(EXPORTED)))];
    let rejected = store.apply(update(Kind::Service, services, &[])).unwrap_err();
    assert_eq!(rejected.0.len(), 1);
    assert!(rejected.0[0].name == "invalid.default" && rejected.0[0].reason.contains("99999"));
    assert_eq!(candidates(&store), Some(1));

    let settings = discovery::MeshConfig {
        access_log_file: "/dev/null".into(),
        access_log_format: "%NOPE%".into(),
        ..Default::default()
    };
    let rejected = store.apply(update(Kind::MeshConfig, vec![changed("mesh", Body::MeshConfig(settings))], &[]));
    assert!(rejected.unwrap_err().0[0].reason.contains("%NOPE%"));
}

#[test]
fn trust_bundles_update_the_identity() {
    let root = identity::Authority::self_signed_root("mesh", Duration::from_secs(600)).unwrap();
    let id = identity::SpiffeId::new("cluster.local", "isthmus-system", "gateway").unwrap();
    let credential = root.credential(&id, &[], Duration::from_secs(300)).unwrap();
    let trust = identity::Trust::new("cluster.local", root.roots().to_vec(), []).unwrap();
    let identity = Identity::new(credential, trust);
    let mut store = RouteStore::new(location(), Arc::new(identity.clone().into()));
    let bundle = discovery::Trust {
        trust_domain: "cluster.local".into(),
        roots: vec![root.roots()[0].to_vec().into()],
        issuers: vec![discovery::Issuer { cluster: "east".into(), public_key_sha256: vec![1; 32].into() }],
    };
    store.apply(update(Kind::Trust, vec![changed("mesh", Body::Trust(bundle))], &[])).unwrap();
    assert_eq!(identity.trust().issuers().len(), 1);
    let invalid = discovery::Trust { trust_domain: "cluster.local".into(), ..Default::default() };
    assert!(store.apply(update(Kind::Trust, vec![changed("mesh", Body::Trust(invalid))], &[])).is_err());
    assert_eq!(identity.trust().issuers().len(), 1);
}
