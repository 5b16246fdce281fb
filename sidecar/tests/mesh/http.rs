//! HTTP/1.1, HTTP/2, gRPC's shape, upgrades, and who may talk to whom.

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

use crate::app::{Client, by, get};
use crate::fixture::World;

#[tokio::test(flavor = "multi_thread")]
async fn requests_carry_the_callers_identity() {
    let world = World::new().await;
    let pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    world.service("reviews", 1, Protocol::Http, &[]);
    world.serve("reviews", &pod, |_| {});
    let frontend = world.client("frontend").await;

    let mut client = Client::connect(frontend.service(1)).await;
    let mut request = Request::get("/path?q=1").header("host", "reviews:9080");
    // What only sidecars may say.
    request = request.header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/admin");
    request = request.header("x-isthmus-peer", "forged");
    let response = client.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(response.status(), 200);
    let seen = response.headers();
    let xfcc = seen["seen-x-forwarded-client-cert"].to_str().unwrap();
    assert!(xfcc.contains("URI=spiffe://cluster.local/ns/default/sa/frontend"), "{xfcc}");
    assert!(xfcc.starts_with("By=spiffe://cluster.local/ns/default/sa/reviews;Hash="), "{xfcc}");
    assert!(!xfcc.contains("admin"), "{xfcc}");
    assert_eq!(seen["seen-host"], "reviews:9080");
    assert_eq!(seen["seen-x-forwarded-proto"], "http");
    assert!(seen.contains_key("seen-x-request-id") && seen.contains_key("x-envoy-upstream-service-time"));
    for private in ["seen-x-isthmus-peer", "x-isthmus-peer", "seen-x-envoy-peer-metadata"] {
        assert!(!seen.contains_key(private), "{private}");
    }
    response.into_body().collect().await.unwrap();

    // The connection is kept on both sides.
    for _ in 0..20 {
        assert_eq!(client.get("/").await.body(), "reviews-a got 0 bytes");
    }
    assert_eq!(pod.gate.connections(), 1);
    let body = vec![b'x'; 300_000];
    assert_eq!(client.ask(Method::POST, "/", &body).await.body(), "reviews-a got 300000 bytes");

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
    assert_eq!(frontend.counted(&REQUESTS, &source), 22);
    let destination = with(&[("reporter", "destination"), ("connection_security_policy", "mutual_tls")]);
    assert_eq!(pod.sidecar.counted(&REQUESTS, &destination), 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_asked_for_at_its_own_address_is_that_pod_under_mutual_tls() {
    let world = World::new().await;
    let a = world.pod("west", "us-west-1a", "db-a", "db", Protocol::Http).await;
    let b = world.pod("west", "us-west-1b", "db-b", "db", Protocol::Http).await;
    let stranger = crate::app::App::start("stranger").await;
    world.headless("db", Protocol::Http);
    world.serve("db", &a, |_| {});
    // Members of such a service find each other before they are ready.
    world.serve("db", &b, |endpoint| endpoint.health = wire::discovery::Health::Unready.into());
    let frontend = world.client("frontend").await;

    for pod in [&a, &b] {
        let mut client = Client::connect(frontend.way_to(pod.gate.address)).await;
        for _ in 0..4 {
            let response = client.get("/").await;
            assert_eq!(by(&response), pod.name);
            let xfcc = response.headers()["seen-x-forwarded-client-cert"].to_str().unwrap();
            assert!(xfcc.contains("URI=spiffe://cluster.local/ns/default/sa/frontend"), "{xfcc}");
        }
        let workload = format!("{}-deploy", pod.name);
        let labels = [
            ("destination_service", "db.default.svc.cluster.local"),
            ("destination_workload", &workload),
            ("destination_principal", "spiffe://cluster.local/ns/default/sa/db"),
        ];
        assert_eq!(frontend.counted(&REQUESTS, &labels), 4);
        let secured = [("connection_security_policy", "mutual_tls"), ("response_code", "200")];
        assert_eq!(pod.sidecar.counted(&REQUESTS, &secured), 4);
    }
    // At an address of the mesh, but at no port of its services: nobody that is known.
    assert_eq!(by(&get(frontend.way_to(stranger.address)).await), "stranger");
    let passed = [("destination_service_name", "PassthroughCluster"), ("destination_service", "unknown")];
    assert_eq!(frontend.counted(&REQUESTS, &passed[..1]), 1);

    // Another certificate than the endpoint's is nobody to talk to.
    world.serve("db", &a, |endpoint| {
        let Some(wire::discovery::endpoint::Kind::Direct(direct)) = &mut endpoint.kind else { unreachable!() };
        direct.identity = "spiffe://cluster.local/ns/default/sa/other".into();
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = get(frontend.way_to(a.gate.address)).await;
    assert_eq!(refused.status(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_and_trailers_pass() {
    let world = World::new().await;
    let pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Grpc).await;
    world.service("reviews", 1, Protocol::Grpc, &[]);
    world.serve("reviews", &pod, |_| {});
    let frontend = world.client("frontend").await;

    let stream = TcpStream::connect(frontend.service(1)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let call = |n: usize| {
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
    let calls: Vec<_> = (1..=50).map(|n| sender.send_request(call(n * 100))).collect();
    for (n, response) in (1..=50).zip(calls) {
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
    assert_eq!(pod.gate.connections(), 1, "one session carries all");
    let grpc = [("request_protocol", "grpc"), ("grpc_response_status", "0")];
    assert_eq!(frontend.counted(&REQUESTS, &grpc), 50);
    assert_eq!(pod.sidecar.counted(&REQUESTS, &grpc), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http1_client_reaches_an_http2_port() {
    let world = World::new().await;
    let pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http2).await;
    world.service("reviews", 1, Protocol::Http2, &[]);
    world.serve("reviews", &pod, |_| {});
    let frontend = world.client("frontend").await;
    let response = get(frontend.service(1)).await;
    assert_eq!(
        (by(&response), &response.headers()["seen-version"]),
        ("reviews-a", &HeaderValue::from_static("HTTP/2.0"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_become_tunnels() {
    let world = World::new().await;
    let pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    world.service("reviews", 1, Protocol::Http, &[]);
    world.serve("reviews", &pod, |_| {});
    let mut frontend = world.client("frontend").await;

    let mut client = Client::connect(frontend.service(1)).await;
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
    // A drain waits for it, and it may go on meanwhile.
    assert!(!frontend.drain(Duration::from_millis(300)).await);
    stream.write_all(b"still").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_continue_is_answered() {
    let world = World::new().await;
    let pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    world.service("reviews", 1, Protocol::Http, &[]);
    world.serve("reviews", &pod, |_| {});
    let frontend = world.client("frontend").await;
    let mut stream = TcpStream::connect(frontend.service(1)).await.unwrap();
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
async fn another_identity_than_expected_is_refused() {
    let world = World::new().await;
    let pod = world.pod("west", "us-west-1a", "impostor", "impostor", Protocol::Http).await;
    world.service("reviews", 1, Protocol::Http, &[]);
    for expected in ["spiffe://cluster.local/ns/default/sa/reviews", ""] {
        world.serve("reviews", &pod, |endpoint| {
            let Some(wire::discovery::endpoint::Kind::Direct(direct)) = &mut endpoint.kind else { unreachable!() };
            direct.identity = expected.to_owned();
        });
        let frontend = world.client(&format!("frontend{}", expected.len())).await;
        let response = get(frontend.service(1)).await;
        assert_eq!(response.status(), 503, "expected {expected:?}");
        assert!(response.body().starts_with("upstream connect error"), "{}", response.body());
        assert_eq!(pod.app.requests.load(Relaxed), 0);
        assert_eq!(frontend.counted(&REQUESTS, &[("response_flags", "UF,URX"), ("response_code", "503")]), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_is_taken_or_not_by_mode() {
    let world = World::new().await;
    let pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    let response = get(pod.gate.address).await;
    assert_eq!(by(&response), "reviews-a", "PERMISSIVE takes plaintext");
    assert!(!response.headers().contains_key("seen-x-forwarded-client-cert"));
    assert_eq!(pod.sidecar.counted(&REQUESTS, &[("connection_security_policy", "none")]), 1);

    world.accept(&pod, PeerMode::Strict);
    let refused = async {
        loop {
            let mut stream = TcpStream::connect(pod.gate.address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            if answer.is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("STRICT refuses plaintext");

    // Mutual TLS still gets in.
    world.service("reviews", 1, Protocol::Http, &[]);
    world.serve("reviews", &pod, |_| {});
    let frontend = world.client("frontend").await;
    assert_eq!(by(&get(frontend.service(1)).await), "reviews-a");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_without_sidecars_get_plaintext() {
    let world = World::new().await;
    let pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    world.service("reviews", 1, Protocol::Http, &[]);
    world.serve("reviews", &pod, |endpoint| {
        let Some(wire::discovery::endpoint::Kind::Direct(direct)) = &mut endpoint.kind else { unreachable!() };
        direct.mutual_tls = false;
    });
    let frontend = world.client("frontend").await;
    let response = get(frontend.service(1)).await;
    assert_eq!(by(&response), "reviews-a");
    assert!(!response.headers().contains_key("seen-x-forwarded-client-cert"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_destinations_pass_unless_only_the_registry_may() {
    let world = World::new().await;
    let app = crate::app::App::start("outside").await;
    let frontend = world.client("frontend").await;
    assert_eq!(by(&get(frontend.way_to(app.address)).await), "outside");

    // An address that nobody owns, but the name of a service.
    let pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    world.service("reviews", 1, Protocol::Http, &[]);
    world.serve("reviews", &pod, |_| {});
    let elsewhere = frontend.way_to("127.200.0.1:9080".parse().unwrap());
    assert_eq!(by(&get(elsewhere).await), "reviews-a");

    world.settings(|settings| settings.set_outbound_policy(wire::discovery::OutboundPolicy::RegistryOnly));
    let refused = async { while get(frontend.way_to(app.address)).await.status() != 502 {} };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("REGISTRY_ONLY refuses");
    assert_eq!(by(&get(elsewhere).await), "reviews-a", "Host names a service");
    let mut stream = TcpStream::connect(frontend.way_to(app.address)).await.unwrap();
    stream.write_all(b"not http").await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or_default(), 0, "opaque connections are closed");
    // The client may hear of it first.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(frontend.counted(&FAILED, &[("reason", "unknown_destination")]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_requests_and_closes_idle_connections() {
    let world = World::new().await;
    let mut pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    world.service("reviews", 1, Protocol::Http, &[]);
    world.serve("reviews", &pod, |_| {});
    let frontend = world.client("frontend").await;
    let address = frontend.service(1);
    let slow = tokio::spawn(async move { Client::connect(address).await.get("/delay/400").await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    let begun = std::time::Instant::now();
    assert!(pod.sidecar.drain(Duration::from_secs(5)).await, "all connections ended");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(slow.await.unwrap().status(), 200, "the request under way was finished");
}
