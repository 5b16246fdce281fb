use std::time::SystemTime;

use telemetry::metrics::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clusters::queue::{Source, queues};
use crate::discovery::Limits;
use crate::gauges;
use crate::inventory::{Inventory, Settings};
use crate::metrics::Metrics;
use crate::objects::event::{Cluster, Event, Link};
use crate::objects::{Kind, Object, Service, ServicePort};
use crate::pipeline::{self, State};

async fn get(address: std::net::SocketAddr, request: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A monitoring server that treats the loopback as any other source, with a fake API server that reviews tokens.
#[tokio::test]
async fn debug_pages_are_for_authorized_clients() {
    let fake = crate::fake::Fake::start("own").await;
    fake.review("reader", "system:serviceaccount:isthmus-system:isthmus-debug", &["isthmus-debug"]);
    fake.review("stranger", "system:serviceaccount:default:frontend", &["isthmus-debug"]);
    fake.review("enrolment", "system:serviceaccount:isthmus-system:isthmus-debug", &["istio-ca"]);
    fake.permit("system:serviceaccount:isthmus-system:isthmus-debug", "/debug/");
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kubeconfig.path(), fake.kubeconfig("west", "own")).unwrap();
    let settings = Settings {
        cluster: "west".into(),
        namespace: "isthmus-system".into(),
        root_namespace: "istio-system".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
    };
    let state = State::new(Inventory::new(settings), Metrics::new(&Registry::new()));
    let (events, _receiver) = queues();
    let shared = Shared::new(state, events.clone(), Limits::default());
    let debug = Debug { local: false, ..Debug::new(shared) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(debug.clone().serve(listener));
    let page = async |headers: &str| {
        get(address, &format!("GET /debug/proxies HTTP/1.1\r\n{headers}X-End: x\r\nX-Rest:")).await
    };
    assert!(page("Authorization: Bearer reader\r\n").await.starts_with("HTTP/1.1 503"), "the controller starts");

    let config = crate::clusters::Config {
        cluster: "west".into(),
        network: "".into(),
        root_namespace: "istio-system".into(),
        kubeconfig: Some(kubeconfig.path().to_owned()),
        heartbeat: Duration::from_secs(1),
        removal_grace: Duration::ZERO,
    };
    let clusters = crate::clusters::start(config, events).await.unwrap();
    let authority = identity::Authority::self_signed_root("mesh", Duration::from_secs(3600)).unwrap();
    debug.attach(clusters, Authorities::fixed("west", "cluster.local", vec![("west", authority)]));
    for (headers, code) in [
        ("", "401"),
        ("Authorization: Basic x\r\n", "401"),
        ("Authorization: Bearer unknown\r\n", "401"),
        ("Authorization: Bearer enrolment\r\n", "401"),
        ("Authorization: Bearer stranger\r\n", "403"),
        ("Authorization: Bearer reader\r\n", "200"),
        ("X-Isthmus-Debug-Token: reader\r\n", "200"),
    ] {
        let answer = page(headers).await;
        assert_eq!(&answer[9..12], code, "{headers:?}: {answer}");
    }
    for (open, code) in
        [("/metrics", "200"), ("/ready", "503"), ("/", "200"), ("/debug/clusters", "401"), ("/debug//clusters", "401")]
    {
        let answer = get(address, &format!("GET {open}")).await;
        assert_eq!(&answer[9..12], code, "{open}: {answer}");
    }
}

#[tokio::test]
async fn idle_connections_of_one_source_do_not_keep_the_kubelet_out() {
    let settings = Settings {
        cluster: "west".into(),
        namespace: "isthmus-system".into(),
        root_namespace: "istio-system".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
    };
    let state = State::new(Inventory::new(settings), Metrics::new(&Registry::new()));
    let debug = Debug::new(Shared::new(state, queues().0, Limits::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(debug.clone().serve(listener));
    let mut held = Vec::new();
    for _ in 0..500 {
        held.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    assert!(get(address, "GET /ready").await.contains("503"), "readiness is answered");
    assert!(debug.gate.taken() <= MAX_CONNECTIONS);
}

#[tokio::test]
async fn pages_show_the_state_with_its_age() {
    let settings = Settings {
        cluster: "west".into(),
        namespace: "isthmus-system".into(),
        root_namespace: "istio-system".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
    };
    let registry = Registry::new();
    let state = State::new(Inventory::new(settings), Metrics::new(&registry));
    let (events, receiver) = queues();
    let shared = Shared::new(state.clone(), events.clone(), Limits::default());
    gauges::observe(&shared, &registry);
    let debug = Debug::new(shared.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(debug.clone().serve(listener));
    assert!(get(address, "GET /ready").await.contains("503"));
    debug.set_serving(true);
    assert!(get(address, "GET /ready").await.contains("listed in full"));

    let running = tokio::spawn(pipeline::run(state.clone(), receiver, None));
    let send = async |event| events.send(Source::Objects("west".into()), event).await.unwrap();
    let west = || "west".into();
    let info =
        Cluster { name: west(), own: true, network: "net-west".into(), server: "https://west".into(), joined: 0 };
    events.send(Source::Controller, Event::ClusterAdded(info)).await.unwrap();
    for kind in Kind::ALL {
        send(Event::Listing { cluster: west(), kind }).await;
        if kind == Kind::Service {
            let port = ServicePort { name: "tls".into(), number: 15443, ..Default::default() };
            let object = Object::Service(Service {
                namespace: "default".into(),
                name: "gw".into(),
                ports: vec![port],
                network: Some("net-west".into()),
                external_ips: [[203, 0, 113, 10].into()].into(),
                ..Default::default()
            });
            send(Event::Upsert { cluster: west(), object }).await;
        }
        send(Event::Listed { cluster: west(), kind }).await;
    }
    let since = SystemTime::now();
    send(Event::Link { cluster: west(), link: Link::Connected, since }).await;
    while !state.ready() || state.inventory().has_changes() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }

    assert!(get(address, "GET /ready").await.starts_with("HTTP/1.1 200"));
    let clusters = get(address, "GET /debug/clusters").await;
    let page: ClustersPage = serde_json::from_str(clusters.split_once("\r\n\r\n").unwrap().1).unwrap();
    let row = &page.clusters[0];
    assert_eq!((&*row.name, &*row.role, &*row.network, &*row.link), ("west", "primary", "net-west", "connected"));
    assert_eq!((row.services, row.exported, row.endpoints, row.synced), (1, 0, 0, true));
    assert!(row.heard_age_ms.is_some() && row.contact_age_ms.is_none() && row.trust.is_none());
    assert!(get(address, "GET /debug/gateways").await.contains("203.0.113.10:15443 (west)"));
    assert!(get(address, "GET /debug/services/").await.contains("gw.default.svc.cluster.local"));
    let service = get(address, "GET /debug/services/gw.default.svc.cluster.local").await;
    let page: ServicePage = serde_json::from_str(service.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(
        (page.clusters, page.ports),
        (vec!["west".to_string()], vec!["15443/tls PROTOCOL_UNSPECIFIED".to_string()])
    );
    let table = get(address, "GET /debug/service-table").await;
    let page: ServicesPage = serde_json::from_str(table.split_once("\r\n\r\n").unwrap().1).unwrap();
    let [row] = &page.services[..] else { panic!("{page:?}") };
    assert_eq!((&*row.namespace, &*row.name, row.system, page.omitted), ("default", "gw", false, 0));
    let here = ServiceInCluster { defined: true, ready_endpoints: Some(0), ..ServiceInCluster::default() };
    assert_eq!(row.clusters, std::collections::BTreeMap::from([("west".to_string(), here)]), "it exports nothing");
    assert!(get(address, "GET /debug/services/nowhere").await.starts_with("HTTP/1.1 404"));
    assert!(get(address, "GET /debug/proxies").await.ends_with("[]"));
    assert!(get(address, "GET /nothing").await.starts_with("HTTP/1.1 404"));
    assert!(get(address, "POST /ready").await.starts_with("HTTP/1.1 405"));
    let metrics = get(address, "GET /metrics").await;
    for expected in [
        "isthmus_controller_managed_clusters{cluster_type=\"local\"} 1",
        "isthmus_controller_cluster_link{cluster=\"west\",state=\"connected\"} 1",
        "isthmus_controller_objects{cluster=\"west\",kind=\"Service\"} 1",
        "isthmus_controller_resources{type=\"NetworkGateway\"} 1",
        "isthmus_controller_pushes_total{type=\"Service\"} 0",
    ] {
        assert!(metrics.contains(expected), "{expected} is not in\n{metrics}");
    }
    state.stop.cancel();
    running.await.unwrap();
}
