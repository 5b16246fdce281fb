//! What the store makes of what discovery tells.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use policy::Decision;
use wire::client::Store as _;
use wire::delta::{Body, Changed, Update};
use wire::{Kind, discovery as d};

use super::*;

const REVIEWS: &str = "reviews.default.svc.cluster.local";

fn store() -> (Store, Arc<Shared>, Rc<RefCell<Vec<String>>>) {
    let place =
        Place { cluster: "west".into(), network: "net-west".into(), namespace: "default".into(), pod: "p".into() };
    let trusted: Rc<RefCell<Vec<String>>> = Rc::default();
    let heard = trusted.clone();
    let store = Store::new(place, move |trust| heard.borrow_mut().push(trust.trust_domain().to_owned()));
    let shared = store.shared();
    (store, shared, trusted)
}

fn update(kind: Kind, changed: Vec<(&str, Body)>, removed: &[&str]) -> Update {
    let changed =
        changed.into_iter().map(|(name, body)| Changed { name: name.to_owned(), aliases: Vec::new(), body }).collect();
    Update { kind, changed, removed: removed.iter().map(|name| (*name).to_owned()).collect() }
}

fn service(ports: &[u32]) -> Body {
    let address = |cluster: &str, last| d::VirtualAddress { cluster: cluster.into(), ip: vec![10, 96, 0, last].into() };
    Body::Service(d::Service {
        hostname: REVIEWS.into(),
        name: "reviews".into(),
        namespace: "default".into(),
        ports: ports.iter().map(|number| d::Port { number: *number, ..d::Port::default() }).collect(),
        addresses: vec![address("", 3), address("east", 2), address("west", 1)],
        ..d::Service::default()
    })
}

fn pod(last: u8) -> Body {
    let direct =
        d::Direct { ip: vec![10, 244, 0, last].into(), ports: BTreeMap::from([(80, 9080)]), ..Default::default() };
    Body::Endpoint(d::Endpoint { kind: Some(d::endpoint::Kind::Direct(direct)), ..d::Endpoint::default() })
}

fn endpoints(shared: &Shared) -> Option<Vec<String>> {
    let snapshot = shared.newest();
    let endpoints = snapshot.services[REVIEWS].endpoints.clone()?;
    Some(endpoints.iter().map(|endpoint| endpoint.id.rsplit('/').next().unwrap_or_default().to_owned()).collect())
}

fn name(pod: &str) -> String {
    wire::name::endpoint(REVIEWS, "net-west", "west", pod)
}

#[test]
fn services_are_found_at_the_addresses_of_this_cluster() {
    let (mut store, shared, _) = store();
    store.apply(update(Kind::Service, vec![(REVIEWS, service(&[80, 443]))], &[])).unwrap();
    let snapshot = shared.newest();
    let service = &snapshot.services[REVIEWS];
    let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.96.0.1", "10.96.0.3"], "its own first, none of other clusters");
    assert!(service.addresses.iter().all(|address| Arc::ptr_eq(&snapshot.addresses[address], service)));
    assert_eq!(service.port(443).map(|port| port.protocol), Some(Protocol::Unknown));
    assert_eq!(service.port(81), None);

    store.apply(update(Kind::Service, vec![], &[REVIEWS])).unwrap();
    assert!(shared.newest().services.is_empty() && shared.newest().addresses.is_empty());
}

#[test]
fn endpoints_come_and_go_one_by_one() {
    let (mut store, shared, _) = store();
    // In either order: the kinds are not told together.
    store.apply(update(Kind::Endpoint, vec![(&name("a"), pod(1)), (&name("b"), pod(2))], &[])).unwrap();
    store.apply(update(Kind::Service, vec![(REVIEWS, service(&[80]))], &[])).unwrap();
    assert_eq!(endpoints(&shared), Some(vec!["a".to_owned(), "b".to_owned()]));
    let version = shared.version();
    store.apply(update(Kind::Endpoint, vec![(&name("c"), pod(3))], &[&name("a")])).unwrap();
    assert_eq!(endpoints(&shared), Some(vec!["b".to_owned(), "c".to_owned()]));
    assert!(shared.version() > version);
    // A service that changes keeps its endpoints.
    store.apply(update(Kind::Service, vec![(REVIEWS, service(&[80, 81]))], &[])).unwrap();
    assert_eq!(endpoints(&shared), Some(vec!["b".to_owned(), "c".to_owned()]));
}

#[test]
fn an_empty_collection_is_told_apart_from_one_not_told() {
    let (mut store, shared, _) = store();
    store.apply(update(Kind::Service, vec![(REVIEWS, service(&[80]))], &[])).unwrap();
    assert_eq!(endpoints(&shared), None);
    store.apply(update(Kind::Endpoint, vec![], &[&wire::name::endpoints(REVIEWS, "net-west")])).unwrap();
    assert_eq!(endpoints(&shared), Some(vec![]));
    store.apply(update(Kind::Endpoint, vec![(&name("a"), pod(1))], &[])).unwrap();
    assert_eq!(endpoints(&shared), Some(vec!["a".to_owned()]));
}

#[test]
fn what_is_wrong_is_refused_and_what_was_good_stays() {
    let (mut store, shared, trusted) = store();
    store.apply(update(Kind::Service, vec![(REVIEWS, service(&[80]))], &[])).unwrap();
    let bad_trust = Body::Trust(d::Trust { trust_domain: "cluster.local".into(), ..d::Trust::default() });
    let mut bad_ip = service(&[80]);
    if let Body::Service(service) = &mut bad_ip {
        service.addresses[0].ip = vec![1, 2, 3].into();
    }
    let endpoint = |endpoint| Body::Endpoint(endpoint);
    let bad_identity = d::Direct { ip: vec![10, 0, 0, 1].into(), identity: "spiffe://x".into(), ..Default::default() };
    let bad_mode = d::Authentication { mode: 9, ..d::Authentication::default() };
    let table: Vec<(Kind, &str, Body, &str)> = vec![
        (Kind::Service, REVIEWS, service(&[70_000]), "70000 is not a port"),
        (Kind::Service, REVIEWS, service(&[0]), "0 is not a port"),
        (Kind::Service, REVIEWS, bad_ip, "an address of 3 bytes"),
        (Kind::Endpoint, "nonsense", pod(1), "its name is not that of an endpoint"),
        (Kind::Endpoint, "a@n/c/e", endpoint(d::Endpoint::default()), "neither a pod nor a summary"),
        (
            Kind::Endpoint,
            "a@n/c/e",
            endpoint(d::Endpoint { kind: Some(d::endpoint::Kind::Direct(bad_identity)), ..Default::default() }),
            "spiffe",
        ),
        (Kind::Authentication, "west/default/p", Body::Authentication(bad_mode), "9 is no mode"),
        (Kind::Authorization, "west/default/p", policies("a*b"), "policy default/p: \"a*b\" is not a pattern"),
        (Kind::Trust, "mesh", bad_trust, "root"),
    ];
    for (kind, name, body, reason) in table {
        let rejected = store.apply(update(kind, vec![(name, body)], &[])).unwrap_err();
        assert_eq!(rejected.0[0].name, name);
        assert!(rejected.0[0].reason.contains(reason), "{} instead of {reason}", rejected.0[0].reason);
    }
    let snapshot = shared.newest();
    assert_eq!(snapshot.services[REVIEWS].ports.iter().map(|port| port.number).collect::<Vec<_>>(), [80]);
    assert!(snapshot.authentication.is_none() && snapshot.authorization.is_none() && trusted.borrow().is_empty());
}

/// A policy that allows a principal.
fn policies(principal: &str) -> Body {
    let principals = Some(d::Values { any_of: vec![principal.into()], none_of: vec![] });
    let from = vec![d::AuthorizationSource { principals, ..Default::default() }];
    let rules = vec![d::AuthorizationRule { from, ..Default::default() }];
    let policy = d::AuthorizationPolicy { name: "default/p".into(), rules, ..Default::default() };
    Body::Authorization(d::Authorization { policies: vec![policy] })
}

#[test]
fn nobody_may_anything_until_policies_are_told() {
    let (mut store, shared, _) = store();
    let id = identity::SpiffeId::new("cluster.local", "default", "a").unwrap();
    let facts = policy::Facts {
        principal: Some(&id),
        cluster: None,
        source: "10.0.0.1".parse().unwrap(),
        port: 80,
        request: None,
    };
    assert_eq!(shared.newest().authorize(&facts), Decision::NotAllowed);
    let me = "west/default/p";
    let table = [
        (policies("cluster.local/ns/default/sa/a"), Decision::Allowed),
        (policies("cluster.local/ns/default/sa/b"), Decision::NotAllowed),
        (Body::Authorization(d::Authorization::default()), Decision::Allowed),
    ];
    for (told, decision) in table {
        store.apply(update(Kind::Authorization, vec![(me, told)], &[])).unwrap();
        assert_eq!(shared.newest().authorize(&facts), decision);
    }
    // Taking them back opens nothing.
    store.apply(update(Kind::Authorization, vec![(me, policies("x/*"))], &[])).unwrap();
    store.apply(update(Kind::Authorization, vec![], &[me])).unwrap();
    assert_eq!(shared.newest().authorize(&facts), Decision::NotAllowed);
}

#[test]
fn what_a_proxy_is_cannot_be_taken_back() {
    let (mut store, shared, _) = store();
    let own = d::Workload {
        ports: vec![d::InboundPort { number: 9080, protocol: 1, ..Default::default() }],
        ..Default::default()
    };
    store.apply(update(Kind::Workload, vec![("west/default/p", Body::Workload(own))], &[])).unwrap();
    let strict = d::Authentication { mode: 1, ..d::Authentication::default() };
    store.apply(update(Kind::Authentication, vec![("west/default/p", Body::Authentication(strict))], &[])).unwrap();
    for kind in [Kind::Workload, Kind::Authentication] {
        store.apply(update(kind, vec![], &["west/default/p"])).unwrap();
    }
    let snapshot = shared.newest();
    assert_eq!(snapshot.own.as_ref().and_then(|own| own.port(9080)).map(|port| port.protocol), Some(Protocol::Http));
    assert_eq!(snapshot.authentication.as_ref().map(|a| a.mode_of(9080)), Some(policy::PeerMode::Strict));
}

#[test]
fn settings_have_defaults() {
    let (mut store, shared, _) = store();
    for (asked, given) in [(0, 10_000), (250, 250), (2_000, 2_000)] {
        let settings = d::MeshConfig { connect_timeout_ms: asked, ..d::MeshConfig::default() };
        store.apply(update(Kind::MeshConfig, vec![("mesh", Body::MeshConfig(settings))], &[])).unwrap();
        assert_eq!(shared.newest().settings.connect_timeout.as_millis(), given);
    }
    assert_eq!(&*shared.newest().settings.cluster_domain, "cluster.local");
}
