//! VirtualServices and DestinationRules in a mesh of two clusters: a canary in another cluster, routes by header, and circuit
//! breakers.

use std::time::Duration;

use serde_json::Value;

use crate::failover::{assert_none_failed, at, calls};
use crate::support::{Lab, User, eventually};

const FRONTEND: &str = "west/default/frontend";
const REVIEWS: &str = "http://reviews:9080/";

/// Returns the routes of the topology with these weights of v1 and v2.
fn weights(v1: u32, v2: u32) -> String {
    let routes = include_str!("../../topologies/canary/routes.yaml");
    routes.replace("weight: 10\n", &format!("weight: {v2}\n")).replace("weight: 90\n", &format!("weight: {v1}\n"))
}

/// Returns the share of calls that v2 answered, in percent.
fn share_of_v2(calls: &[Value]) -> f64 {
    let v2 = calls.iter().filter(|call| call["version"] == "v2").count();
    100.0 * v2 as f64 / calls.len() as f64
}

#[test]
fn a_canary_in_another_cluster_is_promoted_without_a_failed_request() {
    let lab = Lab::up("canary.yaml", User::Own);
    let first = calls(&lab, FRONTEND, REVIEWS, 6, || {});
    assert_none_failed(&first);
    // Of 1,200 calls, the standard deviation is 0.9 points.
    assert!((5.0..15.0).contains(&share_of_v2(&first)), "{}", share_of_v2(&first));
    for call in &first {
        let expected = if call["version"] == "v2" { "east" } else { "west" };
        assert_eq!(call["cluster"], expected, "{call}");
    }
    for (v1, v2, shares) in [(50, 50, 40.0..60.0), (0, 100, 99.9..100.1)] {
        let during = calls(&lab, FRONTEND, REVIEWS, 4, || lab.apply("west", &weights(v1, v2)));
        assert_none_failed(&during);
        let after = calls(&lab, FRONTEND, REVIEWS, 4, || {});
        assert_none_failed(&after);
        assert!(shares.contains(&share_of_v2(&after)), "{v2}: {}", share_of_v2(&after));
    }
    // Users with the header see v2 whatever the weights are.
    lab.apply("west", &weights(100, 0));
    eventually(Duration::from_secs(10), || match lab.get(FRONTEND, REVIEWS) {
        Ok(answer) if answer["version"] == "v1" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("v1 answers again");
    let tester = lab.exec(FRONTEND, &["curl", "-sSf", "-H", "end-user: jason", REVIEWS]).json();
    assert_eq!((&tester["version"], &tester["cluster"]), (&"v2".into(), &"east".into()), "{tester}");
    lab.down();
}

/// Returns the answers to 50 requests with a header, sent by one curl.
fn with_header(lab: &Lab, header: &str) -> Vec<Value> {
    let urls = format!("{REVIEWS}?[1-50]");
    let answers = lab.exec(FRONTEND, &["curl", "-sSf", "--max-time", "20", "-H", header, &urls]).ok();
    let answers = serde_json::Deserializer::from_str(&answers).into_iter::<Value>();
    answers.map(|answer| answer.expect("JSON")).collect()
}

/// Asserts that a version answered, in its cluster.
#[track_caller]
fn assert_all_of(answers: &[Value], version: &str) {
    let cluster = if version == "v2" { "east" } else { "west" };
    let other = answers.iter().find(|answer| answer["version"] != version || answer["cluster"] != cluster);
    assert!(!answers.is_empty() && other.is_none(), "not all of {} are of {version}: {other:?}", answers.len());
}

/// Asserts that no call failed and that all calls moved to a version at once.
#[track_caller]
fn assert_switched(calls: &[Value], to: &str) {
    assert_none_failed(calls);
    let first = calls.iter().position(|call| call["version"] == to).expect("the version answers");
    let (before, after) = calls.split_at(first);
    assert!(!before.is_empty(), "the version answered before the switch");
    let from = &before[0]["version"];
    let last = after.iter().rfind(|call| call["version"] == *from);
    let mixed = last.map_or(0.0, |last| at(last) - at(&calls[first]));
    println!("{from} to {to}: both answered for {mixed:.0} ms");
    assert!(mixed < 500.0, "both versions answered for {mixed} ms");
    assert_eq!(calls.last().expect("calls")["version"], to);
}

#[test]
fn testers_and_then_all_users_move_to_a_version_in_another_cluster_without_a_failed_request() {
    let lab = Lab::up("canary.yaml", User::Own);

    // A/B: users with a header see v2, and the others v1. The condition then changes.
    let (mut before, mut after) = (Vec::new(), Vec::new());
    // Twice the time that the changes take on a busy machine.
    let during = calls(&lab, FRONTEND, REVIEWS, 12, || {
        lab.apply("west", &weights(100, 0));
        before = with_header(&lab, "end-user: jason");
        let experiment = weights(100, 0).replace("end-user:", "x-experiment:").replace("exact: jason", "prefix: b");
        lab.apply("west", &experiment);
        let moved = eventually(Duration::from_secs(3), || {
            match lab.exec(FRONTEND, &["curl", "-sSf", REVIEWS, "-H", "x-experiment: b2"]).json() {
                answer if answer["version"] == "v2" => Ok(()),
                answer => Err(answer),
            }
        });
        moved.expect("the experiment's users see v2");
        after = with_header(&lab, "end-user: jason");
        after.extend(with_header(&lab, "x-experiment: a"));
    });
    assert_none_failed(&during);
    assert_all_of(&before, "v2");
    assert_all_of(&after, "v1");
    assert_all_of(&with_header(&lab, "x-experiment: b1"), "v2");
    assert_all_of(&during[during.len() / 2..], "v1");

    // Blue-green: everyone moves by one change, and returns by another one.
    let to_green = calls(&lab, FRONTEND, REVIEWS, 5, || lab.apply("west", &weights(0, 100)));
    assert_switched(&to_green, "v2");
    let to_blue = calls(&lab, FRONTEND, REVIEWS, 5, || lab.apply("west", &weights(100, 0)));
    assert_switched(&to_blue, "v1");
    lab.down();
}
