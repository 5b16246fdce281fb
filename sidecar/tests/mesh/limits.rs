//! Limits on what a sidecar carries to its application, exact across workers.

use std::sync::Arc;
use std::time::Duration;

use telemetry::istio::REQUESTS;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use wire::discovery as d;

use crate::app::{App, Client};
use crate::fixture::{Pod, World};

async fn limited(limits: d::InboundLimits) -> (Arc<World>, Pod) {
    let world = World::new().await;
    let pod = world.pod("west", "us-west-1a", "reviews-a", "reviews", d::Protocol::Http).await;
    world.limit(&pod, limits);
    (world, pod)
}

/// The statuses of four slow requests at a time, in order.
async fn four_at_a_time(pod: &Pod) -> [u16; 4] {
    let slow = || async { Client::connect(pod.inbound).await.get("/delay/400").await.status().as_u16() };
    let (a, b, c, d) = tokio::join!(slow(), slow(), slow(), slow());
    let mut statuses = [a, b, c, d];
    statuses.sort_unstable();
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limit_are_answered_503_and_none_below_it() {
    let (_world, pod) = limited(d::InboundLimits { max_connections: 0, max_requests: 3 }).await;
    // Two workers share the connections. Until the limit arrives, all requests succeed.
    let in_force = async { while four_at_a_time(&pod).await == [200; 4] {} };
    tokio::time::timeout(Duration::from_secs(10), in_force).await.expect("the limit arrives");
    let before = pod.sidecar.counted(&REQUESTS, &[("response_flags", "UO"), ("response_code", "503")]);
    for round in 1..=3 {
        assert_eq!(four_at_a_time(&pod).await, [200, 200, 200, 503], "all permits of earlier requests are returned");
        let overflows = pod.sidecar.counted(&REQUESTS, &[("response_flags", "UO"), ("response_code", "503")]);
        assert_eq!(overflows, before + round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_applies_to_new_requests() {
    let (world, pod) = limited(d::InboundLimits { max_connections: 0, max_requests: 1 }).await;
    let mut first = Client::connect(pod.inbound).await;
    let mut second = Client::connect(pod.inbound).await;
    // Until the limit arrives, both succeed.
    let in_force = async {
        loop {
            let (held, refused) = tokio::join!(first.get("/delay/500"), async {
                tokio::time::sleep(Duration::from_millis(150)).await;
                second.get("/").await
            });
            if refused.status() != 200 {
                return (held, refused);
            }
        }
    };
    let (held, refused) = tokio::time::timeout(Duration::from_secs(10), in_force).await.expect("the limit arrives");
    assert_eq!((held.status().as_u16(), refused.status().as_u16()), (200, 503));
    assert_eq!(refused.body(), "upstream connect error or disconnect/reset before headers. reset reason: overflow");
    world.limit(&pod, d::InboundLimits::default());
    let unlimited = async {
        loop {
            let (held, other) = tokio::join!(first.get("/delay/100"), second.get("/delay/50"));
            if (held.status().as_u16(), other.status().as_u16()) == (200, 200) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), unlimited).await.expect("the limit is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed() {
    let (_world, pod) = limited(d::InboundLimits { max_connections: 2, max_requests: 0 }).await;
    let connect = || async {
        let mut client = Client::connect(pod.inbound).await;
        assert_eq!(client.get("/").await.status(), 200);
        client
    };
    // Until the limit arrives, a third connection is admitted.
    let in_force = async {
        loop {
            let clients = (connect().await, connect().await);
            if !App::answers(pod.inbound).await {
                return clients;
            }
        }
    };
    let (first, _second) = tokio::time::timeout(Duration::from_secs(10), in_force).await.expect("the limit arrives");
    let mut third = TcpStream::connect(pod.inbound).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or_default(), 0, "it is closed");
    drop(first);
    let admitted = async { while !App::answers(pod.inbound).await {} };
    tokio::time::timeout(Duration::from_secs(5), admitted).await.expect("the permit is returned");
}
