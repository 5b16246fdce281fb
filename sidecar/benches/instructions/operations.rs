//! The operations whose instructions are counted.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use balance::{Balancer, Health, Locality, Outcome};
use http::{HeaderMap, Request, request};
use policy::Facts;
use policy::authorization::{Action, Authorization, Policy, Rule, Source};
use proxy::http::{Version, headers};
use ratelimit::{DescriptorLimit, Entry, EntryPattern, LocalLimit, Rate};
use runtime::limits::Limit;
use telemetry::ResponseFlags;
use telemetry::istio::{Ended, Labels, Metrics, Protocol};
use telemetry::metrics::Registry;
use wire::discovery as d;
use wire::prost::Message;

use crate::pair::{self, Pair, Security};

/// An operation.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// The number of repetitions.
    pub(crate) times: u32,
    /// Repeats the operation.
    pub(crate) run: fn(u32),
}

const fn operation(name: &'static str, times: u32, run: fn(u32)) -> Operation {
    Operation { name, times, run }
}

/// All operations.
pub(crate) const OPERATIONS: &[Operation] = &[
    operation("request through both sidecars, no TLS", 10_000, request_through_both),
    operation("the same by the last of 100 routes", 5000, |times| request_by_routes(pair::prefixes(100), times)),
    operation("the same by one of 1000 exact paths", 5000, |times| request_by_routes(pair::exact_paths(1000), times)),
    operation("the same with timeouts, retries and a rewritten path", 5000, |times| {
        request_by_routes(pair::all_policies(), times);
    }),
    operation("the same with changes of headers", 5000, |times| {
        request_by_routes(pair::all_policies_and_headers(), times);
    }),
    operation("edit a request's head, outbound", 5000, edit_head),
    operation("authorize by identity, 1 rule", 5000, |times| authorize(1, times)),
    operation("authorize by identity, 100 rules", 5000, |times| authorize(100, times)),
    operation("authorize by identity, 1000 rules", 5000, |times| authorize(1000, times)),
    operation("pick among 1 endpoint", 5000, |times| pick(1, times)),
    operation("pick among 10 endpoints", 5000, |times| pick(10, times)),
    operation("pick among 1000 endpoints", 5000, |times| pick(1000, times)),
    operation("record a request's metrics", 5000, record),
    operation("parse a ClientHello", 5000, parse_client_hello),
    operation("decode an endpoint", 5000, decode_endpoint),
    operation("encode an endpoint", 5000, encode_endpoint),
    operation("acquire and release a permit", 50_000, acquire_and_release),
    operation("count a request against a local limit", 50_000, count_locally),
    operation("count a request against the limit of a value", 50_000, count_by_value),
];

/// Parses, routes, authorizes, picks and encodes in both sidecars, on real sockets. The kernel's instructions are not
/// counted.
fn request_through_both(times: u32) {
    let mut pair = Pair::start(Security::Plaintext);
    for _ in 0..times {
        pair.request();
    }
}

fn request_by_routes(routes: Vec<d::HttpRoute>, times: u32) {
    let mut pair = Pair::start_with(Security::Plaintext, routes);
    for _ in 0..times {
        pair.request();
    }
}

fn edit_head(times: u32) {
    let request = Request::get("/products/17?currency=EUR")
        .header("host", "reviews:9080")
        .header("user-agent", "shop/1.0")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip")
        .header("x-request-id", "5b1c4e2a-8c0d-4d7b-9a51-0f2d6a3c7e90")
        .body(());
    let (head, ()) = request.expect("a request").into_parts();
    for _ in 0..times {
        black_box(edited(black_box(head.clone())));
    }
}

fn edited(mut head: request::Parts) -> request::Parts {
    headers::ensure_request_id(&mut head.headers);
    headers::end_hop(&mut head.headers, headers::Direction::Request);
    headers::retarget(&mut head, Version::Http1);
    head
}

struct Fields(HeaderMap);

impl policy::Headers for Fields {
    fn any(&self, name: &str, matches: &mut dyn FnMut(std::borrow::Cow<'_, str>) -> bool) -> bool {
        self.0.get_all(name).iter().any(|value| matches(String::from_utf8_lossy(value.as_bytes())))
    }
}

/// Each rule matches in turn.
fn authorize(rules: u32, times: u32) {
    let rule = |number: u32| {
        let principal = format!("cluster.local/ns/default/sa/client-{number}");
        let mut source = Source::default();
        source.principals.any_of = vec![policy::Pattern::parse(&principal).expect("a pattern")];
        Rule { from: vec![source], to: vec![], when: vec![] }
    };
    let rules_of = (1..=rules).map(rule).collect();
    let policy = Policy { name: "default/clients".into(), action: Action::Allow, rules: rules_of, dry_run: false };
    let authorization = Authorization::compile([policy]);
    // The table of principals has a random key, and a lookup that meets another's entry costs some forty instructions
    // more: each time another client calls, so that the count is their average.
    let id = |number: u32| identity::SpiffeId::new("cluster.local", "default", &format!("client-{number}"));
    let clients: Vec<_> = (1..=rules).map(|number| id(number).expect("an identity")).collect();
    let fields = Fields(HeaderMap::new());
    let (method, path, host) = ("GET", "/products/17", "reviews:9080");
    let request = policy::Request { method, path, host, headers: &fields, claims: None };
    let source = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 2));
    let facts = |client| Facts {
        principal: Some(client),
        cluster: Some("west"),
        source,
        remote: source,
        destination: IpAddr::V4(Ipv4Addr::new(10, 244, 1, 3)),
        port: 9080,
        server_name: None,
        request: Some(request),
    };
    let calls: Vec<Facts> = clients.iter().map(facts).collect();
    assert!(calls.iter().all(|facts| authorization.evaluate(facts) == policy::Decision::Allowed));
    for facts in calls.iter().cycle().take(times as usize) {
        black_box(authorization.evaluate(black_box(facts)));
    }
}

/// Includes the report of the outcome.
fn pick(endpoints: usize, times: u32) {
    let here = Locality::new("us-west", "us-west-1", "a");
    let mut balancer = Balancer::new(here.clone());
    balancer.update((0..endpoints).map(|number| balance::Endpoint {
        id: format!("pod-{number}").into(),
        locality: here.clone(),
        priority: 0,
        weight: 1,
        health: Health::Ready,
        target: Arc::new(number),
    }));
    let now = Instant::now();
    // Pseudorandom, so that each run picks the same endpoints.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..times {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = balancer.pick(now, &[], random).expect("an endpoint");
        pick.report(Outcome::Success, now);
        black_box(pick);
    }
}

fn acquire_and_release(times: u32) {
    let limit = Limit::new(100);
    for _ in 0..times {
        drop(black_box(black_box(&limit).acquire()));
    }
}

fn rate() -> Rate {
    Rate::new(1_000_000, 1_000, Duration::from_secs(1)).expect("a rate")
}

fn count_locally(times: u32) {
    let now = Instant::now();
    let limit = LocalLimit::new(Some(rate()), Vec::new(), false, false, now);
    for _ in 0..times {
        black_box(black_box(&limit).take(&[], None, black_box(now)));
    }
}

fn count_by_value(times: u32) {
    let now = Instant::now();
    let entries = [EntryPattern { key: "x-user".into(), value: None }].into();
    let limit = LocalLimit::new(None, vec![DescriptorLimit { entries, rate: rate() }], false, false, now);
    let descriptors = [vec![Entry { key: "x-user", value: "alice".into() }]];
    for _ in 0..times {
        black_box(black_box(&limit).take(black_box(&descriptors), None, now));
    }
}

fn record(times: u32) {
    let metrics = Metrics::new(Registry::new().worker());
    let series = metrics.http(&Labels::default(), Protocol::Http);
    let duration = Duration::from_micros(1500);
    let ended = Ended {
        code: 200,
        grpc_status: None,
        flags: ResponseFlags::NONE,
        duration,
        request_bytes: 100,
        response_bytes: 1024,
    };
    for _ in 0..times {
        series.record(black_box(&ended));
    }
}

fn parse_client_hello(times: u32) {
    let hello = client_hello("outbound_.9080_._.reviews.default.svc.cluster.local");
    for _ in 0..times {
        black_box(net::hello::parse(black_box(&hello))).expect("a valid ClientHello");
    }
}

/// Returns a ClientHello (RFC 8446 §4.1.2) of the size that sidecars send, with a post-quantum key share. Random bytes
/// are zero, so that each call returns the same bytes.
fn client_hello(server_name: &str) -> Vec<u8> {
    fn with_length(bytes: usize, content: Vec<u8>) -> Vec<u8> {
        let length = (content.len() as u64).to_be_bytes();
        [length[8 - bytes..].to_vec(), content].concat()
    }
    let extension = |number: u16, content| [number.to_be_bytes().to_vec(), with_length(2, content)].concat();
    let name = with_length(2, [vec![0], with_length(2, server_name.into())].concat());
    let protocols =
        with_length(2, [with_length(1, b"istio".to_vec()), with_length(1, b"istio-http/1.1".to_vec())].concat());
    let shares = [vec![0x11, 0xec], with_length(2, vec![0; 1216]), vec![0, 0x17], with_length(2, vec![0; 65])].concat();
    let extensions = [
        extension(0x2b, with_length(1, vec![3, 4, 3, 3])),
        extension(0x0a, with_length(2, vec![0x11, 0xec, 0, 0x17, 0, 0x1d])),
        extension(0x0d, with_length(2, vec![4, 3, 8, 4])),
        extension(0x33, with_length(2, shares)),
        extension(0x10, protocols),
        extension(0x00, name),
    ];
    let suites = with_length(2, vec![0x13, 2, 0x13, 1, 0x13, 3]);
    let body =
        [vec![3, 3], vec![0; 32], with_length(1, vec![0; 32]), suites, vec![1, 0], with_length(2, extensions.concat())];
    let message = [vec![1], with_length(3, body.concat())].concat();
    [vec![22, 3, 1], with_length(2, message)].concat()
}

fn endpoint() -> d::Endpoint {
    let labels = d::WorkloadLabels {
        workload: "reviews".into(),
        namespace: "default".into(),
        app: "reviews".into(),
        version: "v1".into(),
        ..Default::default()
    };
    let direct = d::Direct {
        ip: vec![10, 244, 1, 2].into(),
        ports: From::from([(9080, 9080)]),
        identity: "spiffe://cluster.local/ns/default/sa/reviews".into(),
        mutual_tls: true,
        pod: "reviews-7d4b9c6f5-x2x7q".into(),
        workload: Some(labels),
        ..Default::default()
    };
    d::Endpoint {
        service: "reviews.default.svc.cluster.local".into(),
        cluster: "west".into(),
        network: "network-west".into(),
        locality: Some(d::Locality { region: "us-west".into(), zone: "us-west-1".into(), subzone: "a".into() }),
        weight: 1,
        kind: Some(d::endpoint::Kind::Direct(direct)),
        ..Default::default()
    }
}

fn decode_endpoint(times: u32) {
    let encoded = bytes::Bytes::from(endpoint().encode_to_vec());
    for _ in 0..times {
        black_box(d::Endpoint::decode(black_box(encoded.clone()))).expect("an endpoint");
    }
}

fn encode_endpoint(times: u32) {
    let endpoint = endpoint();
    for _ in 0..times {
        black_box(black_box(&endpoint).encode_to_vec());
    }
}
