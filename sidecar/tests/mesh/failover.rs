//! What happens when endpoints fail: retries, tiers, and the way back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::Method;
use telemetry::istio::REQUESTS;
use wire::discovery::{Health, Protocol};

use crate::app::{Client, by, get};
use crate::fixture::{Pod, Sidecar, World};

/// `reviews` with a pod in each of west's zones and one in east, and a client in us-west-1a.
async fn three_tiers() -> (Arc<World>, Pod, Pod, Pod, Sidecar) {
    let world = World::new().await;
    let near = world.pod("west", "us-west-1a", "near", "reviews", Protocol::Http).await;
    let beside = world.pod("west", "us-west-1b", "beside", "reviews", Protocol::Http).await;
    let far = world.pod("east", "us-east-1a", "far", "reviews", Protocol::Http).await;
    world.service("reviews", 1, Protocol::Http, &[]);
    for pod in [&near, &beside, &far] {
        world.serve("reviews", pod, |_| {});
    }
    let frontend = world.client("frontend").await;
    (world, near, beside, far, frontend)
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_moves_outwards_and_returns() {
    let (_world, near, beside, far, frontend) = three_tiers().await;
    let address = frontend.service(1);
    for _ in 0..10 {
        assert_eq!(by(&get(address).await), "near");
    }
    near.gate.cut().await;
    for _ in 0..10 {
        let response = get(address).await;
        assert_eq!((response.status().as_u16(), by(&response)), (200, "beside"));
    }
    beside.gate.cut().await;
    for _ in 0..10 {
        let response = get(address).await;
        assert_eq!((response.status().as_u16(), by(&response)), (200, "far"));
    }
    far.gate.cut().await;
    assert_eq!(get(address).await.status(), 503);

    far.gate.open().await;
    near.gate.open().await;
    let back = Instant::now();
    while by(&get(address).await) != "near" {
        assert!(back.elapsed() < Duration::from_secs(10), "not back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Requests take the connections that there are, and that opening more is slow says nothing against a pod that answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_time_for_newcomers_keeps_its_traffic() {
    let (_world, near, _beside, _far, frontend) = three_tiers().await;
    let address = frontend.service(1);
    let (mut first, mut second) = (Client::connect(address).await, Client::connect(address).await);
    assert_eq!(by(&first.get("/").await), "near");
    near.gate.hold_up();
    // The second one comes while the first is on the only connection.
    let slow = first.get("/delay/100");
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        second.get("/").await
    };
    let (slow, meanwhile) = tokio::join!(slow, meanwhile);
    assert_eq!((by(&slow), by(&meanwhile)), ("near", "near"));
    // Behind it, another pod's connection overtakes the one to this pod.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(600) {
        assert_eq!(by(&first.get("/").await), "near");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    near.gate.open().await;
}

/// The failover bound: local pods vanish under load, and no request fails.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_pods_are_killed_under_load() {
    let (_world, near, beside, _far, frontend) = three_tiers().await;
    let address = frontend.service(1);
    let begun = Instant::now();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut seen = Vec::new();
                while begun.elapsed() < Duration::from_secs(2) {
                    let sent = Instant::now();
                    let response = client.get("/").await;
                    seen.push((
                        sent.duration_since(begun),
                        sent.elapsed(),
                        response.status(),
                        by(&response).to_owned(),
                    ));
                    tokio::time::sleep(Duration::from_millis(40)).await;
                }
                seen
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let killed = begun.elapsed();
    near.gate.cut().await;
    beside.gate.cut().await;
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.unwrap());
    }
    let failed: Vec<_> = all.iter().filter(|(_, _, status, _)| *status != 200).collect();
    assert!(failed.is_empty(), "killed at {killed:?}, failed: {failed:?}");
    let slowest = all.iter().map(|(_, took, ..)| *took).max().unwrap();
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(all.iter().filter(|(at, ..)| *at > killed + Duration::from_millis(500)).all(|(.., by)| by == "far"));
    println!("{} requests, killed at {killed:?}, slowest {slowest:?}", all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_gone_is_retried_elsewhere_whatever_the_method() {
    let (_world, near, beside, _far, frontend) = three_tiers().await;
    let mut client = Client::connect(frontend.service(1)).await;
    assert_eq!(by(&client.get("/").await), "near");
    near.app.kill().await;
    for _ in 0..5 {
        let response = client.ask(Method::POST, "/", b"order").await;
        assert_eq!((response.status().as_u16(), by(&response)), (200, "beside"));
        assert!(!response.headers().contains_key("x-isthmus-unprocessed"));
    }
    assert_eq!(beside.app.requests.load(Relaxed), 5, "each exactly once");
    // To the called sidecar it was a failure of its application.
    assert!(near.sidecar.counted(&REQUESTS, &[("response_flags", "UF"), ("response_code", "503")]) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reached_the_application_is_not_repeated_unless_it_may_be() {
    let (_world, near, beside, _far, frontend) = three_tiers().await;
    let address = frontend.service(1);
    for (method, status, at) in [(Method::POST, 503, ""), (Method::GET, 200, "beside")] {
        near.gate.open().await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let before = near.app.requests.load(Relaxed);
        let asked = tokio::spawn({
            let method = method.clone();
            async move { Client::connect(address).await.ask(method, "/delay/300", b"").await }
        });
        while near.app.requests.load(Relaxed) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        near.gate.cut().await;
        let response = asked.await.unwrap();
        assert_eq!((response.status().as_u16(), by(&response)), (status, at), "{method}");
    }
    assert_eq!(beside.app.requests.load(Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_errors_eject() {
    let (_world, near, _beside, _far, frontend) = three_tiers().await;
    let mut client = Client::connect(frontend.service(1)).await;
    near.app.status.store(503, Relaxed);
    let mut failures = 0;
    for _ in 0..20 {
        failures += usize::from(client.get("/").await.status() == 503);
    }
    assert_eq!(failures, 5, "five in a row eject");
    near.app.status.store(200, Relaxed);
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_moves_traffic() {
    let (world, near, beside, _far, frontend) = three_tiers().await;
    let mut client = Client::connect(frontend.service(1)).await;
    assert_eq!(by(&client.get("/").await), "near");
    let moved = async |client: &mut Client, to: &str| {
        let begun = Instant::now();
        while by(&client.get("/").await) != to {
            assert!(begun.elapsed() < Duration::from_secs(5), "not at {to}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    };
    world.serve("reviews", &near, |endpoint| endpoint.set_health(Health::Unready));
    println!("unready noticed after {:?}", moved(&mut client, "beside").await);
    world.unserve("reviews", &beside);
    println!("removed noticed after {:?}", moved(&mut client, "far").await);
    world.serve("reviews", &near, |_| {});
    println!("ready noticed after {:?}", moved(&mut client, "near").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_the_controller_costs_nothing_that_is_known() {
    let (world, near, _beside, _far, frontend) = three_tiers().await;
    let mut client = Client::connect(frontend.service(1)).await;
    assert_eq!(by(&client.get("/").await), "near");
    world.link.cut().await;
    near.gate.cut().await;
    for _ in 0..5 {
        assert_eq!(by(&client.get("/").await), "beside", "what was told goes on");
    }
    assert_eq!(by(&get(frontend.service(1)).await), "beside", "for new connections as well");
    let outside = crate::app::App::start("outside").await;
    let begun = Instant::now();
    assert_eq!(by(&get(frontend.way_to(outside.address)).await), "outside");
    println!("an unknown destination waited {:?} for a controller that is gone", begun.elapsed());

    world.unserve("reviews", &near);
    world.link.open().await;
    let newer = world.pod("west", "us-west-1a", "newer", "reviews", Protocol::Http).await;
    world.serve("reviews", &newer, |_| {});
    let begun = Instant::now();
    while by(&client.get("/").await) != "newer" {
        assert!(begun.elapsed() < Duration::from_secs(10), "not told after the link came back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
