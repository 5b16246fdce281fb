//! Listeners that come, change and go, and the drain.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use wire::discovery as d;

use crate::client::{get, get_on};
use crate::fixture::{Gateway, app, at, free_port, http_server, listener, until};

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_and_go_with_the_configuration() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let (first, second) = (free_port(), free_port());
    gateway.push_service("a", a.address, d::Protocol::Http);
    gateway.route("one", "*", "a");
    let of = |port| listener(port, vec![http_server("one", &["*"])]);
    gateway.push_listeners(vec![of(first)]);
    gateway.start().await;
    let mut kept = TcpStream::connect(at(first)).await.unwrap();
    assert_eq!(get_on(&mut kept, "a", "/", "").await.unwrap().status, 200);
    assert!(TcpStream::connect(at(second)).await.is_err());
    gateway.push_listeners(vec![of(first), of(second)]);
    until("the second port is open", async || TcpStream::connect(at(second)).await.is_ok()).await;
    assert_eq!(get(at(second), "a", "/", "").await.status, 200);
    gateway.push_listeners(vec![of(second)]);
    until("the first port is closed", async || TcpStream::connect(at(first)).await.is_err()).await;
    // The requests of a connection to a removed listener have no route.
    assert_eq!(get_on(&mut kept, "a", "/", "").await.unwrap().status, 404);
    // Invalid listeners are rejected, and the ones before them stay.
    let invalid = d::Listener { port: 70_000, ..of(second) };
    gateway.push_listeners(vec![invalid]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(get(at(second), "a", "/", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_used_again_is_open_as_soon_as_its_old_listener_has_closed() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let (port, other) = (free_port(), free_port());
    gateway.push_service("a", a.address, d::Protocol::Http);
    gateway.route("one", "*", "a");
    let of = |port| listener(port, vec![http_server("one", &["*"])]);
    gateway.push_listeners(vec![of(port)]);
    gateway.start().await;
    let is_open = async |port| {
        let connecting = TcpStream::connect(at(port));
        matches!(tokio::time::timeout(Duration::from_millis(100), connecting).await, Ok(Ok(_)))
    };
    // Connections whose handshake has begun are accepted for 300 ms after the removal.
    gateway.push_listeners(vec![]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = Instant::now();
    gateway.push_listeners(vec![of(port), of(other)]);
    until("another port is open", async || is_open(other).await).await;
    until("the port is open again", async || is_open(port).await).await;
    assert!(again.elapsed() < Duration::from_millis(1500), "it took {:?}", again.elapsed());
    assert_eq!(get(at(port), "a", "/", "").await.status, 200);

    // A listener on one address takes the place of one on all.
    let bind = Ipv4Addr::LOCALHOST.octets().to_vec().into();
    let again = Instant::now();
    gateway.push_listeners(vec![d::Listener { bind, ..of(port) }]);
    until("the old listener is closed", async || !is_open(other).await).await;
    until("the port is open again", async || is_open(port).await).await;
    assert!(again.elapsed() < Duration::from_millis(1500), "it took {:?}", again.elapsed());
    assert_eq!(get(at(port), "a", "/", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_is_ready_before_its_first_gateway() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, d::Protocol::Http);
    gateway.route("one", "*", "a");
    gateway.start().await;
    gateway.push_listeners(vec![listener(port, vec![http_server("one", &["*"])])]);
    until("the port is open", async || TcpStream::connect(at(port)).await.is_ok()).await;
    assert_eq!(get(at(port), "a", "/", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_opens_when_all_of_its_routes_have_arrived() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, d::Protocol::Http);
    gateway.resources().delay(wire::Kind::RouteTable, Duration::from_millis(300));
    for host in 0..50 {
        gateway.route("one", &format!("h{host}.example.com"), "a");
    }
    gateway.push_listeners(vec![listener(port, vec![http_server("one", &["*"]), http_server("empty", &["*"])])]);
    gateway.start().await;
    for host in 0..50 {
        assert_eq!(get(at(port), &format!("h{host}.example.com"), "/", "").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_progress_finish_when_the_router_drains() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, d::Protocol::Http);
    gateway.route("one", "*", "a");
    gateway.push_listeners(vec![listener(port, vec![http_server("one", &["*"])])]);
    gateway.start().await;
    let slow = tokio::spawn(async move { get(at(port), "a", "/delay/500", "").await });
    until("the request is in progress", async || a.requests.load(std::sync::atomic::Ordering::Relaxed) > 0).await;
    gateway.signal.begin();
    assert_eq!(slow.await.unwrap().status, 200);
    assert!(gateway.drained.take().unwrap().within(Duration::from_secs(5)).await);
    assert!(TcpStream::connect(at(port)).await.is_err());
}
