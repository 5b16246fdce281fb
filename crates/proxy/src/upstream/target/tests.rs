use std::collections::HashMap;

use balance::Health;

use super::*;
use crate::mesh::Direct;

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
    Reach::Direct(Arc::new(Direct {
        ip: ip.parse().unwrap(),
        ports: [(80, 9080)].into(),
        identity: identity.map(|id| id.parse().unwrap()),
        mutual_tls,
        labels: Arc::default(),
        pod: "p".into(),
    }))
}

fn summary() -> Reach {
    Reach::Gateways {
        identities: ["spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap()].into(),
        ports: [80].into(),
    }
}

fn service(endpoints: Vec<Endpoint>) -> Service {
    Service {
        hostname: "reviews.default.svc.cluster.local".into(),
        name: "reviews".into(),
        namespace: "default".into(),
        ports: [].into(),
        addresses: [].into(),
        headless: false,
        endpoints: Some(endpoints.into()),
    }
}

fn snapshot(gateways: &[(&str, &[(&str, &str)])]) -> Snapshot {
    let gateways: HashMap<Arc<str>, Arc<[Gateway]>> = gateways
        .iter()
        .map(|(network, addresses)| {
            let gateway = |(ip, cluster): &(&str, &str)| Gateway {
                address: SocketAddr::new(ip.parse().unwrap(), 15443),
                cluster: (*cluster).into(),
            };
            ((*network).into(), addresses.iter().map(gateway).collect())
        })
        .collect();
    Snapshot { gateways: Arc::new(gateways), ..Snapshot::default() }
}

fn weights(choices: &[Choice<Arc<Target>>]) -> Vec<(String, u32)> {
    choices.iter().map(|choice| (choice.target.address.ip().to_string(), choice.weight)).collect()
}

/// Istio's reference vector of its network filter, as seen from network1.
#[test]
fn gateways_stand_in_for_other_networks() {
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
    assert_eq!(weights(&targets(&service, 80, &snapshot)), expected);
}

#[test]
fn a_cluster_without_gateways_of_its_own_uses_those_of_its_network() {
    let service = service(vec![endpoint("d", "2c", "n2", 3, summary())]);
    let snapshot = snapshot(&[("n2", &[("2.2.2.2", "2a"), ("2.2.2.20", "2b")])]);
    let expected: Vec<_> = [("2.2.2.2", 3), ("2.2.2.20", 3)].map(|(ip, weight)| (ip.to_owned(), weight)).into();
    assert_eq!(weights(&targets(&service, 80, &snapshot)), expected);
}

#[test]
fn what_has_no_known_gateway_or_not_this_port_is_left_out() {
    let service = service(vec![
        endpoint("d", "2a", "n2", 1, summary()),
        endpoint("a", "1a", "n1", 1, pod("10.0.0.1", false, None)),
    ]);
    let none = snapshot(&[("n2", &[])]);
    assert_eq!(weights(&targets(&service, 80, &none)), [("10.0.0.1".to_owned(), 1)]);
    assert_eq!(targets(&service, 81, &snapshot(&[("n2", &[("2.2.2.2", "2a")])])).len(), 0);
}

#[test]
fn tls_names_the_service_port_and_expects_who_was_told() {
    let id = "spiffe://cluster.local/ns/default/sa/reviews";
    let service = service(vec![
        endpoint("meshed", "1a", "n1", 1, pod("10.0.0.1", true, Some(id))),
        endpoint("unknown", "1a", "n1", 1, pod("10.0.0.2", true, None)),
        endpoint("plain", "1a", "n1", 1, pod("10.0.0.3", false, Some(id))),
        endpoint("remote", "2a", "n2", 1, summary()),
    ]);
    let choices = targets(&service, 80, &snapshot(&[("n2", &[("2.2.2.2", "2a")])]));
    let tls: Vec<_> = choices.iter().map(|choice| choice.target.tls.as_ref()).collect();
    let names: Vec<_> = tls.iter().map(|tls| tls.map(|tls| tls.sni.to_str().into_owned())).collect();
    let sni = Some("outbound_.80_._.reviews.default.svc.cluster.local".to_owned());
    assert_eq!(names, [sni.clone(), sni.clone(), None, sni]);
    assert_eq!(choices[0].target.address.to_string(), "10.0.0.1:9080");
    assert!(!tls[0].unwrap().expected.is_empty());
    assert!(tls[1].unwrap().expected.is_empty(), "nobody may answer for an unknown identity");
    assert_eq!(tls[3].unwrap().expected, tls[0].unwrap().expected);
    assert_eq!(choices.iter().map(|choice| choice.target.remote).collect::<Vec<_>>(), [false, false, false, true]);
}

#[test]
fn the_cluster_must_have_signed_where_its_intermediate_is_known() {
    let id = "spiffe://cluster.local/ns/default/sa/reviews";
    let service = service(vec![endpoint("a", "1a", "n1", 1, pod("10.0.0.1", true, Some(id)))]);
    let mut snapshot = snapshot(&[]);
    let expected = |snapshot: &Snapshot| targets(&service, 80, snapshot)[0].target.tls.clone().unwrap().expected;
    let anybody = Expectation::any_of([id.parse().unwrap()]);
    assert_eq!(expected(&snapshot), anybody);
    snapshot.issuers = Arc::new(["1a".into()].into());
    assert_eq!(expected(&snapshot), anybody.in_clusters(["1a".into()]));
}
