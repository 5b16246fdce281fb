//! External authorization: policies of action CUSTOM, and the servers that they ask, by HTTP and gRPC.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wire::discovery as d;
use wire::discovery::Protocol;
use wire::ext_authz as e;
use wire::{Kind, ext_authz};

use crate::app::{App, Client};
use crate::fixture::resources::policy_name;
use crate::fixture::{Pod, Sidecar, TestMesh, until};

/// The header that says how the server answers.
const HOW: &str = "x-ask";

/// What a server was asked.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>);

impl Seen {
    fn last(&self) -> (String, HeaderMap, Bytes) {
        self.0.lock().unwrap().last().cloned().expect("a question")
    }
}

/// Starts a server that is asked by HTTP.
async fn http_authority() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let noted = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let noted = noted.clone();
            let service = service_fn(move |request| answer(request, noted.clone()));
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, seen)
}

async fn answer(request: Request<Incoming>, seen: Seen) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let how = head.headers.get(HOW).map_or("allow", |how| how.to_str().unwrap()).to_owned();
    seen.0.lock().unwrap().push((format!("{} {}", head.method, head.uri), head.headers, body));
    let response = match how.as_str() {
        "allow" => Response::builder()
            .header("x-user", "alice")
            .header("x-other", "hidden")
            .header("x-forwarded-client-cert", "forged")
            .header("x-isthmus-peer", "forged")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("x-envoy-auth-headers-to-remove", "x-secret, host"),
        "deny" => Response::builder()
            .status(401)
            .header("x-reason", "tired")
            .header("x-hidden", "1")
            .header("location", "/in"),
        "hang" => std::future::pending().await,
        status => Response::builder().status(status.parse::<u16>().unwrap()),
    };
    Ok(response.body(Full::new(Bytes::from_static(b"decided\xff"))).unwrap())
}

/// The value of a header.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers[name].to_str().unwrap()
}

/// A server that is asked by gRPC.
struct Authority(Arc<Mutex<Vec<e::CheckRequest>>>);

#[tonic::async_trait]
impl e::authorization_server::Authorization for Authority {
    async fn check(
        &self,
        request: tonic::Request<e::CheckRequest>,
    ) -> Result<tonic::Response<e::CheckResponse>, tonic::Status> {
        let request = request.into_inner();
        let http = request.attributes.as_ref().unwrap().request.as_ref().and_then(|of| of.http.as_ref());
        let source = request.attributes.as_ref().unwrap().source.clone().unwrap();
        let how = match http {
            Some(http) => http.headers.get(HOW).cloned().unwrap_or("allow".into()),
            None if source.principal.contains("/sa/frontend") => "allow".into(),
            None => "deny".into(),
        };
        self.0.lock().unwrap().push(request);
        let header = |key: &str, value: &str| e::HeaderValueOption {
            header: Some(e::HeaderValue { key: key.into(), value: value.into(), raw_value: Bytes::new() }),
            ..Default::default()
        };
        use e::check_response::HttpResponse::{DeniedResponse, OkResponse};
        let (code, response) = match how.as_str() {
            "allow" => (
                0,
                OkResponse(e::OkHttpResponse {
                    headers: vec![
                        header("x-user", "alice"),
                        header("x-forwarded-client-cert", "forged"),
                        header(":path", "/x"),
                    ],
                    headers_to_remove: vec!["x-secret".into()],
                    response_headers_to_add: vec![header("x-checked", "yes")],
                    query_parameters_to_set: vec![e::QueryParameter { key: "q".into(), value: "2".into() }],
                    ..Default::default()
                }),
            ),
            "deny" => (
                7,
                DeniedResponse(e::DeniedHttpResponse {
                    status: Some(e::HttpStatus { code: 418 }),
                    headers: vec![header("x-reason", "tired"), header("content-length", "9999")],
                    body: "teapot".into(),
                }),
            ),
            "hang" => std::future::pending().await,
            "invalid" => (0, OkResponse(e::OkHttpResponse { headers: vec![header("a b", "c")], ..Default::default() })),
            _ => return Err(tonic::Status::unavailable("not today")),
        };
        let status = Some(e::Status { code, message: String::new() });
        Ok(tonic::Response::new(e::CheckResponse { status, http_response: Some(response) }))
    }
}

async fn grpc_authority() -> (SocketAddr, Arc<Mutex<Vec<e::CheckRequest>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::default());
    let server = ext_authz::authorization_server::AuthorizationServer::new(Authority(Arc::clone(&seen)));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming));
    (address, seen)
}

fn provider() -> d::ExternalAuthorization {
    d::ExternalAuthorization {
        hostname: "auth.default.svc.cluster.local".into(),
        port: 9080,
        timeout_ms: 500,
        ..Default::default()
    }
}

fn by_http() -> d::ExternalAuthorization {
    let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect();
    let http = d::HttpCheck {
        path_prefix: "/check".into(),
        request_headers: texts(&["x-as*", "x-envoy-auth-partial-body"]),
        added_headers: [("x-from".to_owned(), "mesh".to_owned())].into(),
        upstream_on_allow: texts(&["x-user", "x-forwarded-client-cert", "x-isthmus-*"]),
        downstream_on_deny: texts(&["x-reason"]),
        downstream_on_allow: texts(&["set-cookie"]),
    };
    d::ExternalAuthorization { http: Some(http), ..provider() }
}

/// A mesh with a service that asks, its client, and the pod of the server that is asked.
struct Scene {
    mesh: Arc<TestMesh>,
    auth: Pod,
    reviews: Pod,
    frontend: Sidecar,
}

impl Scene {
    async fn new(authority: SocketAddr, protocol: Protocol, asks: Option<d::ExternalAuthorization>) -> Self {
        let mesh = TestMesh::new().await;
        let app = App::external(authority);
        let auth = mesh.pod_with_app("west", "us-west-1a", "auth-a", "auth", protocol, app).await;
        mesh.push_service("auth", 2, protocol);
        mesh.push_endpoint("auth", &auth, |_| {});
        let reviews = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
        mesh.push_service("reviews", 1, Protocol::Http);
        mesh.push_endpoint("reviews", &reviews, |_| {});
        let frontend = mesh.client("frontend").await;
        let scene = Self { mesh, auth, reviews, frontend };
        scene.set(asks, "reviews-a").await;
        scene
    }

    /// Makes the policy of a pod ask. Waits until no other policy is in force.
    async fn set(&self, asks: Option<d::ExternalAuthorization>, pod: &str) {
        push_policy(&self.mesh, asks, pod, "custom");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    async fn send(&self, how: &str, body: &[u8]) -> Response<Bytes> {
        let request = Request::post("/shop?q=1&r=3").header("host", "reviews:9080").header(HOW, how);
        let request = request.header("x-secret", "1").header("authorization", "Bearer x").header("x-user", "mallory");
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let (head, body) = Client::connect(self.frontend.service_address(1)).await.send(request).await.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    async fn status(&self, how: &str) -> u16 {
        self.send(how, b"").await.status().as_u16()
    }
}

fn push_policy(mesh: &TestMesh, asks: Option<d::ExternalAuthorization>, pod: &str, name: &str) {
    let policy = d::AuthorizationPolicy {
        name: format!("default/{name}"),
        action: d::PolicyAction::Custom.into(),
        rules: vec![d::AuthorizationRule::default()],
        provider: "auth".into(),
        external: asks,
        ..Default::default()
    };
    mesh.resources().push(Kind::AuthorizationPolicy, &policy_name("west", pod), &policy, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_asked_by_http_allows_denies_and_changes_headers() {
    let (authority, seen) = http_authority().await;
    let scene = Scene::new(authority, Protocol::Http, Some(by_http())).await;
    let response = scene.send("allow", b"hello").await;
    assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"reviews-a got 5 bytes"[..]));
    let headers = response.headers();
    assert_eq!(headers["seen-x-user"], "alice", "the server's replaces the client's");
    assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(headers["seen-host"], "reviews:9080", "the host cannot be removed");
    assert!(headers["seen-x-forwarded-client-cert"].to_str().unwrap().starts_with("By=spiffe://"));
    for absent in ["seen-x-other", "seen-x-secret", "seen-x-isthmus-peer", "x-other"] {
        assert!(!headers.contains_key(absent), "{absent}");
    }
    let (line, headers, body) = &seen.last();
    assert_eq!((line.as_str(), &body[..]), ("POST /check/shop?q=1&r=3", &b""[..]));
    assert_eq!(
        (text(headers, "authorization"), text(headers, HOW), text(headers, "x-from")),
        ("Bearer x", "allow", "mesh")
    );
    assert_eq!((text(headers, "host"), text(headers, "content-length")), ("reviews:9080", "0"));
    assert!(!headers.contains_key("x-secret") && !headers.contains_key("x-user"));
    // The sidecar asked with mutual TLS, as its own workload.
    let xfcc = headers["x-forwarded-client-cert"].to_str().unwrap();
    assert!(xfcc.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{xfcc}");

    let before = scene.reviews.app.requests.load(std::sync::atomic::Ordering::Relaxed);
    let response = scene.send("deny", b"hello").await;
    assert_eq!((response.status().as_u16(), &response.body()[..]), (401, &b"decided\xff"[..]));
    assert_eq!((text(response.headers(), "x-reason"), text(response.headers(), "location")), ("tired", "/in"));
    assert!(!response.headers().contains_key("x-hidden"));
    for (status, expected) in [(500, 403), (503, 403), (302, 302), (204, 204), (404, 404)] {
        assert_eq!(scene.status(&status.to_string()).await, expected, "{status}");
    }
    assert_eq!(scene.reviews.app.requests.load(std::sync::atomic::Ordering::Relaxed), before);
    let metrics = scene.reviews.sidecar.scrape();
    for line in ["result=\"allowed\"} 1", "result=\"denied\"} 4", "result=\"error\"} 2"] {
        assert!(
            metrics.lines().any(|of| of.starts_with("isthmus_external_authorization_total") && of.ends_with(line)),
            "{line}"
        );
    }
    assert!(metrics.lines().any(|of| of.starts_with("istio_requests_total") && of.contains("UAEX")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_sent_along_up_to_the_limit() {
    let (authority, seen) = http_authority().await;
    let body = d::CheckedBody { max_bytes: 100_000, allow_partial: false, pack_as_bytes: false };
    let scene =
        Scene::new(authority, Protocol::Http, Some(d::ExternalAuthorization { body: Some(body), ..by_http() })).await;
    for length in [1, 100_000] {
        let response = scene.send("allow", &vec![b'x'; length]).await;
        assert_eq!(response.status(), 200);
        assert_eq!(&response.body()[..], format!("reviews-a got {length} bytes").as_bytes());
        assert_eq!(seen.last().2.len(), length);
        assert_eq!(seen.last().1["x-envoy-auth-partial-body"], "false");
    }
    let response = scene.send("allow", &vec![b'x'; 100_001]).await;
    assert_eq!((response.status().as_u16(), &response.body()[..]), (413, &b"Payload Too Large"[..]));
    let partial = d::CheckedBody { max_bytes: 10, allow_partial: true, pack_as_bytes: false };
    scene.set(Some(d::ExternalAuthorization { body: Some(partial), ..by_http() }), "reviews-a").await;
    let response = scene.send("allow", &vec![b'x'; 300_000]).await;
    assert_eq!(&response.body()[..], b"reviews-a got 300000 bytes");
    let (_, headers, body) = &seen.last();
    assert_eq!((&body[..], text(headers, "x-envoy-auth-partial-body")), (&b"xxxxxxxxxx"[..], "true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_asked_by_grpc_allows_denies_and_changes_headers() {
    let (authority, seen) = grpc_authority().await;
    let body = d::CheckedBody { max_bytes: 1000, allow_partial: false, pack_as_bytes: false };
    let asks = d::ExternalAuthorization { body: Some(body), ..provider() };
    let scene = Scene::new(authority, Protocol::Grpc, Some(asks.clone())).await;
    let response = scene.send("allow", b"hello\xff").await;
    assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"reviews-a got 6 bytes"[..]));
    let headers = response.headers();
    assert_eq!((text(headers, "seen-x-user"), text(headers, "x-checked")), ("alice", "yes"));
    assert_eq!(headers["seen-path"], "/shop?r=3&q=2");
    assert!(headers["seen-x-forwarded-client-cert"].to_str().unwrap().starts_with("By=spiffe://"));
    assert!(!headers.contains_key("seen-x-secret"));

    let attributes = seen.lock().unwrap().last().cloned().unwrap().attributes.unwrap();
    assert_eq!(attributes.source.unwrap().principal, "spiffe://cluster.local/ns/default/sa/frontend");
    let destination = attributes.destination.unwrap();
    assert_eq!(destination.principal, "spiffe://cluster.local/ns/default/sa/reviews");
    let address = destination.address.unwrap().socket_address.unwrap();
    assert_eq!((address.address.as_str(), address.port_value), ("127.0.0.1", scene.reviews.app.address.port().into()));
    assert!(attributes.tls_session.unwrap().sni.contains("reviews"));
    let request = attributes.request.unwrap();
    assert!(request.time.unwrap().seconds > 1_700_000_000);
    let http = request.http.unwrap();
    assert_eq!(
        (http.method.as_str(), http.path.as_str(), http.host.as_str()),
        ("POST", "/shop?q=1&r=3", "reviews:9080")
    );
    assert_eq!((http.body.as_str(), http.size, http.scheme.as_str()), ("hello!", 6, "http"));
    let sent = |name: &str| http.headers[name].as_str();
    assert_eq!((sent(":path"), sent("x-secret"), sent("x-envoy-auth-partial-body")), ("/shop?q=1&r=3", "1", "false"));
    assert!(!http.headers.contains_key("host") && !http.headers.contains_key("x-isthmus-peer"));

    let response = scene.send("deny", b"").await;
    assert_eq!((response.status().as_u16(), &response.body()[..]), (418, &b"teapot"[..]));
    assert_eq!(response.headers()["x-reason"], "tired");
    for how in ["unavailable", "invalid", "hang"] {
        assert_eq!(scene.status(how).await, 403, "{how}");
    }
    scene.set(Some(d::ExternalAuthorization { status_on_error: 503, ..asks.clone() }), "reviews-a").await;
    assert_eq!(scene.status("unavailable").await, 503);
    scene.set(Some(d::ExternalAuthorization { fail_open: true, ..asks }), "reviews-a").await;
    assert_eq!((scene.status("unavailable").await, scene.status("deny").await), (200, 418));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_given_up_and_delays_nothing_else() {
    let (authority, _) = http_authority().await;
    let scene = Scene::new(authority, Protocol::Http, Some(by_http())).await;
    let begun = Instant::now();
    let hanging: [_; 8] = std::array::from_fn(|_| scene.status("hang"));
    let hanging = futures_util::future::join_all(hanging);
    let others = async {
        for _ in 0..20 {
            assert_eq!(scene.status("allow").await, 200);
        }
        begun.elapsed()
    };
    let (statuses, others) = tokio::join!(hanging, others);
    assert_eq!(statuses, [403; 8]);
    assert!(begun.elapsed() >= Duration::from_millis(500) && begun.elapsed() < Duration::from_secs(5));
    assert!(others < Duration::from_secs(3), "{others:?}");
}

/// Starts a server that answers every connection with these bytes.
async fn raw_authority(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(bytes).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_refused_connections_decide_nothing() {
    let (authority, _) = http_authority().await;
    let scene = Scene::new(authority, Protocol::Http, Some(by_http())).await;
    let closed = net::socket::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let huge: &'static [u8] =
        format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000)).leak().as_bytes();
    let servers = [
        closed.local_addr().unwrap(),
        raw_authority(b"garbage\r\n\r\n").await,
        raw_authority(b"").await,
        raw_authority(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort").await,
        raw_authority(huge).await,
        raw_authority(b"HTTP/1.1 abc OK\r\n\r\n").await,
        raw_authority(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await,
    ];
    for http in [true, false] {
        for server in servers {
            scene.mesh.push_endpoint("auth", &scene.auth, |endpoint| {
                let Some(d::endpoint::Kind::Direct(direct)) = &mut endpoint.kind else { unreachable!() };
                (direct.mutual_tls, direct.ports) = (false, [(9080, server.port().into())].into());
                direct.identity.clear();
            });
            let asks = d::ExternalAuthorization { status_on_error: 429, ..if http { by_http() } else { provider() } };
            scene.set(Some(asks), "reviews-a").await;
            assert_eq!(scene.status("allow").await, 429, "{server} http={http}");
        }
    }
    scene.set(Some(d::ExternalAuthorization { fail_open: true, ..by_http() }), "reviews-a").await;
    assert_eq!(scene.status("allow").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_or_service_that_does_not_exist_refuses_even_if_it_fails_open() {
    let (authority, _) = http_authority().await;
    let scene = Scene::new(authority, Protocol::Http, None).await;
    let open = d::ExternalAuthorization { fail_open: true, ..by_http() };
    let gone = d::ExternalAuthorization { hostname: "gone.default.svc.cluster.local".into(), ..open.clone() };
    let no_port = d::ExternalAuthorization { port: 1, ..open.clone() };
    for asks in [None, Some(gone), Some(no_port)] {
        scene.set(asks.clone(), "reviews-a").await;
        let response = scene.send("allow", b"").await;
        assert_eq!((response.status().as_u16(), &response.body()[..]), (403, &b"RBAC: access denied"[..]), "{asks:?}");
    }
    scene.set(Some(open), "reviews-a").await;
    assert_eq!(scene.status("allow").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_are_asked_about_by_grpc_only() {
    let (authority, seen) = grpc_authority().await;
    let scene = Scene::new(authority, Protocol::Grpc, Some(provider())).await;
    let mesh = &scene.mesh;
    let db = mesh.tcp_pod("west", "us-west-1a", "db-a", "db").await;
    mesh.push_service("db", 3, Protocol::Tcp);
    mesh.push_endpoint("db", &db, |_| {});
    scene.set(Some(provider()), "db-a").await;
    let stranger = mesh.client("stranger").await;
    let greeted = async |from: &Sidecar| {
        let mut stream = TcpStream::connect(from.service_address(3)).await.unwrap();
        let mut greeting = [0; 6];
        stream.read_exact(&mut greeting).await.is_ok()
    };
    assert!(greeted(&scene.frontend).await && !greeted(&stranger).await);
    let attributes = seen.lock().unwrap().last().cloned().unwrap().attributes.unwrap();
    assert_eq!(attributes.source.unwrap().principal, "spiffe://cluster.local/ns/default/sa/stranger");
    assert!(attributes.request.is_none());
    push_policy(mesh, Some(by_http()), "db-a", "by-http");
    until("a provider that speaks HTTP is not asked", async || greeted(&stranger).await).await;
}
