//! Sidecars in pods' network namespaces, with the kernel's redirection as in a cluster. Each test runs in a process of its
//! own, once as root and once as an ordinary user (`harness`).
//!
//! ```text
//!   frontend 10.0.0.1 ──┐                        ┌── near   10.0.0.2 (us-west-1a)
//!     app, sidecar      ├── bridge, controller ──┤
//!                       │      10.0.0.254        └── beside 10.0.0.3 (us-west-1b)
//! ```

#[path = "../mesh/app.rs"]
#[allow(dead_code)]
mod app;
mod pods;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use http::Method;
use net::namespace::{Namespaces, enter_user_namespace, unshare};
use wire::discovery::Protocol;

use app::{Client, get, pod_of};
use pods::{Net, Pod};

/// The address of the service `reviews`, which no machine has.
const REVIEWS: (Ipv4Addr, u16) = (Ipv4Addr::new(240, 240, 0, 1), 9080);

/// The pods' DNS server, which no machine is.
const DNS_SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 53), 53);

const TESTS: &[harness::Test] = &[
    ("names_of_the_mesh_are_answered", names_of_the_mesh_are_answered),
    ("names_of_the_mesh_do_not_wait_for_a_dead_server", names_of_the_mesh_do_not_wait_for_a_dead_server),
    ("requests_are_captured_on_both_sides", requests_are_captured_on_both_sides),
    ("a_pod_reaches_itself", a_pod_reaches_itself),
    ("plaintext_from_outside_of_the_mesh_arrives", plaintext_from_outside_of_the_mesh_arrives),
    ("no_request_fails_when_a_pod_disconnects_silently", no_request_fails_when_a_pod_disconnects_silently),
];

fn main() -> ExitCode {
    harness::run(TESTS, enter_namespaces)
}

/// Moves this process to namespaces of its own, in which it may create pods.
fn enter_namespaces() -> Result<(), String> {
    // The harness shows the log of a test that fails.
    telemetry::logging::init("debug,h2=info,hyper=info", false).map_err(|error| error.to_string())?;
    enter_user_namespace().map_err(|error| error.to_string())?;
    unshare(Namespaces { net: true, ..Namespaces::default() }).map_err(|error| error.to_string())
}

/// The mesh of the diagram above.
struct Mesh {
    net: Net,
    frontend: Pod,
    near: Pod,
    _beside: Pod,
}

impl Mesh {
    fn start() -> Self {
        let net = Net::new().unwrap();
        let near = net.pod("near", "reviews", "us-west-1a", 2);
        let beside = net.pod("beside", "reviews", "us-west-1b", 3);
        net.push_service("reviews", REVIEWS, Protocol::Http, &[&near, &beside]);
        let frontend = net.pod("frontend", "frontend", "us-west-1a", 1);
        Self { net, frontend, near, _beside: beside }
    }
}

fn names_of_the_mesh_are_answered() {
    let mesh = Mesh::start();
    let query = |name: &'static str, kind| {
        mesh.frontend.run(move || async move {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            // No machine has this address: capture brings the query to the sidecar.
            socket.send_to(&message.to_vec().unwrap(), DNS_SERVER).unwrap();
            let mut buffer = [0; 4096];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, DNS_SERVER.into());
            let answer = Message::from_vec(&buffer[..length]).unwrap();
            let data: Vec<_> = answer.answers.iter().map(|record| record.data.clone()).collect();
            (answer.metadata.response_code, data)
        })
    };
    let a = query("reviews.default.svc.cluster.local.", RecordType::A);
    assert_eq!(a, (ResponseCode::NoError, vec![RData::A(REVIEWS.0.into())]));
    let aaaa = query("reviews.default.svc.cluster.local.", RecordType::AAAA);
    assert_eq!(aaaa, (ResponseCode::NoError, vec![]));
    let text = query("reviews.default.svc.cluster.local.", RecordType::TXT);
    assert_eq!(text, (ResponseCode::NoError, vec![]), "the name exists");
    let (code, ports) = query("_p._tcp.reviews.default.svc.cluster.local.", RecordType::SRV);
    let [RData::SRV(port)] = &ports[..] else { panic!("{code}: {ports:?}") };
    assert_eq!((port.port, port.target.to_ascii().as_str()), (REVIEWS.1, "reviews.default.svc.cluster.local."));
}

/// As many queries as may wait, and more, are for a server that does not answer.
fn names_of_the_mesh_do_not_wait_for_a_dead_server() {
    const OTHERS: u16 = 320;
    let mesh = Mesh::start();
    let (own, failed) = mesh.frontend.run(|| async {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let send = |id: u16, name: String| {
            let mut message = Message::new(id, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
            socket.send_to(&message.to_vec().unwrap(), DNS_SERVER).unwrap();
        };
        let mut buffer = [0; 4096];
        let mut receive = || {
            let length = socket.recv(&mut buffer).unwrap();
            let message = Message::from_vec(&buffer[..length]).unwrap();
            (message.metadata.id, message.metadata.response_code)
        };
        send(0, "reviews.default.svc.cluster.local.".into());
        assert_eq!(receive(), (0, ResponseCode::NoError), "the name is known from now on");
        for id in 1..=OTHERS {
            send(id, format!("host-{id}.example.com."));
            if id % 16 == 0 {
                // Datagrams that the sidecar does not read in time are lost.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let asked = Instant::now();
        send(0, "reviews.default.svc.cluster.local.".into());
        let mut failed = 0;
        let own = loop {
            match receive() {
                (0, code) => break (code, asked.elapsed()),
                (_, code) => failed += u16::from(code == ResponseCode::ServFail),
            }
        };
        (own, failed)
    });
    assert_eq!(own.0, ResponseCode::NoError);
    // A server has two and a half seconds.
    assert!(own.1 < Duration::from_secs(2), "{:?}", own.1);
    assert!(failed > 0, "queries for which there is no room fail at once");
}

fn requests_are_captured_on_both_sides() {
    let mesh = Mesh::start();
    let response = mesh.frontend.run(|| get(REVIEWS.into()));
    assert_eq!((response.status().as_u16(), pod_of(&response)), (200, "near"));
    let xfcc = response.headers()["seen-x-forwarded-client-cert"].to_str().unwrap();
    assert!(xfcc.contains("URI=spiffe://cluster.local/ns/default/sa/frontend"), "{xfcc}");
    assert_eq!(response.headers()["seen-client"], "127.0.0.6", "the application sees a local peer");
}

fn a_pod_reaches_itself() {
    let mesh = Mesh::start();
    let near = &mesh.near;
    let own = near.address(9080);
    assert_eq!(pod_of(&near.run(move || get(own))), "near", "by its own address");
    assert_eq!(pod_of(&near.run(move || get(([127, 0, 0, 1], 9080).into()))), "near", "by loopback");
    let through_the_mesh = near.run(|| get(REVIEWS.into()));
    assert_eq!((through_the_mesh.status().as_u16(), pod_of(&through_the_mesh)), (200, "near"), "by its service");
}

fn plaintext_from_outside_of_the_mesh_arrives() {
    let mesh = Mesh::start();
    let response = mesh.net.run_outside(get(mesh.near.address(9080)));
    assert_eq!(pod_of(&response), "near");
    assert!(!response.headers().contains_key("seen-x-forwarded-client-cert"));
}

/// The pod's machine disappears: nothing is refused, nothing acknowledged.
fn no_request_fails_when_a_pod_disconnects_silently() {
    let mesh = Mesh::start();
    let disconnect = mesh.near.disconnection();
    let timeline = mesh.frontend.run(move || async move {
        let begun = Instant::now();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                tokio::spawn(async move {
                    let mut client = Client::connect(REVIEWS.into()).await;
                    let mut seen = Vec::new();
                    while begun.elapsed() < Duration::from_secs(4) {
                        let at = begun.elapsed();
                        let response = client.request(Method::GET, "/", b"").await;
                        seen.push((at, begun.elapsed() - at, response.status().as_u16(), pod_of(&response).to_owned()));
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    seen
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::spawn_blocking(disconnect).await.unwrap();
        let disconnected = begun.elapsed();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.await.unwrap());
        }
        all.sort();
        (disconnected, all)
    });
    let (disconnected, all) = timeline;
    let failed: Vec<_> = all.iter().filter(|(_, _, status, _)| *status != 200).collect();
    let slowest = all.iter().map(|(_, took, ..)| *took).max().unwrap();
    let first = all.iter().filter(|(.., by)| by == "beside").map(|(at, took, ..)| *at + *took).min().unwrap();
    println!(
        "   {} requests; disconnected at {disconnected:?}; first response of the other pod {:?} later; slowest {slowest:?}; failed {}",
        all.len(),
        first - disconnected,
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(first - disconnected < Duration::from_secs(1));
    let late = all.iter().filter(|(at, ..)| *at > disconnected + Duration::from_millis(1500));
    let slow: Vec<_> = late.filter(|(_, took, ..)| *took > Duration::from_millis(900)).collect();
    assert!(slow.is_empty(), "slow long after: {slow:?}");
}
