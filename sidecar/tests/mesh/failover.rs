//! Endpoint failures: retries, failover between tiers, and recovery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Method;
use telemetry::istio::REQUESTS;
use wire::discovery::{Health, Protocol};

use crate::app::{Client, get, pod_of};
use crate::fixture::{Pod, Sidecar, TestMesh, until};

/// Starts the service `reviews` with a pod in each of west's zones and one in east, and a client in us-west-1a.
async fn three_tiers() -> (Arc<TestMesh>, Pod, Pod, Pod, Sidecar) {
    let mesh = TestMesh::new().await;
    let near = mesh.pod("west", "us-west-1a", "near", "reviews", Protocol::Http).await;
    let beside = mesh.pod("west", "us-west-1b", "beside", "reviews", Protocol::Http).await;
    let far = mesh.pod("east", "us-east-1a", "far", "reviews", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    for pod in [&near, &beside, &far] {
        mesh.push_endpoint("reviews", pod, |_| {});
    }
    let frontend = mesh.client("frontend").await;
    (mesh, near, beside, far, frontend)
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_fails_over_to_the_next_tier_and_returns() {
    let (_mesh, near, beside, far, frontend) = three_tiers().await;
    let address = frontend.service_address(1);
    for _ in 0..10 {
        assert_eq!(pod_of(&get(address).await), "near");
    }
    near.gate.cut().await;
    for _ in 0..10 {
        let response = get(address).await;
        assert_eq!((response.status().as_u16(), pod_of(&response)), (200, "beside"));
    }
    beside.gate.cut().await;
    for _ in 0..10 {
        let response = get(address).await;
        assert_eq!((response.status().as_u16(), pod_of(&response)), (200, "far"));
    }
    far.gate.cut().await;
    assert_eq!(get(address).await.status(), 503);

    far.gate.open().await;
    near.gate.open().await;
    until("traffic returns to the nearest tier", async || pod_of(&get(address).await) == "near").await;
}

/// Requests use open connections, and slow connecting does not eject a pod that responds.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_accepts_slowly_keeps_its_traffic() {
    let (_mesh, near, _beside, _far, frontend) = three_tiers().await;
    let address = frontend.service_address(1);
    let (mut first, mut second) = (Client::connect(address).await, Client::connect(address).await);
    assert_eq!(pod_of(&first.get("/").await), "near");
    near.gate.stall();
    // The second request is sent while the first one uses the only connection.
    let slow = first.get("/delay/100");
    let concurrent = async {
        until("the slow request has arrived", async || near.app.requests.load(Relaxed) > 1).await;
        second.get("/").await
    };
    let (slow, concurrent) = tokio::join!(slow, concurrent);
    assert_eq!((pod_of(&slow), pod_of(&concurrent)), ("near", "near"));
    // Meanwhile a connection to another pod is established before the one to this pod.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(600) {
        assert_eq!(pod_of(&first.get("/").await), "near");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    near.gate.open().await;
}

/// The bound of failover: local pods are killed under load, and no request fails.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_pods_are_killed_under_load() {
    let (_mesh, near, beside, _far, frontend) = three_tiers().await;
    let address = frontend.service_address(1);
    let (begun, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut responses = Vec::new();
                while !stop.load(Relaxed) {
                    let sent = Instant::now();
                    let response = client.get("/").await;
                    responses.push((
                        sent.duration_since(begun),
                        sent.elapsed(),
                        response.status(),
                        pod_of(&response).to_owned(),
                    ));
                    tokio::time::sleep(Duration::from_millis(40)).await;
                }
                responses
            })
        })
        .collect();
    until("the pods are under load", async || near.app.requests.load(Relaxed) > 100).await;
    let killed = begun.elapsed();
    near.gate.cut().await;
    beside.gate.cut().await;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    stop.store(true, Relaxed);
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.unwrap());
    }
    let failed: Vec<_> = all.iter().filter(|(_, _, status, _)| *status != 200).collect();
    assert!(failed.is_empty(), "killed at {killed:?}, failed: {failed:?}");
    let slowest = all.iter().map(|(_, took, ..)| *took).max().unwrap();
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let late: Vec<_> = all.iter().filter(|(at, ..)| *at > killed + Duration::from_millis(500)).collect();
    assert!(!late.is_empty() && late.iter().all(|(.., pod)| pod == "far"), "{late:?}");
    println!("{} requests, killed at {killed:?}, slowest {slowest:?}", all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_pod_whose_application_is_down_is_retried_with_any_method() {
    let (_mesh, near, beside, _far, frontend) = three_tiers().await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    assert_eq!(pod_of(&client.get("/").await), "near");
    near.app.kill().await;
    for _ in 0..5 {
        let response = client.request(Method::POST, "/", b"order").await;
        assert_eq!((response.status().as_u16(), pod_of(&response)), (200, "beside"));
        assert!(!response.headers().contains_key("x-isthmus-unprocessed"));
    }
    assert_eq!(beside.app.requests.load(Relaxed), 5, "each request is processed once");
    // For the sidecar of the first pod, its application failed.
    assert!(near.sidecar.total(&REQUESTS, &[("response_flags", "UF"), ("response_code", "503")]) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_application_has_received_is_retried_only_if_idempotent() {
    let (_mesh, near, beside, _far, frontend) = three_tiers().await;
    let address = frontend.service_address(1);
    for (method, status, pod) in [(Method::POST, 503, ""), (Method::GET, 200, "beside")] {
        near.gate.open().await;
        let before = near.app.requests.load(Relaxed);
        let response = tokio::spawn({
            let method = method.clone();
            async move { Client::connect(address).await.request(method, "/delay/300", b"").await }
        });
        until("the request has arrived", async || near.app.requests.load(Relaxed) > before).await;
        near.gate.cut().await;
        let response = response.await.unwrap();
        assert_eq!((response.status().as_u16(), pod_of(&response)), (status, pod), "{method}");
    }
    assert_eq!(beside.app.requests.load(Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_consecutive_gateway_errors_eject_an_endpoint() {
    let (_mesh, near, _beside, _far, frontend) = three_tiers().await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    near.app.status.store(503, Relaxed);
    let mut failures = 0;
    for _ in 0..20 {
        failures += usize::from(client.get("/").await.status() == 503);
    }
    assert_eq!(failures, 5, "the endpoint is ejected after five gateway errors");
    near.app.status.store(200, Relaxed);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_endpoints_move_traffic() {
    let (mesh, near, beside, _far, frontend) = three_tiers().await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    assert_eq!(pod_of(&client.get("/").await), "near");
    let moved = async |client: &mut Client, to: &str| {
        let begun = Instant::now();
        while pod_of(&client.get("/").await) != to {
            assert!(begun.elapsed() < Duration::from_secs(5), "traffic does not reach {to}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    };
    mesh.push_endpoint("reviews", &near, |endpoint| endpoint.set_health(Health::Unready));
    println!("traffic left the unready pod after {:?}", moved(&mut client, "beside").await);
    mesh.remove_endpoint("reviews", &beside);
    println!("traffic left the removed pod after {:?}", moved(&mut client, "far").await);
    mesh.push_endpoint("reviews", &near, |_| {});
    println!("traffic returned to the ready pod after {:?}", moved(&mut client, "near").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_controller_known_services_stay_in_use() {
    let (mesh, near, _beside, _far, frontend) = three_tiers().await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    assert_eq!(pod_of(&client.get("/").await), "near");
    mesh.link.cut().await;
    near.gate.cut().await;
    for _ in 0..5 {
        assert_eq!(pod_of(&client.get("/").await), "beside", "on an open connection");
    }
    assert_eq!(pod_of(&get(frontend.service_address(1)).await), "beside", "on a new connection");
    let outside = crate::app::App::start("outside").await;
    let begun = Instant::now();
    assert_eq!(pod_of(&get(frontend.captured_address(outside.address)).await), "outside");
    println!("a connection to an unknown destination waited {:?} for the controller", begun.elapsed());

    mesh.remove_endpoint("reviews", &near);
    mesh.link.open().await;
    let newer = mesh.pod("west", "us-west-1a", "newer", "reviews", Protocol::Http).await;
    mesh.push_endpoint("reviews", &newer, |_| {});
    until("the new endpoint has arrived", async || pod_of(&client.get("/").await) == "newer").await;
}
