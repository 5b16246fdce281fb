use std::sync::Arc;

use super::*;
use proxy::mesh;

#[test]
fn only_names_of_services_are_looked_up() {
    let ours = "reviews.default.svc.cluster.local";
    for name in [ours, "reviews.default.svc.cluster.local.", "Reviews.Default.svc.cluster.local"] {
        let expected = MeshName { service: ours.into(), subject: Subject::Service, clusterset: false };
        assert_eq!(MeshName::parse(name, "cluster.local"), Some(expected), "{name}");
    }
    let port = MeshName { service: ours.into(), subject: Subject::Port("http".into()), clusterset: false };
    assert_eq!(MeshName::parse("_http._TCP.reviews.default.svc.cluster.local", "cluster.local"), Some(port));
    let member = MeshName { service: ours.into(), subject: Subject::Member("db-0".into()), clusterset: false };
    assert_eq!(MeshName::parse("DB-0.reviews.default.svc.cluster.local", "cluster.local"), Some(member));
    for name in [
        "example.com",
        "reviews",
        "svc.cluster.local",
        "default.svc.cluster.local",
        ".default.svc.cluster.local",
        "www.example.com.default.svc.cluster.local",
        "..default.svc.cluster.local",
        "reviews.default.svc.other.local",
        "_dns._udp.reviews.default.svc.cluster.local",
        "http._tcp.reviews.default.svc.cluster.local",
    ] {
        assert_eq!(MeshName::parse(name, "cluster.local"), None, "{name}");
    }
}

#[test]
fn answers_with_the_queried_address_family() {
    let addresses_of = |service: &Service, kind| addresses_of(service, kind, BOTH, Zone::Cluster);
    let service = |addresses: &[&str], headless| Service {
        hostname: "reviews.default.svc.cluster.local".into(),
        name: "reviews".into(),
        namespace: "default".into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        headless,
        ..Service::default()
    };
    let both = service(&["10.96.0.7", "240.240.1.1"], false);
    let first = answer(&["10.96.0.7"]);
    assert_eq!(addresses_of(&both, RecordType::A), first);
    assert_eq!(addresses_of(&both, RecordType::AAAA), Answer::Addresses(vec![]));
    assert_eq!(addresses_of(&both, RecordType::ANY), first);
    // The name exists, so others must not deny it.
    assert_eq!(addresses_of(&both, RecordType::TXT), Answer::Addresses(vec![]));
    assert_eq!(addresses_of(&service(&[], true), RecordType::A), Answer::NotInMesh);
}

const BOTH: Routed = Routed { ipv4: true, ipv6: true };

fn answer(addresses: &[&str]) -> Answer {
    Answer::Addresses(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

#[test]
fn a_dual_stack_service_has_an_address_of_each_family() {
    let service = |addresses: &[&str], own_addresses| Service {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        own_addresses,
        ..Service::default()
    };
    let own = service(&["10.96.0.7", "fd00:10:96::7", "240.240.1.1", "2001:2::f0f0:101"], 2);
    assert_eq!(addresses_of(&own, RecordType::A, BOTH, Zone::Cluster), answer(&["10.96.0.7"]));
    assert_eq!(addresses_of(&own, RecordType::AAAA, BOTH, Zone::Cluster), answer(&["fd00:10:96::7"]));
    // The cluster's Service has one family, whatever other clusters have.
    let one = service(&["10.96.0.7", "240.240.1.1", "2001:2::f0f0:101"], 1);
    assert_eq!(addresses_of(&one, RecordType::AAAA, BOTH, Zone::Cluster), answer(&[]));
    // A pod without IPv6 cannot use an allocated IPv6 address.
    let shared = service(&["240.240.1.1", "2001:2::f0f0:101"], 0);
    assert_eq!(addresses_of(&shared, RecordType::AAAA, BOTH, Zone::Cluster), answer(&["2001:2::f0f0:101"]));
    let only_ipv4 = Routed { ipv4: true, ipv6: false };
    assert_eq!(addresses_of(&shared, RecordType::AAAA, only_ipv4, Zone::Cluster), answer(&[]));
    assert_eq!(addresses_of(&shared, RecordType::A, only_ipv4, Zone::Cluster), answer(&["240.240.1.1"]));
}

fn pod(ip: &str, further_ip: Option<&str>, hostname: &str, health: balance::Health) -> mesh::Endpoint {
    mesh::Endpoint {
        id: ip.into(),
        cluster: "west".into(),
        network: "net-west".into(),
        locality: Default::default(),
        health,
        weight: 1,
        reach: mesh::Reach::Direct(Arc::new(mesh::DirectEndpoint {
            ip: ip.parse().unwrap(),
            further_ip: further_ip.map(|ip| ip.parse().unwrap()),
            ports: [(5432, 9091)].into(),
            identity: None,
            mutual_tls: true,
            plaintext_ports: Box::default(),
            workload: Arc::default(),
            labels: [].into(),
            pod: ip.into(),
            hostname: hostname.into(),
            node: "".into(),
            only_node: None,
        })),
    }
}

#[test]
fn a_headless_service_has_the_addresses_of_its_pods() {
    let addresses_of = |service: &Service, kind| addresses_of(service, kind, BOTH, Zone::Cluster);
    let addresses_of_member =
        |service: &Service, member: &str, kind| addresses_of_member(service, member, kind, "west");
    let mut service = Service {
        hostname: "db.default.svc.cluster.local".into(),
        name: "db".into(),
        namespace: "default".into(),
        addresses: ["240.240.1.1".parse().unwrap()].into(),
        headless: true,
        ..Service::default()
    };
    // All endpoints are behind gateways.
    let shared = Answer::Addresses(vec!["240.240.1.1".parse().unwrap()]);
    assert_eq!(addresses_of(&service, RecordType::A), shared);
    let (ready, unready) = (balance::Health::Ready, balance::Health::Unready);
    let pods =
        [("10.244.0.1", ready), ("10.244.0.2", unready), ("10.244.0.3", ready)].map(|(ip, of)| pod(ip, None, "", of));
    service.endpoints = Some(pods.into());
    let here = Answer::Addresses(vec!["10.244.0.1".parse().unwrap(), "10.244.0.3".parse().unwrap()]);
    assert_eq!(addresses_of(&service, RecordType::A), here);
    assert_eq!(addresses_of(&service, RecordType::AAAA), Answer::Addresses(vec![]));
    // Pods of both families have a record of each type, whichever address the proxy would use.
    let first = pod("10.244.0.1", Some("fd00::1"), "db-0", ready);
    let pods = [first, pod("fd00::2", Some("10.244.0.2"), "db-1", ready), pod("10.244.0.3", None, "db-2", unready)];
    service.endpoints = Some(pods.into());
    // A member has its own name while it is ready; others are left to the cluster's DNS.
    for (member, expected) in [
        ("db-0", answer(&["10.244.0.1"])),
        ("db-1", answer(&["10.244.0.2"])),
        ("db-2", Answer::NotInMesh),
        ("db-3", Answer::NotInMesh),
        ("", Answer::NotInMesh),
    ] {
        assert_eq!(addresses_of_member(&service, member, RecordType::A), expected, "{member}");
    }
    assert_eq!(addresses_of_member(&service, "db-0", RecordType::AAAA), answer(&["fd00::1"]));
    assert_eq!(addresses_of_member(&service, "db-0", RecordType::TXT), answer(&[]));
    service.headless = false;
    assert_eq!(addresses_of_member(&service, "db-0", RecordType::A), Answer::NotInMesh);
    service.headless = true;
    let Some(endpoints) = &mut service.endpoints else { unreachable!() };
    *endpoints = endpoints.iter().take(2).cloned().collect();
    assert_eq!(addresses_of(&service, RecordType::A), answer(&["10.244.0.1", "10.244.0.2"]));
    assert_eq!(addresses_of(&service, RecordType::AAAA), answer(&["fd00::1", "fd00::2"]));
}

#[test]
fn a_pod_of_the_own_cluster_is_preferred_by_its_hostname() {
    let ready = balance::Health::Ready;
    let elsewhere = |ip, name| mesh::Endpoint { cluster: "east".into(), ..pod(ip, None, name, ready) };
    let endpoints =
        [elsewhere("10.245.0.1", "db-0"), pod("10.244.0.1", None, "db-0", ready), elsewhere("10.245.0.2", "db-1")];
    let service = Service { headless: true, endpoints: Some(endpoints.into()), ..Service::default() };
    let member = |name, cluster| addresses_of_member(&service, name, RecordType::A, cluster);
    assert_eq!(member("db-0", "west"), answer(&["10.244.0.1"]));
    assert_eq!(member("db-0", "east"), answer(&["10.245.0.1"]));
    assert_eq!(member("db-0", "north"), answer(&["10.245.0.1", "10.244.0.1"]));
    assert_eq!(member("db-1", "west"), answer(&["10.245.0.2"]));
}

#[test]
fn ports_have_srv_records_and_their_hosts_resolve() {
    let port =
        |number, name: &str| Port { number, name: name.into(), protocol: mesh::Protocol::Tcp, server_names: [].into() };
    let mut service = Service {
        hostname: "db.default.svc.cluster.local".into(),
        ports: [port(5432, "sql"), port(8080, "")].into(),
        addresses: ["240.240.1.1".parse().unwrap()].into(),
        ..Service::default()
    };
    let resolve = |service: &Service, name: &str, kind| {
        let pod = AskingPod { cluster: "west".into(), routed: BOTH };
        MeshName::parse(name, "cluster.local").unwrap().answer(service, kind, &pod)
    };
    let of = |port, host: &str| PortOfHost { port, host: host.into() };
    let name = "_sql._tcp.db.default.svc.cluster.local";
    let own = "db.default.svc.cluster.local";
    assert_eq!(resolve(&service, name, RecordType::SRV), Answer::Ports(vec![of(5432, own)]));
    assert_eq!(resolve(&service, name, RecordType::TXT), answer(&[]));
    assert_eq!(resolve(&service, own, RecordType::SRV), Answer::Ports(vec![of(5432, own), of(8080, own)]));
    let other = "_http._tcp.db.default.svc.cluster.local";
    assert_eq!(resolve(&service, other, RecordType::SRV), Answer::NotInMesh);

    service.headless = true;
    assert_eq!(resolve(&service, name, RecordType::SRV), Answer::Ports(vec![of(5432, own)]), "behind gateways");
    let ready = balance::Health::Ready;
    service.endpoints = Some([pod("10.244.0.1", None, "db-0", ready), pod("10.244.0.2", None, "", ready)].into());
    let hosts = ["db-0.db.default.svc.cluster.local", "10-244-0-2.db.default.svc.cluster.local"];
    assert_eq!(resolve(&service, name, RecordType::SRV), Answer::Ports(hosts.map(|host| of(9091, host)).into()));
    assert_eq!(resolve(&service, hosts[0], RecordType::A), answer(&["10.244.0.1"]));
    assert_eq!(resolve(&service, hosts[1], RecordType::A), answer(&["10.244.0.2"]));
}

#[test]
fn names_in_clusterset_local_have_the_clusterset_addresses_and_name_their_cluster() {
    let ready = balance::Health::Ready;
    let elsewhere = |ip, name| mesh::Endpoint { cluster: "east".into(), ..pod(ip, None, name, ready) };
    let port = Port { number: 5432, name: "sql".into(), protocol: mesh::Protocol::Tcp, server_names: [].into() };
    let mut service = Service {
        hostname: "db.default.svc.cluster.local".into(),
        name: "db".into(),
        namespace: "default".into(),
        ports: [port].into(),
        addresses: ["10.96.0.7", "240.240.1.1", "2001:2::f0f0:101"].map(|of| of.parse().unwrap()).into(),
        own_addresses: 1,
        clusterset: true,
        ..Service::default()
    };
    let resolve = |service: &Service, name: &str, kind| {
        let asking = AskingPod { cluster: "west".into(), routed: BOTH };
        let name = MeshName::parse_clusterset(name, "cluster.local").unwrap_or_else(|| panic!("{name}"));
        assert_eq!(name.service, "db.default.svc.cluster.local");
        name.answer(service, kind, &asking)
    };
    let own = "DB.default.svc.clusterset.local.";
    assert_eq!(resolve(&service, own, RecordType::A), answer(&["240.240.1.1"]));
    assert_eq!(resolve(&service, own, RecordType::AAAA), answer(&["2001:2::f0f0:101"]));
    let of = |port, host: &str| PortOfHost { port, host: host.into() };
    let named = "_sql._tcp.db.default.svc.clusterset.local";
    let expected = Answer::Ports(vec![of(5432, "db.default.svc.clusterset.local")]);
    assert_eq!(resolve(&service, named, RecordType::SRV), expected);
    assert_eq!(resolve(&service, own, RecordType::SRV), expected);

    service.headless = true;
    service.endpoints = Some([elsewhere("10.245.0.1", "db-0"), pod("10.244.0.1", None, "db-0", ready)].into());
    assert_eq!(resolve(&service, own, RecordType::A), answer(&["10.245.0.1", "10.244.0.1"]));
    let member = |cluster: &str| format!("db-0.{cluster}.db.default.svc.clusterset.local");
    assert_eq!(resolve(&service, &member("east"), RecordType::A), answer(&["10.245.0.1"]));
    assert_eq!(resolve(&service, &member("west"), RecordType::A), answer(&["10.244.0.1"]));
    assert_eq!(resolve(&service, &member("north"), RecordType::A), Answer::NotInMesh);
    let ports = Answer::Ports(vec![of(9091, &member("east")), of(9091, &member("west"))]);
    assert_eq!(resolve(&service, named, RecordType::SRV), ports);

    service.clusterset = false;
    for name in [own, named] {
        assert_eq!(resolve(&service, name, RecordType::A), Answer::NotInMesh, "not exported by a ServiceExport");
    }
    for name in ["east.db.default.svc.clusterset.local", "default.svc.clusterset.local", "db.default.svc.cluster.local"]
    {
        assert_eq!(MeshName::parse_clusterset(name, "cluster.local"), None, "{name}");
    }
}
