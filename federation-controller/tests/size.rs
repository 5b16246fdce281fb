//! How much memory an endpoint costs the controller: objects, index and encoded resources together.
//!
//! One test alone in its process, because it looks at the process's resident memory.

use std::sync::Arc;
use std::time::SystemTime;

use isthmus_federation_controller::index::event::{
    Cluster, Event, Kind, Node, Object, Pod, Service, ServicePort, Slice, SliceEndpoint, Spot, Template,
};
use isthmus_federation_controller::index::{Index, Settings};
use isthmus_federation_controller::store::Store;

const SERVICES: usize = 1000;
const EACH: usize = 10;

/// Bytes per endpoint with everything: its pod, slice entry, indexes and what the store keeps of it. Ten endpoints share what
/// their service costs. The band is for noise, and for allocators.
const BOUND: u64 = 800;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn pod(service: usize, index: usize) -> Pod {
    let name = format!("s{service}-7d9f8c6b5-{index:05}");
    let labels = [
        ("app", format!("s{service}")),
        ("version", "v1".into()),
        ("pod-template-hash", "7d9f8c6b5".into()),
        ("security.istio.io/tlsMode", "istio".into()),
        ("topology.istio.io/network", "net-west".into()),
        ("service.istio.io/canonical-name", format!("s{service}")),
        ("service.istio.io/canonical-revision", "v1".into()),
    ];
    Pod {
        name: name.into(),
        node: format!("node-{}", index % 10).into(),
        template: Arc::new(Template {
            namespace: "default".into(),
            service_account: format!("s{service}").into(),
            labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            workload: format!("s{service}").into(),
        }),
        terminating: false,
    }
}

fn ip(service: usize, index: usize) -> std::net::IpAddr {
    [10, (service / 250) as u8, (service % 250) as u8, index as u8].into()
}

#[test]
fn an_endpoint_costs_what_it_did() {
    let settings = Settings {
        cluster: "west".into(),
        namespace: "isthmus-system".into(),
        root_namespace: "istio-system".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
    };
    let (mut index, mut store) = (Index::new(settings), Store::default());
    let now = SystemTime::now();
    let before = resident();
    let info = Cluster { name: "west".into(), own: true, network: "net-west".into(), server: "".into() };
    index.apply(Event::ClusterAdded(info), now);
    let mut put = |object| index.apply(Event::Upsert { cluster: "west".into(), object }, now);
    for node in 0..10 {
        let zone = format!("us-west-1{}", ["a", "b"][node % 2]).into();
        let name = format!("node-{node}").into();
        put(Object::Node(Node { name, region: "us-west".into(), zone, subzone: "".into() }));
    }
    for service in 0..SERVICES {
        let name = format!("s{service}");
        put(Object::Service(Service {
            namespace: "default".into(),
            name: name.as_str().into(),
            cluster_ips: vec![[10, 96, (service / 250) as u8, (service % 250) as u8].into()],
            ports: vec![ServicePort { name: "http".into(), number: 80, protocol: Default::default() }],
            selects: true,
            ..Default::default()
        }));
        (0..EACH).for_each(|i| put(Object::Pod(pod(service, i))));
        let endpoint = |i| SliceEndpoint {
            ip: ip(service, i),
            ready: true,
            terminating: false,
            pod: Some(pod(service, i).name),
            spot: Spot { node: Some(format!("node-{}", i % 10).into()), zone: None }.into(),
        };
        put(Object::Slice(Slice {
            namespace: "default".into(),
            name: format!("{name}-abcde").into(),
            service: name.into(),
            ports: vec![("http".into(), 8080)],
            endpoints: (0..EACH).map(endpoint).collect(),
        }));
    }
    let indexed = resident();
    let began = std::time::Instant::now();
    for (group, resources) in index.compile() {
        store.replace(group, resources);
    }
    let took = began.elapsed();
    let all = resident();
    let endpoints = (SERVICES * EACH) as u64;
    let (count, bytes) = store.size(wire::Kind::Endpoint);
    assert_eq!(count as u64, endpoints);
    println!(
        "per endpoint: {} bytes, of which {} objects and index, {} encoded body; all compiled in {took:?}",
        (all - before) / endpoints,
        (indexed - before) / endpoints,
        bytes as u64 / endpoints,
    );
    assert!((all - before) / endpoints < BOUND);
    // One pod's change among ten thousand is cheap.
    let mut changed = pod(7, 3);
    changed.terminating = true;
    index.apply(Event::Upsert { cluster: "west".into(), object: Object::Pod(changed) }, now);
    let began = std::time::Instant::now();
    let compiled = index.compile();
    let differing: usize = compiled.into_iter().map(|(group, resources)| store.replace(group, resources)).sum();
    println!("one pod's change: {differing} resource(s) in {:?}", began.elapsed());
    assert_eq!(differing, 1);
    index.apply(Event::Listing { cluster: "west".into(), kind: Kind::Pod }, now);
}
