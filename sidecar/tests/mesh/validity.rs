//! Requests that could be understood in two ways: one authority, no tunnels, no forged identity.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Request, StatusCode};
use proxy::report::FAILED;
use telemetry::istio::REQUESTS;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use wire::Kind;
use wire::discovery::{self as d, Protocol};

use crate::app::{App, get, pod_of};
use crate::fixture::resources::policy_name;
use crate::fixture::{Pod, Sidecar, TestMesh, until};
use crate::raw::{self, header, status};

async fn reviews(protocol: Protocol) -> (Arc<TestMesh>, Pod, Sidecar) {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", protocol).await;
    mesh.push_service("reviews", 1, protocol);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    (mesh, pod, frontend)
}

async fn raw_app(address: std::net::SocketAddr) -> (Arc<TestMesh>, Pod, Sidecar) {
    let mesh = TestMesh::new().await;
    let app = App::external(address);
    let pod = mesh.pod_with_app("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http, app).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    (mesh, pod, frontend)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_http1_has_one_authority_or_is_refused() {
    let (_mesh, pod, frontend) = reviews(Protocol::Http).await;
    let accepted = [
        ("GET / HTTP/1.1\r\nhost: reviews:9080\r\n\r\n", "reviews:9080"),
        ("GET http://reviews.default/ HTTP/1.1\r\nhost: other\r\n\r\n", "reviews.default"),
        ("GET http://reviews?q HTTP/1.1\r\nhost: other\r\n\r\n", "reviews"),
        ("OPTIONS * HTTP/1.1\r\nhost: reviews\r\n\r\n", "reviews"),
        ("GET / HTTP/1.0\r\nhost: reviews\r\n\r\n", "reviews"),
        ("GET / HTTP/1.1\r\nhost: reviews\r\nconnection: host\r\n\r\n", "reviews"),
    ];
    let refused = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET http://reviews/ HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: reviews\r\nhost: other\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: reviews\r\nHost: reviews\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: user@reviews\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: reviews/admin\r\n\r\n",
        "GET reviews HTTP/1.1\r\nhost: reviews\r\n\r\n",
        "GET * HTTP/1.1\r\nhost: reviews\r\n\r\n",
    ];
    // Through both sidecars, and from a client without a sidecar.
    for (side, address) in [("outbound", frontend.service_address(1)), ("inbound", pod.gate.address)] {
        let before = pod.app.requests.load(Relaxed);
        for (request, host) in accepted {
            let response = raw::send(address, request).await;
            assert_eq!((status(&response), header(&response, "seen-host")), (200, Some(host)), "{side}: {request:?}");
        }
        let response = raw::send(address, "GET / HTTP/1.0\r\n\r\n").await;
        let host = header(&response, "seen-host").unwrap_or_default();
        let expected = if side == "outbound" { "240.240.0.1:9080".to_owned() } else { pod.app.address.to_string() };
        assert_eq!((status(&response), host), (200, &*expected), "{side}: the address of the connection");
        let after = pod.app.requests.load(Relaxed);
        assert_eq!(after - before, accepted.len() as u64 + 1);
        for request in refused {
            let response = raw::send(address, request).await;
            assert_eq!(
                (status(&response), header(&response, "connection")),
                (400, Some("close")),
                "{side}: {request:?}"
            );
        }
        assert_eq!(pod.app.requests.load(Relaxed), after, "{side}: no refused request reaches the application");
    }
    let invalid = [("response_code", "400"), ("response_flags", "-")];
    until("each refusal is counted once", async || frontend.total(&REQUESTS, &invalid) == refused.len() as u64).await;
    assert_eq!(pod.sidecar.total(&REQUESTS, &invalid), refused.len() as u64);
    assert_eq!(frontend.total(&REQUESTS, &[("response_code", "503")]), 0, "none was retried until it failed");
    assert_eq!(pod_of(&get(frontend.service_address(1)).await), "reviews-a", "nor was the endpoint ejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_http2_has_one_authority_or_is_refused() {
    let (_mesh, pod, frontend) = reviews(Protocol::Http2).await;
    for address in [frontend.service_address(1), pod.gate.address] {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let mut send = async |uri: &str, host: &[&str]| {
            let mut request = Request::get(uri).body(()).unwrap();
            for host in host {
                request.headers_mut().append("host", host.parse().unwrap());
            }
            let response = sender.send_request(request, true).unwrap().0.await.unwrap();
            let host = response.headers().get("seen-host").map(|host| host.to_str().unwrap().to_owned());
            (response.status(), host)
        };
        // The test application sees the authority of HTTP/2 in the URI only.
        for (uri, host) in [("http://reviews/", &[][..]), ("http://reviews/", &["Reviews"]), ("/", &["reviews"])] {
            assert_eq!(send(uri, host).await, (StatusCode::OK, None), "{uri} {host:?}");
        }
        let before = pod.app.requests.load(Relaxed);
        for (uri, host) in [
            ("http://reviews/", &["other"][..]),
            ("http://reviews/", &["reviews", "reviews"]),
            ("/", &[]),
            ("/", &["reviews", "other"]),
            ("http://user@reviews/", &[]),
        ] {
            assert_eq!(send(uri, host).await.0, StatusCode::BAD_REQUEST, "{uri} {host:?}");
        }
        assert_eq!(pod.app.requests.load(Relaxed), before);
    }
    assert_eq!(frontend.total(&REQUESTS, &[("response_code", "503")]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asterisk_target_reaches_applications_of_both_versions() {
    for protocol in [Protocol::Http, Protocol::Http2] {
        let (_mesh, _pod, frontend) = reviews(protocol).await;
        let response = raw::send(frontend.service_address(1), "OPTIONS * HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
        assert_eq!(status(&response), 200, "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_sees_the_host_that_the_application_sees() {
    let (mesh, pod, frontend) = reviews(Protocol::Http).await;
    let hosts = Some(d::Values { any_of: vec!["reviews:9080".into()], none_of: vec![] });
    let operation = d::AuthorizationOperation { hosts, ..Default::default() };
    let rule = d::AuthorizationRule { to: vec![operation], ..Default::default() };
    let policy = d::AuthorizationPolicy {
        name: "default/hosts".into(),
        action: d::PolicyAction::Allow.into(),
        rules: vec![rule],
        ..Default::default()
    };
    mesh.resources().push(Kind::AuthorizationPolicy, &policy_name("west", "reviews-a"), &policy, &[]);
    let address = pod.gate.address;
    until("the policy is in force", async || {
        status(&raw::send(address, "GET / HTTP/1.1\r\nhost: other\r\n\r\n").await) == 403
    })
    .await;
    for address in [address, frontend.service_address(1)] {
        let before = pod.app.requests.load(Relaxed);
        let disguised = "GET http://admin/ HTTP/1.1\r\nhost: reviews:9080\r\n\r\n";
        assert_eq!(status(&raw::send(address, disguised).await), 403);
        assert_eq!(pod.app.requests.load(Relaxed), before);
        let absolute = "GET http://reviews:9080/ HTTP/1.1\r\nhost: admin\r\n\r\n";
        assert_eq!(header(&raw::send(address, absolute).await, "seen-host"), Some("reviews:9080"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tunnel_but_websocket_is_opened() {
    let (_mesh, pod, frontend) = reviews(Protocol::Http).await;
    for address in [frontend.service_address(1), pod.gate.address] {
        let before = pod.app.requests.load(Relaxed);
        for request in [
            "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: x\r\nconnection: Upgrade\r\nupgrade: TLS/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket, h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket\r\nupgrade: h2c\r\n\r\n",
            "CONNECT reviews:9080 HTTP/1.1\r\nhost: reviews:9080\r\n\r\n",
        ] {
            // What follows must not be read as a request.
            let smuggled = format!("{request}GET /admin HTTP/1.1\r\nhost: reviews\r\n\r\n");
            let response = raw::send(address, &smuggled).await;
            assert_eq!((status(&response), header(&response, "connection")), (403, Some("close")), "{request:?}");
        }
        assert_eq!(pod.app.requests.load(Relaxed), before);
        // An upgrade to cleartext HTTP/2 is ignored, as by Envoy.
        let h2c = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
        let response = raw::send(address, h2c).await;
        assert_eq!(status(&response), 200, "{response}");
        for gone in ["seen-upgrade", "seen-http2-settings", "seen-connection"] {
            assert_eq!(header(&response, gone), None, "{gone}");
        }
        let lines = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: keep-alive\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\n\r\n";
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(lines.as_bytes()).await.unwrap();
        assert_eq!(status(&raw::read_until(&mut stream, "\r\n\r\n").await.unwrap()), 101);
        stream.write_all(b"ping").await.unwrap();
        assert_eq!(raw::read_until(&mut stream, "ping").await.unwrap(), "ping");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_cannot_open_a_tunnel_that_was_not_asked_for() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n",
    ] {
        let (_mesh, _pod, frontend) = raw_app(raw::start_answering(answer).await).await;
        let plain = "GET / HTTP/1.1\r\nhost: reviews\r\n\r\n";
        assert_eq!(status(&raw::send(frontend.service_address(1), plain).await), 502, "{answer}");
        let upgrade = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        let head = raw::read_until(&mut stream, "\r\n\r\n").await.unwrap();
        let expected = if answer.contains("websocket") { 101 } else { 502 };
        assert_eq!(status(&head), expected, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_or_place_of_a_header_forges_an_identity() {
    // Returns the bytes of each request as the body of its response.
    let echo = raw::start(|mut stream| async move {
        while let Some(request) = raw::read_until(&mut stream, "end: 1\r\n\r\n").await {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{request}", request.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let (_mesh, pod, frontend) = raw_app(echo).await;
    let names = [
        "x-forwarded-client-cert",
        "X-Forwarded-Client-Cert",
        "x_forwarded_client_cert",
        "X-Forwarded_Client-Cert",
        "x-envoy-peer-metadata",
        "x_envoy_peer_metadata_id",
        "x-envoy-internal",
        "x-istio-attributes",
        "x-isthmus-peer",
        "x_isthmus_unprocessed",
    ];
    for address in [frontend.service_address(1), pod.gate.address] {
        for name in names {
            for connection in ["", "connection: x-forwarded-client-cert\r\n"] {
                let head = format!("POST / HTTP/1.1\r\nhost: reviews\r\n{connection}{name}: forged\r\n");
                let in_head = format!(
                    "{head}transfer-encoding: chunked\r\ntrailer: end\r\nte: trailers\r\n\r\n0\r\nend: 1\r\n\r\n"
                );
                let in_trailers = format!(
                    "POST / HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\ntrailer: {name}, end\r\nte: trailers\r\n\r\n0\r\n{name}: forged\r\nend: 1\r\n\r\n"
                );
                for request in [in_head, in_trailers] {
                    let response = raw::send(address, &request).await;
                    assert_eq!(status(&response), 200, "{request:?}: {response}");
                    let seen = response.split_once("\r\n\r\n").unwrap().1;
                    assert!(!seen.contains("forged"), "{request:?} became {seen:?}");
                    let identity = seen.contains("x-forwarded-client-cert: By=spiffe://");
                    assert_eq!(identity, address != pod.gate.address, "{seen:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_coding_other_than_chunked_is_not_implemented() {
    let (_mesh, pod, frontend) = reviews(Protocol::Http).await;
    for address in [frontend.service_address(1), pod.gate.address] {
        for coding in ["transfer-encoding: gzip, chunked", "transfer-encoding: gzip\r\ntransfer-encoding: chunked"] {
            let request = format!("POST / HTTP/1.1\r\nhost: reviews\r\n{coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
            assert_eq!(status(&raw::send(address, &request).await), 501, "{coding}");
        }
    }
    assert_eq!(pod.app.requests.load(Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_off_its_request_is_no_fault_of_the_endpoint() {
    let (_mesh, _pod, frontend) = reviews(Protocol::Http).await;
    for _ in 0..10 {
        let broken = "POST / HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n";
        let response = raw::send(frontend.service_address(1), broken).await;
        assert!(matches!(status(&response), 0 | 400), "{response}");
    }
    for _ in 0..10 {
        assert_eq!(pod_of(&get(frontend.service_address(1)).await), "reviews-a", "the endpoint is not ejected");
    }
    assert_eq!(frontend.total(&REQUESTS, &[("response_code", "503")]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_refused_and_logged() {
    let (mesh, pod, frontend) = reviews(Protocol::Http).await;
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap().to_owned();
    mesh.push_settings(|settings| settings.access_log_file = path.clone());
    let lines = || std::fs::read_to_string(&path).unwrap();
    until("requests are logged", async || {
        get(frontend.service_address(1)).await;
        lines().contains("\" 200 ")
    })
    .await;
    for address in [frontend.service_address(1), pod.gate.address] {
        let logged = |lines: &str| lines.matches(" 400 DPE http1.codec_error").count();
        let before = logged(&lines());
        let response = raw::send(address, "GET / HTTP/1.1\r\nhost: a\r\nin valid: 1\r\n\r\n").await;
        assert_eq!(status(&response), 400);
        until("the refusal is logged", async || logged(&lines()) == before + 1).await;
    }
    until("it is counted", async || frontend.total(&FAILED, &[("reason", "refused")]) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_quotes_and_brackets_in_a_target_are_escaped() {
    // Returns the request line as the body of its response.
    let echo = raw::start(|mut stream| async move {
        while let Some(request) = raw::read_until(&mut stream, "\r\n\r\n").await {
            let line = request.lines().next().unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let (_mesh, pod, frontend) = raw_app(echo).await;
    for address in [frontend.service_address(1), pod.gate.address] {
        // On one connection, with and without bodies.
        let mut stream = TcpStream::connect(address).await.unwrap();
        for request in [
            "GET /\"a\"<b>?c=\"<d>\" HTTP/1.1\r\nhost: reviews\r\n\r\n",
            "PUT /\"a\"<b>?c=\"<d>\" HTTP/1.1\r\nhost: reviews\r\ncontent-length: 0\r\n\r\n",
            "GET /\"a\"<b>?c=\"<d>\" HTTP/1.1\r\nhost: reviews\r\n\r\n",
        ] {
            stream.write_all(request.as_bytes()).await.unwrap();
            let response = raw::read_response(&mut stream).await.unwrap();
            assert!(response.ends_with(" /%22a%22%3Cb%3E?c=%22%3Cd%3E%22 HTTP/1.1"), "{request:?} became {response:?}");
        }
    }
}
