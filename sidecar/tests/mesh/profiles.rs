//! What SMI's and Linkerd's rules add to routes: conditions made of others, retries within a budget, and responses that are
//! counted by route.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use telemetry::metrics::Family;
use wire::Kind;
use wire::discovery::request_condition::Condition;
use wire::discovery::{self as d, Protocol};

use crate::app::{Client, pod_of};
use crate::fixture::{Pod, Sidecar, TestMesh, until};

const REVIEWS: &str = "reviews.default.svc.cluster.local";
const RATINGS: &str = "ratings.default.svc.cluster.local";
const RESPONSES: Family = Family { name: "isthmus_route_responses_total", help: "", labels: &[] };

struct Scene {
    mesh: Arc<TestMesh>,
    reviews: Pod,
    _ratings: Pod,
    frontend: Sidecar,
}

impl Scene {
    async fn with(table: d::RouteTable) -> Self {
        let mesh = TestMesh::new().await;
        let reviews = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
        let ratings = mesh.pod("west", "us-west-1a", "ratings-a", "ratings", Protocol::Http).await;
        for (number, service, pod) in [(1, "reviews", &reviews), (2, "ratings", &ratings)] {
            mesh.push_service(service, number, Protocol::Http);
            mesh.push_endpoint(service, pod, |_| {});
        }
        let frontend = mesh.client("frontend").await;
        mesh.resources().push(Kind::RouteTable, REVIEWS, &table, &[]);
        Scene { mesh, reviews, _ratings: ratings, frontend }
    }

    async fn send(&self, method: Method, path: &str) -> Response<String> {
        let request = Request::builder().method(method).uri(path).header("host", "reviews:9080");
        let mut client = Client::connect(self.frontend.service_address(1)).await;
        let response = client.send(request.body(Full::new(Bytes::new())).unwrap()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Response::from_parts(head, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Returns the number of attempts that have arrived since the last call.
    fn arrived(&self) -> u64 {
        self.reviews.app.requests.swap(0, Relaxed)
    }
}

fn forward(host: &str) -> d::Forward {
    let to = d::RouteDestination { host: host.into(), weight: 1, ..d::RouteDestination::default() };
    d::Forward { destinations: vec![to], ..d::Forward::default() }
}

fn route(name: &str, matches: Vec<d::HttpMatch>, forward: d::Forward) -> d::HttpRoute {
    let action = Some(d::http_route::Action::Forward(forward));
    d::HttpRoute { name: name.into(), matches, action, ..d::HttpRoute::default() }
}

fn path(regex: &str) -> d::HttpMatch {
    let pattern = Some(d::string_match::Pattern::Regex(regex.into()));
    d::HttpMatch { path: Some(d::StringMatch { pattern, ignore_case: false }), ..d::HttpMatch::default() }
}

fn table(http: Vec<d::HttpRoute>) -> d::RouteTable {
    d::RouteTable {
        source: format!("default/{REVIEWS}"),
        source_kind: "ServiceProfile".into(),
        http,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_made_of_others_chooses_the_route() {
    let of = |condition| d::RequestCondition { condition: Some(condition) };
    let method = |name: &str| {
        let pattern = Some(d::string_match::Pattern::Exact(name.into()));
        let method = Some(d::StringMatch { pattern, ignore_case: false });
        of(Condition::Request(d::HttpMatch { method, ..d::HttpMatch::default() }))
    };
    let either = of(Condition::Any(d::RequestConditions { conditions: vec![method("GET"), method("PUT")] }));
    let not = of(Condition::Not(Box::new(of(Condition::Request(path("/a/secret"))))));
    let condition = d::HttpMatch { further: vec![either, not], ..path("/a/.*") };
    let scene = Scene::with(table(vec![
        route("a", vec![condition], forward(RATINGS)),
        route("rest", Vec::new(), forward(REVIEWS)),
    ]))
    .await;
    for (method, path, expected) in [
        (Method::GET, "/a/b", "ratings-a"),
        (Method::PUT, "/a/b", "ratings-a"),
        (Method::DELETE, "/a/b", "reviews-a"),
        (Method::GET, "/a/secret", "reviews-a"),
        (Method::GET, "/b", "reviews-a"),
    ] {
        assert_eq!(pod_of(&scene.send(method.clone(), path).await), expected, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_taken_from_the_budget_that_requests_fill() {
    let retries = d::Retries {
        attempts: 10,
        retry_on: vec!["418".into()],
        backoff_ms: 1,
        same_hosts: true,
        budgeted: true,
        ..d::Retries::default()
    };
    let budgeted = |path_regex: &str| {
        let forward = d::Forward { retries: Some(retries.clone()), ..forward(REVIEWS) };
        route(path_regex, vec![path(path_regex)], forward)
    };
    let tokens = d::RetryTokens { ratio: 0.5, min_per_second: 0, ttl_ms: 3_600_000 };
    let with_tokens = d::RouteTable { retry_tokens: Some(tokens), ..table(vec![budgeted("/a"), budgeted("/b")]) };
    let scene = Scene::with(with_tokens).await;
    scene.reviews.app.status.store(418, Relaxed);
    assert_eq!((scene.send(Method::GET, "/a").await.status().as_u16(), scene.arrived()), (418, 1), "an empty budget");
    scene.reviews.app.status.store(200, Relaxed);
    for _ in 0..6 {
        assert_eq!(scene.send(Method::GET, "/a").await.status(), 200);
    }
    scene.arrived();
    scene.reviews.app.status.store(418, Relaxed);
    assert_eq!(scene.send(Method::POST, "/b").await.status(), 418);
    assert_eq!(scene.arrived(), 4, "six requests of another route paid for three retries");
    assert_eq!((scene.send(Method::GET, "/a").await.status().as_u16(), scene.arrived()), (418, 1));
    // A route that is to have a budget and has none does not repeat.
    scene.mesh.resources().push(Kind::RouteTable, REVIEWS, &table(vec![budgeted("/c")]), &[]);
    until("the table has arrived", async || scene.send(Method::GET, "/c").await.status() == 418).await;
    scene.arrived();
    assert_eq!((scene.send(Method::GET, "/c").await.status().as_u16(), scene.arrived()), (418, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_are_counted_by_route_and_class() {
    let failures = vec![d::StatusRange { first: 404, last: 404 }];
    let successes = vec![d::StatusRange { first: 503, last: 503 }];
    let counted = |name: &str, matches, classes: d::ResponseClasses| d::HttpRoute {
        response_classes: Some(classes),
        ..route(name, matches, forward(REVIEWS))
    };
    let scene = Scene::with(table(vec![
        counted("users", vec![path("/users")], d::ResponseClasses { failures, successes }),
        counted("[DEFAULT]", Vec::new(), d::ResponseClasses::default()),
    ]))
    .await;
    for (status, path) in [(404, "/users"), (503, "/users"), (200, "/users"), (404, "/x"), (500, "/x")] {
        scene.reviews.app.status.store(status, Relaxed);
        assert_eq!(scene.send(Method::GET, path).await.status().as_u16(), status);
    }
    let total = |route: &str, class: &str| {
        let labels = [("destination_service", REVIEWS), ("route", route), ("classification", class)];
        scene.frontend.total(&RESPONSES, &labels)
    };
    until("all responses are counted", async || {
        let all = ["users", "[DEFAULT]"].map(|route| [total(route, "success"), total(route, "failure")]);
        all == [[2, 1], [1, 1]]
    })
    .await;
}
