//! Exports between pods with sidecars, over a gateway, and clusters in which nothing may be written.

use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;
use crate::support::{Lab, User, eventually};

const FRONTEND: &str = "central/default/frontend";

#[test]
fn sidecars_resolve_and_reach_names_in_clusterset_local_across_networks() {
    let lab = Lab::up("shared-network.yaml", User::Own);
    // Central is on another network: its pods reach reviews and ratings through gateways.
    let get = |cluster: &str, kind: &str, name: &str| -> Value {
        let text = lab.kubectl(cluster, &["get", kind, name, "--ignore-not-found", "-o", "json"]).ok();
        serde_json::from_str(&text).unwrap_or_default()
    };
    let import = eventually(PATIENCE, || {
        let import = get("central", "serviceimport", "ratings");
        if import["status"]["conditions"][0]["status"] == "True" { Ok(import) } else { Err(import) }
    })
    .expect("an import");
    let message = import["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("others do not reach those of east (network net-main)"), "{message}");
    assert_eq!(import["status"]["endpointSliceObjects"], "Absent");
    let address = import["spec"]["ips"][0].as_str().expect("an address").to_owned();
    let name = "ratings.default.svc.clusterset.local";
    let found = lab.exec(FRONTEND, &["getent", "ahostsv4", name]).stdout;
    assert!(found.contains(&address), "{name} is not {address}: {found}");
    let answer = eventually(PATIENCE, || lab.get(FRONTEND, &format!("http://{name}:9080/"))).expect("an answer");
    assert_eq!(answer["cluster"], "east");
    let absent = lab.exec(FRONTEND, &["getent", "ahostsv4", "frontend.default.svc.clusterset.local"]);
    assert_ne!(absent.code, Some(0), "not exported: {}", absent.stdout);

    // An import that somebody deletes or changes is written again.
    lab.kubectl("central", &["delete", "serviceimport", "ratings"]).ok();
    lab.kubectl(
        "east",
        &["patch", "serviceimport", "ratings", "--type=merge", "-p", r#"{"spec":{"ips":["192.0.2.1"]}}"#],
    )
    .ok();
    for cluster in ["central", "east"] {
        eventually(PATIENCE, || {
            let import = get(cluster, "serviceimport", "ratings");
            if import["spec"]["ips"][0] == *address { Ok(()) } else { Err(import) }
        })
        .unwrap_or_else(|import| panic!("{cluster}: {import}"));
    }

    // EndpointSlices are owned by the import; one that somebody edits is written again.
    let slices = || -> Vec<Value> {
        let of_ratings = "multicluster.kubernetes.io/service-name=ratings";
        let text = lab.kubectl("west", &["get", "endpointslices", "-l", of_ratings, "-o", "json"]).ok();
        let list: Value = serde_json::from_str(&text).unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    };
    let slice = slices().into_iter().next().expect("a slice of ratings");
    let owner = &slice["metadata"]["ownerReferences"][0];
    let import = get("west", "serviceimport", "ratings");
    assert_eq!((&owner["kind"], &owner["uid"]), (&"ServiceImport".into(), &import["metadata"]["uid"]), "{owner}");
    let of_slice = slice["metadata"]["name"].as_str().expect("a name");
    let edit = r#"[{"op": "replace", "path": "/endpoints/0/addresses/0", "value": "192.0.2.1"}]"#;
    lab.kubectl("west", &["patch", "endpointslice", of_slice, "--type=json", "-p", edit]).ok();
    eventually(PATIENCE, || match slices() {
        found if found.iter().any(|of| of["endpoints"] == slice["endpoints"]) => Ok(()),
        found => Err(found),
    })
    .expect("the slice as it was");

    // Without the writer's account, everything works but the writes, and the status says so.
    lab.kubectl("central", &["-n", "isthmus-system", "delete", "serviceaccount", "isthmus-writer"]).ok();
    lab.kubectl("central", &["delete", "clusterrolebinding", "isthmus-writer"]).ok();
    lab.kubectl("central", &["delete", "serviceimport", "ratings"]).ok();
    let text = eventually(Duration::from_secs(40), || {
        let text = lab.isthmus(&["status"]).ok();
        if text.contains("not written") { Ok(text) } else { Err(text) }
    })
    .expect("the status says what is not written");
    assert!(text.contains("isthmus-writer") && text.contains("central"), "{text}");
    let answer = lab.get(FRONTEND, "http://ratings:9080/").expect("traffic needs no writes");
    assert_eq!(answer["cluster"], "east");
    lab.down();
}
