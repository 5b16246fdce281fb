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
                external_ips: vec![[203, 0, 113, 10].into()],
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
