use telemetry::metrics::Registry;

use super::*;

fn telemetry() -> WorkerTelemetry {
    let registry = Registry::new();
    let location = ProxyLocation {
        ip: std::net::Ipv4Addr::LOCALHOST.into(),
        cluster: "west".into(),
        network: "net-west".into(),
        namespace: "default".into(),
        pod: "reviews".into(),
    };
    WorkerTelemetry::new(registry.worker(), location, AccessLog::new(AccessLogFiles::new(registry)))
}

fn peer(account: &str) -> Peer {
    let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    Peer { id: id.parse().unwrap(), cluster: Some("east".into()) }
}

fn claim(workload: usize) -> HeaderValue {
    HeaderValue::from_str(&format!("workload-{workload};admin;app;v1;app;v1;north")).unwrap()
}

#[test]
fn labels_that_a_peer_makes_up_are_few_and_its_identity_is_proven() {
    let telemetry = telemetry();
    let (rogue, honest) = (peer("rogue"), peer("honest"));
    let mut workloads = std::collections::BTreeSet::new();
    for number in 0..8000 {
        let party = telemetry.peer(Some(&claim(number)), Some(&rogue));
        assert_eq!((&*party.namespace, &*party.cluster), ("shop", "east"));
        assert_eq!(&*party.principal, "spiffe://cluster.local/ns/shop/sa/rogue");
        workloads.insert(party.workload.to_string());
    }
    assert_eq!(workloads.len(), MAX_CLAIMS + 1, "and the one without a workload");
    assert!(telemetry.parties.borrow().len() <= MAX_CLAIMS + 1);
    let first = telemetry.peer(Some(&claim(1)), Some(&rogue));
    assert!(Rc::ptr_eq(&first, &telemetry.peer(Some(&claim(1)), Some(&rogue))), "known labels stay");
    assert_eq!(
        &*telemetry.peer(Some(&claim(8001)), Some(&honest)).workload,
        "workload-8001",
        "others are not affected"
    );
}

#[test]
fn a_peer_without_an_identity_is_unknown_whatever_it_says() {
    let telemetry = telemetry();
    assert_eq!(*telemetry.peer(Some(&claim(1)), None), Party::default());
}
