//! Remote clusters whose API link, data path or both are cut for longer than a lease, under load. Two cuts at a time, each of
//! another cluster, so that there is always a source that works.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failover::{assert_none_failed, at, pods_by_zone, print_timeline};
use crate::support::{Lab, TestDirectory, User, eventually};

const FRONTEND: &str = "west/default/frontend";
const RATINGS: &str = "http://ratings:9080/";
/// How long a cut lasts: longer than the lease.
const CUT: Duration = Duration::from_secs(32);

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
    pods_by_zone(lab, "frontend").values().map(|pod| format!("west/default/{pod}")).collect()
}

/// Returns the lease of each remote cluster.
fn leases(lab: &Lab) -> BTreeMap<String, Value> {
    let status = lab.isthmus(&["status", "-o", "json"]).json();
    let clusters = status["primaries"][0]["clusters"].as_array().expect("clusters").iter();
    let remote = clusters.filter(|cluster| cluster["role"] == "remote");
    remote.map(|of| (of["name"].as_str().expect("a name").to_owned(), of["lease"].clone())).collect()
}

fn all_fresh(lab: &Lab) -> Result<(), String> {
    let leases = leases(lab);
    let fresh = leases.len() == 2 && leases.values().all(|lease| lease["state"] == "fresh");
    if fresh { Ok(()) } else { Err(format!("{leases:?}")) }
}

/// The states of the leases as they were seen: by cluster, each with its time in seconds since the cut.
#[derive(Debug, Default)]
struct States(BTreeMap<String, Vec<(f64, String)>>);

impl States {
    /// Looks at the leases, and prints those that have changed.
    fn look(&mut self, lab: &Lab, began: Instant, when: &str) {
        for (cluster, lease) in leases(lab) {
            let state = lease["state"].as_str().unwrap_or("unknown").to_owned();
            let seen = self.0.entry(cluster.clone()).or_default();
            if seen.last().is_none_or(|(_, last)| *last != state) {
                let at = began.elapsed().as_secs_f64();
                println!("{at:6.1}s {when} {cluster} {state}  {}", lease["paths"]);
                seen.push((at, state));
            }
        }
    }

    fn of(&self, cluster: &str) -> Vec<&str> {
        self.0[cluster].iter().map(|(_, state)| &**state).collect()
    }

    /// Returns when a cluster entered a state.
    fn when(&self, cluster: &str, state: &str) -> f64 {
        let seen = self.0[cluster].iter().find(|(_, seen)| seen == state);
        seen.unwrap_or_else(|| panic!("{cluster} was never {state}: {self:?}")).0
    }
}

/// Calls `ratings` from a pod.
fn load(lab: &Lab, caller: &str) -> Child {
    let isthmus = lab.directory.path("isthmus").display().to_string();
    let duration = format!("{}s", CUT.as_secs() + 10);
    let mut load = lab.directory.isthmus();
    load.args(["lab", "exec", caller, "--", &isthmus, "testapp", "--call", RATINGS]);
    load.args(["--rate", "50", "--duration", &duration, "-o", "json"]);
    load.stdout(Stdio::piped()).spawn().expect("load")
}

/// Cuts, calls `ratings` from both pods meanwhile, heals, and waits until all leases are fresh again. Returns the calls and
/// the states.
fn cut_under_load(lab: &Lab, cuts: &[&[&str]]) -> (Vec<Value>, States) {
    let callers = callers(lab);
    assert_eq!(callers.len(), 2, "a pod in each zone: {callers:?}");
    eventually(Duration::from_secs(20), || all_fresh(lab)).expect("leases are fresh before the cut");
    let loads: Vec<Child> = callers.iter().map(|caller| load(lab, caller)).collect();
    // Part of the scenario, not a wait: two seconds of calls before the cut.
    std::thread::sleep(Duration::from_secs(2));
    let fault = |verb: &str| {
        for cut in cuts {
            println!("{}", lab.isthmus(&[&["lab", "fault", verb], *cut].concat()).ok());
        }
    };
    let (began, mut states) = (Instant::now(), States::default());
    fault("cut");
    while began.elapsed() < CUT {
        states.look(lab, began, "cut   ");
        std::thread::sleep(Duration::from_millis(250));
    }
    fault("heal");
    println!("{:6.1}s healed", began.elapsed().as_secs_f64());
    let returned = eventually(Duration::from_secs(25), || {
        states.look(lab, began, "healed");
        all_fresh(lab)
    });
    returned.expect("everything returns without a restart");
    states.look(lab, began, "healed");
    let mut calls = Vec::new();
    for load in loads {
        let output = load.wait_with_output().expect("the load ends");
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        calls.extend(report["requests"].as_array().expect("requests").clone());
    }
    print_answers(&calls);
    if calls.iter().any(|call| call["status"] != 200) {
        print_timeline(&calls);
    }
    (calls, states)
}

/// Prints how many calls each cluster answered in each stretch of four seconds since the first call.
fn print_answers(calls: &[Value]) {
    let mut stretches = BTreeMap::<(u64, String), u32>::new();
    for call in calls {
        let who = call["cluster"].as_str().unwrap_or("failed").to_owned();
        *stretches.entry(((at(call) / 4000.0) as u64 * 4, who)).or_default() += 1;
    }
    for ((second, who), count) in stretches {
        println!("{second:4}s {count:5} calls answered by {who}");
    }
    // The calls of the first two seconds came before the cut.
    let during = calls.iter().filter(|call| (at(call) - 2000.0) < CUT.as_millis() as f64);
    let mut last = BTreeMap::<&str, f64>::new();
    for call in during {
        let until = last.entry(call["cluster"].as_str().unwrap_or("failed")).or_default();
        *until = until.max(at(call) / 1000.0 - 2.0);
    }
    println!("the last calls before the cut was healed, in seconds since the cut: {last:.1?}");
}

/// Returns how many calls of this stretch of seconds since the cut a cluster answered.
fn answered(calls: &[Value], cluster: &str, from: u64, to: u64) -> usize {
    let since_cut = |call: &Value| at(call) - 2000.0;
    let within = |call: &&Value| (from as f64 * 1000.0..to as f64 * 1000.0).contains(&since_cut(call));
    calls.iter().filter(within).filter(|call| call["cluster"] == cluster).count()
}

/// Waits until a cluster answers again.
fn assert_returns(lab: &Lab, cluster: &str) {
    eventually(Duration::from_secs(40), || match lab.get(FRONTEND, RATINGS) {
        Ok(answer) if answer["cluster"] == cluster => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("it is used again without a restart");
}

/// East's API server is cut off; what of east works goes on, and renews its lease. Central's gateway is cut off; its API server
/// answers, so its lease stays fresh, and outlier detection moves the requests.
#[test]
fn a_cut_api_link_keeps_what_works_and_a_cut_data_path_removes_nothing() {
    let lab = lab();
    let api = ["west", "east", "--only", "api"];
    let data = [["west", "central", "--only", "data"], ["central", "west", "--only", "data"]];
    let (calls, states) = cut_under_load(&lab, &[&api, &data[0], &data[1]]);
    assert_none_failed(&calls);
    assert_eq!(states.of("east"), ["fresh", "stale", "fresh"]);
    for from in [2, 10, 18, 22] {
        let answers = answered(&calls, "east", from, from + 4);
        assert!(answers > 50, "east answers {answers} calls from {from} s on");
    }
    assert_eq!(states.of("central"), ["fresh"]);
    assert_eq!(answered(&calls, "central", 14, 26), 0);
    assert_returns(&lab, "central");
    lab.down();
}

/// East is cut off altogether: drained by the word of west's proxies within seconds, and withdrawn at the end of its lease.
/// Central does not reach west, which nobody in west notices.
#[test]
fn a_cluster_that_is_cut_off_is_drained_then_withdrawn_and_one_direction_changes_nothing_for_the_other() {
    let lab = lab();
    let (calls, states) = cut_under_load(&lab, &[&["west", "east"], &["east", "west"], &["central", "west"]]);
    assert_none_failed(&calls);
    let seen = states.of("east");
    assert!(seen.first() == Some(&"fresh") && seen.last() == Some(&"fresh"), "{seen:?}");
    let [drained, expired] = ["drained", "expired"].map(|state| states.when("east", state));
    println!("east is drained after {drained:.1} s, and expired after {expired:.1} s");
    assert!(drained < 16.0, "{states:?}");
    // The controller notices the loss after some seconds, and the lease runs from there.
    assert!((20.0..32.0).contains(&expired), "{states:?}");
    assert_eq!(answered(&calls, "east", 16, 26), 0);
    assert_eq!(states.of("central"), ["fresh"]);
    assert!(answered(&calls, "central", 16, 26) > 500);
    let events = lab.kubectl("west", &["-n", "istio-system", "get", "events", "-o", "json"]).json();
    let events = events["items"].as_array().expect("events").iter();
    let reasons: Vec<&str> = events.filter_map(|event| event["reason"].as_str()).collect();
    for reason in ["LeaseDrained", "LeaseExpired", "LeaseRenewed"] {
        assert!(reasons.contains(&reason), "{reason} is not among {reasons:?}");
    }
    assert_returns(&lab, "east");
    lab.down();
}
