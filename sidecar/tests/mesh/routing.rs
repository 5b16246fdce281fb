//! Routing by host: which service a request goes to if its host and the address of its connection differ.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use http_body_util::Full;
use telemetry::istio::REQUESTS;
use wire::discovery::{OutboundPolicy, Protocol};

use crate::app::{Client, by};
use crate::fixture::{Pod, Sidecar, World};

/// The services `reviews` (address 1) and `ratings` (address 2), each with one pod, and a client.
async fn two_services() -> (Arc<World>, Pod, Pod, Sidecar) {
    let world = World::new().await;
    let reviews = world.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    let ratings = world.pod("west", "us-west-1a", "ratings-a", "ratings", Protocol::Http).await;
    for (number, service, pod) in [(1, "reviews", &reviews), (2, "ratings", &ratings)] {
        world.service(service, number, Protocol::Http, &[]);
        world.serve(service, pod, |_| {});
    }
    let frontend = world.client("frontend").await;
    (world, reviews, ratings, frontend)
}

/// The pod that answers a request with this host on a connection to this address.
async fn answers(address: SocketAddr, host: &str) -> String {
    answers_on(&mut Client::connect(address).await, host).await
}

async fn answers_on(client: &mut Client, host: &str) -> String {
    let request = Request::get("/").header("host", host).body(Full::default()).unwrap();
    by(&client.send(request).await).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_decides_whatever_the_address() {
    let (_world, _reviews, _ratings, frontend) = two_services().await;
    for host in
        ["ratings", "ratings:9080", "Ratings.default", "ratings.default.svc", "ratings.default.svc.cluster.local:9080"]
    {
        assert_eq!(answers(frontend.service(1), host).await, "ratings-a", "{host}");
    }
    assert_eq!(answers(frontend.service(2), "reviews").await, "reviews-a");
    let to_ratings = [("destination_service", "ratings.default.svc.cluster.local"), ("reporter", "source")];
    assert_eq!(frontend.counted(&REQUESTS, &to_ratings), 5, "metrics name the service that was reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_connection_go_to_different_hosts() {
    let (_world, _reviews, _ratings, frontend) = two_services().await;
    let mut client = Client::connect(frontend.service(1)).await;
    for (host, pod) in
        [("reviews", "reviews-a"), ("ratings", "ratings-a"), ("ratings", "ratings-a"), ("reviews", "reviews-a")]
    {
        assert_eq!(answers_on(&mut client, host).await, pod, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_decides_if_the_host_names_no_service() {
    let (_world, _reviews, _ratings, frontend) = two_services().await;
    for host in ["shop.example.com", "240.240.0.2", "240.240.0.2:9080", "nothing", "nothing.default:9080"] {
        assert_eq!(answers(frontend.service(1), host).await, "reviews-a", "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_created_later_is_found_by_its_host() {
    let (world, _reviews, _ratings, frontend) = two_services().await;
    let mut client = Client::connect(frontend.service(1)).await;
    assert_eq!(answers_on(&mut client, "details").await, "reviews-a");
    let details = world.pod("west", "us-west-1a", "details-a", "details", Protocol::Http).await;
    world.service("details", 3, Protocol::Http, &[]);
    world.serve("details", &details, |_| {});
    let found = async {
        while answers_on(&mut client, "details").await != "details-a" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(15), found).await.expect("the new service is used");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_names_only_services_that_carry_http_on_the_port() {
    let (world, _reviews, _ratings, _) = two_services().await;
    let frontend = world.client("frontend-2").await;
    // The port of `mysql` is declared as opaque, and `other` does not have port 9080.
    world.service("mysql", 3, Protocol::Tcp, &[]);
    world.service_at_port("other", 4, 8080, Protocol::Http);
    for host in ["mysql", "mysql:9080", "other", "other:9080"] {
        assert_eq!(answers(frontend.service(1), host).await, "reviews-a", "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_pods_address_goes_to_the_service_that_the_host_names() {
    let (world, reviews, _ratings, _) = two_services().await;
    let frontend = world.client("frontend-2").await;
    // The address of a pod of the headless service `db` alone.
    let db = world.pod("west", "us-west-1a", "db-a", "db", Protocol::Http).await;
    world.headless("db", Protocol::Http);
    world.serve("db", &db, |_| {});
    let address = frontend.way_to(db.gate.address);
    let port = db.gate.address.port();
    world.service_at_port("reviews-here", 5, port, Protocol::Http);
    world.serve("reviews-here", &reviews, |endpoint| {
        let Some(wire::discovery::endpoint::Kind::Direct(direct)) = &mut endpoint.kind else { unreachable!() };
        direct.ports = From::from([(port.into(), reviews.gate.address.port().into())]);
    });
    assert_eq!(answers(address, "reviews-here").await, "reviews-a");
    // The members of a headless service are reached at the address that the client chose.
    assert_eq!(answers(address, "db").await, "db-a");
    assert_eq!(answers(address, &db.gate.address.to_string()).await, "db-a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_routed_even_if_the_address_is_not_allowed() {
    let (world, _reviews, _ratings, _) = two_services().await;
    let frontend = world.client("frontend-2").await;
    world.settings(|settings| settings.set_outbound_policy(OutboundPolicy::RegistryOnly));
    let nowhere = frontend.way_to("127.200.0.1:9080".parse().unwrap());
    let routed = async {
        let request = || Request::get("/").header("host", "shop.example.com").body(Full::default()).unwrap();
        while Client::connect(nowhere).await.send(request()).await.status() != 502 {}
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), routed).await.expect("an unknown host is refused");
    assert_eq!(answers(nowhere, "ratings").await, "ratings-a");
}
