//! Tests of a gateway on real sockets, between real TLS clients and servers.

use super::*;

use std::net::{Ipv4Addr, SocketAddr};

use identity::alpn;
use runtime::admission::Limits as AdmissionLimits;
use telemetry::istio::{TCP_CLOSED, TCP_OPENED, TCP_RECEIVED, TCP_SENT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use wire::discovery;

use crate::connection;
use crate::fixtures::{RATINGS, SNI};

mod fixture;

use fixture::{CLIENTS_TIMEOUT, Gateway, Peers, read_line};

#[tokio::test]
async fn forwards_by_server_name_without_terminating_tls() {
    let peers = Peers::new();
    let gateway = Gateway::start(WorkerSettings::default(), &[peers.serve("a").await]);
    let mut stream = peers.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    assert_eq!(read_line(&mut stream).await.unwrap(), "a spiffe://cluster.local/ns/default/sa/frontend");
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut echo).await.unwrap(), 0);
    drop(stream);
    gateway.wait_for_ended(RATINGS, "success", 1).await;
    let total =
        |family| gateway.registry.total(family, |labels| labels.contains(&("destination_workload", "ratings-v1")));
    assert_eq!((total(&TCP_OPENED), total(&TCP_CLOSED)), (1, 1));
    assert!(total(&TCP_SENT) > 500 && total(&TCP_RECEIVED) > 1500, "{}", gateway.registry.render());
    assert_eq!(gateway.access_log(), format!("- {SNI} {SNI}\n"));
}

#[tokio::test]
async fn carries_megabytes_and_forwards_half_closes() {
    let peers = Peers::new();
    let gateway = Gateway::start(WorkerSettings::default(), &[peers.serve("a").await]);
    let mut stream = peers.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    read_line(&mut stream).await.unwrap();
    let sent: Vec<u8> = (0..8_u32 << 20).map(|number| (number % 251) as u8).collect();
    let (mut reads, mut writes) = tokio::io::split(stream);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        writes.write_all(&sent).await.unwrap();
        writes.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    reads.read_to_end(&mut received).await.unwrap();
    writing.await.unwrap();
    assert!(received == expected, "{} of {} bytes are returned", received.len(), expected.len());
    gateway.wait_for_ended(RATINGS, "success", 1).await;
}

#[tokio::test]
async fn spreads_over_endpoints_and_avoids_unreachable_ones() {
    let peers = Peers::new();
    let (a, b) = (peers.serve("a").await, peers.serve("b").await);
    let unreachable = net::socket::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let gateway = Gateway::start(WorkerSettings::default(), &[a, b, unreachable.local_addr().unwrap()]);
    let mut connections = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..60 {
        let greeting =
            peers.greeting(gateway.address).await.expect("no connection fails because of an unreachable endpoint");
        *connections.entry(greeting[..1].to_owned()).or_default() += 1;
    }
    assert!(connections["a"] > 10 && connections["b"] > 10, "{connections:?}");
    assert_eq!(gateway.ended(RATINGS, "connect_failed"), 0);
}

/// An address whose packets are dropped, as those to a pod that vanished are: the kernel drops the SYNs to a listener whose
/// queue is full.
struct BlackHole {
    address: SocketAddr,
    _listener: std::net::TcpListener,
    _queued: Vec<std::net::TcpStream>,
}

impl BlackHole {
    fn open() -> Self {
        let options = net::Listen { backlog: 0, ..net::Listen::default() };
        let listener = net::listen(([127, 0, 0, 1], 0).into(), &options).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok();
        let queued = std::iter::from_fn(connect).take(16).collect();
        assert!(connect().is_none(), "the queue is full");
        Self { address, _listener: listener, _queued: queued }
    }
}

/// The client's sidecar must not give up while the gateway waits for a pod that is gone.
#[tokio::test]
async fn no_connection_is_lost_when_half_of_the_pods_vanish_silently() {
    let peers = Peers::new();
    let holes = [BlackHole::open(), BlackHole::open(), BlackHole::open()];
    let mut endpoints: Vec<SocketAddr> = holes.iter().map(|hole| hole.address).collect();
    for name in ["a", "b", "c"] {
        endpoints.push(peers.serve(name).await);
    }
    let gateway = Gateway::start(WorkerSettings::default(), &endpoints);
    for _ in 0..40 {
        let greeting = tokio::time::timeout(CLIENTS_TIMEOUT, peers.greeting(gateway.address)).await;
        greeting.expect("the client's timeout is not reached").unwrap();
    }
}

/// The client's sidecar learns that the gateway found no pod, instead of timing out, and may use another cluster.
#[tokio::test]
async fn the_gateway_gives_up_before_its_client_does() {
    let peers = Peers::new();
    let holes = [BlackHole::open(), BlackHole::open()];
    let gateway = Gateway::start(WorkerSettings::default(), &[holes[0].address, holes[1].address]);
    let answer = tokio::time::timeout(CLIENTS_TIMEOUT, peers.greeting(gateway.address)).await;
    let error = answer.expect("the client's timeout is not reached").unwrap_err();
    assert!(error.to_string().contains("InternalError"), "{error}");
    gateway.wait_for_ended(RATINGS, "connect_failed", 1).await;
}

#[tokio::test]
async fn a_service_without_reachable_endpoints_is_refused() {
    let peers = Peers::new();
    let unreachable = net::socket::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let gateway = Gateway::start(WorkerSettings::default(), &[unreachable.local_addr().unwrap()]);
    let error = peers.greeting(gateway.address).await.unwrap_err();
    assert!(error.to_string().contains("InternalError"), "{error}");
    gateway.wait_for_ended(RATINGS, "connect_failed", 1).await;
    gateway.publish(&[]);
    peers.greeting(gateway.address).await.unwrap_err();
    gateway.wait_for_ended(RATINGS, "no_endpoint", 1).await;
    assert_eq!(gateway.access_log(), format!("UF {SNI} {SNI}\nUH {SNI} {SNI}\n"));
}

#[tokio::test]
async fn server_names_that_are_not_exported_are_refused_and_are_no_labels() {
    let peers = Peers::new();
    let gateway = Gateway::start(WorkerSettings::default(), &[peers.serve("a").await]);
    for name in ["outbound_.9080_._.secrets.default.svc.cluster.local", RATINGS, "outbound_.9081_._.x.y"] {
        let error = peers.connect(gateway.address, name, alpn::CLIENT_TCP).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
    gateway.wait_for_ended("unknown", "unknown_server_name", 3).await;
    assert!(!gateway.registry.render().contains("secrets"));
    assert!(gateway.access_log().starts_with("NR outbound_.9080_._.secrets.default.svc.cluster.local -\n"));
    // TLS sends no server name for an IP address.
    peers.connect(gateway.address, "192.0.2.1", alpn::CLIENT_TCP).await.unwrap_err();
    gateway.wait_for_ended("unknown", "no_server_name", 1).await;
}

#[tokio::test]
async fn only_proxies_of_the_mesh_are_forwarded() {
    let peers = Peers::new();
    let gateway = Gateway::start(WorkerSettings::default(), &[peers.serve("a").await]);
    let error = peers.connect(gateway.address, SNI, &[b"h2", b"http/1.1"]).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    gateway.wait_for_ended(RATINGS, "protocol_not_offered", 1).await;
    // The controller's server name accepts other protocols.
    let mut stream = peers.connect(gateway.address, "controller.mesh.svc", alpn::DISCOVERY).await.unwrap();
    assert!(read_line(&mut stream).await.unwrap().starts_with("a "));
    // Server names are compared without regard to case.
    let mut stream = peers
        .connect(gateway.address, &SNI.to_ascii_uppercase().replace("OUTBOUND", "outbound"), alpn::CLIENT_HTTP2)
        .await
        .unwrap();
    assert!(read_line(&mut stream).await.unwrap().starts_with("a "));
}

#[tokio::test]
async fn clients_at_addresses_of_clusters_that_may_not_consume_the_service_are_refused() {
    let peers = Peers::new();
    let endpoint = peers.serve("a").await;
    let gateway = Gateway::start(WorkerSettings::default(), &[endpoint]);
    let range = |ip: [u8; 4], length| discovery::AddressRange { ip: ip.to_vec().into(), length };
    let sources = |permitted, refused| Some(discovery::SourceAddresses { permitted, refused, permitted_only: true });
    for (sources, permitted) in [
        (sources(vec![range([127, 0, 0, 0], 8)], vec![]), true),
        (sources(vec![range([127, 0, 0, 0], 8)], vec![range([127, 0, 0, 1], 32)]), false),
        (sources(vec![range([198, 51, 100, 0], 24)], vec![]), false),
        (None, true),
    ] {
        gateway.publish_to(&[endpoint], sources.clone());
        match peers.greeting(gateway.address).await {
            Ok(_) => assert!(permitted, "{sources:?}"),
            Err(error) => assert!(!permitted && error.to_string().contains("AccessDenied"), "{sources:?}: {error}"),
        }
    }
    gateway.wait_for_ended(RATINGS, "source_not_permitted", 2).await;
}

/// Sends bytes and returns the bytes received until the gateway closes the connection.
async fn send(gateway: SocketAddr, bytes: &[u8], close: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if close {
        stream.shutdown().await.unwrap();
    }
    let mut received = Vec::new();
    // The gateway may reset the connection.
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut received))
        .await
        .expect("the gateway closes");
    received
}

/// Returns a ClientHello with a server name of this length.
fn client_hello(name_length: usize) -> Vec<u8> {
    let name = vec![b'a'; name_length];
    let u16 = |length: usize| (length as u16).to_be_bytes();
    let list = [&[0][..], &u16(name.len()), &name].concat();
    let value = [&u16(list.len())[..], &list].concat();
    let extension = [&[0, 0][..], &u16(value.len()), &value].concat();
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &u16(extension.len()), &extension].concat();
    let message = [&[1, 0][..], &u16(body.len()), &body].concat();
    [&[22, 3, 1][..], &u16(message.len()), &message].concat()
}

#[tokio::test]
async fn invalid_client_hellos_are_refused_and_counted_and_disturb_no_other_connection() {
    let peers = Peers::new();
    let limits = Limits { deadline: Duration::from_millis(300), ..Limits::default() };
    let gateway =
        Gateway::start(WorkerSettings { hello: limits, ..WorkerSettings::default() }, &[peers.serve("a").await]);
    let mut open = peers.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    read_line(&mut open).await.unwrap();

    let whole = client_hello(20);
    let endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 600]].concat();
    let cases: [(&str, &[u8], bool, &[u8]); 8] = [
        ("not_tls", b"GET / HTTP/1.1\r\n\r\n", false, &[]),
        ("empty", b"", true, &[]),
        ("hello_unfinished", &whole[..40], true, &[]),
        ("hello_slow", &whole[..40], false, &[]),
        ("hello_too_large", &endless, false, &[40]),
        ("server_name_invalid", &client_hello(300), false, &[112]),
        ("hello_malformed", &[22, 3, 1, 0, 5, 2, 0, 0, 1, 0], false, &[50]),
        ("unknown_server_name", &whole, false, &[112]),
    ];
    for (outcome, bytes, close, alert) in cases {
        let received = send(gateway.address, bytes, close).await;
        gateway.wait_for_ended("unknown", outcome, 1).await;
        match alert {
            [] => assert!(received.is_empty(), "{outcome}: {received:?}"),
            // Unread bytes make the kernel reset the connection, and the reset may arrive before the alert.
            _ if received.is_empty() => {}
            [alert] => assert_eq!(received, [21, 3, 3, 0, 2, 2, *alert], "{outcome}"),
            _ => unreachable!("at most one alert"),
        }
    }
    open.write_all(b"still").await.unwrap();
    let mut echo = [0; 5];
    open.read_exact(&mut echo).await.unwrap();
    assert!(peers.greeting(gateway.address).await.unwrap().starts_with("a "));
}

/// Returns settings with limits on connections.
fn limited(limits: AdmissionLimits) -> WorkerSettings {
    WorkerSettings { admission: Admission::new(limits), ..WorkerSettings::default() }
}

/// Connects from another address than other clients of the test.
async fn connect_from_elsewhere(gateway: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    socket.connect(gateway).await.unwrap()
}

#[tokio::test]
async fn clients_are_forwarded_beside_a_source_with_many_half_open_hellos() {
    let peers = Peers::new();
    let limits = AdmissionLimits { pending: 32, ..AdmissionLimits::default() };
    let gateway = Gateway::start(limited(limits), &[peers.serve("a").await]);
    let half = client_hello(20);
    let mut half_open = Vec::new();
    for _ in 0..1100 {
        let mut stream = connect_from_elsewhere(gateway.address).await;
        // The oldest are closed meanwhile.
        let _ = stream.write_all(&half[..40]).await;
        half_open.push(stream);
    }
    for _ in 0..100 {
        assert!(peers.greeting(gateway.address).await.unwrap().starts_with("a "));
    }
    let displaced = gateway.ended("unknown", "displaced");
    assert!((1100 - 32..=1100).contains(&displaced), "{displaced} connections of the other source are closed");
    assert!(matches!(half_open[0].read(&mut [0; 1]).await, Ok(0) | Err(_)), "the oldest is closed");
}

#[tokio::test]
async fn clients_are_forwarded_beside_a_source_with_many_idle_connections() {
    let peers = Peers::new();
    let limits = AdmissionLimits { connections: 20, ..AdmissionLimits::default() };
    let gateway = Gateway::start(limited(limits), &[peers.serve("a").await]);
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut stream = peers.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
        read_line(&mut stream).await.unwrap();
        open.push(stream);
    }
    assert!(peers.greeting(gateway.address).await.is_err(), "connections in use are four fifths of the limit");
    drop(connect_from_elsewhere(gateway.address).await);
    // After two reports without a byte, the connections are idle.
    let room = async { while peers.greeting(gateway.address).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), room).await.expect("an idle connection makes room");
}

#[tokio::test]
async fn a_drain_refuses_new_connections_and_lets_open_ones_finish() {
    let peers = Peers::new();
    let gateway = Gateway::start(WorkerSettings::default(), &[peers.serve("a").await]);
    let mut stream = peers.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    read_line(&mut stream).await.unwrap();
    gateway.drain.begin();
    let refused = async {
        while TcpStream::connect(gateway.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("new connections are refused");
    stream.write_all(b"alive").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"alive");
}

#[tokio::test]
async fn new_routes_do_not_affect_open_connections() {
    let peers = Peers::new();
    let (a, b) = (peers.serve("a").await, peers.serve("b").await);
    let gateway = Gateway::start(WorkerSettings::default(), &[a]);
    let mut open = peers.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    assert!(read_line(&mut open).await.unwrap().starts_with("a "));
    gateway.publish(&[b]);
    assert!(peers.greeting(gateway.address).await.unwrap().starts_with("b "));
    open.write_all(b"alive").await.unwrap();
    let mut echo = [0; 5];
    open.read_exact(&mut echo).await.unwrap();
}

#[tokio::test]
async fn a_reset_by_the_client_is_counted_as_such() {
    let peers = Peers::new();
    let gateway = Gateway::start(WorkerSettings::default(), &[peers.serve("a").await]);
    let mut stream = peers.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    read_line(&mut stream).await.unwrap();
    stream.get_ref().0.set_zero_linger().unwrap();
    drop(stream);
    gateway.wait_for_ended(RATINGS, "client_reset", 1).await;
}

#[test]
fn the_future_of_a_connection_is_small() {
    // The future is most of the memory of an idle connection, beside its two sockets.
    let settings = WorkerSettings::default();
    let registry = Registry::new();
    let worker = GatewayWorker::new(settings, Arc::default(), AccessLogFiles::new(registry.clone()), &registry);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        Admission::new(AdmissionLimits::default()).admit(Ipv4Addr::LOCALHOST.into(), |admitted| {
            let future = connection::serve(client, "127.0.0.1:1".parse().unwrap(), admitted, &worker);
            let size = std::mem::size_of_val(&future);
            assert!((500..4096).contains(&size), "{size} bytes");
            tokio::spawn(std::future::ready(())).abort_handle()
        });
    });
}
