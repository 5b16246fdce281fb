//! A test of the controller's memory per endpoint: objects, indexes and encoded resources together.
//!
//! It is the only test of its process, because it measures all memory that the process has allocated.

use std::sync::Arc;
use std::time::SystemTime;

use isthmus_federation_controller::compile::Compiler;
use isthmus_federation_controller::inventory::{Inventory, Settings};
use isthmus_federation_controller::objects::event::{Cluster, Event, Mesh};
use isthmus_federation_controller::objects::{
    Kind, Node, Object, Pod, Service, ServicePort, Slice, SliceEndpoint, Spot, Template,
};
use isthmus_federation_controller::publish::Store;
use net::count::{self, Counting};

const SERVICES: usize = 1000;
/// The pods of a service in each cluster.
const PODS: usize = 5;

const CLUSTERS: [&str; 2] = ["west", "east"];

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bound of bytes per endpoint: its pod, its slice entry, its indexes and its part of the store. Ten endpoints share
/// the memory of their service in both clusters.
const MAX_BYTES: u64 = 500;

fn pod(cluster: usize, service: usize, index: usize) -> Pod {
    let name = format!("s{service}-7d9f8c6b5-{index:05}");
    let labels = [
        ("app", format!("s{service}")),
        ("version", "v1".into()),
        ("pod-template-hash", "7d9f8c6b5".into()),
        ("security.istio.io/tlsMode", "istio".into()),
        ("topology.istio.io/network", format!("net-{}", CLUSTERS[cluster])),
        ("service.istio.io/canonical-name", format!("s{service}")),
        ("service.istio.io/canonical-revision", "v1".into()),
    ];
    Pod {
        name: name.into(),
        node: format!("{}-node-{}", CLUSTERS[cluster], index % 10).into(),
        template: Arc::new(Template {
            namespace: "default".into(),
            service_account: format!("s{service}").into(),
            labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            workload: format!("s{service}").into(),
            topology: None,
        }),
        terminating: false,
    }
}

fn service_of(cluster: usize, service: usize) -> Service {
    Service {
        namespace: "default".into(),
        name: format!("s{service}").into(),
        cluster_ips: [[10, 96 + cluster as u8, (service / 250) as u8, (service % 250) as u8].into()].into(),
        ports: vec![ServicePort { name: "http".into(), number: 80, ..Default::default() }],
        selects: true,
        ..Default::default()
    }
}

fn slice(cluster: usize, service: usize) -> Slice {
    let endpoint = |i: usize| SliceEndpoint {
        ip: [10, (service / 250) as u8, (service % 250) as u8, i as u8].into(),
        ready: true,
        terminating: false,
        serving: true,
        pod: Some(pod(cluster, service, i).name),
        named: false,
        spot: Spot {
            node: Some(format!("{}-node-{}", CLUSTERS[cluster], i % 10).into()),
            zone: None,
            ..Default::default()
        }
        .into(),
    };
    let name = format!("s{service}");
    Slice {
        namespace: "default".into(),
        name: format!("{name}-abcde").into(),
        service: name.into(),
        ports: [("http".into(), 8080)].into(),
        endpoints: (0..PODS).map(endpoint).collect(),
        other_ports: None,
    }
}

#[test]
fn the_memory_per_endpoint_stays_within_its_bound() {
    let settings = Settings {
        cluster: "west".into(),
        namespace: "isthmus-system".into(),
        root_namespace: "istio-system".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
    };
    let (mut inventory, mut compiler, mut store) = (Inventory::new(settings), Compiler::default(), Store::default());
    let now = SystemTime::now();
    let before = count::live();
    let per_endpoint = |bytes: u64| (bytes - before) / (SERVICES * PODS * CLUSTERS.len()) as u64;
    inventory.apply(Event::Mesh(Mesh { export_all: true, ..Default::default() }), now);
    for (cluster, name) in CLUSTERS.into_iter().enumerate() {
        let network = format!("net-{name}").into();
        let info = Cluster { name: name.into(), own: cluster == 0, network, server: "".into(), joined: 0 };
        inventory.apply(Event::ClusterAdded(info), now);
        let mut put = |object| inventory.apply(Event::Upsert { cluster: name.into(), object }, now);
        for node in 0..10 {
            let zone = format!("{name}-{}", ["a", "b"][node % 2]).into();
            let (node, region) = (format!("{name}-node-{node}").into(), name.into());
            put(Object::Node(Node { name: node, region, zone, subzone: "".into(), ..Default::default() }));
        }
        (0..SERVICES).for_each(|service| put(Object::Service(service_of(cluster, service))));
    }
    let services = count::live();
    let put = |inventory: &mut Inventory, cluster: usize, object| {
        inventory.apply(Event::Upsert { cluster: CLUSTERS[cluster].into(), object }, now);
    };
    let all = || (0..CLUSTERS.len()).flat_map(|cluster| (0..SERVICES).map(move |service| (cluster, service)));
    for (cluster, service) in all() {
        (0..PODS).for_each(|i| put(&mut inventory, cluster, Object::Pod(pod(cluster, service, i))));
    }
    let pods = count::live();
    all().for_each(|(cluster, service)| put(&mut inventory, cluster, Object::Slice(slice(cluster, service))));
    let slices = count::live();
    let began = std::time::Instant::now();
    let mut bodies = 0;
    for group in inventory.take_changes(usize::MAX) {
        let compiled = compiler.compile(&inventory, &group);
        bodies += compiled.resources.iter().map(|resource| resource.body.len()).sum::<usize>();
        store.replace(group, compiled);
        store.forget_changes();
    }
    let took = began.elapsed();
    let stored = count::live();
    let (count, records) = store.size(wire::Kind::Endpoint);
    println!(
        "bytes per endpoint: {} = {} services + {} pods + {} slices + {} resources, of which {} encoded and {} records; compiled in {took:?}",
        per_endpoint(stored),
        per_endpoint(services),
        per_endpoint(pods) - per_endpoint(services),
        per_endpoint(slices) - per_endpoint(pods),
        per_endpoint(stored) - per_endpoint(slices),
        per_endpoint(before + bodies as u64),
        per_endpoint(before + records as u64),
    );
    // Each service has two summaries in each cluster, one per zone.
    assert_eq!(count, SERVICES * (PODS + 2) * CLUSTERS.len());
    assert!(per_endpoint(stored) < MAX_BYTES);
    // The change of one pod among ten thousand changes two resources.
    let mut changed = pod(0, 7, 3);
    changed.terminating = true;
    inventory.apply(Event::Upsert { cluster: "west".into(), object: Object::Pod(changed) }, now);
    let began = std::time::Instant::now();
    let mut differing = 0;
    for group in inventory.take_changes(usize::MAX) {
        let compiled = compiler.compile(&inventory, &group);
        differing += store.replace(group, compiled);
    }
    println!("change of one pod: {differing} resource(s) in {:?}", began.elapsed());
    // The endpoint, and the summary that includes it.
    assert_eq!(differing, 2);
    inventory.apply(Event::Listing { cluster: "west".into(), kind: Kind::Pod }, now);
}
