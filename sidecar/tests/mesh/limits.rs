//! Limits on what a sidecar carries to its application, exact across workers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use telemetry::istio::REQUESTS;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use wire::discovery as d;

use crate::app::{App, Client};
use crate::fixture::{Pod, TestMesh, until};

/// Starts a pod with limits. They arrive some time later.
async fn limited(limits: d::InboundLimits) -> (Arc<TestMesh>, Pod) {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", d::Protocol::Http).await;
    mesh.push_limits(&pod, limits);
    (mesh, pod)
}

/// Waits until the connections of earlier requests have ended, and with them their permits.
async fn idle(pod: &Pod) {
    until("earlier connections have ended", async || pod.sidecar.connections() == 0).await;
}

/// Sends four slow requests at a time and returns the statuses of the responses, sorted.
async fn four_at_a_time(pod: &Pod) -> [u16; 4] {
    idle(pod).await;
    let slow = || async { Client::connect(pod.inbound).await.get("/delay/400").await.status().as_u16() };
    let (a, b, c, d) = tokio::join!(slow(), slow(), slow(), slow());
    let mut statuses = [a, b, c, d];
    statuses.sort_unstable();
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_requests_beyond_the_limit_receive_503() {
    let (_mesh, pod) = limited(d::InboundLimits { max_connections: 0, max_requests: 3 }).await;
    // Two workers share the connections. Until the limit arrives, all requests succeed.
    until("the limit has arrived", async || four_at_a_time(&pod).await != [200; 4]).await;
    let before = pod.sidecar.total(&REQUESTS, &[("response_flags", "UO"), ("response_code", "503")]);
    for round in 1..=3 {
        assert_eq!(four_at_a_time(&pod).await, [200, 200, 200, 503], "earlier requests have returned their permits");
        let overflows = pod.sidecar.total(&REQUESTS, &[("response_flags", "UO"), ("response_code", "503")]);
        assert_eq!(overflows, before + round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_applies_to_new_requests() {
    let (mesh, pod) = limited(d::InboundLimits { max_connections: 0, max_requests: 1 }).await;
    let mut first = Client::connect(pod.inbound).await;
    let mut second = Client::connect(pod.inbound).await;
    // Until the limit arrives, both requests succeed.
    let in_force = async {
        loop {
            let before = pod.app.requests.load(Relaxed);
            let (held, refused) = tokio::join!(first.get("/delay/500"), async {
                until("the slow request has arrived", async || pod.app.requests.load(Relaxed) > before).await;
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
    mesh.push_limits(&pod, d::InboundLimits::default());
    until("the limit is removed", async || {
        let (held, other) = tokio::join!(first.get("/delay/100"), second.get("/delay/50"));
        held.status() == 200 && other.status() == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed() {
    let (_mesh, pod) = limited(d::InboundLimits { max_connections: 2, max_requests: 0 }).await;
    let connect = || async {
        let mut client = Client::connect(pod.inbound).await;
        assert_eq!(client.get("/").await.status(), 200);
        client
    };
    // Until the limit arrives, a third connection is accepted.
    let in_force = async {
        loop {
            let clients = (connect().await, connect().await);
            if !App::is_available(pod.inbound).await {
                return clients;
            }
            drop(clients);
            idle(&pod).await;
        }
    };
    let (first, _second) = tokio::time::timeout(Duration::from_secs(10), in_force).await.expect("the limit arrives");
    let mut third = TcpStream::connect(pod.inbound).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or_default(), 0, "the connection is closed");
    drop(first);
    until("the permit is returned", async || App::is_available(pod.inbound).await).await;
}
