//! Routes of requests, from the resource to the request that arrives: destinations, answers of the proxy's own, rewrites,
//! time limits, retries, faults and mirrors.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use telemetry::istio::TCP_OPENED;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::Kind;
use wire::discovery::{self as d, Protocol};

use crate::app::{Client, pod_of};
use crate::fixture::{Pod, Sidecar, TestMesh, until};

const REVIEWS: &str = "reviews.default.svc.cluster.local";
const RATINGS: &str = "ratings.default.svc.cluster.local";

/// A client, and the services `reviews` and `ratings` with a pod each.
struct Scene {
    mesh: Arc<TestMesh>,
    reviews: Pod,
    ratings: Pod,
    frontend: Sidecar,
}

impl Scene {
    async fn new() -> Self {
        let mesh = TestMesh::new().await;
        let reviews = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
        let ratings = mesh.pod("west", "us-west-1a", "ratings-a", "ratings", Protocol::Http).await;
        for (number, service, pod) in [(1, "reviews", &reviews), (2, "ratings", &ratings)] {
            mesh.push_service(service, number, Protocol::Http);
            mesh.push_endpoint(service, pod, |_| {});
        }
        let frontend = mesh.client("frontend").await;
        Self { mesh, reviews, ratings, frontend }
    }

    /// Creates a scene whose service `reviews` has routes.
    async fn with(routes: Vec<d::HttpRoute>) -> Self {
        let scene = Self::new().await;
        scene.push(routes);
        scene
    }

    fn push(&self, http: Vec<d::HttpRoute>) {
        let table = d::RouteTable { source: "default/reviews".into(), http, ..d::RouteTable::default() };
        self.mesh.resources().push(Kind::RouteTable, REVIEWS, &table, &[]);
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response<String> {
        self.request(Method::GET, path, headers, b"").await
    }

    async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response<String> {
        let mut request = Request::builder().method(method).uri(path).header("host", "reviews:9080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut client = Client::connect(self.frontend.service_address(1)).await;
        let response = client.send(request.body(Full::new(Bytes::copy_from_slice(body))).unwrap()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Response::from_parts(head, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn to(host: &str) -> d::RouteDestination {
    d::RouteDestination { host: host.into(), weight: 1, ..d::RouteDestination::default() }
}

fn forward(hosts: &[&str]) -> d::Forward {
    d::Forward { destinations: hosts.iter().map(|host| to(host)).collect(), ..d::Forward::default() }
}

fn route(action: d::http_route::Action) -> d::HttpRoute {
    d::HttpRoute { action: Some(action), ..d::HttpRoute::default() }
}

fn forwards(forward: d::Forward) -> d::HttpRoute {
    route(d::http_route::Action::Forward(forward))
}

fn on_path(prefix: &str, route: d::HttpRoute) -> d::HttpRoute {
    let pattern = Some(d::string_match::Pattern::Prefix(prefix.into()));
    let path = Some(d::StringMatch { pattern, ignore_case: false });
    d::HttpRoute { matches: vec![d::HttpMatch { path, ..d::HttpMatch::default() }], ..route }
}

fn header<'a>(response: &'a Response<String>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_takes_the_first_route_that_matches() {
    let jason = d::FieldMatch {
        name: "end-user".into(),
        value: Some(d::StringMatch {
            pattern: Some(d::string_match::Pattern::Exact("jason".into())),
            ignore_case: false,
        }),
        invert: false,
    };
    let of_jason = d::HttpRoute {
        matches: vec![d::HttpMatch { headers: vec![jason], ..d::HttpMatch::default() }],
        ..forwards(forward(&[RATINGS]))
    };
    let scene = Scene::with(vec![of_jason, on_path("/r", forwards(forward(&[REVIEWS])))]).await;
    assert_eq!(pod_of(&scene.get("/r", &[("end-user", "jason")]).await), "ratings-a");
    assert_eq!(pod_of(&scene.get("/r", &[("end-user", "john")]).await), "reviews-a");
    let unmatched = scene.get("/x", &[]).await;
    assert_eq!((unmatched.status().as_u16(), unmatched.body().as_str()), (404, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_routes_take_effect_on_open_connections_and_end_with_the_table() {
    let scene = Scene::with(vec![forwards(forward(&[RATINGS]))]).await;
    let mut client = Client::connect(scene.frontend.service_address(1)).await;
    assert_eq!(pod_of(&client.get("/").await), "ratings-a");
    scene.push(vec![forwards(forward(&[REVIEWS]))]);
    until("the new route is used", async || pod_of(&client.get("/").await) == "reviews-a").await;
    scene.push(vec![forwards(forward(&[RATINGS]))]);
    until("the first route is used again", async || pod_of(&client.get("/").await) == "ratings-a").await;
    scene.mesh.resources().remove(Kind::RouteTable, REVIEWS);
    until("without routes, the service is used", async || pod_of(&client.get("/").await) == "reviews-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destinations_that_do_not_exist_are_answered_503() {
    let no_subset = d::RouteDestination { subset: "v9".into(), ..to(REVIEWS) };
    let no_port = d::RouteDestination { port: 1, ..to(REVIEWS) };
    let with = |destination| forwards(d::Forward { destinations: vec![destination], ..d::Forward::default() });
    let scene = Scene::with(vec![
        on_path("/host", forwards(forward(&["nothing.default.svc.cluster.local"]))),
        on_path("/subset", with(no_subset)),
        on_path("/port", with(no_port)),
    ])
    .await;
    for path in ["/host", "/subset", "/port"] {
        assert_eq!(scene.get(path, &[]).await.status(), 503, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirections_and_direct_responses_reach_no_pod() {
    let redirect =
        d::Redirect { uri: "/new".into(), authority: "b.example".into(), code: 302, ..d::Redirect::default() };
    let direct = d::DirectResponse { status: 503, body: Bytes::from_static(b"closed") };
    let edits = d::HeaderEdits {
        set: vec![d::HeaderEdit { name: "x-set".into(), value: "1".into() }],
        ..d::HeaderEdits::default()
    };
    let direct = d::HttpRoute { response_headers: Some(edits), ..route(d::http_route::Action::DirectResponse(direct)) };
    let scene =
        Scene::with(vec![on_path("/r", route(d::http_route::Action::Redirect(redirect))), on_path("/d", direct)]).await;
    let redirected = scene.get("/r?a=b", &[]).await;
    assert_eq!(redirected.status(), 302);
    assert_eq!(header(&redirected, "location"), "http://b.example/new?a=b");
    let direct = scene.get("/d", &[]).await;
    assert_eq!((direct.status().as_u16(), direct.body().as_str()), (503, "closed"));
    assert_eq!((header(&direct, "content-type"), header(&direct, "x-set")), ("text/plain", "1"));
    assert_eq!(scene.reviews.app.requests.load(Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_authorities_and_headers_are_rewritten() {
    let rewrite = d::Rewrite { path: Some(d::rewrite::Path::Uri("/new".into())), authority: "other.example".into() };
    let edit = |name: &str, value: &str| d::HeaderEdit { name: name.into(), value: value.into() };
    let edits = d::HeaderEdits {
        set: vec![edit("x-method", "m=%REQ(:METHOD)%"), edit("x-to", "%DOWNSTREAM_LOCAL_ADDRESS%")],
        add: vec![edit("x-many", "2")],
        remove: vec!["x-secret".into()],
    };
    let response = d::HeaderEdits { remove: vec!["answered-by".into()], ..d::HeaderEdits::default() };
    let forwarded = d::HttpRoute {
        request_headers: Some(edits),
        response_headers: Some(response),
        ..forwards(d::Forward { rewrite: Some(rewrite), ..forward(&[REVIEWS]) })
    };
    let scene = Scene::with(vec![on_path("/old", forwarded)]).await;
    let answer = scene.get("/old/a?q=1", &[("x-many", "1"), ("x-secret", "s")]).await;
    let many: Vec<_> = answer.headers().get_all("seen-x-many").iter().collect();
    assert_eq!(many, ["1", "2"]);
    for (name, expected) in [
        ("seen-path", "/new/a?q=1"),
        ("seen-host", "other.example"),
        ("seen-x-method", "m=GET"),
        ("seen-x-secret", ""),
        ("answered-by", ""),
    ] {
        assert_eq!(header(&answer, name), expected, "{name}");
    }
    assert_eq!(header(&answer, "seen-x-to"), "240.240.0.1:9080");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_delay_and_abort() {
    let aborted = d::Fault { abort_share: 1_000_000, abort_http_status: 429, ..d::Fault::default() };
    let grpc = d::Fault { abort_share: 1_000_000, abort_grpc_status: Some(14), ..d::Fault::default() };
    let delayed = d::Fault { delay_share: 1_000_000, delay_ms: 300, ..d::Fault::default() };
    let never = d::Fault { abort_share: 0, abort_http_status: 500, ..d::Fault::default() };
    let with =
        |prefix: &str, fault| on_path(prefix, d::HttpRoute { fault: Some(fault), ..forwards(forward(&[REVIEWS])) });
    let scene =
        Scene::with(vec![with("/abort", aborted), with("/grpc", grpc), with("/slow", delayed), with("/never", never)])
            .await;
    let answer = scene.get("/abort", &[]).await;
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (429, "fault filter abort"));
    let answer = scene.get("/grpc", &[("content-type", "application/grpc")]).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "grpc-status")), (200, "14"));
    let began = Instant::now();
    assert_eq!(scene.get("/slow", &[]).await.status(), 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(scene.get("/never", &[]).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_takes_too_long_is_a_504() {
    let limited = d::Forward { timeout_ms: 200, ..forward(&[REVIEWS]) };
    let scene = Scene::with(vec![forwards(limited)]).await;
    let answer = scene.get("/delay/2000", &[]).await;
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (504, "upstream request timeout"));
    assert_eq!(scene.reviews.app.requests.load(Relaxed), 1, "it is not sent again");
    let answer = scene.get("/", &[]).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "seen-x-envoy-expected-rq-timeout-ms")), (200, "200"));
    let answer = scene.get("/delay/2000", &[("x-envoy-upstream-rq-timeout-ms", "5000")]).await;
    assert_eq!(answer.status(), 504, "a client cannot raise the limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_and_slow_attempts_are_repeated_as_the_route_says() {
    let retries = |on: &[&str], attempts| d::Retries {
        attempts,
        retry_on: on.iter().map(|on| (*on).to_owned()).collect(),
        backoff_ms: 1,
        per_try_timeout_ms: 150,
        same_hosts: true,
        ..d::Retries::default()
    };
    let with =
        |prefix: &str, retries| on_path(prefix, forwards(d::Forward { retries: Some(retries), ..forward(&[REVIEWS]) }));
    let scene = Scene::with(vec![
        with("/three", retries(&["418"], 3)),
        with("/none", retries(&["418"], 0)),
        with("/other", retries(&["5xx"], 3)),
        with("/delay", retries(&["5xx"], 2)),
    ])
    .await;
    scene.reviews.app.status.store(418, Relaxed);
    let mut before = 0;
    let mut arrived = || {
        let now = scene.reviews.app.requests.load(Relaxed);
        now - std::mem::replace(&mut before, now)
    };
    for (path, expected) in [("/three", 4), ("/none", 1), ("/other", 1)] {
        assert_eq!(scene.get(path, &[]).await.status(), 418, "{path}");
        assert_eq!(arrived(), expected, "{path}");
    }
    let answer = scene.request(Method::POST, "/three", &[], b"body").await;
    assert_eq!((answer.status().as_u16(), arrived()), (418, 4), "a body is sent again");
    scene.reviews.app.status.store(200, Relaxed);
    assert_eq!(scene.get("/delay/1000", &[]).await.status(), 504);
    assert_eq!(arrived(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_goes_to_another_locality_if_the_route_says_so() {
    let retries = |remote_localities| d::Retries {
        attempts: 1,
        retry_on: vec!["418".into()],
        backoff_ms: 1,
        remote_localities,
        ..d::Retries::default()
    };
    let scene = Scene::new().await;
    let near = scene.mesh.pod("west", "us-west-1a", "reviews-b", "reviews", Protocol::Http).await;
    let far = scene.mesh.pod("west", "us-west-1b", "reviews-c", "reviews", Protocol::Http).await;
    for pod in [&near, &far] {
        scene.mesh.push_endpoint("reviews", pod, |_| {});
    }
    for pod in [&scene.reviews, &near] {
        pod.app.status.store(418, Relaxed);
    }
    let route = |remote| forwards(d::Forward { retries: Some(retries(remote)), ..forward(&[REVIEWS]) });
    scene.push(vec![route(false)]);
    until("both near pods are tried", async || scene.get("/", &[]).await.status() == 418).await;
    scene.push(vec![route(true)]);
    until("the far pod answers", async || pod_of(&scene.get("/", &[]).await) == "reviews-c").await;
    for _ in 0..20 {
        assert_eq!(pod_of(&scene.get("/", &[]).await), "reviews-c");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_receives_copies_and_delays_nothing() {
    let mirror = d::Mirror { destination: Some(to(RATINGS)), share: 1_000_000 };
    let gone = d::Mirror { destination: Some(to("gone.default.svc.cluster.local")), share: 1_000_000 };
    let never = d::Mirror { destination: Some(to(RATINGS)), share: 0 };
    let forwarded = d::Forward { mirrors: vec![mirror, gone, never], ..forward(&[REVIEWS]) };
    let scene = Scene::with(vec![forwards(forwarded)]).await;
    let answer = scene.request(Method::POST, "/", &[], &[b'x'; 5000]).await;
    assert_eq!((pod_of(&answer), answer.body().as_str()), ("reviews-a", "reviews-a got 5000 bytes"));
    assert_eq!(scene.get("/", &[]).await.status(), 200);
    until("both copies arrive", async || scene.ratings.app.requests.load(Relaxed) == 2).await;
    scene.ratings.app.kill().await;
    let began = Instant::now();
    assert_eq!(scene.get("/", &[]).await.status(), 200);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_answered_and_responses_have_the_permission() {
    let origin = d::StringMatch {
        pattern: Some(d::string_match::Pattern::Exact("https://a.example".into())),
        ignore_case: false,
    };
    let cors = d::Cors {
        allow_origins: vec![origin],
        allow_methods: vec!["GET".into(), "PUT".into()],
        max_age_s: Some(60),
        ..d::Cors::default()
    };
    let scene = Scene::with(vec![d::HttpRoute { cors: Some(cors), ..forwards(forward(&[REVIEWS])) }]).await;
    let headers = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
    let answer = scene.request(Method::OPTIONS, "/", &headers, b"").await;
    assert_eq!((answer.status().as_u16(), pod_of(&answer)), (200, ""));
    assert_eq!(header(&answer, "access-control-allow-methods"), "GET,PUT");
    assert_eq!(header(&answer, "access-control-max-age"), "60");
    let answer = scene.get("/", &headers[..1]).await;
    assert_eq!((pod_of(&answer), header(&answer, "access-control-allow-origin")), ("reviews-a", "https://a.example"));
    let other = scene.get("/", &[("origin", "https://b.example")]).await;
    assert_eq!((pod_of(&other), header(&other, "access-control-allow-origin")), ("reviews-a", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_take_routes_of_tcp() {
    let (mesh, mut pods) = (TestMesh::new().await, Vec::new());
    for (number, service) in [(1, "db"), (2, "other")] {
        let pod = mesh.tcp_pod("west", "us-west-1a", &format!("{service}-a"), service).await;
        mesh.push_service(service, number, Protocol::Tcp);
        mesh.push_endpoint(service, &pod, |_| {});
        pods.push(pod);
    }
    let subnet = |subnet: &str| d::TcpMatch { destination_subnets: vec![subnet.into()], ..d::TcpMatch::default() };
    let route = |condition, host: &str| d::TcpRoute { matches: vec![condition], destinations: vec![to(host)] };
    let table = d::RouteTable {
        tcp: vec![
            route(subnet("10.0.0.0/8"), "nothing.default.svc.cluster.local"),
            route(d::TcpMatch { port: 9080, ..d::TcpMatch::default() }, "other.default.svc.cluster.local"),
        ],
        ..d::RouteTable::default()
    };
    mesh.resources().push(Kind::RouteTable, "db.default.svc.cluster.local", &table, &[]);
    let frontend = mesh.client("frontend").await;
    let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    let mut greeting = [0; 6];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut greeting)).await.expect("a greeting").unwrap();
    drop(stream);
    let to_other = [("destination_service_name", "other"), ("reporter", "source")];
    until("the connection is counted", async || frontend.total(&TCP_OPENED, &to_other) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_with_tls_take_routes_by_server_name() {
    let (mesh, mut pods) = (TestMesh::new().await, Vec::new());
    for (number, service) in [(1, "db"), (2, "other")] {
        let pod = mesh.tcp_pod("west", "us-west-1a", &format!("{service}-a"), service).await;
        mesh.push_service(service, number, Protocol::Tls);
        mesh.push_endpoint(service, &pod, |_| {});
        pods.push(pod);
    }
    let table = d::RouteTable {
        tls: vec![d::TlsRoute {
            matches: vec![d::TlsMatch { server_names: vec!["*.example".into()], ..d::TlsMatch::default() }],
            destinations: vec![to("other.default.svc.cluster.local")],
        }],
        ..d::RouteTable::default()
    };
    mesh.resources().push(Kind::RouteTable, "db.default.svc.cluster.local", &table, &[]);
    let frontend = mesh.client("frontend").await;
    let total =
        |service: &str| frontend.total(&TCP_OPENED, &[("destination_service_name", service), ("reporter", "source")]);
    for (name, other, db) in [("a.example", 1, 0), ("a.test", 1, 1)] {
        let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
        stream.write_all(&client_hello(name)).await.unwrap();
        until("the connection is counted", async || (total("other"), total("db")) == (other, db)).await;
    }
}

/// Returns a TLS record with a ClientHello for a server name.
fn client_hello(name: &str) -> Vec<u8> {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let mut entry = vec![0];
    entry.extend(length(name.as_bytes()));
    entry.extend(name.as_bytes());
    let mut list = length(&entry).to_vec();
    list.extend(entry);
    let mut extensions = vec![0, 0];
    extensions.extend(length(&list));
    extensions.extend(list);
    let mut body = vec![3, 3];
    body.extend([0; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(length(&extensions));
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(length(&body));
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(length(&message));
    record.extend(message);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_decide_between_destinations() {
    let mut forwarded = forward(&[REVIEWS, RATINGS]);
    (forwarded.destinations[0].weight, forwarded.destinations[1].weight) = (90, 10);
    let scene = Scene::with(vec![forwards(forwarded)]).await;
    let mut client = Client::connect(scene.frontend.service_address(1)).await;
    let mut ratings = 0;
    for _ in 0..1000 {
        ratings += u32::from(pod_of(&client.get("/").await) == "ratings-a");
    }
    // Seven standard deviations from 100.
    assert!((34..=166).contains(&ratings), "{ratings}");
}
