//! Connections of clients that want to exhaust a sidecar, beside those of others.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use runtime::admission::Limits;
use telemetry::istio::REQUESTS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use wire::discovery::Protocol;

use crate::app::{App, Client, get};
use crate::fixture::{Pod, TestMesh, until};

const LIMITS: Limits =
    Limits { connections: 60, pending: 12, dialled: 20, buffered: 4 << 20, deadline: Duration::from_secs(60) };

async fn limited_pod(limits: Limits) -> (Arc<TestMesh>, Pod) {
    let mesh = TestMesh::new().await;
    let app = App::start("reviews-a").await;
    let pod = mesh.limited_pod("reviews-a", "reviews", Protocol::Http, app, limits).await;
    (mesh, pod)
}

/// Connects from another address than other clients.
async fn connect_from_elsewhere(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// Opens connections from elsewhere that send these bytes.
async fn open_many(pod: &Pod, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..count {
        let mut stream = connect_from_elsewhere(pod.inbound).await;
        // The oldest are closed meanwhile.
        let _ = stream.write_all(bytes).await;
        open.push(stream);
    }
    open
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = [0; 4096];
    let read = async { while matches!(stream.read(&mut rest).await, Ok(count) if count > 0) {} };
    tokio::time::timeout(Duration::from_secs(10), read).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_succeed_beside_a_source_with_many_silent_connections_or_partial_heads() {
    let (_mesh, pod) = limited_pod(LIMITS).await;
    for bytes in
        [b"".as_slice(), b"GET / HTTP/1.1\r\nhost: reviews\r\nx: ", b"PRI * HTTP/2.0\r\n", &[0x16, 3, 1, 0, 200, 1]]
    {
        let mut open = open_many(&pod, 200, bytes).await;
        for _ in 0..30 {
            assert_eq!(get(pod.inbound).await.status(), 200);
        }
        assert!(is_closed(&mut open[0]).await, "the oldest is closed");
        assert!(pod.sidecar.admissions[1].open().1 <= LIMITS.pending);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_succeed_beside_a_source_with_many_idle_connections() {
    let (_mesh, pod) = limited_pod(LIMITS).await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = connect_from_elsewhere(pod.inbound).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews:9080\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        open.push(stream);
    }
    for _ in 0..30 {
        assert_eq!(get(pod.inbound).await.status(), 200);
    }
    assert!(pod.sidecar.admissions[1].open().0 <= LIMITS.connections);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_not_completed_ends_the_connection_at_the_deadline() {
    let (_mesh, pod) = limited_pod(Limits { deadline: Duration::from_millis(800), ..LIMITS }).await;
    let mut first = open_many(&pod, 1, b"GET / HTTP/1.1\r\nhost: revi").await;
    assert!(is_closed(&mut first[0]).await);
    // A later head as well, while a connection that waits between requests stays open.
    let mut idle = Client::connect(pod.inbound).await;
    assert_eq!(idle.get("/").await.status(), 200);
    let mut later = open_many(&pod, 1, b"GET / HTTP/1.1\r\nhost: reviews:9080\r\n\r\n").await;
    later[0].read_exact(&mut [0; 12]).await.unwrap();
    later[0].write_all(b"GET / HTT").await.unwrap();
    assert!(is_closed(&mut later[0]).await);
    assert_eq!(idle.get("/").await.status(), 200);
}

/// Starts an application that accepts connections and answers requests of the path `/quick` only.
async fn start_slow() -> App {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 10];
                stream.read_exact(&mut head).await?;
                if &head == b"GET /quick" {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
                } else {
                    std::future::pending::<()>().await;
                }
                std::io::Result::Ok(())
            });
        }
    });
    App::external(address)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_a_slow_application_use_a_share_of_its_connections() {
    let mesh = TestMesh::new().await;
    let pod = mesh
        .limited_pod("reviews-a", "reviews", Protocol::Http, start_slow().await, Limits { pending: 40, ..LIMITS })
        .await;
    let mut waiting =
        open_many(&pod, 30, b"POST /slow HTTP/1.1\r\nhost: reviews:9080\r\ncontent-length: 9\r\n\r\nx").await;
    // Sixteen of twenty are its share. Those beyond it fail at once.
    until("all requests have arrived", async || {
        let (mut refused, mut byte) = (0, [0]);
        for stream in &mut waiting {
            let peeked = tokio::time::timeout(Duration::from_millis(1), stream.peek(&mut byte)).await;
            refused += usize::from(peeked.is_ok());
        }
        refused == 30 - 16
    })
    .await;
    for _ in 0..10 {
        assert_eq!(Client::connect(pod.inbound).await.get("/quick").await.status(), 200);
    }
    assert_eq!(pod.sidecar.total(&REQUESTS, &[("response_flags", "UO"), ("response_code", "503")]), 14);
}

/// Flow control goes from the application to the client, and the proxy holds little between them.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_application_does_not_read_waits_at_the_client() {
    let mesh = TestMesh::new().await;
    let pod = mesh.limited_pod("reviews-a", "reviews", Protocol::Http, start_slow().await, LIMITS).await;
    let stream = connect_from_elsewhere(pod.inbound).await;
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sent = 0;
    let mut bodies = Vec::new();
    for _ in 0..8 {
        sender = sender.ready().await.unwrap();
        let request = http::Request::post("http://reviews:9080/slow").body(()).unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        body.reserve_capacity(1 << 20);
        loop {
            let granted =
                tokio::time::timeout(Duration::from_secs(1), std::future::poll_fn(|cx| body.poll_capacity(cx)));
            let Ok(Some(Ok(granted))) = granted.await else { break };
            body.send_data(Bytes::from(vec![7; granted]), false).unwrap();
            sent += granted;
            body.reserve_capacity(1 << 20);
        }
        bodies.push((response, body));
    }
    // The connection's window, and what was sent on before the application did not take more.
    assert!(sent < 2 << 20, "the client could send {sent} bytes");
    assert!(pod.app.requests.load(Relaxed) == 0);
    let closed = std::mem::take(&mut bodies);
    drop((closed, sender));
    until("the streams have ended", async || pod.sidecar.connections() == 0).await;
}
