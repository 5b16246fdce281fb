//! Graceful restarts under load, which lose no request.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::failover::{RATE, assert_none_failed, calls, pods_by_zone, print_timeline};
use crate::support::{Lab, User, eventually};

const FRONTEND: &str = "west/default/frontend";

/// Scales a deployment and waits until its pods are ready.
fn scale(lab: &Lab, cluster: &str, namespace: &str, deployment: &str, replicas: u32) {
    let (deployment, replicas) = (format!("deployment/{deployment}"), format!("--replicas={replicas}"));
    lab.kubectl(cluster, &["-n", namespace, "scale", &deployment, &replicas]).ok();
    lab.kubectl(cluster, &["-n", namespace, "rollout", "status", &deployment, "--timeout=60s"]).ok();
}

/// Restarts a deployment, pod by pod.
fn restart(lab: &Lab, cluster: &str, namespace: &str, deployment: &str) {
    let deployment = format!("deployment/{deployment}");
    // kubectl refuses to restart twice within a second, and a lab's pods may be ready sooner.
    std::thread::sleep(Duration::from_secs(1));
    lab.kubectl(cluster, &["-n", namespace, "rollout", "restart", &deployment]).ok();
    lab.kubectl(cluster, &["-n", namespace, "rollout", "status", &deployment, "--timeout=60s"]).ok();
}

fn pods(lab: &Lab, cluster: &str, namespace: &str, app: &str) -> BTreeSet<String> {
    let selector = format!("app={app}");
    let pods = lab.kubectl(cluster, &["-n", namespace, "get", "pods", "-l", &selector, "-o", "json"]).json();
    let items = pods["items"].as_array().expect("pods").iter();
    let there = items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    there.map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_rolling_restart_of_a_gateway_pair_loses_no_request() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    let (namespace, gateway) = ("isthmus-system", "isthmus-eastwestgateway");
    scale(&lab, "east", namespace, gateway, 2);
    eventually(Duration::from_secs(10), || lab.get(FRONTEND, "http://ratings:9080/")).expect("ratings answers");
    let before = pods(&lab, "east", namespace, gateway);
    // Twice, so that connections that began at new gateways are moved as well.
    let calls = calls(&lab, FRONTEND, "http://ratings:9080/", 25, || {
        restart(&lab, "east", namespace, gateway);
        restart(&lab, "east", namespace, gateway);
    });
    print_timeline(&calls);
    let after = pods(&lab, "east", namespace, gateway);
    assert!(before.len() == 2 && after.len() == 2 && before.is_disjoint(&after), "{before:?} {after:?}");
    assert!(calls.len() > (RATE * 24) as usize, "{} calls", calls.len());
    assert_none_failed(&calls);
    lab.down();
}

#[test]
fn a_rolling_restart_of_a_service_loses_no_request() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    let before = pods(&lab, "west", "default", "reviews");
    let calls = calls(&lab, FRONTEND, "http://reviews:9080/", 20, || restart(&lab, "west", "default", "reviews"));
    print_timeline(&calls);
    let after = pods(&lab, "west", "default", "reviews");
    assert!(before.len() == 2 && after.len() == 2 && before.is_disjoint(&after), "{before:?} {after:?}");
    assert!(calls.len() > (RATE * 19) as usize, "{} calls", calls.len());
    assert_none_failed(&calls);
    lab.down();
}

/// The application keeps running and is unreachable for a moment.
#[test]
fn the_restart_of_a_sidecar_alone_loses_no_request() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    // The pod in the caller's zone, which answers all of its calls.
    let zone = pods_by_zone(&lab, "frontend").into_keys().next().expect("a frontend");
    let pod = pods_by_zone(&lab, "reviews").remove(&zone).expect("reviews in the same zone");
    let proxy = format!("west/default/{pod}/isthmus-proxy");
    let restarts = || {
        let status = lab.kubectl("west", &["get", "pod", &pod, "-o", "json"]).json();
        let lists = ["containerStatuses", "initContainerStatuses"].map(|list| status["status"][list].clone());
        let all = lists.iter().filter_map(|list| list.as_array()).flatten().cloned().collect::<Vec<_>>();
        let proxy = all.iter().find(|status| status["name"] == "isthmus-proxy").expect("a proxy").clone();
        (proxy["restartCount"].as_u64().expect("a count"), proxy["ready"] == true)
    };
    assert_eq!(restarts(), (0, true));
    let calls = calls(&lab, FRONTEND, "http://reviews:9080/", 20, || {
        let quit = ["curl", "-sS", "--fail", "-X", "POST", "http://localhost:15000/quitquitquit"];
        lab.exec(&proxy, &quit).ok();
        let back = || if restarts() == (1, true) { Ok(()) } else { Err(restarts()) };
        eventually(Duration::from_secs(15), back).expect("the kubelet starts it again");
    });
    print_timeline(&calls);
    assert_none_failed(&calls);
    let zones: BTreeSet<_> = calls.iter().filter_map(|call| call["zone"].as_str()).collect();
    assert_eq!(zones.len(), 2, "the other zone's pod took over meanwhile: {zones:?}");
    lab.down();
}
