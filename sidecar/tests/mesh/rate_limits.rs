//! Limits on the rate of requests: exact across workers, by values of requests, and by a service that counts.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use wire::discovery as d;
use wire::discovery::Protocol;
use wire::discovery::rate_limit_rule::Limit;
use wire::rate_limit_service as s;

use crate::app::{App, Client};
use crate::fixture::{Pod, TestMesh, until};

const ALL: u32 = 1_000_000;
/// A unit in which nothing is refilled during a test.
const HOUR: Duration = Duration::from_secs(3600);

fn bucket(max_tokens: u32, tokens_per_fill: u32, interval: Duration) -> d::TokenBucket {
    let fill_interval_us = u64::try_from(interval.as_micros()).unwrap();
    d::TokenBucket { max_tokens, tokens_per_fill, fill_interval_us }
}

fn rule(limit: Limit) -> d::RateLimitRule {
    d::RateLimitRule { enabled_ppm: ALL, enforced_ppm: ALL, limit: Some(limit), ..Default::default() }
}

fn all_requests(of: d::TokenBucket) -> d::RateLimitRule {
    rule(Limit::Local(d::LocalLimit { bucket: Some(of), ..Default::default() }))
}

fn by_header(name: &str, of: d::TokenBucket) -> d::RateLimitRule {
    let action =
        d::RateLimitAction { value: Some(d::rate_limit_action::Value::Header(name.into())), ..Default::default() };
    let entries = vec![d::DescriptorEntry { key: name.into(), value: None }];
    let descriptors = vec![d::DescriptorLimit { entries, bucket: Some(of) }];
    let limit = Limit::Local(d::LocalLimit { descriptors, ..Default::default() });
    d::RateLimitRule { descriptors: vec![d::RateLimitDescriptor { actions: vec![action], stage: 0 }], ..rule(limit) }
}

fn limits(name: &str, rules: Vec<d::RateLimitRule>) -> d::RateLimit {
    d::RateLimit { name: format!("RateLimit/default/{name}"), rules, ..Default::default() }
}

/// Starts a pod with limits.
async fn limited(mesh: &Arc<TestMesh>, rules: Vec<d::RateLimitRule>) -> Pod {
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    set(mesh, &pod, 418, rules).await;
    pod
}

/// Replaces the limits of a pod, and waits until they are in force: until the second request to a path that they do not count is
/// answered with this status.
async fn set(mesh: &TestMesh, pod: &Pod, status: u16, mut rules: Vec<d::RateLimitRule>) {
    const PROBE: &str = "/probe";
    let matches = |any_of: &[&str], none_of: &[&str]| {
        let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect();
        let (any_of, none_of) = (texts(any_of), texts(none_of));
        let condition = d::RateLimitCondition { attribute: "request.path".into(), any_of, none_of };
        vec![d::RateLimitMatch { conditions: vec![condition] }]
    };
    rules.iter_mut().for_each(|rule| rule.matches = matches(&[], &[PROBE]));
    let probe = all_requests(bucket(1, 1, HOUR));
    rules.push(d::RateLimitRule { matches: matches(&[PROBE], &[]), status: status.into(), ..probe });
    mesh.push_rate_limits(pod, &[limits("limits", rules)]);
    let mut client = Client::connect(pod.inbound).await;
    until("the limits are in force", async || client.get(PROBE).await.status() == status).await;
}

async fn send(client: &mut Client, headers: &[(&str, &str)]) -> Response<String> {
    let mut request = Request::get("/").header("host", "reviews:9080");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, body) = client.send(request.body(Full::default()).unwrap()).await.into_parts();
    Response::from_parts(head, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// Sends requests on connections at the same time. Returns the number of those with status 200.
async fn granted(address: SocketAddr, connections: usize, each: usize) -> usize {
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut granted = 0;
                for _ in 0..each {
                    match client.get("/").await.status().as_u16() {
                        200 => granted += 1,
                        429 => {}
                        other => panic!("status {other}"),
                    }
                }
                granted
            })
        })
        .collect();
    let mut all = 0;
    for task in tasks {
        all += task.await.unwrap();
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_exact_for_sixteen_connections_and_two_workers() {
    let mesh = TestMesh::new().await;
    let pod = limited(&mesh, vec![all_requests(bucket(100, 100, HOUR))]).await;
    let before = pod.app.requests.load(Relaxed);
    assert_eq!(granted(pod.inbound, 16, 50).await, 100);
    assert_eq!(pod.app.requests.load(Relaxed) - before, 100, "the others did not reach the application");

    // With refills, what is granted follows from the time that has passed.
    let start = Instant::now();
    set(&mesh, &pod, 425, vec![all_requests(bucket(50, 1, Duration::from_millis(20)))]).await;
    let begun = Instant::now();
    let all = granted(pod.inbound, 16, 200).await as f64;
    let (longest, shortest) = (start.elapsed().as_secs_f64(), begun.elapsed().as_secs_f64());
    assert!(all <= 50.0 + longest * 50.0 + 1.0, "{all} in {longest} s");
    // Some connections are done before others.
    assert!(all >= 50.0 + shortest * 25.0 - 2.0, "{all} in {shortest} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_that_of_envoy_with_what_is_left() {
    let mesh = TestMesh::new().await;
    let header = d::RateLimitHeader { name: "x-local-rate-limit".into(), value: "true".into(), append: false };
    let with_headers = d::RateLimitRule {
        response_headers: vec![header],
        quota_headers: true,
        retry_after: true,
        ..all_requests(bucket(2, 2, Duration::from_secs(120)))
    };
    let pod = limited(&mesh, vec![with_headers]).await;
    let mut client = Client::connect(pod.inbound).await;
    let value = |response: &Response<String>, name: &str| {
        response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    let first = send(&mut client, &[]).await;
    assert_eq!(first.status(), 200);
    assert_eq!(value(&first, "x-ratelimit-limit").as_deref(), Some("2"));
    assert_eq!(value(&first, "x-ratelimit-remaining").as_deref(), Some("1"));
    assert_eq!(value(&first, "x-local-rate-limit"), None);
    send(&mut client, &[]).await;
    let third = send(&mut client, &[]).await;
    assert_eq!((third.status().as_u16(), &**third.body()), (429, "local_rate_limited"));
    assert_eq!(value(&third, "x-ratelimit-remaining").as_deref(), Some("0"));
    assert_eq!(value(&third, "retry-after").as_deref(), Some("60"));
    assert_eq!(value(&third, "x-local-rate-limit").as_deref(), Some("true"));
    let grpc = send(&mut client, &[("content-type", "application/grpc")]).await;
    assert_eq!((grpc.status().as_u16(), value(&grpc, "grpc-status").as_deref()), (200, Some("14")));
    let refused = pod.sidecar.total(&telemetry::istio::REQUESTS, &[("response_flags", "RL")]);
    assert!(refused >= 2, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_have_buckets_shadows_pass_and_unrelated_changes_keep_counts() {
    let mesh = TestMesh::new().await;
    let by_user = by_header("x-user", bucket(2, 2, HOUR));
    let shadow = d::RateLimitRule { enforced_ppm: 0, ..all_requests(bucket(1, 1, HOUR)) };
    let pod = limited(&mesh, vec![shadow, by_user]).await;
    let mut client = Client::connect(pod.inbound).await;
    for (user, expected) in [("a", 200), ("a", 200), ("a", 429), ("b", 200)] {
        assert_eq!(send(&mut client, &[("x-user", user)]).await.status().as_u16(), expected, "{user}");
    }
    assert_eq!(send(&mut client, &[]).await.status(), 200, "without a value, there is no limit");
    let by_user = by_header("x-user", bucket(2, 2, HOUR));
    let other = d::RateLimitRule { enforced_ppm: 0, ..all_requests(bucket(9, 9, HOUR)) };
    set(&mesh, &pod, 425, vec![other, by_user]).await;
    assert_eq!(send(&mut client, &[("x-user", "a")]).await.status(), 429, "the bucket is the one of before");
    // Values that a client makes up have places, and then share one bucket.
    let mut granted = 0;
    for n in 0..300 {
        granted += usize::from(send(&mut client, &[("x-user", &format!("made-up-{n}"))]).await.status() == 200);
    }
    assert_eq!(granted, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_connection_has_its_own_bucket_if_so_configured() {
    let mesh = TestMesh::new().await;
    let of = d::LocalLimit { bucket: Some(bucket(1, 1, HOUR)), per_connection: true, ..Default::default() };
    let pod = limited(&mesh, vec![rule(Limit::Local(of))]).await;
    assert_eq!(granted(pod.inbound, 8, 3).await, 8);
}

/// A service that counts, and what it was asked.
#[derive(Clone, Default)]
struct Counter(Arc<Mutex<Vec<s::RateLimitRequest>>>);

#[tonic::async_trait]
impl s::rate_limit_service_server::RateLimitService for Counter {
    async fn should_rate_limit(
        &self,
        request: tonic::Request<s::RateLimitRequest>,
    ) -> Result<tonic::Response<s::RateLimitResponse>, tonic::Status> {
        use s::rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit};
        let request = request.into_inner();
        let value = request.descriptors[0].entries[0].value.clone();
        let count = {
            let mut asked = self.0.lock().unwrap();
            asked.push(request);
            asked.iter().filter(|of| of.descriptors[0].entries[0].value == value).count()
        };
        match value.as_str() {
            "hang" => std::future::pending().await,
            "fail" => return Err(tonic::Status::unavailable("not today")),
            _ => {}
        }
        // A server that lies says nothing, or more than the proxy reads.
        let header =
            |key: &str, value: String| s::HeaderValue { key: key.into(), value, raw_value: Default::default() };
        let code = match value.as_str() {
            "nothing" => Code::Unknown,
            _ if count > 3 => Code::OverLimit,
            _ => Code::Ok,
        };
        let limit = RateLimit { requests_per_unit: 3, unit: Unit::Hour.into(), name: String::new() };
        let remaining = 3_u32.saturating_sub(u32::try_from(count).unwrap());
        let long = if value == "long" { "x".repeat(100_000) } else { "1".to_owned() };
        Ok(tonic::Response::new(s::RateLimitResponse {
            overall_code: code.into(),
            statuses: vec![DescriptorStatus {
                code: code.into(),
                current_limit: Some(limit),
                limit_remaining: remaining,
                duration_until_reset: Some(s::Duration { seconds: 60, nanos: 0 }),
            }],
            response_headers_to_add: vec![header("x-counted", long), header("x-isthmus-peer", "forged".into())],
            request_headers_to_add: vec![header("x-plan", "free".into())],
            raw_body: Default::default(),
        }))
    }
}

async fn counter() -> (SocketAddr, Counter) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, counter) = (listener.local_addr().unwrap(), Counter::default());
    let server = s::rate_limit_service_server::RateLimitServiceServer::new(counter.clone());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming));
    (address, counter)
}

fn asks(change: impl FnOnce(&mut d::GlobalLimit)) -> d::RateLimitRule {
    let mut global = d::GlobalLimit {
        hostname: "limits.default.svc.cluster.local".into(),
        port: 9080,
        domain: "shop".into(),
        timeout_ms: 500,
        ..Default::default()
    };
    change(&mut global);
    d::RateLimitRule { uses_route_descriptors: true, quota_headers: true, ..rule(Limit::Global(global)) }
}

/// Pushes the limits of a pod that a service counts by a header: the descriptors are those of routes, of another object.
async fn push_global(mesh: &TestMesh, pod: &Pod, rule: d::RateLimitRule) {
    let action = d::RateLimitAction {
        key: "USER".into(),
        value: Some(d::rate_limit_action::Value::Header("x-user".into())),
        ..Default::default()
    };
    let descriptors = vec![d::RateLimitDescriptor { actions: vec![action], stage: 0 }];
    let of_routes = d::RouteDescriptors { descriptors, ..Default::default() };
    let of_hosts = d::RateLimit { route_descriptors: vec![of_routes], ..limits("hosts", vec![]) };
    mesh.push_rate_limits(pod, &[limits("filter", vec![rule]), of_hosts]);
}

async fn serve_limits(mesh: &Arc<TestMesh>, address: SocketAddr) -> Pod {
    let app = App::external(address);
    let pod = mesh.pod_with_app("west", "us-west-1a", "limits-a", "limits", Protocol::Grpc, app).await;
    mesh.push_service("limits", 2, Protocol::Grpc);
    mesh.push_endpoint("limits", &pod, |_| {});
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_counts_requests() {
    let (address, counter) = counter().await;
    let mesh = TestMesh::new().await;
    let _limits = serve_limits(&mesh, address).await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    push_global(&mesh, &pod, asks(|_| {})).await;
    let mut client = Client::connect(pod.inbound).await;
    until("the limit is in force", async || {
        send(&mut client, &[("x-user", "probe")]).await;
        !counter.0.lock().unwrap().is_empty()
    })
    .await;
    for (remaining, status) in [("2", 200), ("1", 200), ("0", 200), ("0", 429)] {
        let response = send(&mut client, &[("x-user", "a")]).await;
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers()["x-ratelimit-remaining"], remaining);
        assert_eq!(response.headers()["x-ratelimit-limit"], "3, 3;w=3600");
        assert_eq!(response.headers().contains_key("x-envoy-ratelimited"), status == 429);
        assert_eq!(response.headers()["x-counted"], "1");
        assert!(!response.headers().contains_key("x-isthmus-peer"), "what only the mesh sets");
        if status == 200 {
            assert_eq!(response.headers()["seen-x-plan"], "free");
        }
    }
    assert!(pod.sidecar.total(&telemetry::istio::REQUESTS, &[("response_flags", "RL")]) >= 1);
    let asked = counter.0.lock().unwrap().last().cloned().unwrap();
    assert_eq!((&*asked.domain, &*asked.descriptors[0].entries[0].key), ("shop", "USER"));
    let before = counter.0.lock().unwrap().len();
    assert_eq!(send(&mut client, &[]).await.status(), 200);
    assert_eq!(counter.0.lock().unwrap().len(), before, "a request without a descriptor is not asked about");
    // Sixteen connections at once: the service decides, and its answers are followed exactly.
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let inbound = pod.inbound;
            tokio::spawn(async move {
                let mut client = Client::connect(inbound).await;
                let mut granted = 0;
                for _ in 0..4 {
                    granted += usize::from(send(&mut client, &[("x-user", "many")]).await.status() == 200);
                }
                granted
            })
        })
        .collect();
    let mut granted = 0;
    for task in tasks {
        granted += task.await.unwrap();
    }
    assert_eq!(granted, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_be_asked_is_ignored_or_refuses() {
    let (address, counter) = counter().await;
    let mesh = TestMesh::new().await;
    let _limits = serve_limits(&mesh, address).await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    push_global(&mesh, &pod, asks(|_| {})).await;
    let mut client = Client::connect(pod.inbound).await;
    until("the limit is in force", async || {
        send(&mut client, &[("x-user", "probe")]).await;
        !counter.0.lock().unwrap().is_empty()
    })
    .await;
    for user in ["hang", "fail", "nothing", "long"] {
        let start = Instant::now();
        assert_eq!(send(&mut client, &[("x-user", user)]).await.status(), 200, "{user}");
        assert!(start.elapsed() < Duration::from_secs(5), "{user}");
    }
    push_global(&mesh, &pod, asks(|global| global.fail_closed = true)).await;
    until("requests are refused", async || send(&mut client, &[("x-user", "fail")]).await.status() == 500).await;
    for user in ["hang", "fail", "nothing", "long"] {
        assert_eq!(send(&mut client, &[("x-user", user)]).await.status(), 500, "{user}");
    }
    assert!(pod.sidecar.total(&telemetry::istio::REQUESTS, &[("response_flags", "RLSE")]) >= 4);
    assert_eq!(send(&mut client, &[("x-user", "fine")]).await.status(), 200);
    let absent = |global: &mut d::GlobalLimit| {
        global.hostname = "absent.default.svc.cluster.local".into();
        global.status_on_error = 503;
        global.fail_closed = true;
    };
    push_global(&mesh, &pod, asks(absent)).await;
    until("the service does not exist", async || send(&mut client, &[("x-user", "fine")]).await.status() == 503).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_says_nothing_delays_a_request_by_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move { while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} });
        }
    });
    let mesh = TestMesh::new().await;
    let _limits = serve_limits(&mesh, address).await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    push_global(&mesh, &pod, asks(|global| (global.fail_closed, global.timeout_ms) = (true, 100))).await;
    let mut client = Client::connect(pod.inbound).await;
    until("requests are refused", async || send(&mut client, &[("x-user", "a")]).await.status() == 500).await;
    let start = Instant::now();
    assert_eq!(send(&mut client, &[("x-user", "a")]).await.status(), 500);
    assert!((Duration::from_millis(90)..Duration::from_secs(2)).contains(&start.elapsed()), "{:?}", start.elapsed());
}
