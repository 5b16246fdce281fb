//! Callers of other clusters: a cluster is proven by the intermediate that issued the certificate.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wire::discovery::{Callers, InboundPort, Protocol};

use crate::fixture::{Pod, TestMesh, until};
use crate::raw::{self, status};

/// Has the sidecar of a pod accept callers of these clusters.
fn permit(mesh: &Arc<TestMesh>, pod: &Pod, protocol: Protocol, clusters: &[&str], plaintext: bool) {
    let callers = Callers { clusters: clusters.iter().map(|name| (*name).to_owned()).collect(), plaintext };
    let port = InboundPort {
        number: pod.app.address.port().into(),
        protocol: protocol.into(),
        callers: Some(callers),
        ..InboundPort::default()
    };
    mesh.push_workload(&pod.cluster, &pod.name, &pod.zone, vec![port]);
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: ratings\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_cluster_that_may_not_call_are_refused_with_the_reason() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("east", "us-east-1a", "ratings-a", "ratings", Protocol::Http).await;
    mesh.push_service("ratings", 1, Protocol::Http);
    mesh.push_endpoint("ratings", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    let get = async || raw::send(frontend.service_address(1), REQUEST).await;
    assert_eq!(status(&get().await), 200);

    permit(&mesh, &pod, Protocol::Http, &["east", "central"], true);
    until("west is refused", async || status(&get().await) == 403).await;
    let answer = get().await;
    assert!(answer.ends_with("federation policy: the service is not exported to cluster west"), "{answer}");
    // In plaintext, only where it is accepted.
    assert_eq!(status(&raw::send(pod.gate.address, REQUEST).await), 200);
    permit(&mesh, &pod, Protocol::Http, &["east", "central"], false);
    until("plaintext is refused", async || status(&raw::send(pod.gate.address, REQUEST).await) == 403).await;
    assert_eq!(status(&get().await), 403);

    permit(&mesh, &pod, Protocol::Http, &["east", "west"], false);
    until("west is permitted", async || status(&get().await) == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_carries_no_request_of_a_cluster_that_may_not_call_any_longer() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("east", "us-east-1a", "ratings-a", "ratings", Protocol::Http).await;
    mesh.push_service("ratings", 1, Protocol::Http);
    mesh.push_endpoint("ratings", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    let mut get = async || {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: ratings\r\n\r\n").await.unwrap();
        status(&raw::read_response(&mut stream).await.expect("an answer"))
    };
    assert_eq!(get().await, 200);
    permit(&mesh, &pod, Protocol::Http, &["east"], true);
    until("the connection is refused", async || get().await == 403).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_of_a_cluster_that_may_not_call_are_closed() {
    let mesh = TestMesh::new().await;
    let pod = mesh.tcp_pod("east", "us-east-1a", "db-a", "db").await;
    mesh.push_service("db", 1, Protocol::Tcp);
    mesh.push_endpoint("db", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    let greets = async || {
        let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
        stream.read_exact(&mut [0; 6]).await.is_ok()
    };
    assert!(greets().await);
    permit(&mesh, &pod, Protocol::Tcp, &["east"], true);
    until("west is refused", async || !greets().await).await;
    permit(&mesh, &pod, Protocol::Tcp, &["west"], true);
    until("west is permitted", async || greets().await).await;
}
