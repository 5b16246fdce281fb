//! The snapshot of format 1, which every later version must read.
//!
//! `tests/fixtures/snapshot-v1` has the files as version 0.1 wrote them, with one object of each kind and a value in every
//! field. The files never change. A field that a later version adds has a default value here; a later format has a directory
//! of its own.

use std::path::Path;
use std::sync::Arc;

use wire::discovery::Protocol;

use super::*;
use crate::inventory::{Inventory, Settings, SystemNamespaces};
use crate::objects::*;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/snapshot-v1")
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| (Text::from(*key), Text::from(*value))).collect()
}

fn cluster() -> Cluster {
    Cluster {
        name: "east".into(),
        own: false,
        network: "net-east".into(),
        server: "https://203.0.113.20:6443".into(),
        joined: 0,
    }
}

/// The objects of the fixture.
fn objects() -> Vec<Object> {
    let port = ServicePort { name: "http".into(), number: 9080, protocol: Protocol::Http, ..Default::default() };
    let endpoint = SliceEndpoint {
        pod: Some("reviews-1".into()),
        named: false,
        spot: Arc::new(Spot { node: Some("node-1".into()), zone: Some("us-east-1a".into()), ..Default::default() }),
        ip: [10, 244, 1, 1].into(),
        ready: true,
        terminating: true,
        ..SliceEndpoint::default()
    };
    let template = Template {
        namespace: "default".into(),
        service_account: "reviews".into(),
        labels: labels(&[("app", "reviews"), ("version", "v1")]),
        workload: "reviews-v1".into(),
        topology: None,
    };
    vec![
        Namespace { name: "istio-system".into(), network: Some("net-east".into()) }.into(),
        Node {
            name: "node-1".into(),
            region: "us-east".into(),
            zone: "us-east-1a".into(),
            subzone: "rack-7".into(),
            ..Default::default()
        }
        .into(),
        Service {
            namespace: "default".into(),
            name: "reviews".into(),
            created: 1_767_323_045,
            cluster_ips: [[10, 96, 0, 7].into(), "fd00::7".parse().unwrap()].into(),
            headless: true,
            ports: vec![port],
            selects: true,
            publish_not_ready: true,
            network: Some("net-east".into()),
            gateway_port: Some(15443),
            external_ips: [[203, 0, 113, 20].into()].into(),
            external_names: ["lb.example.com".into()].into(),
            ..Service::default()
        }
        .into(),
        Slice {
            namespace: "default".into(),
            name: "reviews-x".into(),
            service: "reviews".into(),
            ports: [("http".into(), 8080)].into(),
            endpoints: [endpoint].into(),
            ..Slice::default()
        }
        .into(),
        Pod { name: "reviews-1".into(), node: "node-1".into(), template: Arc::new(template), terminating: true }.into(),
        Export { namespace: "default".into(), name: "reviews".into(), created: 1_767_323_045, ..Export::default() }
            .into(),
        Gateway::exporting("istio-system", "cross-network", labels(&[("istio", "eastwestgateway")]), &["*.local"])
            .into(),
    ]
}

fn mesh() -> Mesh {
    Mesh {
        mesh_id: "mesh-1".into(),
        registry_only: true,
        access_log_file: "/dev/stdout".into(),
        access_log_json: true,
        access_log_format: "%PROTOCOL%".into(),
        connect_timeout_ms: 250,
        protocol_detection_timeout_ms: 100,
        locality_load_balancing: false,
        export_all: true,
        ..Mesh::default()
    }
}

#[test]
fn snapshots_of_version_1_are_read() {
    let (header, found) = read_cluster(&directory().join("cluster-east.jsonl")).unwrap();
    assert_eq!((header.info, header.heard), (cluster(), 1_000_000));
    assert_eq!(found, objects());
    assert_eq!(read_json::<Mesh>(&directory().join(MESH)).unwrap(), mesh());
    assert_eq!(found.len(), 7, "one object of each kind that version 1 has");
}

#[test]
fn a_file_that_is_damaged_or_of_another_format_is_left_out() {
    let files = tempfile::tempdir().unwrap();
    std::fs::copy(directory().join("cluster-east.jsonl"), files.path().join("cluster-east.jsonl")).unwrap();
    std::fs::write(files.path().join("cluster-broken.jsonl"), "{\n").unwrap();
    std::fs::write(files.path().join("cluster-empty.jsonl"), "").unwrap();
    let newer = r#"{"format":2,"info":{"name":"newer","own":false,"network":"","server":""},"heard":1}"#;
    std::fs::write(files.path().join("cluster-newer.jsonl"), newer).unwrap();
    std::fs::write(files.path().join(MESH), "[]").unwrap();
    let text = Text::from;
    let mut inventory = Inventory::new(Settings {
        cluster: text("west"),
        namespace: text("isthmus-system"),
        root_namespace: text("istio-system"),
        cluster_domain: text("cluster.local"),
        trust_domain: text("cluster.local"),
    });
    restore(&mut inventory, files.path());
    let names: Vec<&str> = inventory.clusters().map(|cluster| &*cluster.info.name).collect();
    assert_eq!(names, ["east"]);
    assert_eq!(*inventory.mesh(), Mesh::default());
}

/// Writes the files of the fixture that are missing, for a new format.
#[test]
#[ignore = "writes fixtures; run by hand when the format changes"]
fn write_missing_fixtures() {
    let heard = UNIX_EPOCH + Duration::from_secs(1_000_000);
    let system =
        SystemNamespaces { root: "istio-system".into(), own: "isthmus-system".into(), domain: "cluster.local".into() };
    let mut east = ClusterInventory::new(cluster(), system, heard);
    for kind in Kind::ALL {
        east.list_begins(kind);
    }
    for object in objects() {
        east.upsert(object);
    }
    for kind in Kind::ALL {
        east.list_ends(kind, heard);
    }
    east.heard = Some(heard);
    let files = [File::of_cluster(&directory(), &east).unwrap(), File::of_mesh(&directory(), &mesh())];
    for file in files.iter().filter(|file| !file.path.exists()) {
        file.write().unwrap();
    }
}
