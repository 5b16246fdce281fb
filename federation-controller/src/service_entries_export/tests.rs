use std::sync::Arc;

use api::service_entry_export::{ExportSettings, ExportedPort, ExportedService, GatewayEndpoint, objects};
use serde_json::{Value, json};

use super::plan::{Known, Wanted};
use super::write::{Outcome, write};
use crate::clusters::trouble::Trouble;
use crate::fake::Fake;
use crate::objects::Key;

const ENTRIES: &str = "/apis/networking.istio.io/v1/serviceentries";
const RULES: &str = "/apis/networking.istio.io/v1/destinationrules";
const NAME: &str = "ratings-exported-by-west";

fn service(address: &str) -> ExportedService {
    ExportedService {
        namespace: "default".into(),
        name: "ratings".into(),
        hostname: "ratings.default.svc.cluster.local".into(),
        ports: vec![ExportedPort { number: 9080, name: "http".into(), protocol: "HTTP".into() }],
        identities: vec!["spiffe://cluster.local/ns/default/sa/ratings".into()],
        endpoints: vec![GatewayEndpoint {
            cluster: "east".into(),
            address: address.parse().unwrap(),
            port: 15443,
            locality: "us-east".into(),
            ready: 1,
        }],
        subsets: Vec::new(),
    }
}

fn known(listed: bool, joined: &[(&str, bool)]) -> Arc<Known> {
    Known { listed, joined: joined.iter().map(|(name, synced)| ((*name).into(), *synced)).collect() }.into()
}

fn wanted(address: &str) -> Wanted {
    let service = service(address);
    let objects = objects(&service, &ExportSettings::of_controller(&service, "west"));
    let known = known(true, &[("east", true)]);
    Wanted { objects: [(Key::new("default", NAME), objects)].into(), known, ..Wanted::default() }
}

fn none(known: Arc<Known>) -> Wanted {
    Wanted { known, ..Wanted::default() }
}

/// Gives the stored entry a uid, as an API server does.
fn with_uid(fake: &Fake) {
    let mut entry = fake.get(ENTRIES, "default", NAME).unwrap();
    entry["metadata"]["uid"] = json!("u-1");
    fake.put(ENTRIES, entry);
}

async fn ok(fake: &Fake, wanted: &Wanted) -> Outcome {
    write(&fake.client("t").await, "west", wanted).await.unwrap()
}

#[tokio::test]
async fn objects_are_written_once_and_again_when_they_differ() {
    let central = Fake::start("t").await;
    assert_eq!(ok(&central, &wanted("203.0.113.20")).await, Outcome::default());
    with_uid(&central);
    // The rule has an owner as soon as the entry has a uid.
    ok(&central, &wanted("203.0.113.20")).await;
    let owner = central.get(RULES, "default", NAME).unwrap()["metadata"]["ownerReferences"][0].clone();
    assert_eq!(
        owner,
        json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "name": NAME, "uid": "u-1", "controller": true})
    );
    let writes = central.writes().len();
    assert_eq!(ok(&central, &wanted("203.0.113.20")).await.objects, 1);
    assert_eq!(central.writes().len(), writes, "nothing differs");

    ok(&central, &wanted("203.0.113.21")).await;
    let address = |fake: &Fake| fake.get(ENTRIES, "default", NAME).unwrap()["spec"]["endpoints"][0]["address"].clone();
    assert_eq!(address(&central), "203.0.113.21");
    // Somebody else changes it.
    let mut entry = central.get(ENTRIES, "default", NAME).unwrap();
    entry["spec"]["endpoints"][0]["address"] = json!("192.0.2.1");
    central.put(ENTRIES, entry);
    ok(&central, &wanted("203.0.113.21")).await;
    assert_eq!(address(&central), "203.0.113.21");
}

#[tokio::test]
async fn what_is_no_longer_exported_is_deleted_if_that_is_certain() {
    let central = Fake::start("t").await;
    ok(&central, &wanted("203.0.113.20")).await;
    let has = || central.get(ENTRIES, "default", NAME).is_some();
    for uncertain in [
        // Remote secrets have not been read, or east has not been listed, since the start.
        known(false, &[]),
        known(true, &[("east", false)]),
    ] {
        ok(&central, &none(uncertain)).await;
        assert!(has());
    }
    let kept = Wanted { kept: [Key::new("default", NAME)].into(), ..none(known(true, &[("east", true)])) };
    ok(&central, &kept).await;
    assert!(has(), "its gateway is away");
    for certain in [known(true, &[("east", true)]), known(true, &[])] {
        ok(&central, &wanted("203.0.113.20")).await;
        ok(&central, &none(certain)).await;
        assert!(!has() && central.get(RULES, "default", NAME).is_none());
    }
}

#[tokio::test]
async fn objects_of_others_are_left_alone() {
    let central = Fake::start("t").await;
    let own = json!({"metadata": {"name": NAME, "namespace": "default", "labels": {"team": "a"}}, "spec": {}});
    central.put(ENTRIES, own.clone());
    let outcome = ok(&central, &wanted("203.0.113.20")).await;
    let why = outcome.failed.into_values().next().unwrap();
    assert!(why.contains("was written by somebody else: delete it, or label it"), "{why}");
    assert_eq!(central.get(ENTRIES, "default", NAME).unwrap()["spec"], Value::from(serde_json::Map::new()));
    assert!(central.writes().is_empty() && ok(&central, &none(known(true, &[]))).await.failed.is_empty());
    assert!(central.get(ENTRIES, "default", NAME).is_some(), "it has no label of the controller");
}

#[tokio::test]
async fn a_cluster_that_does_not_permit_it_is_told_apart() {
    let central = Fake::start("t").await;
    central.forbid(ENTRIES);
    let client = central.client("t").await;
    assert!(matches!(write(&client, "west", &wanted("203.0.113.20")).await, Err(Trouble::Refused(_))));
    let bare = Fake::start("t").await;
    bare.miss(ENTRIES);
    assert_eq!(write(&bare.client("t").await, "west", &wanted("203.0.113.20")).await, Err(Trouble::Missing));
}
