//! Opaque connections: server-first protocols, half-close and protocol detection.

use std::time::{Duration, Instant};

use telemetry::istio::{TCP_CLOSED, TCP_OPENED, TCP_RECEIVED, TCP_SENT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::discovery::Protocol;

use crate::fixture::{TestMesh, until};

/// Exchanges data with a server-first server: reads its greeting, sends bytes, closes the sending side, and returns
/// what the server sends then.
async fn exchange(mut stream: TcpStream, bytes: usize) -> String {
    let mut greeting = [0; 6];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut greeting)).await.expect("a greeting").unwrap();
    assert_eq!(&greeting, b"hello\n");
    stream.write_all(&vec![7; bytes]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn server_first_protocols_work_on_ports_declared_as_tcp() {
    let mesh = TestMesh::new().await;
    let pod = mesh.tcp_pod("west", "us-west-1a", "db-a", "db").await;
    mesh.push_service("db", 1, Protocol::Tcp);
    mesh.push_endpoint("db", &pod, |_| {});
    let frontend = mesh.client("frontend").await;

    let begun = Instant::now();
    let stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    assert_eq!(exchange(stream, 1_000_000).await, "1000000 bytes\n");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "no protocol detection delays the greeting: {:?}",
        begun.elapsed()
    );

    let labels = [("destination_workload", "db-a-deploy"), ("request_protocol", "tcp")];
    for (side, labels) in [(&frontend, &labels[..]), (&pod.sidecar, &labels[1..])] {
        until("the connection has ended", async || side.total(&TCP_CLOSED, labels) > 0).await;
        assert_eq!(side.total(&TCP_OPENED, labels), 1);
        assert_eq!(side.total(&TCP_CLOSED, labels), 1);
        assert_eq!(side.total(&TCP_RECEIVED, labels), 1_000_000);
        assert_eq!(side.total(&TCP_SENT, labels), 20);
    }
    let principal = [("source_principal", "spiffe://cluster.local/ns/default/sa/frontend"), ("source_cluster", "west")];
    assert_eq!(pod.sidecar.total(&TCP_OPENED, &principal), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_clients_of_a_server_first_server_are_served_after_the_detection_timeout() {
    let mesh = TestMesh::new().await;
    let pod = mesh.tcp_pod("west", "us-west-1a", "db-a", "db").await;
    assert_eq!(exchange(TcpStream::connect(pod.gate.address).await.unwrap(), 10).await, "10 bytes\n");
}

/// Istio's default for the detection timeout is 0.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_send_first_are_served_on_undeclared_ports() {
    let mesh = TestMesh::new().await;
    mesh.push_settings(|settings| settings.protocol_detection_timeout_ms = 0);
    let db = mesh.tcp_pod("west", "us-west-1a", "db-a", "db").await;
    mesh.push_service("db", 1, Protocol::Unspecified);
    mesh.push_endpoint("db", &db, |_| {});
    let frontend = mesh.client("frontend").await;
    assert_eq!(exchange(TcpStream::connect(frontend.service_address(1)).await.unwrap(), 10).await, "10 bytes\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_of_undeclared_ports_is_detected() {
    let mesh = TestMesh::new().await;
    let db = mesh.tcp_pod("west", "us-west-1a", "db-a", "db").await;
    mesh.push_service("db", 1, Protocol::Unspecified);
    mesh.push_endpoint("db", &db, |_| {});
    let web = mesh.pod("west", "us-west-1a", "web-a", "web", Protocol::Unspecified).await;
    mesh.push_service("web", 2, Protocol::Unspecified);
    mesh.push_endpoint("web", &web, |_| {});
    let frontend = mesh.client("frontend").await;
    assert_eq!(crate::app::pod_of(&crate::app::get(frontend.service_address(2)).await), "web-a");
    // The client sends nothing first, so the detection timeout decides.
    assert_eq!(exchange(TcpStream::connect(frontend.service_address(1)).await.unwrap(), 10).await, "10 bytes\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_service_without_endpoints_is_closed() {
    let mesh = TestMesh::new().await;
    mesh.push_service("db", 1, Protocol::Tcp);
    let frontend = mesh.client("frontend").await;
    let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    closed.expect("closed").unwrap_or_default();
    assert!(rest.is_empty());
    until("the connection is counted", async || frontend.total(&TCP_CLOSED, &[("response_flags", "UH")]) == 1).await;
}
