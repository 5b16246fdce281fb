//! HTTP/1.1, HTTP/2, gRPC, upgrades, identities and policies.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use telemetry::istio::REQUESTS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::discovery::{PeerMode, Protocol};

use proxy::report::FAILED;

use crate::app::{App, Client, get, pod_of};
use crate::fixture::{TestMesh, until};

#[tokio::test(flavor = "multi_thread")]
async fn requests_carry_the_identity_of_the_client() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;

    let mut client = Client::connect(frontend.service_address(1)).await;
    let mut request = Request::get("/path?q=1").header("host", "reviews:9080");
    // Only sidecars may set these headers.
    request = request.header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/admin");
    request = request.header("x-isthmus-peer", "forged");
    let response = client.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(response.status(), 200);
    let headers = response.headers();
    let xfcc = headers["seen-x-forwarded-client-cert"].to_str().unwrap();
    assert!(xfcc.contains("URI=spiffe://cluster.local/ns/default/sa/frontend"), "{xfcc}");
    assert!(xfcc.starts_with("By=spiffe://cluster.local/ns/default/sa/reviews;Hash="), "{xfcc}");
    assert!(!xfcc.contains("admin"), "{xfcc}");
    assert_eq!(headers["seen-host"], "reviews:9080");
    assert_eq!(headers["seen-x-forwarded-proto"], "http");
    assert!(headers.contains_key("seen-x-request-id") && headers.contains_key("x-envoy-upstream-service-time"));
    for private in ["seen-x-isthmus-peer", "x-isthmus-peer", "seen-x-envoy-peer-metadata"] {
        assert!(!headers.contains_key(private), "{private}");
    }
    response.into_body().collect().await.unwrap();

    // Both sides keep the connection open.
    for _ in 0..20 {
        assert_eq!(client.get("/").await.body(), "reviews-a got 0 bytes");
    }
    assert_eq!(pod.gate.connections(), 1);
    let body = vec![b'x'; 300_000];
    assert_eq!(client.request(Method::POST, "/", &body).await.body(), "reviews-a got 300000 bytes");

    let common = [
        ("source_principal", "spiffe://cluster.local/ns/default/sa/frontend"),
        ("destination_principal", "spiffe://cluster.local/ns/default/sa/reviews"),
        ("source_workload", "frontend-pod-deploy"),
        ("destination_workload", "reviews-a-deploy"),
        ("source_cluster", "west"),
        ("destination_cluster", "west"),
        ("destination_service", "reviews.default.svc.cluster.local"),
        ("response_code", "200"),
        ("response_flags", "-"),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&common, more].concat();
    let source = with(&[("reporter", "source"), ("connection_security_policy", "unknown")]);
    assert_eq!(frontend.total(&REQUESTS, &source), 22);
    let destination = with(&[("reporter", "destination"), ("connection_security_policy", "mutual_tls")]);
    assert_eq!(pod.sidecar.total(&REQUESTS, &destination), 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_a_headless_service_is_reached_at_its_address_with_mutual_tls() {
    let mesh = TestMesh::new().await;
    let a = mesh.pod("west", "us-west-1a", "db-a", "db", Protocol::Http).await;
    let b = mesh.pod("west", "us-west-1b", "db-b", "db", Protocol::Http).await;
    let external = App::start("external").await;
    mesh.push_headless_service("db", Protocol::Http);
    mesh.push_endpoint("db", &a, |_| {});
    // Pods of a headless service connect to each other before they are ready.
    mesh.push_endpoint("db", &b, |endpoint| endpoint.health = wire::discovery::Health::Unready.into());
    let frontend = mesh.client("frontend").await;

    for pod in [&a, &b] {
        let mut client = Client::connect(frontend.captured_address(pod.gate.address)).await;
        for _ in 0..4 {
            let response = client.get("/").await;
            assert_eq!(pod_of(&response), pod.name);
            let xfcc = response.headers()["seen-x-forwarded-client-cert"].to_str().unwrap();
            assert!(xfcc.contains("URI=spiffe://cluster.local/ns/default/sa/frontend"), "{xfcc}");
        }
        let workload = format!("{}-deploy", pod.name);
        let labels = [
            ("destination_service", "db.default.svc.cluster.local"),
            ("destination_workload", &workload),
            ("destination_principal", "spiffe://cluster.local/ns/default/sa/db"),
        ];
        assert_eq!(frontend.total(&REQUESTS, &labels), 4);
        let secured = [("connection_security_policy", "mutual_tls"), ("response_code", "200")];
        assert_eq!(pod.sidecar.total(&REQUESTS, &secured), 4);
    }
    // A port of the same address that belongs to no service.
    assert_eq!(pod_of(&get(frontend.captured_address(external.address)).await), "external");
    let passthrough = [("destination_service_name", "PassthroughCluster"), ("destination_service", "unknown")];
    assert_eq!(frontend.total(&REQUESTS, &passthrough[..1]), 1);

    // A pod whose certificate is not the endpoint's is refused.
    mesh.push_endpoint("db", &a, |endpoint| {
        let Some(wire::discovery::endpoint::Kind::Direct(direct)) = &mut endpoint.kind else { unreachable!() };
        direct.identity = "spiffe://cluster.local/ns/default/sa/other".into();
    });
    let address = frontend.captured_address(a.gate.address);
    until("the pod is refused", async || get(address).await.status() == 503).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_requests_keep_their_trailers() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Grpc).await;
    mesh.push_service("reviews", 1, Protocol::Grpc);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;

    let stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = |n: usize| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from(n));
        let frames: Vec<Result<_, std::convert::Infallible>> =
            vec![Ok(Frame::data(Bytes::from(vec![1; n]))), Ok(Frame::trailers(trailers))];
        Request::post("http://reviews:9080/pkg.Service/Method")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(StreamBody::new(tokio_stream::iter(frames)))
            .unwrap()
    };
    let responses: Vec<_> = (1..=50).map(|n| sender.send_request(request(n * 100))).collect();
    for (n, response) in (1..=50).zip(responses) {
        let response = response.await.unwrap();
        assert_eq!(response.headers()["seen-version"], "HTTP/2.0");
        assert_eq!(response.headers()["seen-te"], "trailers");
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().unwrap().clone();
        assert_eq!(
            (trailers["grpc-status"].as_bytes(), trailers["x-sum"].to_str().unwrap()),
            (&b"0"[..], &*(n * 100).to_string())
        );
        assert_eq!(collected.to_bytes().len(), n * 100);
    }
    assert_eq!(pod.gate.connections(), 1, "one session carries all streams");
    let grpc = [("request_protocol", "grpc"), ("grpc_response_status", "0")];
    assert_eq!(frontend.total(&REQUESTS, &grpc), 50);
    assert_eq!(pod.sidecar.total(&REQUESTS, &grpc), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http1_client_reaches_an_http2_port() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http2).await;
    mesh.push_service("reviews", 1, Protocol::Http2);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    let response = get(frontend.service_address(1)).await;
    assert_eq!(
        (pod_of(&response), &response.headers()["seen-version"]),
        ("reviews-a", &HeaderValue::from_static("HTTP/2.0"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_carries_bytes_and_a_drain_waits_for_it() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let mut frontend = mesh.client("frontend").await;

    let mut client = Client::connect(frontend.service_address(1)).await;
    let request = Request::get("/socket")
        .header("host", "reviews:9080")
        .header(header::CONNECTION, "keep-alive, Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut response = client.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()[header::UPGRADE], "websocket");
    assert_eq!(response.headers()["seen-sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    for text in ["one", "two", "three"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut echo = vec![0; text.len()];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, text.as_bytes());
    }
    // A drain waits for the connection, which stays usable.
    assert!(!frontend.drain(Duration::from_millis(300)).await);
    stream.write_all(b"still").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_continue_receives_an_interim_response() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    let head =
        b"POST / HTTP/1.1\r\nhost: reviews\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"12345").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK") && rest.ends_with("reviews-a got 5 bytes"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_another_identity_than_its_endpoints_is_refused() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "impostor", "impostor", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    for expected in ["spiffe://cluster.local/ns/default/sa/reviews", ""] {
        mesh.push_endpoint("reviews", &pod, |endpoint| {
            let Some(wire::discovery::endpoint::Kind::Direct(direct)) = &mut endpoint.kind else { unreachable!() };
            direct.identity = expected.to_owned();
        });
        let frontend = mesh.client(&format!("frontend{}", expected.len())).await;
        let response = get(frontend.service_address(1)).await;
        assert_eq!(response.status(), 503, "expected {expected:?}");
        assert!(response.body().starts_with("upstream connect error"), "{}", response.body());
        assert_eq!(pod.app.requests.load(Relaxed), 0);
        assert_eq!(frontend.total(&REQUESTS, &[("response_flags", "URX,UF"), ("response_code", "503")]), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mutual_tls_mode_decides_whether_plaintext_is_accepted() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    let response = get(pod.gate.address).await;
    assert_eq!(pod_of(&response), "reviews-a", "PERMISSIVE accepts plaintext");
    assert!(!response.headers().contains_key("seen-x-forwarded-client-cert"));
    assert_eq!(pod.sidecar.total(&REQUESTS, &[("connection_security_policy", "none")]), 1);

    mesh.push_peer_mode(&pod, PeerMode::Strict);
    until("STRICT refuses plaintext", async || {
        let mut stream = TcpStream::connect(pod.gate.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response).await;
        response.is_empty()
    })
    .await;

    // Mutual TLS is still accepted.
    mesh.push_service("reviews", 1, Protocol::Http);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    assert_eq!(pod_of(&get(frontend.service_address(1)).await), "reviews-a");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_without_sidecars_receive_plaintext() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    mesh.push_endpoint("reviews", &pod, |endpoint| {
        let Some(wire::discovery::endpoint::Kind::Direct(direct)) = &mut endpoint.kind else { unreachable!() };
        direct.mutual_tls = false;
    });
    let frontend = mesh.client("frontend").await;
    let response = get(frontend.service_address(1)).await;
    assert_eq!(pod_of(&response), "reviews-a");
    assert!(!response.headers().contains_key("seen-x-forwarded-client-cert"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_destinations_are_passed_through_unless_registry_only() {
    let mesh = TestMesh::new().await;
    let app = App::start("outside").await;
    let frontend = mesh.client("frontend").await;
    assert_eq!(pod_of(&get(frontend.captured_address(app.address)).await), "outside");

    // An unknown address with the host of a service.
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let elsewhere = frontend.captured_address("127.200.0.1:9080".parse().unwrap());
    assert_eq!(pod_of(&get(elsewhere).await), "reviews-a");

    mesh.push_settings(|settings| settings.set_outbound_policy(wire::discovery::OutboundPolicy::RegistryOnly));
    let outside = frontend.captured_address(app.address);
    until("REGISTRY_ONLY refuses an unknown destination", async || get(outside).await.status() == 502).await;
    assert_eq!(pod_of(&get(elsewhere).await), "reviews-a", "the host names a service");
    let mut stream = TcpStream::connect(outside).await.unwrap();
    stream.write_all(b"not http").await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or_default(), 0, "opaque connections are closed");
    let unknown = || frontend.total(&FAILED, &[("reason", "unknown_destination")]);
    until("the failure is counted", async || unknown() > 0).await;
    assert_eq!(unknown(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_requests_and_closes_idle_connections() {
    let mesh = TestMesh::new().await;
    let mut pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    let address = frontend.service_address(1);
    let slow = tokio::spawn(async move { Client::connect(address).await.get("/delay/400").await });
    until("the request has arrived", async || pod.app.requests.load(Relaxed) == 1).await;
    let begun = std::time::Instant::now();
    assert!(pod.sidecar.drain(Duration::from_secs(5)).await, "all connections end");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(slow.await.unwrap().status(), 200, "the request in progress is finished");
}
