//! Requests under load while pods, a zone, or all of a cluster's pods of a service fail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Lab, User};

pub(crate) const RATE: u32 = 200;

/// Calls `reviews` from a pod at a fixed rate, injects `fault` after two seconds, and returns the calls.
fn calls_during(lab: &Lab, caller: &str, rate: u32, seconds: u32, fault: &[&str]) -> Vec<Value> {
    calls_at(lab, caller, "http://reviews:9080/", rate, seconds, || drop(lab.isthmus(fault).ok()))
}

/// Calls a service from a pod at a fixed rate, runs `happens` after two seconds, and returns the calls.
pub(crate) fn calls(lab: &Lab, caller: &str, url: &str, seconds: u32, happens: impl FnOnce()) -> Vec<Value> {
    calls_at(lab, caller, url, RATE, seconds, happens)
}

fn calls_at(lab: &Lab, caller: &str, url: &str, rate: u32, seconds: u32, happens: impl FnOnce()) -> Vec<Value> {
    let isthmus = lab.directory.path("isthmus").display().to_string();
    let mut load = lab.directory.isthmus();
    load.args(["lab", "exec", caller, "--", &isthmus, "testapp", "--call", url]);
    load.args(["--rate", &rate.to_string(), "--duration", &format!("{seconds}s"), "-o", "json"]);
    let load = load.stdout(std::process::Stdio::piped()).spawn().expect("load");
    // Part of the scenario, not a wait: two seconds of calls before the fault.
    std::thread::sleep(Duration::from_secs(2));
    happens();
    let output = load.wait_with_output().expect("the load ends");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("no report: {error}\n{}", String::from_utf8_lossy(&output.stdout));
    });
    report["requests"].as_array().expect("requests").clone()
}

/// Prints a line for each quarter of a second and each cluster and zone that answered in it.
pub(crate) fn print_timeline(calls: &[Value]) {
    let who = |call: &Value| match call["status"].as_u64() {
        Some(200) => format!("{}/{}", text(call, "cluster"), text(call, "zone")),
        Some(status) => format!("status {status}"),
        None => format!("failed: {}", call["error"]),
    };
    let mut stretches: BTreeMap<(u64, String), u32> = BTreeMap::new();
    for call in calls {
        *stretches.entry(((at(call) / 250.0) as u64, who(call))).or_default() += 1;
    }
    for ((quarter, who), count) in stretches {
        println!("{:6.2}s  {count:4}  {who}", quarter as f64 / 4.0);
    }
}

/// Returns when a call was due, in milliseconds from the first.
pub(crate) fn at(call: &Value) -> f64 {
    call["at_ms"].as_f64().expect("a time")
}

fn text<'a>(call: &'a Value, field: &str) -> &'a str {
    call[field].as_str().unwrap_or("?")
}

/// Asserts that every call succeeded; otherwise reports over how long calls failed.
#[track_caller]
pub(crate) fn assert_none_failed(calls: &[Value]) {
    let failures: Vec<_> = calls.iter().filter(|call| call["status"] != 200).collect();
    if let (Some(first), Some(last)) = (failures.first(), failures.last()) {
        let (count, all, over) = (failures.len(), calls.len(), at(last) - at(first));
        panic!("{count} of {all} calls failed over {over:.0} ms, first: {first}");
    }
}

/// Returns the pods of a workload in west by zone.
pub(crate) fn pods_by_zone(lab: &Lab, app: &str) -> BTreeMap<String, String> {
    let pods = lab.kubectl("west", &["get", "pods", "-l", &format!("app={app}"), "-o", "json"]).json();
    let running = pods["items"].as_array().expect("pods").iter();
    running
        .map(|pod| {
            let node = pod["spec"]["nodeName"].as_str().expect("a node");
            (node.trim_start_matches("west-").to_owned(), pod["metadata"]["name"].as_str().expect("a name").to_owned())
        })
        .collect()
}

#[test]
fn killed_pods_are_replaced_by_another_cluster_within_a_second() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    check_failover(&lab, RATE);
    lab.down();
}

/// Checks that another cluster answers within a second after all pods of a service in west were killed, and that no call
/// fails.
pub(crate) fn check_failover(lab: &Lab, rate: u32) {
    let fault = ["lab", "fault", "kill-workload", "west/default/reviews"];
    let calls = calls_during(lab, "west/default/frontend", rate, 12, &fault);
    print_timeline(&calls);
    assert!(calls.len() > (rate * 11) as usize, "{} calls", calls.len());
    assert_none_failed(&calls);
    let elsewhere: Vec<_> = calls.iter().filter(|call| call["cluster"] == "east").collect();
    let first = elsewhere.first().expect("east answers while west's pods are away");
    let before =
        calls.iter().filter(|call| call["cluster"] == "west" && at(call) < at(first)).map(at).fold(0.0, f64::max);
    println!("east answered {} calls; the first {:.0} ms after west's last", elsewhere.len(), at(first) - before);
    assert!(at(first) - before < 1000.0, "another cluster took over after {} ms", at(first) - before);
    let last = calls.last().expect("calls");
    assert_eq!(last["cluster"], "west", "it returns to west when west's pods are back: {last}");
}

#[test]
fn a_killed_pod_is_replaced_by_the_next_zone() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    let (frontend, reviews) = (pods_by_zone(&lab, "frontend"), pods_by_zone(&lab, "reviews"));
    let zone = frontend.keys().next().expect("a frontend");
    let near = &reviews[zone];
    let fault = ["lab", "fault", "kill-workload", &format!("west/default/{near}")];
    let calls = calls_during(&lab, "west/default/frontend", RATE, 6, &fault);
    print_timeline(&calls);
    assert_none_failed(&calls);
    assert!(calls.iter().all(|call| call["cluster"] == "west"), "traffic stays in west");
    let zones: BTreeSet<_> = calls.iter().map(|call| text(call, "zone")).collect();
    assert_eq!(zones, BTreeSet::from(["us-west-1a", "us-west-1b"]), "the other zone took over");
    lab.down();
}

/// The whole zone fails: its pods of `reviews` and the mesh's components there.
#[test]
fn a_lost_zone_leaves_traffic_in_the_other_zone() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    lab.kubectl("west", &["scale", "deployment/frontend", "--replicas=2"]).ok();
    lab.kubectl("west", &["rollout", "status", "deployment/frontend", "--timeout=60s"]).ok();
    let frontend = pods_by_zone(&lab, "frontend");
    let survivor = format!("west/default/{}", frontend.get("us-west-1b").expect("a frontend in each zone"));
    // The controller may be in the lost zone. A proxy then keeps using the services that it knows, and learns no others.
    lab.get(&survivor, "http://ratings:9080/").expect("ratings answers");
    let calls = calls_during(&lab, &survivor, RATE, 8, &["lab", "fault", "kill-zone", "west", "us-west-1a"]);
    print_timeline(&calls);
    assert_none_failed(&calls);
    assert!(calls.iter().all(|call| call["cluster"] == "west"), "traffic stays in west");
    let after: BTreeSet<_> = calls.iter().filter(|call| at(call) > 3000.0).map(|call| text(call, "zone")).collect();
    assert_eq!(after, BTreeSet::from(["us-west-1b"]), "and in the zone that is left");
    let answer = lab.get(&survivor, "http://ratings:9080/").expect("ratings answers");
    assert_eq!(answer["cluster"], "east", "what is elsewhere is still reached: {answer}");
    lab.down();
}
