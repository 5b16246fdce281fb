//! A remote cluster whose API link, data path or both are cut for longer than a lease, under load.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failover::{assert_none_failed, at, print_timeline};
use crate::support::{Lab, TestDirectory, User, eventually};

const FRONTEND: &str = "west/default/frontend";
const RATINGS: &str = "http://ratings:9080/";
/// How long a cut lasts: longer than the lease.
const CUT: Duration = Duration::from_secs(26);

/// Starts three regions with leases of 20 s, and two pods in west that call `ratings` of east and central.
fn lab() -> Lab {
    let directory = TestDirectory::new(User::Own);
    let file = directory.path("topologies").join("three-regions.yaml");
    let topology = std::fs::read_to_string(&file).expect("the topology");
    let settings =
        "spec:\n  mesh:\n    config:\n      federation: {lease: 20s}\n      localityLbSetting: {enabled: false}\n";
    let frontend = "    - name: frontend\n      cluster: west\n";
    assert_eq!(topology.matches(frontend).count(), 1);
    let topology =
        topology.replacen("spec:\n", settings, 1).replace(frontend, &format!("{frontend}      replicas: 2\n"));
    std::fs::write(&file, topology).expect("written");
    Lab::up_in(directory, "three-regions.yaml")
}

/// Returns the pods of `frontend`, one in each zone, as targets of `lab exec`.
fn callers(lab: &Lab) -> Vec<String> {
    let pods = crate::failover::pods_by_zone(lab, "frontend");
    pods.values().map(|pod| format!("west/default/{pod}")).collect()
}

fn east(lab: &Lab) -> Value {
    let status = lab.isthmus(&["status", "-o", "json"]).json();
    let clusters = status["primaries"][0]["clusters"].as_array().expect("clusters");
    clusters.iter().find(|cluster| cluster["name"] == "east").cloned().expect("east stays")
}

/// The states of east's lease as they were seen, with their time in seconds since the cut.
struct States(Vec<(f64, String)>);

impl States {
    fn first(&self, state: &str) -> Option<f64> {
        self.0.iter().find(|(_, seen)| seen == state).map(|(at, _)| *at)
    }

    fn has(&self, state: &str) -> bool {
        self.first(state).is_some()
    }
}

/// Cuts, calls `ratings` from both pods meanwhile, heals, and waits until the lease is fresh again. Returns the calls and
/// what was seen.
fn scenario(lab: &Lab, name: &str, cuts: &[&[&str]]) -> (Vec<Value>, States) {
    let callers = callers(lab);
    assert_eq!(callers.len(), 2, "a pod in each zone: {callers:?}");
    eventually(Duration::from_secs(20), || match east(lab)["lease"]["state"].as_str() {
        Some("fresh") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("east's lease is fresh before the cut");
    let seconds = (CUT.as_secs() + 12).to_string();
    let isthmus = lab.directory.path("isthmus").display().to_string();
    let loads: Vec<_> = callers
        .iter()
        .map(|caller| {
            let mut load = lab.directory.isthmus();
            load.args(["lab", "exec", caller, "--", &isthmus, "testapp", "--call", RATINGS]);
            load.args(["--rate", "50", "--duration", &format!("{seconds}s"), "-o", "json"]);
            load.stdout(std::process::Stdio::piped()).spawn().expect("load")
        })
        .collect();
    // Part of the scenario, not a wait: two seconds of calls before the cut.
    std::thread::sleep(Duration::from_secs(2));
    let fault = |verb: &str| {
        for cut in cuts {
            lab.isthmus(&[&["lab", "fault", verb], *cut].concat()).ok();
        }
    };
    fault("cut");
    let began = Instant::now();
    let mut states = States(Vec::new());
    let mut look = |began: Instant, text: &str| {
        let lease = east(lab)["lease"].clone();
        let state = lease["state"].as_str().unwrap_or("unknown").to_owned();
        if states.0.last().is_none_or(|(_, last)| *last != state) {
            let at = began.elapsed().as_secs_f64();
            println!("{name}: {at:6.1}s {text} {state}  {}", lease["paths"]);
            states.0.push((at, state));
        }
    };
    while began.elapsed() < CUT {
        look(began, "cut   ");
        std::thread::sleep(Duration::from_millis(250));
    }
    fault("heal");
    println!("{name}: {:6.1}s heal", began.elapsed().as_secs_f64());
    let fresh = eventually(Duration::from_secs(20), || {
        look(began, "healed");
        if east(lab)["lease"]["state"] == "fresh" { Ok(()) } else { Err(east(lab)) }
    });
    fresh.expect("everything returns");
    let mut calls = Vec::new();
    for load in loads {
        let output = load.wait_with_output().expect("the load ends");
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let of_one = report["requests"].as_array().expect("requests").clone();
        println!("{name}: calls of one pod");
        print_summary(&of_one);
        calls.extend(of_one);
    }
    (calls, states)
}

/// Prints how many calls each cluster answered in each stretch of five seconds.
fn print_summary(calls: &[Value]) {
    let mut stretches = std::collections::BTreeMap::<(u64, String), u32>::new();
    for call in calls {
        let who = call["cluster"].as_str().unwrap_or("failed").to_owned();
        *stretches.entry(((at(call) / 5000.0) as u64 * 5, who)).or_default() += 1;
    }
    for ((second, who), count) in stretches {
        println!("  {second:3}s {count:4} {who}");
    }
}

fn answered_by<'a>(calls: &'a [Value], cluster: &'a str, from: f64, to: f64) -> usize {
    let within = move |call: &&Value| (from * 1000.0..to * 1000.0).contains(&at(call));
    calls.iter().filter(within).filter(|call| call["cluster"] == cluster).count()
}

/// East's API server is cut off from the controller, and everything of east goes on: its lease is renewed by what its proxies
/// answer.
#[test]
fn a_cut_api_link_keeps_what_works() {
    let lab = lab();
    let (calls, states) = scenario(&lab, "api link", &[&["west", "east", "--only", "api"]]);
    assert_none_failed(&calls);
    assert!(states.has("stale"), "{:?}", states.0);
    assert!(!states.has("drained") && !states.has("expired"), "its data path renews the lease: {:?}", states.0);
    for from in [5.0, 15.0, 24.0] {
        let east = answered_by(&calls, "east", from, from + 4.0);
        assert!(east > 20, "east answers {east} calls after {from} s, as before the cut");
    }
    lab.down();
}

#[test]
fn a_cut_data_path_moves_requests_and_removes_nothing() {
    let lab = lab();
    let (calls, states) =
        scenario(&lab, "data path", &[&["west", "east", "--only", "data"], &["east", "west", "--only", "data"]]);
    assert_none_failed(&calls);
    assert_eq!(states.0.len(), 1, "the API server answers, so the lease stays fresh: {:?}", states.0);
    assert_eq!(answered_by(&calls, "east", 14.0, 26.0), 0, "outlier detection moved them");
    // The last source of what only east has is still known.
    assert_returns(&lab);
    lab.down();
}

#[test]
fn a_cluster_that_is_cut_off_is_drained_within_seconds_and_expires() {
    let lab = lab();
    let (calls, states) =
        scenario(&lab, "both", &[&["west", "east"], &["east", "west"], &["central", "east"], &["east", "central"]]);
    if calls.iter().any(|call| call["status"] != 200) {
        print_timeline(&calls);
    }
    assert_none_failed(&calls);
    let [drained, expired] = ["drained", "expired"].map(|state| states.first(state).unwrap_or(f64::MAX));
    println!("both: drained after {drained:.1} s, expired after {expired:.1} s");
    assert!(drained < 18.0 && drained < expired, "{:?}", states.0);
    assert!((18.0..26.5).contains(&expired), "{:?}", states.0);
    assert_eq!(answered_by(&calls, "east", 16.0, 26.0), 0);
    let events = lab.kubectl("west", &["-n", "istio-system", "get", "events", "-o", "json"]).json();
    let reasons: Vec<&str> =
        events["items"].as_array().expect("events").iter().filter_map(|event| event["reason"].as_str()).collect();
    for reason in ["LeaseStale", "LeaseDrained", "LeaseExpired", "LeaseRenewed"] {
        assert!(reasons.contains(&reason), "{reason} is not among {reasons:?}");
    }
    assert_returns(&lab);
    lab.down();
}

/// Only what west opens to east is cut; east reaches west.
#[test]
fn a_cut_in_one_direction_drains_for_those_who_see_it() {
    let lab = lab();
    let (calls, states) = scenario(&lab, "one direction", &[&["west", "east"]]);
    assert_none_failed(&calls);
    assert!(states.has("drained"), "{:?}", states.0);
    assert_eq!(answered_by(&calls, "east", 18.0, 26.0), 0);
    assert_returns(&lab);
    lab.down();
}

/// East answers again after a cut.
fn assert_returns(lab: &Lab) {
    eventually(Duration::from_secs(30), || match lab.get(FRONTEND, RATINGS) {
        Ok(answer) if answer["cluster"] == "east" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("east is used again, without a restart");
}
