//! Routing by host: the service of a request whose host differs from the address of its connection.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use http_body_util::Full;
use telemetry::istio::REQUESTS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::discovery::{OutboundPolicy, Protocol};

use crate::app::{App, Client, pod_of, start_server_first};
use crate::fixture::{Pod, Sidecar, TestMesh, until};
use crate::raw;

/// Starts the services `reviews` (address 1) and `ratings` (address 2) with a pod each, and a client.
async fn two_services() -> (Arc<TestMesh>, Pod, Pod, Sidecar) {
    let mesh = TestMesh::new().await;
    let reviews = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    let ratings = mesh.pod("west", "us-west-1a", "ratings-a", "ratings", Protocol::Http).await;
    for (number, service, pod) in [(1, "reviews", &reviews), (2, "ratings", &ratings)] {
        mesh.push_service(service, number, Protocol::Http);
        mesh.push_endpoint(service, pod, |_| {});
    }
    let frontend = mesh.client("frontend").await;
    (mesh, reviews, ratings, frontend)
}

/// Sends a request with `host` on a new connection to `address`. Returns the pod that responds.
async fn pod_at(address: SocketAddr, host: &str) -> String {
    pod_on(&mut Client::connect(address).await, host).await
}

/// Sends a request with `host` on an open connection. Returns the pod that responds.
async fn pod_on(client: &mut Client, host: &str) -> String {
    let request = Request::get("/").header("host", host).body(Full::default()).unwrap();
    pod_of(&client.send(request).await).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_the_service_that_its_host_names() {
    let (_mesh, _reviews, _ratings, frontend) = two_services().await;
    for host in [
        "ratings",
        "ratings:9080",
        "Ratings.default",
        "ratings.default.svc",
        "ratings.default.svc.cluster.local:9080",
        "240.240.0.2",
        "240.240.0.2:9080",
    ] {
        assert_eq!(pod_at(frontend.service_address(1), host).await, "ratings-a", "{host}");
    }
    assert_eq!(pod_at(frontend.service_address(2), "reviews").await, "reviews-a");
    let to_ratings = [("destination_service", "ratings.default.svc.cluster.local"), ("reporter", "source")];
    assert_eq!(frontend.total(&REQUESTS, &to_ratings), 7, "metrics name the service that received the requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_connection_go_to_different_hosts() {
    let (_mesh, _reviews, _ratings, frontend) = two_services().await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    for (host, pod) in
        [("reviews", "reviews-a"), ("ratings", "ratings-a"), ("ratings", "ratings-a"), ("reviews", "reviews-a")]
    {
        assert_eq!(pod_on(&mut client, host).await, pod, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_host_names_no_service_goes_to_the_service_at_the_address() {
    let (_mesh, _reviews, _ratings, frontend) = two_services().await;
    for host in ["shop.example.com", "240.240.0.1", "240.240.0.9:9080", "nothing", "nothing.default:9080"] {
        assert_eq!(pod_at(frontend.service_address(1), host).await, "reviews-a", "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_added_later_receives_the_requests_that_name_it() {
    let (mesh, _reviews, _ratings, frontend) = two_services().await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    assert_eq!(pod_on(&mut client, "details").await, "reviews-a");
    let details = mesh.pod("west", "us-west-1a", "details-a", "details", Protocol::Http).await;
    mesh.push_service("details", 3, Protocol::Http);
    mesh.push_endpoint("details", &details, |_| {});
    until("the new service is used", async || pod_on(&mut client, "details").await == "details-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_names_only_services_that_carry_http_on_the_port() {
    let (mesh, _reviews, _ratings, _) = two_services().await;
    let frontend = mesh.client("frontend-2").await;
    // The port of `mysql` is declared as opaque, and `other` does not have port 9080.
    mesh.push_service("mysql", 3, Protocol::Tcp);
    mesh.push_service_at_port("other", 4, 8080, Protocol::Http);
    for host in ["mysql", "mysql:9080", "other", "other:9080"] {
        assert_eq!(pod_at(frontend.service_address(1), host).await, "reviews-a", "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_port_of_undeclared_protocol_requests_go_to_the_service_at_the_address() {
    let (mesh, _reviews, _ratings, frontend) = two_services().await;
    let auto = mesh.pod("west", "us-west-1a", "auto-a", "auto", Protocol::Unspecified).await;
    mesh.push_service("auto", 3, Protocol::Unspecified);
    mesh.push_endpoint("auto", &auto, |_| {});
    assert_eq!(pod_at(frontend.service_address(3), "reviews").await, "auto-a");
    assert_eq!(pod_at(frontend.service_address(1), "auto").await, "auto-a", "the host can name such a service");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_pods_address_goes_to_the_service_that_the_host_names() {
    let (mesh, reviews, _ratings, _) = two_services().await;
    let frontend = mesh.client("frontend-2").await;
    // Only the headless service `db` has a pod at the address.
    let db = mesh.pod("west", "us-west-1a", "db-a", "db", Protocol::Http).await;
    mesh.push_headless_service("db", Protocol::Http);
    mesh.push_endpoint("db", &db, |_| {});
    let address = frontend.captured_address(db.gate.address);
    let port = db.gate.address.port();
    mesh.push_service_at_port("reviews-here", 5, port, Protocol::Http);
    mesh.push_endpoint("reviews-here", &reviews, |endpoint| {
        let Some(wire::discovery::endpoint::Kind::Direct(direct)) = &mut endpoint.kind else { unreachable!() };
        direct.ports = From::from([(port.into(), reviews.gate.address.port().into())]);
    });
    assert_eq!(pod_at(address, "reviews-here").await, "reviews-a");
    // A request to a headless service goes to the address that its client connected to.
    assert_eq!(pod_at(address, "db").await, "db-a");
    assert_eq!(pod_at(address, &db.gate.address.to_string()).await, "db-a");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_registry_only_a_request_whose_host_names_a_service_is_routed_from_any_address() {
    let (mesh, _reviews, _ratings, _) = two_services().await;
    let frontend = mesh.client("frontend-2").await;
    mesh.push_settings(|settings| settings.set_outbound_policy(OutboundPolicy::RegistryOnly));
    let unknown = frontend.captured_address("127.200.0.1:9080".parse().unwrap());
    until("an unknown host is refused", async || {
        let request = Request::get("/").header("host", "shop.example.com").body(Full::default()).unwrap();
        Client::connect(unknown).await.send(request).await.status() == 502
    })
    .await;
    assert_eq!(pod_at(unknown, "ratings").await, "ratings-a");
}

/// The controller is away, and the destinations have not been used before.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_may_be_part_of_the_mesh_is_sent_in_plaintext_while_the_controller_is_away() {
    let mesh = TestMesh::new().await;
    let (http, opaque) = (App::start("outside").await.address, start_server_first().await);
    let frontend = mesh.client("frontend").await;
    mesh.link.cut().await;
    let (http, opaque) = (frontend.captured_address(http), frontend.captured_address(opaque));
    let status = async |host: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        raw::status(&raw::send(http, &request).await)
    };
    let first_byte = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(opaque).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.read_u8().await.ok()
    };
    assert_eq!(status("www.example.com").await, 200);
    assert_eq!(first_byte(b"opaque\n").await, Some(b'h'));
    for host in ["reviews", "reviews.default.svc:9080", "reviews.default.svc.cluster.local"] {
        assert_eq!(status(host).await, 503, "{host}");
    }
    // The cluster's own DNS answered a name of the cluster with this address.
    frontend.published.note_address([127, 0, 0, 1].into());
    assert_eq!(status("www.example.com").await, 503);
    assert_eq!(first_byte(b"opaque\n").await, None);
    assert_eq!(first_byte(b"\x16\x03\x01").await, Some(b'h'), "the application's own TLS");
    mesh.link.open().await;
    until("the controller answers", async || status("www.example.com").await == 200).await;
}
