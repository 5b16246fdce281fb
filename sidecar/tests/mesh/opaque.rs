//! Opaque connections: servers that speak first, half-close, and detection.

use std::time::{Duration, Instant};

use telemetry::istio::{TCP_CLOSED, TCP_OPENED, TCP_RECEIVED, TCP_SENT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::discovery::Protocol;

use crate::fixture::World;

/// Talks to a server that speaks first: reads its greeting, sends, closes this direction, and reads the rest.
async fn talk(mut stream: TcpStream, bytes: usize) -> String {
    let mut greeting = [0; 6];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut greeting)).await.expect("a greeting").unwrap();
    assert_eq!(&greeting, b"hello\n");
    stream.write_all(&vec![7; bytes]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_may_speak_first_on_declared_ports() {
    let world = World::new().await;
    let pod = world.tcp_pod("west", "us-west-1a", "db-a", "db").await;
    world.service("db", 1, Protocol::Tcp, &[]);
    world.serve("db", &pod, |_| {});
    let frontend = world.client("frontend").await;

    let begun = Instant::now();
    let stream = TcpStream::connect(frontend.service(1)).await.unwrap();
    assert_eq!(talk(stream, 1_000_000).await, "1000000 bytes\n");
    assert!(begun.elapsed() < Duration::from_secs(4), "nothing waits for a client that waits: {:?}", begun.elapsed());

    let labels = [("destination_workload", "db-a-deploy"), ("request_protocol", "tcp")];
    tokio::time::sleep(Duration::from_millis(100)).await;
    for (side, labels) in [(&frontend, &labels[..]), (&pod.sidecar, &labels[1..])] {
        assert_eq!(side.counted(&TCP_OPENED, labels), 1);
        assert_eq!(side.counted(&TCP_CLOSED, labels), 1);
        assert_eq!(side.counted(&TCP_RECEIVED, labels), 1_000_000);
        assert_eq!(side.counted(&TCP_SENT, labels), 20);
    }
    let principal = [("source_principal", "spiffe://cluster.local/ns/default/sa/frontend"), ("source_cluster", "west")];
    assert_eq!(pod.sidecar.counted(&TCP_OPENED, &principal), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_clients_of_such_a_server_are_served_after_a_moment() {
    let world = World::new().await;
    let pod = world.tcp_pod("west", "us-west-1a", "db-a", "db").await;
    assert_eq!(talk(TcpStream::connect(pod.gate.address).await.unwrap(), 10).await, "10 bytes\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn undeclared_ports_are_found_out() {
    let world = World::new().await;
    let db = world.tcp_pod("west", "us-west-1a", "db-a", "db").await;
    world.service("db", 1, Protocol::Unspecified, &[]);
    world.serve("db", &db, |_| {});
    let web = world.pod("west", "us-west-1a", "web-a", "web", Protocol::Unspecified).await;
    world.service("web", 2, Protocol::Unspecified, &[]);
    world.serve("web", &web, |_| {});
    let frontend = world.client("frontend").await;
    assert_eq!(crate::app::by(&crate::app::get(frontend.service(2)).await), "web-a");
    // The client waits, so the deadline decides.
    assert_eq!(talk(TcpStream::connect(frontend.service(1)).await.unwrap(), 10).await, "10 bytes\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_closes_the_connection() {
    let world = World::new().await;
    world.service("db", 1, Protocol::Tcp, &[]);
    let frontend = world.client("frontend").await;
    let mut stream = TcpStream::connect(frontend.service(1)).await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    closed.expect("closed").unwrap_or_default();
    assert!(rest.is_empty());
    assert_eq!(frontend.counted(&TCP_CLOSED, &[("response_flags", "UH")]), 1);
}
