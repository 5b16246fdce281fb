//! Federation policies: whose exports count, and which clusters may consume them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::policies::SOON;
use crate::support::{Lab, User, eventually};

const WEST: &str = "west/default/frontend";
const CENTRAL: &str = "central/default/frontend";
const RATINGS: &str = "http://ratings:9080/";

/// A hand-made way to ratings: east's gateway under another name, with the server name of ratings and the certificate of the
/// caller's sidecar.
const BY_HAND: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: by-hand, namespace: default}
spec:
  hosts: [by-hand.example]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: GATEWAY, ports: {http: 15443}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: by-hand, namespace: default}
spec:
  host: by-hand.example
  trafficPolicy:
    # Each request on a connection of its own: a gateway decides about new ones.
    connectionPool: {http: {maxRequestsPerConnection: 1}}
    tls:
      mode: ISTIO_MUTUAL
      sni: outbound_.9080_._.ratings.default.svc.cluster.local
      subjectAltNames: [spiffe://cluster.local/ns/default/sa/ratings]
";

fn policy(exporters: &str, consumers: &str) -> String {
    format!(
        "apiVersion: federation.isthmus.dev/v1alpha1\nkind: FederationPolicy\n\
         metadata: {{name: ratings, namespace: default}}\nspec:\n  selector: {{services: [ratings]}}\n{exporters}{consumers}"
    )
}

/// Returns the clusters that answer some requests.
fn answering(lab: &Lab, caller: &str) -> BTreeSet<String> {
    let answers = (0..12).filter_map(|_| lab.get(caller, RATINGS).ok());
    answers.map(|answer| answer["cluster"].as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn answer_becomes(lab: &Lab, caller: &str, expected: &[&str]) {
    let seen = eventually(SOON, || {
        let seen = answering(lab, caller);
        if seen.iter().map(String::as_str).eq(expected.iter().copied()) { Ok(()) } else { Err(seen) }
    });
    assert!(seen.is_ok(), "{caller}: {seen:?} instead of {expected:?}");
}

fn status_of(lab: &Lab, condition: &str) -> Value {
    let policy = lab.kubectl("west", &["get", "federationpolicy", "ratings", "-o", "json"]).json();
    let conditions = policy["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|of| of["type"] == condition).unwrap_or_default()
}

#[test]
fn a_policy_names_who_exports_a_service_and_who_consumes_it() {
    let lab = Lab::up("federation.yaml", User::Own);
    // Without a policy, exporters of one name merge.
    for caller in [WEST, CENTRAL] {
        answer_becomes(&lab, caller, &["east", "rogue"]);
    }

    // With the permitted exporters named, the export of rogue has no effect, and is shown.
    lab.apply("west", &policy("  exporters: {clusters: [east, central]}\n", ""));
    for caller in [WEST, CENTRAL] {
        answer_becomes(&lab, caller, &["east"]);
    }
    let refusing = eventually(SOON, || {
        let refusing = status_of(&lab, "Refusing");
        if refusing["status"] == "True" { Ok(refusing) } else { Err(refusing) }
    });
    assert_eq!(refusing.expect("the status says that it refuses")["message"], "1 export");
    let status = lab.isthmus(&["status"]).ok();
    assert!(status.contains("the export of default/ratings by rogue is refused"), "{status}");
    let listed = lab.kubectl("west", &["get", "federationpolicies"]).ok();
    println!("{listed}");
    // A notice has an Event when it has lasted for half a minute.
    eventually(Duration::from_secs(60), || {
        let events = lab.kubectl("west", &["get", "events", "-o", "wide"]).stdout;
        if events.contains("federationpolicy/ratings") && events.contains("by rogue") { Ok(()) } else { Err(events) }
    })
    .expect("an Event on the policy");
    // A policy of rogue's own does not count.
    let own = policy("  exporters: {clusters: [rogue]}\n", "").replace("namespace: default", "namespace: istio-system");
    lab.apply("rogue", &own);
    for _ in 0..3 {
        assert_eq!(answering(&lab, WEST), ["east".to_owned()].into());
    }

    // A hand-made connection of west is answered while west may consume the service.
    let gateway = lab.kubectl(
        "east",
        &[
            "-n",
            "isthmus-system",
            "get",
            "services",
            "-l",
            "topology.istio.io/network",
            "-o",
            "jsonpath={.items[0].status.loadBalancer.ingress[0].ip}",
        ],
    );
    lab.apply("west", &BY_HAND.replace("GATEWAY", &gateway.ok()));
    let by_hand = || {
        let curl = ["curl", "-sS", "-w", " %{http_code}", "--max-time", "5", "http://by-hand.example:9080/"];
        lab.exec(WEST, &curl).stdout
    };
    eventually(SOON, || {
        let answer = by_hand();
        if answer.ends_with(" 200") && answer.contains("\"east\"") { Ok(()) } else { Err(answer) }
    })
    .expect("the way by hand leads to ratings");

    // Exported to central alone: reached from there. In west the name does not resolve, and the sidecar of ratings refuses the
    // connection that was made by hand.
    lab.apply("west", &policy("  exporters: {clusters: [east]}\n", "  consumers: {clusters: [central]}\n"));
    answer_becomes(&lab, CENTRAL, &["east"]);
    let unresolved = eventually(SOON, || {
        let outcome = lab.exec(WEST, &["curl", "-sS", "--max-time", "5", RATINGS]);
        if outcome.stderr.contains("Could not resolve host") { Ok(()) } else { Err(outcome.stdout + &outcome.stderr) }
    });
    assert!(unresolved.is_ok(), "ratings resolves in west: {unresolved:?}");
    let refused = "federation policy: the service is not exported to cluster west 403";
    let seen = eventually(SOON, || {
        let answer = by_hand();
        if answer == refused { Ok(()) } else { Err(answer) }
    });
    assert!(seen.is_ok(), "{seen:?}");
    answer_becomes(&lab, CENTRAL, &["east"]);
    // The other side shows it as well.
    let reported = eventually(Duration::from_secs(30), || {
        let status = lab.isthmus(&["status"]).stdout;
        if status.contains("federation policy: callers of other clusters") { Ok(()) } else { Err(status) }
    });
    assert!(reported.is_ok(), "{reported:?}");

    // East's gateway refuses by address, where the addresses of west are stated.
    let from = lab
        .kubectl(
            "west",
            &[
                "-n",
                "isthmus-system",
                "get",
                "services",
                "-l",
                "topology.istio.io/network",
                "-o",
                "jsonpath={.items[0].status.loadBalancer.ingress[0].ip}",
            ],
        )
        .ok();
    let network = from.rsplit_once('.').map_or(from.as_str(), |(network, _)| network);
    lab.apply(
        "west",
        &format!(
            "apiVersion: federation.isthmus.dev/v1alpha1\nkind: FederationPolicy\n\
             metadata: {{name: addresses, namespace: istio-system}}\nspec:\n  peers:\n\
             \x20 - {{cluster: west, egressAddresses: [{network}.0/24]}}\n"
        ),
    );
    let seen = eventually(SOON, || {
        let answer = by_hand();
        if answer.ends_with(" 503") { Ok(()) } else { Err(answer) }
    });
    assert!(seen.is_ok(), "{seen:?}");
    lab.down();
}
