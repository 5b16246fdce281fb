//! Leaving: whoever has connected is served.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use wire::discovery::Protocol;

use crate::app::{App, Client};
use crate::fixture::World;

/// One request on a connection of its own. `Ok(false)` where there is no connection.
fn ask(address: SocketAddr) -> Result<bool, String> {
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
    if whole { Ok(true) } else { Err(format!("answered {:?}", String::from_utf8_lossy(&response))) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_reset_that_the_kernel_took() {
    let world = World::new().await;
    let app = App::start("reviews-a").await;
    // The same as what an application beside its sidecar would see, twice over.
    for _ in 0..2 {
        let app = App::listen("reviews-a", SocketAddr::new(app.address.ip(), 0)).await;
        let mut pod = world.pod_of("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http, app).await;
        #[expect(clippy::needless_collect, reason = "all of them call before the first one is waited for")]
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let address = pod.inbound;
                std::thread::spawn(move || {
                    let (begun, mut served) = (Instant::now(), 0);
                    while ask(address)? {
                        served += 1;
                        assert!(begun.elapsed() < Duration::from_secs(20), "it never closed");
                    }
                    Ok::<_, String>(served)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(pod.sidecar.drain(Duration::from_secs(5)).await, "all connections ended");
        let served: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        println!("{served:?}");
        assert!(served.iter().all(|served| served.as_ref().is_ok_and(|served| *served > 5)), "{served:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_is_told_with_its_last_response() {
    let world = World::new().await;
    let mut pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    let mut client = Client::connect(pod.inbound).await;
    assert!(!client.get("/").await.headers().contains_key("connection"));
    let mut new = Client::connect(pod.inbound).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    pod.sidecar.signal.begin();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.get("/").await.headers()["connection"], "close");
    assert_eq!(new.get("/").await.headers()["connection"], "close", "one that had not asked before as well");
    assert!(pod.sidecar.drain(Duration::from_secs(5)).await, "all connections ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_takes_streams_until_its_client_knows_better() {
    let world = World::new().await;
    let mut pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http2).await;
    let stream = tokio::net::TcpStream::connect(pod.inbound).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let call = |path: &str| Request::get(format!("http://reviews:9080{path}")).body(()).unwrap();
    let slow = sender.send_request(call("/delay/600"), true).unwrap().0;
    tokio::time::sleep(Duration::from_millis(100)).await;
    pod.sidecar.signal.begin();
    let (mut taken, mut refused) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        // h2 refuses at once, or, where GOAWAY arrives before the request has left its queue, instead of sending it.
        let answered = match sender.send_request(call("/"), true) {
            Ok((response, _)) => response.await,
            Err(error) => Err(error),
        };
        match answered {
            Ok(response) => {
                assert_eq!(response.status(), 200);
                taken += 1;
            }
            Err(error) => {
                assert_eq!((error.is_go_away(), error.reason()), (true, Some(h2::Reason::NO_ERROR)));
                refused += 1;
                break;
            }
        }
    }
    println!("{taken} more streams, then {refused} refused here");
    let response = slow.await.expect("what was under way is finished");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data: Bytes = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    drop(body);
    let reached = pod.app.requests.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(reached, taken + 1, "what was refused did not reach the application, and may be sent elsewhere");
    assert!(pod.sidecar.drain(Duration::from_secs(5)).await, "all connections ended");
    connection.await.unwrap().expect("an end in good order");
}
