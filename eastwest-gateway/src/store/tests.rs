use super::*;

use wire::client::Store as _;

use crate::routes::tests::{told_endpoint, told_service};

const RATINGS: &str = "ratings.default.svc.cluster.local";
const SNI: &str = "outbound_.9080_._.ratings.default.svc.cluster.local";

fn changed(name: &str, body: Body) -> Changed {
    Changed { name: name.into(), aliases: Vec::new(), body }
}

fn update(kind: Kind, changed: Vec<Changed>, removed: &[&str]) -> Update {
    Update { kind, changed, removed: removed.iter().map(|name| (*name).to_owned()).collect() }
}

fn endpoint_name(id: &str) -> String {
    wire::name::endpoint(RATINGS, "net-east", "east", id)
}

fn endpoint(id: &str, ip: u8) -> Changed {
    changed(&endpoint_name(id), Body::Endpoint(told_endpoint("east", "net-east", [10, 244, 0, ip], 9080)))
}

fn service() -> Changed {
    changed(RATINGS, Body::Service(told_service(&[("east", "net-east")])))
}

fn store() -> Store {
    Store::new("net-east", &Registry::new())
}

fn candidates(store: &Store) -> Option<usize> {
    let snapshot = store.published.load();
    snapshot.routes.find(SNI).map(|route| route.service.candidates(route.port, route.mesh_only).count())
}

#[test]
fn services_and_endpoints_may_come_in_any_order() {
    let mut store = store();
    store.apply(update(Kind::Endpoint, vec![endpoint("a", 1)], &[])).unwrap();
    assert_eq!(candidates(&store), None);
    store.apply(update(Kind::Service, vec![service()], &[])).unwrap();
    assert_eq!(candidates(&store), Some(1));
    store.apply(update(Kind::Endpoint, vec![endpoint("b", 2), endpoint("a", 3)], &[])).unwrap();
    assert_eq!(candidates(&store), Some(2));
    store.apply(update(Kind::Endpoint, vec![], &[&endpoint_name("a"), "nonsense"])).unwrap();
    assert_eq!(candidates(&store), Some(1));
    store.apply(update(Kind::Service, vec![], &[RATINGS, "exported@net-east"])).unwrap();
    assert_eq!(candidates(&store), None);
    store.apply(update(Kind::Endpoint, vec![], &[&endpoint_name("b")])).unwrap();
    assert!(store.endpoints.is_empty() && store.services.is_empty());
}

#[test]
fn a_service_that_is_no_longer_exported_loses_its_route() {
    let mut store = store();
    store.apply(update(Kind::Service, vec![service()], &[])).unwrap();
    let unexported = changed(RATINGS, Body::Service(told_service(&[("west", "net-west")])));
    store.apply(update(Kind::Service, vec![unexported], &[])).unwrap();
    assert_eq!(candidates(&store), None);
}

#[test]
fn an_equal_service_keeps_its_place() {
    let mut store = store();
    store.apply(update(Kind::Service, vec![service()], &[])).unwrap();
    let before = Arc::clone(&store.services[RATINGS]);
    store.apply(update(Kind::Service, vec![service()], &[])).unwrap();
    assert!(Arc::ptr_eq(&before, &store.services[RATINGS]));
}

#[test]
fn what_is_wrong_is_rejected_and_the_rest_taken() {
    let mut store = store();
    store.apply(update(Kind::Endpoint, vec![endpoint("a", 1)], &[])).unwrap();
    let mut broken = told_service(&[("east", "net-east")]);
    broken.ports[0].number = 99_999;
    let rejected = store
        .apply(update(Kind::Service, vec![changed("broken.default", Body::Service(broken)), service()], &[]))
        .unwrap_err();
    assert_eq!(rejected.0.len(), 1);
    assert!(rejected.0[0].name == "broken.default" && rejected.0[0].reason.contains("99999"));
    assert_eq!(candidates(&store), Some(1));

    let format = discovery::MeshConfig {
        access_log_file: "/dev/null".into(),
        access_log_format: "%NOPE%".into(),
        ..Default::default()
    };
    let rejected = store.apply(update(Kind::MeshConfig, vec![changed("mesh", Body::MeshConfig(format))], &[]));
    assert!(rejected.unwrap_err().0[0].reason.contains("%NOPE%"));
}

#[test]
fn mesh_settings_reach_the_snapshot() {
    let mut store = store();
    let mesh = |file: &str, timeout| {
        let mesh =
            discovery::MeshConfig { access_log_file: file.into(), connect_timeout_ms: timeout, ..Default::default() };
        update(Kind::MeshConfig, vec![changed("mesh", Body::MeshConfig(mesh))], &[])
    };
    store.apply(mesh("/dev/null", 700)).unwrap();
    let snapshot = store.published.load_full();
    assert_eq!(snapshot.connect_timeout, Duration::from_millis(700));
    let log = snapshot.log.clone().expect("an access log");
    store.apply(mesh("/dev/null", 60_000)).unwrap();
    let snapshot = store.published.load_full();
    assert_eq!(snapshot.connect_timeout, LONGEST_CONNECT_TIMEOUT);
    assert!(snapshot.log.as_ref().is_some_and(|same| Arc::ptr_eq(same, &log)), "the log was opened anew");
    store.apply(mesh("", 0)).unwrap();
    assert!(store.published.load().log.is_none());
}

#[test]
fn trust_is_handed_on() {
    let root = identity::Authority::self_signed_root("mesh", Duration::from_secs(600)).unwrap();
    let id = identity::SpiffeId::new("cluster.local", "isthmus-system", "gateway").unwrap();
    let credential = root.credential(&id, &[], Duration::from_secs(300)).unwrap();
    let trust = identity::Trust::new("cluster.local", root.roots().to_vec(), []).unwrap();
    let identity = Identity::new(credential, trust);
    let mut store = store();
    store.identify(identity.clone());
    let told = discovery::Trust {
        trust_domain: "cluster.local".into(),
        roots: vec![root.roots()[0].to_vec().into()],
        issuers: vec![discovery::Issuer { cluster: "east".into(), public_key_sha256: vec![1; 32].into() }],
    };
    store.apply(update(Kind::Trust, vec![changed("mesh", Body::Trust(told))], &[])).unwrap();
    assert_eq!(identity.trust().issuers().len(), 1);
    let broken = discovery::Trust { trust_domain: "cluster.local".into(), ..Default::default() };
    assert!(store.apply(update(Kind::Trust, vec![changed("mesh", Body::Trust(broken))], &[])).is_err());
    assert_eq!(identity.trust().issuers().len(), 1);
}
