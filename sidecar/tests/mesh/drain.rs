//! Draining: open connections are served until they end.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use wire::discovery::Protocol;

use crate::app::{App, Client};
use crate::fixture::{TestMesh, until};

/// Sends a request on a new connection. Returns `Ok(false)` if the connection is refused.
fn request(address: SocketAddr) -> Result<bool, String> {
    let mut stream = match TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::TimedOut) => return Ok(false),
        Err(error) => return Err(format!("connecting: {error}")),
    };
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|error| error.to_string())?;
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews:9080\r\nconnection: close\r\n\r\n");
    sent.map_err(|error| format!("sending: {error}"))?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).map_err(|error| format!("reading: {error}"))?;
    let whole = response.starts_with(b"HTTP/1.1 200 ") && response.ends_with(b"reviews-a got 0 bytes");
    if whole { Ok(true) } else { Err(format!("received {:?}", String::from_utf8_lossy(&response))) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_resets_no_connection_that_the_kernel_has_accepted() {
    const CLIENTS: usize = 8;
    let mesh = TestMesh::new().await;
    let app = App::start("reviews-a").await;
    // Twice, because a reset depends on timing.
    for _ in 0..2 {
        let app = App::listen("reviews-a", SocketAddr::new(app.address.ip(), 0)).await;
        let mut pod = mesh.pod_with_app("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http, app).await;
        let served: Arc<[AtomicUsize; CLIENTS]> = Arc::default();
        #[expect(clippy::needless_collect, reason = "all clients start before the first one is joined")]
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (address, served) = (pod.inbound, served.clone());
                std::thread::spawn(move || {
                    let begun = Instant::now();
                    while request(address)? {
                        served[client].fetch_add(1, Relaxed);
                        assert!(begun.elapsed() < Duration::from_secs(20), "the listener stays open");
                    }
                    Ok::<_, String>(())
                })
            })
            .collect();
        until("each client is served", async || served.iter().all(|served| served.load(Relaxed) > 50)).await;
        assert!(pod.sidecar.drain(Duration::from_secs(5)).await, "all connections end");
        let results: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        println!("{served:?}");
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_during_a_drain_close_the_connection() {
    let mesh = TestMesh::new().await;
    let mut pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    let mut used = Client::connect(pod.inbound).await;
    assert!(!used.get("/").await.headers().contains_key("connection"));
    let mut new = Client::connect(pod.inbound).await;
    until("both connections are accepted", async || pod.sidecar.connections() == 2).await;
    pod.sidecar.signal.begin();
    assert_eq!(used.get("/").await.headers()["connection"], "close");
    assert_eq!(new.get("/").await.headers()["connection"], "close", "on a connection without earlier requests as well");
    assert!(pod.sidecar.drain(Duration::from_secs(5)).await, "all connections end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_session_accepts_streams_until_its_client_receives_goaway() {
    let mesh = TestMesh::new().await;
    let mut pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http2).await;
    let stream = tokio::net::TcpStream::connect(pod.inbound).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = |path: &str| Request::get(format!("http://reviews:9080{path}")).body(()).unwrap();
    let slow = sender.send_request(request("/delay/600"), true).unwrap().0;
    until("the request has arrived", async || pod.app.requests.load(Relaxed) == 1).await;
    pod.sidecar.signal.begin();
    let (mut accepted, mut refused) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        // After GOAWAY, h2 refuses a request. A request that is still in its queue at that time fails without being
        // sent.
        let result = match sender.send_request(request("/"), true) {
            Ok((response, _)) => response.await,
            Err(error) => Err(error),
        };
        match result {
            Ok(response) => {
                assert_eq!(response.status(), 200);
                accepted += 1;
            }
            Err(error) => {
                assert_eq!((error.is_go_away(), error.reason()), (true, Some(h2::Reason::NO_ERROR)));
                refused += 1;
                break;
            }
        }
    }
    println!("{accepted} more streams, then {refused} refused by the client");
    let response = slow.await.expect("the stream in progress is finished");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data: Bytes = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    drop(body);
    let received = pod.app.requests.load(Relaxed);
    assert_eq!(received, accepted + 1, "a refused stream does not reach the application, so it can be sent elsewhere");
    assert!(pod.sidecar.drain(Duration::from_secs(5)).await, "all connections end");
    connection.await.unwrap().expect("the session ends without an error");
}
