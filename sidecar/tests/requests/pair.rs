//! A client, two real sidecars and an application. Client and application allocate nothing per request and do very
//! little, so that the cost of a request is that of the sidecars.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use tokio::runtime::Runtime;
use wire::{Kind, discovery as d};

use crate::app::App;
use crate::fixture::resources::policy_name;
use crate::fixture::{DOMAIN, Pod, Sidecar, TestMesh};

const REQUEST: &[u8] = b"GET /products/17?currency=EUR HTTP/1.1\r\nhost: reviews:9080\r\nuser-agent: shop/1.0\r\n\
    accept: application/json\r\naccept-encoding: gzip\r\nx-request-id: 5b1c4e2a-8c0d-4d7b-9a51-0f2d6a3c7e90\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
    date: Fri, 20 Nov 2026 12:00:00 GMT\r\n\r\n{}";

/// The security of the connection between the two sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    MutualTls,
    /// Without cryptography, to count the rest.
    Plaintext,
}

/// A client's open connection through two sidecars.
pub(crate) struct Pair {
    client: TcpStream,
    _frontend: Sidecar,
    _pod: Pod,
    _mesh: Arc<TestMesh>,
    _runtime: Runtime,
}

impl Pair {
    /// Starts the sidecars, with an authorization policy, and sends a first request.
    pub(crate) fn start(security: Security) -> Self {
        Self::start_with(security, Vec::new())
    }

    /// Starts the sidecars as [`Pair::start`] does. The service has these routes.
    pub(crate) fn start_with(security: Security, http: Vec<d::HttpRoute>) -> Self {
        let runtime = Runtime::new().unwrap();
        let (mesh, pod, frontend) = runtime.block_on(async {
            let mesh = TestMesh::new().await;
            let app = App::external(application());
            let pod = mesh.pod_with_app("west", "us-west-1a", "reviews-a", "reviews", d::Protocol::Http, app).await;
            if security == Security::Plaintext {
                mesh.push_peer_mode(&pod, d::PeerMode::Permissive);
            }
            let policy = policy_name("west", "reviews-a");
            mesh.resources().push(Kind::AuthorizationPolicy, &policy, &authorization(security), &[]);
            mesh.push_service("reviews", 1, d::Protocol::Http);
            if !http.is_empty() {
                let table = d::RouteTable { http, ..d::RouteTable::default() };
                mesh.resources().push(Kind::RouteTable, &reviews(), &table, &[]);
            }
            let inbound = pod.inbound;
            mesh.push_endpoint("reviews", &pod, |endpoint| {
                let Some(d::endpoint::Kind::Direct(direct)) = &mut endpoint.kind else { unreachable!() };
                direct.ports = From::from([(9080, inbound.port().into())]);
                direct.mutual_tls = security == Security::MutualTls;
            });
            let frontend = mesh.client("frontend").await;
            (mesh, pod, frontend)
        });
        let client = TcpStream::connect(frontend.service_address(1)).unwrap();
        client.set_nodelay(true).unwrap();
        let mut pair = Self { client, _frontend: frontend, _pod: pod, _mesh: mesh, _runtime: runtime };
        pair.request();
        pair
    }

    /// Sends a request and reads its response.
    pub(crate) fn request(&mut self) {
        self.client.write_all(REQUEST).unwrap();
        let mut buffer = [0; 4096];
        let mut length = 0;
        while !buffer[..length].ends_with(b"\r\n\r\n{}") {
            let read = self.client.read(&mut buffer[length..]).unwrap();
            assert_ne!(read, 0, "no response: {}", String::from_utf8_lossy(&buffer[..length]));
            length += read;
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&buffer[..length]));
    }
}

/// Returns the hostname of the service.
fn reviews() -> String {
    format!("reviews.default.svc.{DOMAIN}")
}

/// Returns a route to the service, on a condition on the path.
pub(crate) fn route_on(path: d::string_match::Pattern, forward: d::Forward) -> d::HttpRoute {
    let path = Some(d::StringMatch { pattern: Some(path), ignore_case: false });
    let destination = d::RouteDestination { host: reviews(), weight: 1, ..Default::default() };
    d::HttpRoute {
        matches: vec![d::HttpMatch { path, ..Default::default() }],
        action: Some(d::http_route::Action::Forward(d::Forward { destinations: vec![destination], ..forward })),
        ..Default::default()
    }
}

/// Returns routes on `count` prefixes, of which the last one matches the request.
pub(crate) fn prefixes(count: u32) -> Vec<d::HttpRoute> {
    let prefix = |number: u32| if number == count { "/products".to_owned() } else { format!("/other-{number}") };
    let route = |number| route_on(d::string_match::Pattern::Prefix(prefix(number)), d::Forward::default());
    (1..=count).map(route).collect()
}

/// Returns routes on `count` exact paths, of which the last one matches the request.
pub(crate) fn exact_paths(count: u32) -> Vec<d::HttpRoute> {
    let path = |number: u32| if number == count { "/products/17".to_owned() } else { format!("/products/x{number}") };
    let route = |number| route_on(d::string_match::Pattern::Exact(path(number)), d::Forward::default());
    (1..=count).map(route).collect()
}

/// Returns one route with time limits, retries and a rewritten path.
pub(crate) fn all_policies() -> Vec<d::HttpRoute> {
    let retries = d::Retries {
        attempts: 3,
        per_try_timeout_ms: 10_000,
        retry_on: vec!["5xx".into(), "reset".into()],
        ..Default::default()
    };
    let forward = d::Forward {
        timeout_ms: 30_000,
        retries: Some(retries),
        rewrite: Some(d::Rewrite {
            path: Some(d::rewrite::Path::Uri("/products/items".into())),
            authority: String::new(),
        }),
        ..Default::default()
    };
    vec![route_on(d::string_match::Pattern::Prefix("/products".into()), forward)]
}

/// Returns the route of [`all_policies`] with changes of headers: one is set, one added and one removed, each way.
pub(crate) fn all_policies_and_headers() -> Vec<d::HttpRoute> {
    let edit = |name: &str| d::HeaderEdit { name: name.into(), value: "shop".into() };
    let edits =
        || Some(d::HeaderEdits { set: vec![edit("x-set")], add: vec![edit("x-add")], remove: vec!["x-remove".into()] });
    let route = all_policies().remove(0);
    vec![d::HttpRoute { request_headers: edits(), response_headers: edits(), ..route }]
}

/// Returns a policy that allows the frontend: by its identity, if the connection has one.
fn authorization(security: Security) -> d::AuthorizationPolicy {
    let any_of = |values: &[&str]| {
        Some(d::Values { any_of: values.iter().map(|value| (*value).to_owned()).collect(), none_of: vec![] })
    };
    let principal = format!("{DOMAIN}/ns/default/sa/frontend");
    let source = d::AuthorizationSource { principals: any_of(&[&principal]), ..Default::default() };
    let operation =
        d::AuthorizationOperation { methods: any_of(&["GET"]), paths: any_of(&["/products/*"]), ..Default::default() };
    let rule = d::AuthorizationRule {
        from: if security == Security::MutualTls { vec![source] } else { vec![] },
        to: vec![operation],
        ..Default::default()
    };
    let name = "default/frontend".into();
    d::AuthorizationPolicy { name, action: d::PolicyAction::Allow.into(), rules: vec![rule], ..Default::default() }
}

/// Starts an application that responds to each request without allocating.
fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || respond(stream.unwrap()));
        }
    });
    address
}

fn respond(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    let mut length = 0;
    loop {
        match stream.read(&mut buffer[length..]) {
            Ok(0) | Err(_) => return,
            Ok(read) => length += read,
        }
        if buffer[..length].ends_with(b"\r\n\r\n") {
            length = 0;
            if stream.write_all(RESPONSE).is_err() {
                return;
            }
        }
    }
}
