//! The repository's topologies: each passes the same checks, as root and as an ordinary user. As root, those of IPv6 and of shared
//! networks run in `.ci/full`.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::failover::check_failover;
use crate::kubectl::check_streams;
use crate::mesh::{check_cross_cluster, check_only_tls_crosses, check_scaling};
use crate::protocols::{check_logs, check_protocols};
use crate::support::{Lab, User, eventually, kubectl_is_installed};

const WEST: &str = "west/default/frontend";
/// Calls in a second during a failover. How fast it is, is measured with more in `failover`.
const RATE: u32 = 25;
const CENTRAL: &str = "central/default/frontend";

/// Calls a port of a service over connections of their own, and asserts that each answered and none was closed.
#[track_caller]
fn check_connections(lab: &Lab, caller: &str, url: &str) -> Value {
    let isthmus = lab.directory.path("isthmus").display().to_string();
    let call = [&isthmus, "testapp", "--call", url, "--rate", "60", "--duration", "3s", "-o", "json"];
    let timeline: Value = serde_json::from_str(&lab.exec(caller, &call).ok()).expect("a timeline");
    assert_eq!((&timeline["ok"], &timeline["failed"]), (&180.into(), &0.into()), "{caller} {url}: {timeline}");
    timeline
}

/// Checks the addresses of pods, nodes and Services of a cluster, the first of each in `families`.
#[track_caller]
fn check_addresses(lab: &Lab, cluster: &str, families: &[&str]) {
    let family = |address: &Value| match address.as_str().expect("an address").parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => "IPv4",
        Ok(IpAddr::V6(_)) => "IPv6",
        Err(error) => panic!("{address}: {error}"),
    };
    let pod = lab.kubectl(cluster, &["get", "pods", "-l", "app=frontend", "-o", "json"]).json();
    let status = &pod["items"][0]["status"];
    for (first, list) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let all: Vec<&str> = status[list].as_array().expect("addresses").iter().map(|it| family(&it["ip"])).collect();
        assert_eq!(all, families, "{list} of {status}");
        assert_eq!(status[first], status[list][0]["ip"], "{status}");
    }
    let service = lab.kubectl(cluster, &["get", "service", "frontend", "-o", "json"]).json();
    assert_eq!(service["spec"]["ipFamilies"][0], families[0], "{service}");
    assert_eq!(family(&service["spec"]["clusterIP"]), families[0], "{service}");
    // Names of addresses are asked in the family of the address.
    let address = service["spec"]["clusterIP"].as_str().expect("an address");
    let name = lab.exec(&format!("{cluster}/default/frontend"), &["getent", "hosts", address]).ok();
    assert!(name.contains("frontend.default.svc.cluster.local"), "{name}");
}

/// Checks that the mesh reports no problem.
#[track_caller]
fn check_status(lab: &Lab) {
    let status = lab.isthmus(&["status"]).ok();
    assert!(status.contains("west") && status.contains("primary") && status.contains("connected"), "{status}");
    assert!(!status.contains("problem"), "{status}");
}

/// What every topology passes.
fn check_mesh(lab: &Lab) {
    check_status(lab);
    check_cross_cluster(lab);
    check_scaling(lab);
}

/// What a topology with `ratings` in east passes besides; `upstream` is where west's proxies reach it.
fn check_everything(lab: &Lab, families: &[&str], upstream: &str) {
    check_mesh(lab);
    check_addresses(lab, "west", families);
    check_protocols(lab);
    check_logs(lab, upstream);
    let opaque = check_connections(lab, WEST, "banner://ratings:9091");
    assert_eq!(opaque["clusters"]["east"], 180, "{opaque}");
    check_failover(lab, RATE);
    check_streams(lab);
}

#[test]
fn primary_remote_serves_across_clusters() {
    for user in User::all() {
        let lab = Lab::up("primary-remote.yaml", user);
        check_mesh(&lab);
        lab.down();
    }
}

#[test]
fn multi_primary_serves_across_clusters() {
    for user in User::all() {
        let lab = Lab::up("multi-primary.yaml", user);
        check_mesh(&lab);
        lab.down();
    }
}

#[test]
fn three_regions_serve_across_clusters() {
    for user in User::all() {
        let lab = Lab::up("three-regions.yaml", user);
        check_mesh(&lab);
        lab.down();
    }
}

#[test]
fn clusters_of_one_network_serve_each_other_directly_and_others_through_gateways() {
    kubectl_is_installed();
    for user in User::of_long_checks() {
        let lab = Lab::up("shared-network.yaml", user);
        let ratings = lab.kubectl("east", &["get", "pods", "-l", "app=ratings", "-o", "json"]).json();
        let pod = ratings["items"][0]["status"]["podIP"].as_str().expect("an address").to_owned();
        assert!(pod.starts_with("10.245."), "{pod}");
        // The gateways of both clusters are of one network, and either may carry a connection from another network.
        let opaque = check_connections(&lab, CENTRAL, "banner://reviews:9091");
        let clusters = &opaque["clusters"];
        assert_eq!(clusters["west"].as_u64().unwrap_or(0) + clusters["east"].as_u64().unwrap_or(0), 180, "{opaque}");
        assert!(!clusters["west"].is_null() && !clusters["east"].is_null(), "both clusters answer: {opaque}");
        check_connections(&lab, CENTRAL, "http://reviews:9080/");
        check_only_tls_crosses(&lab, CENTRAL);
        check_everything(&lab, &["IPv4"], &format!("{pod}:9080"));
        lab.down();
    }
}

#[test]
fn pods_of_a_stateful_set_are_reached_by_name_and_over_slow_links() {
    kubectl_is_installed();
    for user in User::all() {
        let lab = Lab::up("stateful-set.yaml", user);
        check_status(&lab);
        // A pod's name is that of the pod in the own cluster, or of one in another cluster of the network.
        let pod_and_cluster = |answer: &Value| [answer["pod"].clone(), answer["cluster"].clone()];
        for (name, expected) in [
            ("db-0.db.default.svc.cluster.local", ["db-0", "west"]),
            ("db-1.db.default.svc.cluster.local", ["db-1", "east"]),
            ("db-1.db", ["db-1", "east"]),
        ] {
            for _ in 0..5 {
                let answer = lab.get(WEST, &format!("http://{name}:9080/"));
                assert_eq!(answer.as_ref().map(pod_and_cluster), Ok(expected.map(Value::from)), "{name}");
            }
        }
        // The name of the service is all pods of the network.
        let addresses = lab.exec(WEST, &["getent", "ahostsv4", "db.default.svc.cluster.local"]).ok();
        let of = |range: &str| {
            let first_words = addresses.lines().filter_map(|line| line.split_whitespace().next());
            first_words.filter(|ip| ip.starts_with(range)).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!((of("10.244."), of("10.245.")), (1, 2), "{addresses}");

        // From another network, the service is reached by its name, and pods have no names.
        let started = std::time::Instant::now();
        let answer = lab.get(CENTRAL, "http://db:9080/").expect("a pod answers");
        assert!(answer["pod"].as_str().is_some_and(|pod| pod.starts_with("db-")), "{answer}");
        let first = started.elapsed();
        let timeline = check_connections(&lab, CENTRAL, "http://db:9080/");
        assert!(timeline["clusters"].as_object().is_some_and(|clusters| clusters.len() == 2), "{timeline}");
        let absent = lab.exec(CENTRAL, &["getent", "hosts", "db-1.db.default.svc.cluster.local"]);
        assert_ne!(absent.code, Some(0), "{absent:?}");
        // There and back is twice the delay, less the jitter.
        let time = ["curl", "-sS", "-o", "/dev/null", "-w", "%{time_total}"];
        let seconds = |from: &str, url: &str| -> f64 {
            let times =
                (0..5).map(|_| lab.exec(from, &[&time[..], &[url]].concat()).ok().parse::<f64>().expect("seconds"));
            times.fold(f64::INFINITY, f64::min)
        };
        let (far, near) = (seconds(CENTRAL, "http://db:9080/"), seconds(WEST, "http://db-1.db:9080/"));
        println!("first answer after {first:?}; central {far:.3}s, west {near:.3}s");
        assert!((0.03..1.0).contains(&far) && near < 0.03, "central {far}, west {near}");
        lab.down();
    }
}

#[test]
fn clusters_without_ipv4_serve_each_other() {
    kubectl_is_installed();
    for user in User::of_long_checks() {
        let lab = Lab::up("ipv6.yaml", user);
        check_only_tls_crosses(&lab, WEST);
        check_everything(&lab, &["IPv6"], "[2001:db8:113::20]:15443");
        lab.down();
    }
}

#[test]
fn clusters_of_both_ip_families_serve_each_other() {
    kubectl_is_installed();
    for user in User::of_long_checks() {
        let lab = Lab::up("dual-stack.yaml", user);
        check_addresses_of_both_families(&lab);
        check_everything(&lab, &["IPv4", "IPv6"], "203.0.113.20:15443");
        lab.down();
    }
}

/// Checks that Services with addresses of both families are reached at either, in their cluster and from another one.
fn check_addresses_of_both_families(lab: &Lab) {
    let service = lab.kubectl("west", &["get", "service", "reviews", "-o", "json"]).json();
    assert_eq!(service["spec"]["ipFamilies"], serde_json::json!(["IPv4", "IPv6"]), "{service}");
    for (family, index) in [("-4", 0), ("-6", 1)] {
        let address = service["spec"]["clusterIPs"][index].as_str().expect("an address");
        let url = "http://reviews:9080/";
        let reached = ["curl", "-sS", family, "--fail", "-o", "/dev/null", "-w", "%{remote_ip}", url];
        assert_eq!(lab.exec(WEST, &reached).ok(), address, "{family}");
        // A service of another cluster alone has an address of each family too.
        let answer = lab.exec(WEST, &["curl", "-sS", family, "--fail", "http://ratings:9080/"]).json();
        assert_eq!(answer["cluster"], "east", "{family}");
    }

    let gateway = ["-n", "isthmus-system", "service", "isthmus-eastwestgateway"];
    let patch = r#"{"spec": {"ipFamilyPolicy": "PreferDualStack"}}"#;
    lab.kubectl("east", &[&["patch"][..], &gateway[..], &["-p", patch]].concat()).ok();
    let addresses = eventually(Duration::from_secs(10), || {
        let service = lab.kubectl("east", &[&["get"][..], &gateway[..], &["-o", "json"]].concat()).json();
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        if ingress.len() == 2 { Ok(ingress) } else { Err(service) }
    })
    .expect("the gateway has an address of each family");
    assert_eq!(addresses[0]["ip"], "203.0.113.20", "the first address stays: {addresses:?}");
    assert!(addresses[1]["ip"].as_str().is_some_and(|ip| ip.starts_with("2001:db8:113::")), "{addresses:?}");
    check_connections(lab, WEST, "http://ratings:9080/");
}
