//! Connecting to endpoints of a network that is far away.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use wire::Kind;
use wire::discovery::{self as d, Protocol};

use crate::app::{Client, get, pod_of};
use crate::fixture::{Pod, TestMesh, until};

/// Makes a pod an endpoint behind the gateway of its network, which is the pod's relay.
fn push_behind_gateway(mesh: &TestMesh, pod: &Pod) {
    let IpAddr::V4(ip) = pod.gate.address.ip() else { unreachable!() };
    let network = format!("net-{}", pod.cluster);
    let address = d::GatewayAddress {
        ip: ip.octets().to_vec().into(),
        port: pod.gate.address.port().into(),
        cluster: pod.cluster.clone(),
        locality: None,
    };
    let gateway = d::NetworkGateway { network: network.clone(), addresses: vec![address] };
    mesh.resources().push(Kind::NetworkGateway, &network, &gateway, &[]);
    mesh.push_endpoint("reviews", pod, |endpoint| {
        let summary = d::Summary { ready: 1, identities: vec![pod.identity.to_string()], ..Default::default() };
        endpoint.kind = Some(d::endpoint::Kind::Summary(summary));
    });
}

/// Sends a request while the relay of `pod` delays new connections by `delay`.
async fn get_delayed(address: SocketAddr, pod: &Pod, delay: Duration) -> (http::Response<String>, Duration) {
    pod.gate.stall();
    let begun = Instant::now();
    let opening = async {
        tokio::time::sleep(delay).await;
        pod.gate.open().await;
    };
    let (response, ()) = tokio::join!(get(address), opening);
    (response, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_on_another_continent_is_reached_without_configuration() {
    let mesh = TestMesh::new().await;
    let far = mesh.pod("east", "us-east-1a", "far", "reviews", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    push_behind_gateway(&mesh, &far);
    let frontend = mesh.client("frontend").await;
    // Two round trips of 600 ms and what the gateway may need.
    let (response, took) = get_delayed(frontend.service_address(1), &far, Duration::from_millis(2500)).await;
    assert_eq!((response.status().as_u16(), pod_of(&response)), (200, "far"), "after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_connect_timeout_takes_effect_everywhere() {
    let mesh = TestMesh::new().await;
    let far = mesh.pod("east", "us-east-1a", "far", "reviews", Protocol::Http).await;
    let near = mesh.pod("west", "us-west-1a", "near", "ratings", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    push_behind_gateway(&mesh, &far);
    mesh.push_service("ratings", 2, Protocol::Http);
    mesh.push_endpoint("ratings", &near, |_| {});
    mesh.push_settings(|settings| settings.connect_timeout_ms = 200);
    let frontend = mesh.client("frontend").await;
    let in_force = async |address, pod: &Pod| {
        let (response, _) = get_delayed(address, pod, Duration::from_millis(1500)).await;
        response.status() == 503
    };
    assert!(in_force(frontend.service_address(1), &far).await, "a short one ends a slow attempt through a gateway");
    mesh.push_settings(|settings| settings.connect_timeout_ms = 20_000);
    let slow = async |address, pod: &Pod| {
        let (response, _) = get_delayed(address, pod, Duration::from_millis(1500)).await;
        response.status() == 200
    };
    until("a long one is in force for pods of the network", async || slow(frontend.service_address(2), &near).await)
        .await;
    assert!(slow(frontend.service_address(1), &far).await);
}

/// An endpoint that is slower than another is neither ejected nor left unused.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_farther_away_than_another_is_used_as_well() {
    let mesh = TestMesh::new().await;
    let near = mesh.pod("west", "us-west-1a", "near", "reviews", Protocol::Http).await;
    let far = mesh.pod("east", "us-east-1a", "far", "reviews", Protocol::Http).await;
    mesh.push_settings(|settings| settings.locality_load_balancing = false);
    mesh.push_service("reviews", 1, Protocol::Http);
    mesh.push_endpoint("reviews", &near, |_| {});
    push_behind_gateway(&mesh, &far);
    let frontend = mesh.client("frontend").await;
    let address = frontend.service_address(1);
    far.gate.stall();
    let mut client = Client::connect(address).await;
    let before = far.gate.connections();
    until("an attempt to the far endpoint was made", async || {
        assert_eq!(pod_of(&client.get("/").await), "near", "the near one answers first");
        far.gate.connections() > before
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    far.gate.open().await;
    let mut seen = Vec::new();
    until("both are used", async || {
        seen.push(pod_of(&client.get("/").await).to_owned());
        ["near", "far"].iter().all(|pod| seen.iter().any(|seen| seen == pod))
    })
    .await;
}
