//! What a Sidecar lets a proxy see, and where it says that the application is.

use std::sync::Arc;

use http::Request;
use http_body_util::Full;
use wire::discovery::{self as d, Protocol};
use wire::{Kind, name};

use crate::app::{App, Client, pod_of};
use crate::fixture::{DOMAIN, Pod, Sidecar, TestMesh, until};

/// The name of the scope that the client's workload names.
const SCOPE: &str = "west/default/scope";

/// A mesh with services `reviews` at 240.240.0.1 and `ratings` at 240.240.0.2, and the sidecar of a client.
async fn mesh() -> (Arc<TestMesh>, [Pod; 2], Sidecar) {
    let mesh = TestMesh::new().await;
    let mut pods = Vec::new();
    for (n, service) in [(1, "reviews"), (2, "ratings")] {
        let pod = mesh.pod("west", "us-west-1a", &format!("{service}-a"), service, Protocol::Http).await;
        mesh.push_service(service, n, Protocol::Http);
        mesh.push_endpoint(service, &pod, |_| {});
        pods.push(pod);
    }
    let client = mesh.client("frontend").await;
    let pods: [Pod; 2] = pods.try_into().ok().expect("two pods");
    (mesh, pods, client)
}

/// Pushes a scope with these hosts, each of any namespace, and has the client's workload name it.
fn push_scope(mesh: &TestMesh, port: u32, hosts: &[&str], change: impl FnOnce(&mut d::Scope)) {
    let pattern = |host: &&str| d::HostPattern { namespace: "*".into(), host: (*host).into(), exclude: false };
    let listener = d::ScopeListener { port, hosts: hosts.iter().map(pattern).collect() };
    let mut scope = d::Scope { source: "default/scope".into(), listeners: vec![listener], ..d::Scope::default() };
    change(&mut scope);
    mesh.resources().push(Kind::Scope, SCOPE, &scope, &[]);
    mesh.push_client("west", "frontend-pod", |workload| workload.scope = SCOPE.into());
}

fn host_of(service: &str) -> String {
    format!("{service}.default.svc.{DOMAIN}")
}

/// Returns the status of a request to a host on a new connection, and the pod that answered.
async fn get(client: &Sidecar, n: u8, host: &str) -> (u16, String) {
    let request = Request::get("/").header("host", host).body(Full::default()).unwrap();
    let response = Client::connect(client.service_address(n)).await.send(request).await;
    (response.status().as_u16(), pod_of(&response).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_in_the_scope_is_as_if_it_were_not_in_the_mesh() {
    let (mesh, _pods, client) = mesh().await;
    assert_eq!(get(&client, 1, "reviews").await.0, 200);
    assert_eq!(get(&client, 2, "ratings").await.0, 200);
    push_scope(&mesh, 0, &[&host_of("reviews")], |scope| scope.registry_only = Some(true));
    until("ratings is not known", async || get(&client, 2, "ratings").await.0 == 502).await;
    assert_eq!(get(&client, 1, "reviews").await.0, 200);
    assert_eq!(get(&client, 2, "reviews").await.0, 200, "a host in the scope, at an address that is not");
    // The host decides, and it names nothing that is known.
    assert_eq!(get(&client, 1, "ratings").await.0, 200, "a host that is not known goes where its address leads");

    push_scope(&mesh, 0, &["*.default.svc.cluster.local"], |scope| scope.registry_only = Some(true));
    until("ratings is known again", async || get(&client, 2, "ratings").await.0 == 200).await;
    mesh.push_client("west", "frontend-pod", |_| {});
    until("there is no scope", async || client.published.newest().scope.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_of_a_port_has_the_hosts_of_that_port_alone() {
    let (mesh, _pods, client) = mesh().await;
    push_scope(&mesh, 9080, &[&host_of("reviews")], |scope| scope.registry_only = Some(true));
    until("ratings is not known", async || get(&client, 2, "ratings").await.0 == 502).await;
    assert_eq!(get(&client, 1, "reviews").await.0, 200);
    push_scope(&mesh, 9081, &[&host_of("reviews")], |scope| scope.registry_only = Some(true));
    until("reviews is known at another port", async || get(&client, 1, "reviews").await.0 == 502).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_a_virtual_service_that_is_not_in_the_scope_have_no_effect() {
    let (mesh, _pods, client) = mesh().await;
    let to = |host: &str| d::RouteDestination { host: host_of(host), weight: 1, ..d::RouteDestination::default() };
    let forward = d::Forward { destinations: vec![to("ratings")], ..d::Forward::default() };
    let route = d::HttpRoute { action: Some(d::http_route::Action::Forward(forward)), ..d::HttpRoute::default() };
    let table = d::RouteTable { source: "routing/reviews".into(), http: vec![route], ..d::RouteTable::default() };
    mesh.resources().push(Kind::RouteTable, &host_of("reviews"), &table, &[]);
    until("the route has effect", async || get(&client, 1, "reviews").await.1 == "ratings-a").await;
    let own = |scope: &mut d::Scope| scope.listeners[0].hosts[0].namespace = ".".into();
    push_scope(&mesh, 0, &["*"], own);
    until("the route has no effect", async || get(&client, 1, "reviews").await.1 == "reviews-a").await;
    push_scope(&mesh, 0, &[&host_of("reviews")], |_| {});
    until("the route has effect again, to a service that is not in the scope", async || {
        get(&client, 1, "reviews").await.1 == "ratings-a"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_destinations_are_reached_through_the_egress_proxy() {
    let (mesh, _pods, client) = mesh().await;
    let outside = App::start("outside").await;
    let get = async |address| {
        let response = Client::connect(client.captured_address(address)).await.get("/").await;
        pod_of(&response).to_owned()
    };
    assert_eq!(get(outside.address).await, "outside");
    push_scope(&mesh, 0, &["*"], |scope| {
        scope.registry_only = Some(false);
        scope.egress_proxy = Some(d::EgressProxy { hostname: host_of("reviews"), port: 9080, subset: String::new() });
    });
    until("reviews carries it", async || get(outside.address).await == "reviews-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_where_the_application_is_said_to_be() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    let other = App::start("other").await;
    let answers = async || Client::connect(pod.inbound).await.get("/").await;
    let answered = async || pod_of(&answers().await).to_owned();
    assert_eq!(answered().await, "reviews-a");
    let push = |change: &dyn Fn(&mut d::InboundPort)| {
        let mut port = d::InboundPort {
            number: pod.app.address.port().into(),
            protocol: Protocol::Http.into(),
            ..d::InboundPort::default()
        };
        change(&mut port);
        mesh.push_workload("west", "reviews-a", "us-west-1a", vec![port]);
    };
    push(&|port| {
        port.target_ip = name::ip_to_bytes(other.address.ip());
        port.target_port = other.address.port().into();
    });
    until("the other application answers", async || answered().await == "other").await;
    push(&|_| {});
    until("the application answers", async || answered().await == "reviews-a").await;
    push(&|port| {
        port.target_ip = vec![0; 4].into();
        port.target_port = other.address.port().into();
    });
    until("the other port of the address answers", async || answered().await == "other").await;

    let path = std::env::temp_dir().join(format!("isthmus-scope-{}.sock", std::process::id()));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = "HTTP/1.1 200 OK\r\nanswered-by: unix\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    push(&|port| port.target_path = path.display().to_string());
    until("the Unix socket answers", async || answered().await == "unix").await;
    serving.abort();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(answers().await.status(), 503, "nothing listens there");
}
