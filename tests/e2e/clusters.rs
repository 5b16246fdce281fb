//! Clusters that join, leave and fail; labs that end.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Lab, TestDirectory, User, eventually};

const FRONTEND: &str = "west/default/frontend";
const SECRET: [&str; 2] = ["-n", "istio-system"];

/// Returns the only primary's report of a cluster in `isthmus status -o json`.
fn cluster(lab: &Lab, name: &str) -> Option<Value> {
    let status = lab.isthmus(&["status", "-o", "json"]).json();
    let clusters = status["primaries"][0]["clusters"].as_array().unwrap_or_else(|| panic!("no clusters in {status}"));
    clusters.iter().find(|cluster| cluster["name"] == name).cloned()
}

#[test]
fn deleting_the_remote_secret_removes_the_cluster_and_applying_it_brings_it_back() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    let name = "istio-remote-secret-east";
    let secret = lab.kubectl("west", &[&SECRET[..], &["get", "secret", name, "-o", "yaml"]].concat()).ok();
    lab.kubectl("west", &[&SECRET[..], &["delete", "secret", name]].concat()).ok();
    eventually(Duration::from_secs(10), || match lab.get(FRONTEND, "http://ratings:9080/") {
        Ok(answer) => Err(format!("still answered by {answer}")),
        Err(_) => Ok(()),
    })
    .expect("east's endpoints go with the secret");
    assert_eq!(cluster(&lab, "east"), None);

    lab.apply("west", &secret);
    let answer =
        eventually(Duration::from_secs(20), || lab.get(FRONTEND, "http://ratings:9080/")).expect("ratings is back");
    assert_eq!(answer["cluster"], "east");
    lab.down();
}

#[test]
fn the_controller_is_closed_to_pods_that_prove_nothing() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    let code = |path: &str| {
        let url = format!("http://isthmus-controller.isthmus-system:15014{path}");
        lab.exec(FRONTEND, &["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", &url]).ok()
    };
    assert_eq!(["/ready", "/metrics", "/debug/clusters", "/debug/proxies"].map(code), ["200", "200", "401", "401"]);
    assert!(cluster(&lab, "east").is_some(), "the status reads the pages with a token");
    // Without rights to that token, a user reads nothing.
    let denied = lab.kubectl(
        "west",
        &["get", "--raw", "/api/v1/namespaces/isthmus-system/services/isthmus-controller:15014/proxy/debug/clusters"],
    );
    assert_ne!(denied.code, Some(0), "{}", denied.stdout);
    lab.down();
}

#[test]
fn the_proxies_of_a_removed_cluster_keep_their_own_services() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    let caller = ["reviews", "ratings"]
        .map(|name| format!("east/default/{name}"))
        .into_iter()
        .find(|target| lab.exec(target, &["true"]).code == Some(0))
        .expect("a pod in east");
    lab.get(&caller, "http://ratings:9080/").expect("east's own service answers");
    lab.kubectl("west", &[&SECRET[..], &["delete", "secret", "istio-remote-secret-east"]].concat()).ok();
    eventually(Duration::from_secs(15), || if cluster(&lab, "east").is_none() { Ok(()) } else { Err(()) })
        .expect("east leaves");
    eventually(Duration::from_secs(15), || match lab.get(FRONTEND, "http://ratings:9080/") {
        Ok(answer) => Err(answer.to_string()),
        Err(_) => Ok(()),
    })
    .expect("west's proxies lose east's endpoints");
    for _ in 0..20 {
        let answer = lab.get(&caller, "http://ratings:9080/").expect("east's own service still answers");
        assert_eq!(answer["cluster"], "east");
    }
    lab.down();
}

#[test]
fn killing_a_remote_api_server_removes_nothing_and_its_age_is_shown() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    lab.get(FRONTEND, "http://ratings:9080/").expect("ratings answers");
    lab.isthmus(&["lab", "fault", "kill-api", "east"]).ok();
    let age = eventually(Duration::from_secs(20), || {
        let east = cluster(&lab, "east").expect("east stays");
        let age = east["link"]["contactSeconds"].as_f64().unwrap_or_default();
        if east["link"]["state"] != "connected" && age > 3.0 { Ok(age) } else { Err(east) }
    })
    .expect("the status shows that the link is lost, and since when");
    println!("the last contact with east was {age} s ago");
    for _ in 0..20 {
        let answer = lab.get(FRONTEND, "http://ratings:9080/").expect("ratings still answers");
        assert_eq!(answer["cluster"], "east");
    }
    let text = lab.isthmus(&["status"]).ok();
    println!("{text}");
    for part in ["unreachable: ", "2 (as of ", "east's endpoints stay as last known", "https://203.0.113.2:6443"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    lab.down();
}

#[test]
fn scaling_in_another_cluster_changes_what_a_sidecar_uses_within_a_second() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    lab.get(FRONTEND, "http://ratings:9080/").expect("ratings answers");
    lab.kubectl("east", &["scale", "deployment/ratings", "--replicas=0"]).ok();
    let start = std::time::Instant::now();
    eventually(Duration::from_secs(10), || match lab.get(FRONTEND, "http://ratings:9080/") {
        Ok(answer) => Err(answer.to_string()),
        Err(_) => Ok(()),
    })
    .expect("no pod is left");
    println!("noticed {:.2}s after the scale command", start.elapsed().as_secs_f64());
    lab.kubectl("east", &["scale", "deployment/ratings", "--replicas=1"]).ok();
    lab.kubectl("east", &["rollout", "status", "deployment/ratings", "--timeout=60s"]).ok();
    let start = std::time::Instant::now();
    eventually(Duration::from_secs(10), || lab.get(FRONTEND, "http://ratings:9080/")).expect("ratings answers again");
    let took = start.elapsed();
    println!("in use {:.2}s after it was ready", took.as_secs_f64());
    assert!(took < Duration::from_millis(1500), "{took:?}, of which one call through kubectl's exec");
    lab.down();
}

#[test]
fn a_killed_lab_leaves_nothing_after_lab_down() {
    for user in User::all() {
        let mut lab = Lab::up("primary-remote.yaml", user);
        let listed = lab.isthmus(&["lab", "status"]).ok();
        assert!(listed.contains("primary-remote"), "{listed}");
        lab.kill();
        let gone = eventually(Duration::from_secs(10), || match lab.directory.processes() {
            processes if processes.is_empty() => Ok(()),
            processes => Err(processes),
        });
        assert!(gone.is_ok(), "a killed lab's processes end with it: {gone:#?}");
        lab.isthmus(&["lab", "down"]).ok();
        lab.directory.assert_nothing_left();
    }
}

#[test]
fn two_labs_run_at_once() {
    let directory = TestDirectory::new(User::Own);
    let first = Lab::up_in(directory, "primary-remote.yaml");
    let mut second = first
        .directory
        .isthmus()
        .args(["lab", "run", "topologies/multi-primary.yaml", "--", "sh", "-c"])
        .arg("isthmus lab exec west/default/frontend -- curl -sf http://ratings:9080/ && isthmus lab status -o json")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a second lab");
    let answer = first.get(FRONTEND, "http://ratings:9080/").expect("the first goes on");
    assert_eq!(answer["cluster"], "east");
    assert!(second.wait().expect("waited").success());
    let answer = first.get(FRONTEND, "http://ratings:9080/").expect("the first is untouched");
    assert_eq!(answer["cluster"], "east");
    first.down();
}
