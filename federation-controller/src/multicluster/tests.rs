use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::plan::tests::World;
use super::writer::Writer;
use crate::clusters::queue::queues;
use crate::clusters::{Clusters, Config, start};
use crate::fake::Fake;
use crate::objects::Text;

const EXPORTS: &str = "/apis/multicluster.x-k8s.io/v1alpha1/serviceexports";
const IMPORTS: &str = "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const SLICES_OF_SHOP: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
const PATIENCE: Duration = Duration::from_secs(15);

/// A controller in west, and east, which it has joined. Both servers are fakes.
struct Bench {
    east: Arc<Fake>,
    clusters: Clusters,
    _west: Arc<Fake>,
    _kubeconfig: tempfile::NamedTempFile,
}

impl Bench {
    async fn new() -> Self {
        let (west, east) = (Fake::start("own").await, Fake::start("reader").await);
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(kubeconfig.path(), west.kubeconfig("west", "own")).unwrap();
        west.put_secret("remote", &[("east", &east.kubeconfig("east", "reader"))]);
        let (sender, mut events) = queues();
        tokio::spawn(async move {
            let mut batch = Vec::new();
            loop {
                events.receive(&mut batch).await;
                batch.clear();
            }
        });
        let config = Config {
            cluster: "west".into(),
            network: "net-main".into(),
            root_namespace: "istio-system".into(),
            kubeconfig: Some(kubeconfig.path().to_owned()),
            heartbeat: Duration::from_millis(100),
            removal_grace: Duration::ZERO,
        };
        let clusters = start(config, sender).await.unwrap();
        until("east joins", || clusters.names().contains(&Text::from("east"))).await;
        Bench { east, clusters, _west: west, _kubeconfig: kubeconfig }
    }

    fn write(&self, plan: super::Plan) -> watch::Sender<Arc<super::Plan>> {
        let (planned, plans) = watch::channel(Arc::new(plan));
        tokio::spawn(Writer::new("east".into(), self.clusters.clone(), plans).run(CancellationToken::new()));
        planned
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn exported() -> World {
    let mut world = World::new();
    world.service("east", json!({}));
    world.pod("east", "10.245.0.1");
    world.export("east", "2026-01-01T00:00:00Z", json!({}));
    world
}

fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|of| of["type"] == *kind).unwrap_or_default();
    format!("{}/{}", found["status"].as_str().unwrap_or_default(), found["reason"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn the_writer_writes_with_its_own_token_what_differs_and_no_more() {
    let bench = Bench::new().await;
    let east = &bench.east;
    east.allow(&["reader", "writer"]);
    east.make_token("writer");
    east.put(EXPORTS, json!({"metadata": {"name": "hello", "namespace": "shop", "uid": "east"}}));
    // One that somebody else has written.
    east.put(IMPORTS, json!({"metadata": {"name": "other", "namespace": "shop"}, "spec": {"ports": []}}));
    let planned = bench.write(exported().plan());
    let import = || east.get(IMPORTS, "shop", "hello").unwrap_or_default();
    until("the import is written", || condition(&import(), "Ready") == "True/Ready").await;
    assert_eq!(import()["spec"]["ips"], json!(["240.240.1.2"]));
    assert_eq!(import()["status"]["clusters"], json!([{"cluster": "east"}]));
    let export = || east.get(EXPORTS, "shop", "hello").unwrap_or_default();
    until("the status is written", || condition(&export(), "Ready") == "True/Exported").await;
    assert_eq!(condition(&export(), "Valid"), "True/Valid");
    let slice_writes = || east.writes().iter().filter(|write| write.contains(SLICES_OF_SHOP)).count();
    until("the slice is written", || slice_writes() == 1).await;
    let name = exported().plan().clusters["east"].slices.keys().next().unwrap().name.clone();
    let slice = || east.get(SLICES, "shop", &name).unwrap_or_default();
    let is_owned = || slice()["metadata"]["ownerReferences"][0]["uid"] == import()["metadata"]["uid"];
    assert!(is_owned(), "{}", slice()["metadata"]);

    // An equal plan writes nothing.
    let writes = east.writes().len();
    planned.send_replace(Arc::new(exported().plan()));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(east.writes()[writes..], [] as [String; 0]);

    // What is deleted is written again.
    east.delete(IMPORTS, "shop", "hello");
    until("the import is back", || condition(&import(), "Ready") == "True/Ready").await;
    until("the slice has the new owner", is_owned).await;

    // What is edited is written again.
    let mut edited = slice();
    edited["endpoints"][0]["addresses"] = json!(["192.0.2.1"]);
    east.put(SLICES, edited);
    until("the address is back", || slice()["endpoints"][0]["addresses"][0] == "10.245.0.1").await;

    // While a cluster is unknown, nothing of it is deleted.
    let mut unknown = World::new().plan();
    unknown.unknown.insert("east".into());
    planned.send_replace(Arc::new(unknown));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(east.get(IMPORTS, "shop", "hello").is_some());
    planned.send_replace(Arc::new(World::new().plan()));
    until("the import is deleted", || east.get(IMPORTS, "shop", "hello").is_none()).await;
    until("the slice is deleted", || {
        east.writes().iter().any(|of| of.starts_with("DELETE") && of.contains(SLICES_OF_SHOP))
    })
    .await;
    assert!(east.get(IMPORTS, "shop", "other").is_some(), "it is somebody else's");
    assert!(!bench.clusters.problems().iter().any(|of| of.why.contains("not written")));
}

#[tokio::test]
async fn a_cluster_that_was_joined_by_a_reader_alone_is_not_written_and_shown() {
    let bench = Bench::new().await;
    // No token is issued for the writer.
    bench.east.put(EXPORTS, json!({"metadata": {"name": "hello", "namespace": "shop", "uid": "east"}}));
    let _planned = bench.write(exported().plan());
    let shown =
        || bench.clusters.problems().into_iter().find(|of| of.cluster == "east" && of.why.contains("not written"));
    until("the problem is shown", || shown().is_some()).await;
    let why = shown().unwrap().why;
    assert!(why.contains("ServiceImports") && why.contains("isthmus join"), "{why}");
    assert!(bench.east.get(IMPORTS, "shop", "hello").is_none());
    assert!(bench.east.writes().is_empty(), "{:?}", bench.east.writes());

    // A controller of its own writes there.
    let mut plan = exported().plan();
    plan.clusters.get_mut("east").unwrap().written_by_itself = true;
    let _planned = bench.write(plan);
    until("the problem is gone", || shown().is_none()).await;
}
