//! Policies of destinations: load balancing, limits, outlier detection, TLS and what precedes connections.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::{Request, Response, header};
use http_body_util::Full;
use identity::{Authority, ClientRoots, Identity, KeyAndRequest, SpiffeId, Trust};
use telemetry::istio::{REQUESTS, TCP_CLOSED};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wire::Kind;
use wire::discovery as d;

use crate::app::{App, Client, get, pod_of, start_server_first};
use crate::fixture::{DOMAIN, Pod, Sidecar, TestMesh, until};

/// Pushes the policy of a service.
fn push(mesh: &TestMesh, service: &str, policy: d::TrafficPolicy) {
    let variant = d::DestinationVariant { policy: Some(policy), ..Default::default() };
    let message = d::DestinationPolicy { variants: vec![variant] };
    mesh.resources().push(Kind::DestinationPolicy, &format!("{service}.default.svc.{DOMAIN}"), &message, &[]);
}

/// Starts the service `reviews` with some pods in one zone and this policy, and a client.
async fn reviews(pods: usize, policy: d::TrafficPolicy) -> (Arc<TestMesh>, Vec<Pod>, Sidecar) {
    let mesh = TestMesh::new().await;
    push(&mesh, "reviews", policy);
    mesh.push_service("reviews", 1, d::Protocol::Http);
    let mut all = Vec::new();
    for number in 0..pods {
        let name = format!("reviews-{number}");
        all.push(mesh.pod("west", "us-west-1a", &name, "reviews", d::Protocol::Http).await);
        mesh.push_endpoint("reviews", &all[number], |_| {});
    }
    let frontend = mesh.client("frontend").await;
    (mesh, all, frontend)
}

/// Pushes an endpoint without a sidecar.
fn push_plain_endpoint(mesh: &TestMesh, service: &str, id: &str, address: SocketAddr) {
    let IpAddr::V4(ip) = address.ip() else { unreachable!() };
    let hostname = format!("{service}.default.svc.{DOMAIN}");
    let direct = d::Direct {
        ip: ip.octets().to_vec().into(),
        ports: [(9080, u32::from(address.port()))].into(),
        ..Default::default()
    };
    let endpoint = d::Endpoint {
        service: hostname.clone(),
        cluster: "west".into(),
        network: "net-west".into(),
        weight: 1,
        kind: Some(d::endpoint::Kind::Direct(direct)),
        ..Default::default()
    };
    let collection = wire::name::endpoints(&hostname, "net-west");
    let name = wire::name::endpoint(&hostname, "net-west", "west", id);
    mesh.resources().push(Kind::Endpoint, &name, &endpoint, &[&collection]);
}

fn pool(pool: d::ConnectionPool) -> d::TrafficPolicy {
    d::TrafficPolicy { connection_pool: Some(pool), ..Default::default() }
}

fn balanced(balancer: d::LoadBalancer) -> d::TrafficPolicy {
    d::TrafficPolicy { load_balancer: Some(balancer), ..Default::default() }
}

fn by(key: d::consistent_hash::Key) -> d::TrafficPolicy {
    let hash = d::ConsistentHash { key: Some(key), algorithm: None };
    balanced(d::LoadBalancer { consistent_hash: Some(hash), ..Default::default() })
}

async fn with_header(client: &mut Client, name: &str, value: &str) -> Response<hyper::body::Incoming> {
    let request = Request::get("/").header("host", "reviews:9080").header(name, value);
    client.send(request.body(Full::default()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_takes_turns() {
    let algorithm = d::LoadBalancerAlgorithm::RoundRobin.into();
    let (_mesh, _pods, frontend) = reviews(3, balanced(d::LoadBalancer { algorithm, ..Default::default() })).await;
    let address = frontend.service_address(1);
    let mut counts = HashMap::new();
    for _ in 0..30 {
        *counts.entry(pod_of(&get(address).await).to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_one_header_value_go_to_one_pod() {
    let (_mesh, _pods, frontend) = reviews(3, by(d::consistent_hash::Key::Header("x-user".into()))).await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    let mut all = BTreeSet::new();
    for user in 0..20 {
        let user = format!("user-{user}");
        let first = pod_of(&with_header(&mut client, "x-user", &user).await).to_owned();
        for _ in 0..3 {
            assert_eq!(pod_of(&with_header(&mut client, "x-user", &user).await), first);
        }
        all.insert(first);
    }
    assert_eq!(all.len(), 3, "different values go to different pods");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_cookie_keeps_a_client_at_its_pod() {
    let cookie = d::HashCookie { name: "user".into(), path: "/".into(), ttl_ms: Some(60_000), attributes: vec![] };
    let (_mesh, _pods, frontend) = reviews(3, by(d::consistent_hash::Key::Cookie(cookie))).await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    let first = client.get("/").await;
    let set = first.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(set.starts_with("user=\"") && set.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{set}");
    let pair = set.split(';').next().unwrap();
    // Another connection has another address.
    let mut other = Client::connect(frontend.service_address(1)).await;
    for _ in 0..10 {
        let response = with_header(&mut other, "cookie", pair).await;
        assert_eq!(pod_of(&response), pod_of(&first));
        assert!(!response.headers().contains_key(header::SET_COOKIE));
    }
}

/// The address that the client connected to, whatever the endpoints are.
#[tokio::test(flavor = "multi_thread")]
async fn passthrough_uses_the_address_of_the_client() {
    let app = App::start("elsewhere").await;
    let mesh = TestMesh::new().await;
    let algorithm = d::LoadBalancerAlgorithm::Passthrough.into();
    push(&mesh, "reviews", balanced(d::LoadBalancer { algorithm, ..Default::default() }));
    let pod = mesh.pod("west", "us-west-1a", "reviews-0", "reviews", d::Protocol::Http).await;
    let hostname = format!("reviews.default.svc.{DOMAIN}");
    let port = d::Port {
        number: app.address.port().into(),
        name: "p".into(),
        protocol: d::Protocol::Http.into(),
        ..Default::default()
    };
    let IpAddr::V4(ip) = app.address.ip() else { unreachable!() };
    let service = d::Service {
        hostname: hostname.clone(),
        ports: vec![port],
        addresses: vec![d::VirtualAddress { cluster: String::new(), ip: ip.octets().to_vec().into() }],
        ..Default::default()
    };
    mesh.resources().push(Kind::Service, &hostname, &service, &[&wire::name::address("west", app.address.ip())]);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    let response = get(frontend.captured_address(app.address)).await;
    assert_eq!(pod_of(&response), "elsewhere");
}

fn outlier_detection(consecutive: u32, percent: u32) -> d::TrafficPolicy {
    let outlier_detection = d::OutlierDetection {
        consecutive_5xx_errors: Some(consecutive),
        interval_ms: 200,
        base_ejection_time_ms: 400,
        max_ejection_percent: Some(percent),
        ..Default::default()
    };
    d::TrafficPolicy { outlier_detection: Some(outlier_detection), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_answers_500_is_ejected_and_returns() {
    let (_mesh, pods, frontend) = reviews(2, outlier_detection(3, 50)).await;
    let address = frontend.service_address(1);
    pods[0].app.status.store(500, Relaxed);
    until("the pod is ejected", async || {
        get(address).await;
        frontend.scrape().contains(
            "outlier_detection_ejections_active{cluster_name=\"outbound|9080||reviews.default.svc.cluster.local\"} 1",
        )
    })
    .await;
    for _ in 0..10 {
        assert_eq!(pod_of(&get(address).await), "reviews-1");
    }
    assert!(frontend.scrape().contains(
        "ejections_enforced_consecutive_5xx{cluster_name=\"outbound|9080||reviews.default.svc.cluster.local\"} 1"
    ));
    pods[0].app.status.store(200, Relaxed);
    until("the pod is used again", async || pod_of(&get(address).await) == "reviews-0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_all_pods_are_ejected_requests_fail_at_once() {
    let (_mesh, pods, frontend) = reviews(1, outlier_detection(2, 100)).await;
    let address = frontend.service_address(1);
    pods[0].app.status.store(500, Relaxed);
    let statuses = [get(address).await, get(address).await, get(address).await].map(|of| of.status().as_u16());
    assert_eq!(statuses, [500, 500, 503]);
    assert_eq!(frontend.total(&REQUESTS, &[("response_flags", "UH"), ("response_code", "503")]), 1);
    pods[0].app.status.store(200, Relaxed);
    until("the ejection ends", async || get(address).await.status() == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_of_one_pod_is_none() {
    let (_mesh, pods, frontend) = reviews(1, outlier_detection(2, 0)).await;
    let address = frontend.service_address(1);
    pods[0].app.status.store(500, Relaxed);
    for _ in 0..6 {
        assert_eq!(get(address).await.status(), 500);
    }
    assert!(frontend.scrape().contains(
        "outlier_detection_ejections_overflow{cluster_name=\"outbound|9080||reviews.default.svc.cluster.local\"} 3"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limits_are_refused_with_the_overloaded_header() {
    for limits in [
        d::ConnectionPool { http2_max_requests: Some(2), ..Default::default() },
        // One in progress, one waiting.
        d::ConnectionPool { max_connections: 1, http1_max_pending_requests: Some(1), ..Default::default() },
    ] {
        let (_mesh, _pods, frontend) = reviews(1, pool(limits)).await;
        let address = frontend.service_address(1);
        assert_eq!(get(address).await.status(), 200);
        let slow = || async { Client::connect(address).await.get("/delay/400").await };
        let (a, b, c) = tokio::join!(slow(), slow(), slow());
        let mut statuses = [&a, &b, &c].map(|response| response.status().as_u16());
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 503], "{limits:?}");
        let refused = [a, b, c].into_iter().find(|response| response.status() == 503).unwrap();
        assert_eq!(refused.headers().get("x-envoy-overloaded").map(|value| value.as_bytes()), Some(&b"true"[..]));
        assert_eq!(frontend.total(&REQUESTS, &[("response_flags", "UO"), ("response_code", "503")]), 1);
        assert!(frontend.scrape().contains(
            "upstream_rq_pending_overflow{cluster_name=\"outbound|9080||reviews.default.svc.cluster.local\"} 1"
        ));
        assert_eq!(get(address).await.status(), 200, "the places are free again");
    }
}

/// The places of all workers are one set, and so are the failures that they have seen.
#[tokio::test(flavor = "multi_thread")]
async fn limits_and_ejections_are_exact_across_workers() {
    let (mesh, pods, _) =
        reviews(1, pool(d::ConnectionPool { http2_max_requests: Some(3), ..Default::default() })).await;
    let frontend = mesh.client_with_workers("shop", 2).await;
    let address = frontend.service_address(1);
    let slow = || async {
        let responses =
            (0..8).map(|_| async { Client::connect(address).await.get("/delay/300").await.status().as_u16() });
        futures_util::future::join_all(responses).await
    };
    for _ in 0..3 {
        let statuses = slow().await;
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 3, "{statuses:?}");
    }
    // Each worker needs the only connection in turn.
    push(&mesh, "reviews", pool(d::ConnectionPool { max_connections: 1, ..Default::default() }));
    until("no request is refused", async || slow().await == [200; 8]).await;
    push(&mesh, "reviews", outlier_detection(4, 100));
    pods[0].app.status.store(500, Relaxed);
    until("the policy is in force", async || get(address).await.status() == 503).await;
    pods[0].app.status.store(200, Relaxed);
    until("the ejection ends", async || get(address).await.status() == 200).await;
    pods[0].app.status.store(500, Relaxed);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(get(address).await.status().as_u16());
    }
    assert_eq!(statuses, [500, 500, 500, 500, 503]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_requests_one_after_the_other() {
    let limits = d::ConnectionPool { max_connections: 1, ..Default::default() };
    let (_mesh, pods, frontend) = reviews(1, pool(limits)).await;
    let address = frontend.service_address(1);
    let slow = || async { Client::connect(address).await.get("/delay/50").await.status().as_u16() };
    let statuses = tokio::join!(slow(), slow(), slow(), slow());
    assert_eq!(statuses, (200, 200, 200, 200));
    assert_eq!(pods[0].gate.connections(), 1);
}

/// The place of an idle connection to one pod is needed for another pod.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_makes_room_for_one_to_another_pod() {
    let policy = d::TrafficPolicy {
        connection_pool: Some(d::ConnectionPool { max_connections: 1, ..Default::default() }),
        load_balancer: Some(d::LoadBalancer {
            algorithm: d::LoadBalancerAlgorithm::RoundRobin.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let (_mesh, _pods, frontend) = reviews(2, policy).await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    let mut pods = BTreeSet::new();
    for _ in 0..6 {
        pods.insert(pod_of(&client.get("/").await).to_owned());
    }
    assert_eq!(pods.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_after_its_number_of_requests() {
    let limits = d::ConnectionPool { max_requests_per_connection: 2, ..Default::default() };
    let (_mesh, pods, frontend) = reviews(1, pool(limits)).await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    for _ in 0..6 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!(pods[0].gate.connections(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_not_used_after_its_time() {
    let limits = d::ConnectionPool { http_idle_timeout_ms: Some(50), ..Default::default() };
    let (_mesh, pods, frontend) = reviews(1, pool(limits)).await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    assert_eq!(client.get("/").await.status(), 200);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.get("/").await.status(), 200);
    assert_eq!(pods[0].gate.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_upgraded_to_http2() {
    for (limits, version) in [
        (d::ConnectionPool { h2_upgrade: Some(true), ..Default::default() }, "HTTP/2.0"),
        (d::ConnectionPool { h2_upgrade: Some(false), ..Default::default() }, "HTTP/1.1"),
        (d::ConnectionPool::default(), "HTTP/1.1"),
    ] {
        let mesh = TestMesh::new().await;
        push(
            &mesh,
            "web",
            d::TrafficPolicy {
                tls: Some(d::ClientTls { mode: d::ClientTlsMode::Disable.into(), ..Default::default() }),
                ..pool(limits)
            },
        );
        mesh.push_service("web", 1, d::Protocol::Http);
        let app = App::start("web").await;
        push_plain_endpoint(&mesh, "web", "web-0", app.address);
        let frontend = mesh.client("frontend").await;
        let response = get(frontend.service_address(1)).await;
        assert_eq!(response.headers()["seen-version"], version, "{limits:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_modes_decide_whether_the_mesh_s_tls_is_used() {
    let mode = |mode: d::ClientTlsMode| d::TrafficPolicy {
        tls: Some(d::ClientTls { mode: mode.into(), ..Default::default() }),
        ..Default::default()
    };
    // A permissive pod accepts plaintext, without an identity.
    let (mesh, _pods, frontend) = reviews(1, mode(d::ClientTlsMode::Disable)).await;
    let address = frontend.service_address(1);
    let response = get(address).await;
    assert_eq!((response.status().as_u16(), response.headers().get("seen-x-forwarded-client-cert")), (200, None));
    push(&mesh, "reviews", mode(d::ClientTlsMode::IstioMutual));
    until("mutual TLS is used", async || get(address).await.headers().contains_key("seen-x-forwarded-client-cert"))
        .await;
    // Other names than those of the pod are refused.
    let names = vec![format!("spiffe://{DOMAIN}/ns/default/sa/other")];
    let mut other = mode(d::ClientTlsMode::IstioMutual);
    other.tls.as_mut().unwrap().subject_alt_names = names;
    push(&mesh, "reviews", other);
    until("another identity is expected", async || get(address).await.status() == 503).await;
}

/// A server with a certificate of an authority outside the mesh, for `example.org`. It may require a client certificate, for
/// which there are files as well.
async fn outside_server(verifies: bool) -> (SocketAddr, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let root = Authority::self_signed_root("outside", Duration::from_secs(3600)).unwrap();
    let id = SpiffeId::new("outside.example", "default", "server").unwrap();
    let credential = root.credential(&id, &["example.org"], Duration::from_secs(600)).unwrap();
    std::fs::write(directory.path().join("ca.pem"), identity::certificates_to_pem(root.roots())).unwrap();
    let trust = Trust::new("outside.example", root.roots().to_vec(), []).unwrap();
    let made = KeyAndRequest::generate().unwrap();
    let chain = root.issue(&made.public_key().unwrap(), &id, Duration::from_secs(600)).unwrap();
    std::fs::write(directory.path().join("client.pem"), identity::certificates_to_pem(&chain)).unwrap();
    std::fs::write(directory.path().join("client.key"), made.key.to_pem()).unwrap();
    let identity = Identity::new(credential, trust);
    let config = match verifies {
        true => identity.verifying_server_config(&ClientRoots::new(root.roots()).unwrap(), &[b"http/1.1"]),
        false => identity.plain_server_config(&[b"http/1.1"]),
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    request.push(byte);
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (address, directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_outside_the_mesh_is_verified() {
    let (server, directory) = outside_server(false).await;
    let mesh = TestMesh::new().await;
    mesh.push_service("outside", 1, d::Protocol::Http);
    push_plain_endpoint(&mesh, "outside", "outside-0", server);
    let frontend = mesh.client("frontend").await;
    let address = frontend.service_address(1);
    let simple = |sni: &str, ca: &str, names: &[&str]| d::TrafficPolicy {
        tls: Some(d::ClientTls {
            mode: d::ClientTlsMode::Simple.into(),
            sni: sni.into(),
            ca_certificates: directory.path().join(ca).to_str().unwrap().into(),
            subject_alt_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut insecure = simple("wrong.example", "none.pem", &[]);
    insecure.tls.as_mut().unwrap().insecure_skip_verify = true;
    for (policy, status) in [
        (simple("example.org", "ca.pem", &[]), 200),
        (simple("wrong.example", "ca.pem", &[]), 503),
        (simple("wrong.example", "ca.pem", &["other.example", "example.org"]), 200),
        (simple("example.org", "ca.pem", &["other.example"]), 503),
        (simple("example.org", "none.pem", &[]), 503),
        (insecure, 200),
    ] {
        push(&mesh, "outside", policy.clone());
        until("the policy is in force", async || get(address).await.status() == status).await;
    }
    // Without a name in the policy, it is the host's.
    push(&mesh, "outside", simple("", "ca.pem", &[]));
    let mut client = Client::connect(address).await;
    let mut status = async |host: &str| {
        let request = Request::get("/").header("host", host).body(Full::default()).unwrap();
        client.send(request).await.status()
    };
    until("the policy is in force", async || get(address).await.status() == 503).await;
    assert_eq!([status("example.org").await, status("EXAMPLE.org:80").await], [200, 200]);
    for number in 0..200 {
        assert_eq!(status(&format!("a{number}.other.example")).await, 503, "more hosts than are remembered");
    }
    assert_eq!(status("example.org").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_presented_to_a_server_outside_the_mesh() {
    let (server, directory) = outside_server(true).await;
    let mesh = TestMesh::new().await;
    mesh.push_service("outside", 1, d::Protocol::Http);
    push_plain_endpoint(&mesh, "outside", "outside-0", server);
    let frontend = mesh.client("frontend").await;
    let address = frontend.service_address(1);
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let mut tls = d::ClientTls {
        mode: d::ClientTlsMode::Mutual.into(),
        sni: "example.org".into(),
        ca_certificates: file("ca.pem"),
        client_certificate: file("client.pem"),
        private_key: file("client.key"),
        ..Default::default()
    };
    push(&mesh, "outside", d::TrafficPolicy { tls: Some(tls.clone()), ..Default::default() });
    until("the certificate is accepted", async || get(address).await.status() == 200).await;
    tls.mode = d::ClientTlsMode::Simple.into();
    (tls.client_certificate, tls.private_key) = Default::default();
    push(&mesh, "outside", d::TrafficPolicy { tls: Some(tls), ..Default::default() });
    until("a client without one is refused", async || get(address).await.status() == 503).await;
}

/// Starts a server that sends back its first line.
async fn first_line_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut line = Vec::new();
                while !line.ends_with(b"\n") {
                    line.push(stream.read_u8().await.unwrap());
                }
                let _ = stream.write_all(&line).await;
                let _ = stream.read_to_end(&mut line).await;
            });
        }
    });
    address
}

/// Starts the service `db` at this address.
async fn database(address: SocketAddr, policy: d::TrafficPolicy) -> (Arc<TestMesh>, Sidecar) {
    let mesh = TestMesh::new().await;
    push(&mesh, "db", policy);
    mesh.push_service("db", 1, d::Protocol::Tcp);
    push_plain_endpoint(&mesh, "db", "db-0", address);
    let frontend = mesh.client("frontend").await;
    (mesh, frontend)
}

async fn read_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await;
        line.push(read.expect("a line").expect("a line"));
    }
    String::from_utf8(line).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_tells_the_client() {
    let policy = d::TrafficPolicy { proxy_protocol: Some(d::ProxyProtocol { version: 1 }), ..Default::default() };
    let (_mesh, frontend) = database(first_line_server().await, policy).await;
    let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    let client = stream.local_addr().unwrap();
    assert_eq!(
        read_line(&mut stream).await,
        format!("PROXY TCP4 {} 240.240.0.1 {} 9080\r\n", client.ip(), client.port())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_are_tunnelled() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, server) = (proxy.local_addr().unwrap(), start_server_first().await);
    tokio::spawn(async move {
        let (mut stream, _) = proxy.accept().await.unwrap();
        assert_eq!(read_line(&mut stream).await, format!("CONNECT {server} HTTP/1.1\r\n"));
        while read_line(&mut stream).await != "\r\n" {}
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut onward = TcpStream::connect(server).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
    });
    let target =
        d::Tunnel { post: false, target_host: Ipv4Addr::LOCALHOST.to_string(), target_port: server.port().into() };
    let policy = d::TrafficPolicy { tunnel: Some(target), ..Default::default() };
    let (_mesh, frontend) = database(address, policy).await;
    let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    assert_eq!(read_line(&mut stream).await, "hello\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_beyond_the_limit_are_closed() {
    let limits = d::ConnectionPool { max_connections: 1, ..Default::default() };
    let (_mesh, frontend) = database(start_server_first().await, pool(limits)).await;
    let mut first = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    assert_eq!(read_line(&mut first).await, "hello\n");
    let mut second = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    assert_eq!(second.read(&mut [0; 8]).await.unwrap_or_default(), 0, "closed");
    until("the overflow is counted", async || frontend.total(&TCP_CLOSED, &[("response_flags", "UO")]) == 1).await;
    assert!(
        frontend
            .scrape()
            .contains("upstream_cx_overflow{cluster_name=\"outbound|9080||db.default.svc.cluster.local\"} 1")
    );
    drop(first);
    until("the place is free again", async || {
        let mut third = TcpStream::connect(frontend.service_address(1)).await.unwrap();
        third.read(&mut [0; 8]).await.is_ok_and(|read| read > 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_end_after_their_time() {
    for (limits, flags) in [
        (d::ConnectionPool { tcp_idle_timeout_ms: Some(400), ..Default::default() }, "-"),
        (d::ConnectionPool { max_connection_duration_ms: 400, ..Default::default() }, "DT"),
    ] {
        let (_mesh, frontend) = database(start_server_first().await, pool(limits)).await;
        let begun = Instant::now();
        let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
        assert_eq!(read_line(&mut stream).await, "hello\n");
        let end = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 8])).await.expect("closed");
        assert_eq!(end.unwrap_or_default(), 0);
        assert!(begun.elapsed() >= Duration::from_millis(400), "{limits:?} {:?}", begun.elapsed());
        until("the end is counted", async || frontend.total(&TCP_CLOSED, &[("response_flags", flags)]) == 1).await;
    }
}
