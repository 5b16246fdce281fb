//! VirtualServices and DestinationRules in a mesh of two clusters: a canary in another cluster, routes by header, and circuit
//! breakers.

use std::time::Duration;

use serde_json::Value;

use crate::failover::{assert_none_failed, calls};
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
