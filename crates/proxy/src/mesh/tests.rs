//! Tests of the store.

use std::collections::BTreeMap;
use std::sync::Mutex;

use policy::Decision;
use wire::client::Store as _;
use wire::delta::{Body, Changed, Update};
use wire::{Kind, discovery as d};

use super::*;

const REVIEWS: &str = "reviews.default.svc.cluster.local";

fn store() -> (MeshStore, Arc<Published>, Arc<Mutex<Vec<String>>>) {
    let location = ProxyLocation {
        cluster: "west".into(),
        network: "net-west".into(),
        namespace: "default".into(),
        pod: "p".into(),
        ip: [10, 244, 0, 1].into(),
    };
    let trusted: Arc<Mutex<Vec<String>>> = Arc::default();
    let received = trusted.clone();
    let store = MeshStore::new(location, move |trust| received.lock().unwrap().push(trust.trust_domain().to_owned()));
    let published = store.published();
    (store, published, trusted)
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

#[test]
fn a_block_contains_the_addresses_that_begin_like_it() {
    let block = |ip: &str, length| AddressBlock { ip: ip.parse().unwrap(), length, hostname: "a".into() };
    for (ip, length, address, expected) in [
        ("192.0.2.0", 24, "192.0.2.255", true),
        ("192.0.2.0", 24, "192.0.3.0", false),
        ("192.0.2.7", 32, "192.0.2.7", true),
        ("192.0.2.7", 32, "192.0.2.6", false),
        ("0.0.0.0", 0, "203.0.113.1", true),
        ("0.0.0.0", 0, "2001:db8::1", false),
        ("2001:db8::", 32, "2001:db8:ffff::1", true),
        ("2001:db8::", 32, "2001:db9::1", false),
        ("::", 0, "2001:db8::1", true),
    ] {
        assert_eq!(block(ip, length).contains(address.parse().unwrap()), expected, "{ip}/{length} {address}");
    }
}

fn entry(endpoints: Vec<d::EntryEndpoint>, resolution: d::Resolution) -> Body {
    Body::Service(d::Service {
        hostname: "api.example.com".into(),
        entry: Some(d::Entry { resolution: resolution.into(), endpoints, ..d::Entry::default() }),
        ..d::Service::default()
    })
}

#[test]
fn a_service_of_an_entry_has_its_endpoints_with_it() {
    let (mut store, published, _) = store();
    let ports = || BTreeMap::from([(80, 8080)]);
    let pod = |network: &str| d::EntryEndpoint {
        ip: vec![10, 244, 0, 9].into(),
        pod: "p".into(),
        network: network.into(),
        ports: ports(),
        ..Default::default()
    };
    let named = d::EntryEndpoint { host: "one.example.com".into(), ports: ports(), ..Default::default() };
    let behind = d::EntryEndpoint { network: "net-east".into(), ports: ports(), ..Default::default() };
    let endpoints = vec![pod("net-west"), pod("net-east"), named, behind];
    store.update(update(Kind::Service, vec![("api.example.com", entry(endpoints, d::Resolution::Dns))], &[]));
    let service = published.newest().services.get("api.example.com").unwrap().clone();
    assert_eq!(service.endpoints().len(), 3, "a pod of another network has no address here");
    assert_eq!(service.names().map(|name| &**name).collect::<Vec<_>>(), ["one.example.com"]);
    assert_eq!(service.remote_networks().map(|of| &**of).collect::<Vec<_>>(), ["net-east"]);
    assert!(!published.newest().resolves(&service));
    published.set_resolved([("one.example.com".into(), [[192, 0, 2, 1].into()].into())].into());
    assert!(published.newest().resolves(&service));
    // An update of something else keeps the addresses.
    store.update(update(Kind::Service, vec![(REVIEWS, self::service(&[80]))], &[]));
    assert!(published.newest().resolves(&service));

    let odd = d::EntryEndpoint { ip: vec![1, 2, 3].into(), ..Default::default() };
    let applied =
        store.update(update(Kind::Service, vec![("api.example.com", entry(vec![odd], d::Resolution::Static))], &[]));
    assert_eq!(applied.rejected.len(), 1);
    assert_eq!(
        published.newest().services.get("api.example.com").unwrap().endpoints().len(),
        3,
        "the last valid one stays"
    );
}

#[test]
fn the_family_of_the_proxys_own_address_is_used() {
    let ip = |text: &str| wire::name::ip_to_bytes(text.parse().unwrap());
    let direct = |first: &str, further: &[&str]| {
        let further_ips = further.iter().map(|of| ip(of)).collect();
        let direct = d::Direct { ip: ip(first), further_ips, ..d::Direct::default() };
        d::Endpoint { kind: Some(d::endpoint::Kind::Direct(direct)), ..d::Endpoint::default() }
    };
    let used = |message: &d::Endpoint, own: &str| {
        let endpoint = convert::endpoint("e", message, own.parse().unwrap()).unwrap();
        let Reach::Direct(direct) = &endpoint.reach else { panic!("{endpoint:?}") };
        (direct.ip.to_string(), direct.further_ip.map(|ip| ip.to_string()))
    };
    let both = direct("10.244.0.7", &["fd00::7", "fd00::8", "10.244.0.8"]);
    assert_eq!(used(&both, "10.244.0.1"), ("10.244.0.7".into(), Some("fd00::7".into())));
    assert_eq!(used(&both, "fd00::1"), ("fd00::7".into(), Some("10.244.0.7".into())));
    // A pod of one family is reached by that family only.
    assert_eq!(used(&direct("10.244.0.7", &[]), "fd00::1"), ("10.244.0.7".into(), None));
    assert_eq!(used(&direct("fd00::7", &[]), "10.244.0.1"), ("fd00::7".into(), None));
    assert!(
        convert::endpoint(
            "e",
            &{
                let mut bad = both;
                let Some(d::endpoint::Kind::Direct(direct)) = &mut bad.kind else { panic!() };
                direct.further_ips[0] = vec![1, 2, 3].into();
                bad
            },
            [10, 244, 0, 1].into()
        )
        .is_err()
    );

    let gateway = |cluster: &str, address: &str| d::GatewayAddress {
        ip: ip(address),
        port: 15443,
        cluster: cluster.into(),
        locality: None,
    };
    let addresses =
        vec![gateway("east", "203.0.113.20"), gateway("east", "2001:db8::20"), gateway("south", "203.0.113.30")];
    let gateways = d::NetworkGateway { network: "net".into(), addresses };
    let used = |own: &str| {
        let gateways = convert::gateways(&gateways, own.parse().unwrap()).unwrap();
        gateways.iter().map(|gateway| gateway.address.ip().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(used("10.244.0.1"), ["203.0.113.20", "203.0.113.30"]);
    assert_eq!(used("fd00::1"), ["2001:db8::20", "203.0.113.30"]);
}

fn endpoints(published: &Published) -> Option<Vec<String>> {
    let snapshot = published.newest();
    let endpoints = snapshot.services.get(REVIEWS).unwrap().endpoints.clone()?;
    Some(endpoints.iter().map(|endpoint| endpoint.id.rsplit('/').next().unwrap_or_default().to_owned()).collect())
}

fn name(pod: &str) -> String {
    wire::name::endpoint(REVIEWS, "net-west", "west", pod)
}

#[test]
fn services_are_found_at_the_addresses_of_this_cluster() {
    let (mut store, published, _) = store();
    store.apply(update(Kind::Service, vec![(REVIEWS, service(&[80, 443]))], &[])).unwrap();
    let snapshot = published.newest();
    let service = snapshot.services.get(REVIEWS).unwrap();
    let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.96.0.1", "10.96.0.3"], "the own cluster's address first, and none of other clusters");
    assert!(service.addresses.iter().all(|address| Arc::ptr_eq(snapshot.addresses.get(address).unwrap(), service)));
    assert_eq!(service.port(443).map(|port| port.protocol), Some(Protocol::Unknown));
    assert_eq!(service.port(81), None);

    store.apply(update(Kind::Service, vec![], &[REVIEWS])).unwrap();
    assert!(published.newest().services.is_empty() && published.newest().addresses.is_empty());
}

#[test]
fn endpoints_are_added_and_removed_one_by_one() {
    let (mut store, published, _) = store();
    // Endpoints may arrive before their service.
    store.apply(update(Kind::Endpoint, vec![(&name("a"), pod(1)), (&name("b"), pod(2))], &[])).unwrap();
    store.apply(update(Kind::Service, vec![(REVIEWS, service(&[80]))], &[])).unwrap();
    assert_eq!(endpoints(&published), Some(vec!["a".to_owned(), "b".to_owned()]));
    let version = published.version();
    store.apply(update(Kind::Endpoint, vec![(&name("c"), pod(3))], &[&name("a")])).unwrap();
    assert_eq!(endpoints(&published), Some(vec!["b".to_owned(), "c".to_owned()]));
    assert!(published.version() > version);
    // A service that changes keeps its endpoints.
    store.apply(update(Kind::Service, vec![(REVIEWS, service(&[80, 81]))], &[])).unwrap();
    assert_eq!(endpoints(&published), Some(vec!["b".to_owned(), "c".to_owned()]));
}

#[test]
fn an_empty_collection_differs_from_one_that_has_not_arrived() {
    let (mut store, published, _) = store();
    store.apply(update(Kind::Service, vec![(REVIEWS, service(&[80]))], &[])).unwrap();
    assert_eq!(endpoints(&published), None);
    store.apply(update(Kind::Endpoint, vec![], &[&wire::name::endpoints(REVIEWS, "net-west")])).unwrap();
    assert_eq!(endpoints(&published), Some(vec![]));
    store.apply(update(Kind::Endpoint, vec![(&name("a"), pod(1))], &[])).unwrap();
    assert_eq!(endpoints(&published), Some(vec!["a".to_owned()]));
}

#[test]
fn invalid_resources_are_rejected_and_the_previous_version_stays() {
    let (mut store, published, trusted) = store();
    store.apply(update(Kind::Service, vec![(REVIEWS, service(&[80]))], &[])).unwrap();
    let bad_trust = Body::Trust(d::Trust { trust_domain: "cluster.local".into(), ..d::Trust::default() });
    let mut bad_ip = service(&[80]);
    if let Body::Service(service) = &mut bad_ip {
        service.addresses[0].ip = vec![1, 2, 3].into();
    }
    let endpoint = |endpoint| Body::Endpoint(endpoint);
    let bad_identity = d::Direct { ip: vec![10, 0, 0, 1].into(), identity: "spiffe://x".into(), ..Default::default() };
    let bad_mode = d::PeerAuthentication { mode: 9, ..d::PeerAuthentication::default() };
    let table: Vec<(Kind, &str, Body, &str)> = vec![
        (Kind::Service, REVIEWS, service(&[70_000]), "70000 is not a port"),
        (Kind::Service, REVIEWS, service(&[0]), "0 is not a port"),
        (Kind::Service, REVIEWS, bad_ip, "an address has 3 bytes"),
        (Kind::Endpoint, "nonsense", pod(1), "the name is not that of an endpoint"),
        (Kind::Endpoint, "a@n/c/e", endpoint(d::Endpoint::default()), "neither direct nor a summary"),
        (
            Kind::Endpoint,
            "a@n/c/e",
            endpoint(d::Endpoint { kind: Some(d::endpoint::Kind::Direct(bad_identity)), ..Default::default() }),
            "spiffe",
        ),
        (Kind::Workload, "west/default/p", Body::Workload(d::Workload::default()), "names no PeerAuthentication"),
        (Kind::PeerAuthentication, "mesh", Body::PeerAuthentication(bad_mode), "9 is not a mutual TLS mode"),
        (Kind::AuthorizationPolicy, "p", policy("a*b"), "policy default/p: \"a*b\" is not a pattern"),
        (Kind::Trust, "mesh", bad_trust, "root"),
    ];
    for (kind, name, body, reason) in table {
        let rejected = store.apply(update(kind, vec![(name, body)], &[])).unwrap_err();
        assert_eq!(rejected.0[0].name, name);
        assert!(rejected.0[0].reason.contains(reason), "{} instead of {reason}", rejected.0[0].reason);
    }
    let snapshot = published.newest();
    assert_eq!(snapshot.services.get(REVIEWS).unwrap().ports.iter().map(|port| port.number).collect::<Vec<_>>(), [80]);
    assert!(
        snapshot.authentication.is_none() && snapshot.authorization.is_none() && trusted.lock().unwrap().is_empty()
    );
}

/// A policy that allows a principal.
fn policy(principal: &str) -> Body {
    let principals = Some(d::Values { any_of: vec![principal.into()], none_of: vec![] });
    let from = vec![d::AuthorizationSource { principals, ..Default::default() }];
    let rules = vec![d::AuthorizationRule { from, ..Default::default() }];
    Body::AuthorizationPolicy(d::AuthorizationPolicy { name: "default/p".into(), rules, ..Default::default() })
}

fn workload(authorization_policies: &[&str]) -> Body {
    Body::Workload(d::Workload {
        ports: vec![d::InboundPort { number: 9080, protocol: 1, ..Default::default() }],
        peer_authentication: "mesh".into(),
        authorization_policies: authorization_policies.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    })
}

fn peer_authentication(mode: d::PeerMode) -> Body {
    Body::PeerAuthentication(d::PeerAuthentication { mode: mode.into(), ..Default::default() })
}

#[test]
fn policies_take_effect_together_and_allow_nothing_until_complete() {
    let (mut store, published, _) = store();
    let id = identity::SpiffeId::new("cluster.local", "default", "a").unwrap();
    let facts = policy::Facts {
        principal: Some(&id),
        cluster: None,
        source: "10.0.0.1".parse().unwrap(),
        remote: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.2".parse().unwrap(),
        port: 80,
        server_name: None,
        request: None,
    };
    let name = "west/default/p";
    let mut push = |kind, name: &str, body| {
        store.apply(update(kind, vec![(name, body)], &[])).unwrap();
        published.newest().authorize(&facts)
    };
    // Nothing is allowed before all policies that the workload names have arrived.
    assert_eq!(push(Kind::Workload, name, workload(&["p"])), Decision::NotAllowed);
    assert_eq!(push(Kind::PeerAuthentication, "mesh", peer_authentication(d::PeerMode::Strict)), Decision::NotAllowed);
    let a = || policy("cluster.local/ns/default/sa/a");
    assert_eq!(push(Kind::AuthorizationPolicy, "p", a()), Decision::Allowed);
    assert_eq!(push(Kind::AuthorizationPolicy, "p", policy("cluster.local/ns/default/sa/b")), Decision::NotAllowed);
    assert_eq!(push(Kind::AuthorizationPolicy, "p", a()), Decision::Allowed);
    // A reference to a policy that has not arrived leaves the previous policies in force.
    assert_eq!(push(Kind::Workload, name, workload(&["q"])), Decision::Allowed);
    assert_eq!(push(Kind::AuthorizationPolicy, "q", policy("x/*")), Decision::NotAllowed);
    // A workload without policies allows everything.
    assert_eq!(push(Kind::Workload, name, workload(&[])), Decision::Allowed);
}

/// Rules for the tokens of an issuer.
fn token_rules(issuer: &str) -> Body {
    let rule = d::JwtRule { issuer: issuer.into(), ..Default::default() };
    Body::RequestAuthentication(d::RequestAuthentication { name: "default/users".into(), rules: vec![rule] })
}

#[test]
fn rules_for_tokens_take_effect_with_the_policies_and_are_kept_while_nothing_changes() {
    let (mut store, published, _) = store();
    let name = "west/default/p";
    let mut push = |kind, name: &str, body| {
        store.apply(update(kind, vec![(name, body)], &[])).map_err(|rejected| format!("{rejected:?}"))?;
        let snapshot = published.newest();
        Ok::<_, String>((snapshot.authentication.is_some(), snapshot.tokens.clone()))
    };
    let Body::Workload(mut named) = workload(&[]) else { unreachable!() };
    named.request_authentications = vec!["t".into()];
    push(Kind::PeerAuthentication, "mesh", peer_authentication(d::PeerMode::Strict)).unwrap();
    let before = push(Kind::Workload, name, Body::Workload(named.clone())).unwrap();
    assert!(!before.0, "nothing is accepted before the rules have arrived");
    let (accepts, first) = push(Kind::RequestAuthentication, "t", token_rules("A")).unwrap();
    assert!(accepts && first.is_some());
    // A change of another policy keeps them, and with them what is known of tokens.
    let (_, same) = push(Kind::PeerAuthentication, "mesh", peer_authentication(d::PeerMode::Permissive)).unwrap();
    assert!(Arc::ptr_eq(first.as_ref().unwrap(), same.as_ref().unwrap()));
    let (_, other) = push(Kind::RequestAuthentication, "t", token_rules("B")).unwrap();
    assert!(!Arc::ptr_eq(first.as_ref().unwrap(), other.as_ref().unwrap()));
    let invalid = push(Kind::RequestAuthentication, "t", token_rules("")).unwrap_err();
    assert!(invalid.contains("request authentication default/users, rule 0: it names no issuer"), "{invalid}");
    // A reference to rules that have not arrived leaves the previous ones in force.
    named.request_authentications.push("u".into());
    let (_, kept) = push(Kind::Workload, name, Body::Workload(named)).unwrap();
    assert!(Arc::ptr_eq(other.as_ref().unwrap(), kept.as_ref().unwrap()));
    let (_, none) = push(Kind::Workload, name, workload(&[])).unwrap();
    assert!(none.is_none());
}

#[test]
fn removed_policies_stay_in_force() {
    let (mut store, published, _) = store();
    let name = "west/default/p";
    store.apply(update(Kind::Workload, vec![(name, workload(&["p"]))], &[])).unwrap();
    let strict = peer_authentication(d::PeerMode::Strict);
    store.apply(update(Kind::PeerAuthentication, vec![("mesh", strict)], &[])).unwrap();
    store.apply(update(Kind::AuthorizationPolicy, vec![("p", policy("x/*"))], &[])).unwrap();
    for (kind, name) in [(Kind::Workload, name), (Kind::PeerAuthentication, "mesh"), (Kind::AuthorizationPolicy, "p")] {
        store.apply(update(kind, vec![], &[name])).unwrap();
    }
    let snapshot = published.newest();
    assert_eq!(snapshot.own.as_ref().and_then(|own| own.port(9080)).map(|port| port.protocol), Some(Protocol::Http));
    assert_eq!(snapshot.authentication.as_ref().map(|a| a.mode_of(9080)), Some(policy::PeerMode::Strict));
    assert_eq!(snapshot.authorization.as_ref().map(|policies| policies.is_empty()), Some(false));
}

#[test]
fn settings_have_defaults() {
    let (mut store, published, _) = store();
    for (pushed, direct, through_gateway) in [(0, 1_000, 10_000), (250, 250, 250), (20_000, 20_000, 20_000)] {
        let settings = d::MeshConfig { connect_timeout_ms: pushed, ..d::MeshConfig::default() };
        store.apply(update(Kind::MeshConfig, vec![("mesh", Body::MeshConfig(settings))], &[])).unwrap();
        let used = published.newest().settings.connect_timeouts(true);
        assert_eq!((used.direct.as_millis(), used.through_gateway.as_millis()), (direct, through_gateway));
    }
    assert_eq!(&*published.newest().settings.cluster_domain, "cluster.local");
}
