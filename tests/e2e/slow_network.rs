//! Networks that are far apart, or lose packets.

use std::time::Duration;

use crate::support::{Lab, TestDirectory, User, eventually};

const FRONTEND: &str = "west/default/frontend";

/// Starts the primary-remote topology with this field of both networks, and this field of the mesh.
fn lab_with(field: &str, of_mesh: &str) -> Lab {
    let directory = TestDirectory::new(User::Own);
    let file = directory.path("topologies").join("primary-remote.yaml");
    let topology = std::fs::read_to_string(&file).expect("the topology");
    let network = "      podCIDR: 10.244.0.0/16\n";
    assert_eq!(topology.matches(network).count(), 2, "the topology has two networks");
    let slow = topology.replace(network, &format!("{network}      {field}\n"));
    let with_settings = slow.replace("spec:\n", &format!("spec:\n  mesh:\n    {of_mesh}\n"));
    std::fs::write(&file, with_settings).expect("written");
    Lab::up_in(directory, "primary-remote.yaml")
}

/// TCP and TLS through a gateway take 1.2 s.
#[test]
fn networks_300_ms_apart_reach_each_other_without_configuration() {
    let lab = lab_with("delay: 300ms", "exportAll: false");
    for _ in 0..5 {
        let answer = lab.get(FRONTEND, "http://ratings:9080/").expect("every request succeeds");
        assert_eq!(answer["cluster"], "east");
    }
    lab.down();
}

/// 400 ms one way: a handshake of 1.6 s, and a limit of 500 ms.
#[test]
fn a_connect_timeout_that_is_too_short_for_the_network_takes_effect_and_can_be_raised() {
    let lab = lab_with("delay: 400ms", "config: {connectTimeout: 500ms}");
    let answer = lab.get(FRONTEND, "http://ratings:9080/").expect_err("500 ms are too short");
    assert!(answer.contains("503"), "{answer}");
    let settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'connectTimeout: 20s'}\n";
    lab.apply("west", settings);
    let answer = eventually(Duration::from_secs(30), || {
        let curl = ["curl", "-sS", "--fail", "--max-time", "15", "http://ratings:9080/"];
        let outcome = lab.exec(FRONTEND, &curl);
        if outcome.code == Some(0) { Ok(outcome.stdout) } else { Err(outcome.stderr) }
    });
    assert!(answer.as_ref().is_ok_and(|answer| answer.contains("\"east\"")), "{answer:?}");
    lab.down();
}

/// TCP sends lost packets again.
#[test]
fn a_network_that_loses_packets_loses_no_request() {
    let lab = lab_with("loss: 3%", "proxyContainer: istio-proxy");
    for _ in 0..20 {
        let answer = lab.get(FRONTEND, "http://ratings:9080/").expect("every request succeeds");
        assert_eq!(answer["cluster"], "east");
    }
    // As tools look for it that know Istio.
    let log = lab.kubectl("west", &["logs", "deployment/frontend", "-c", "istio-proxy"]).ok();
    assert!(log.contains("outbound|9080||ratings.default.svc.cluster.local"), "{log}");
    lab.down();
}
