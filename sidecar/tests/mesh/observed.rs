//! What a sidecar remembers of accepted traffic.

use std::sync::atomic::Ordering::Relaxed;

use http::Method;
use proxy::report::Accepted;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::Kind;
use wire::discovery::{self as d, Protocol};

use crate::app::{Client, get};
use crate::fixture::resources::policy_name;
use crate::fixture::{Sidecar, TestMesh, until};

/// Returns `<account of cluster> <method> <path> <count>` of each combination, sorted.
fn observed(sidecar: &Sidecar) -> Vec<String> {
    let line = |of: Accepted| {
        let caller = of.principal.as_deref().map_or("-", |id| id.rsplit('/').next().unwrap_or_default());
        let cluster = of.cluster.as_deref().unwrap_or("-");
        format!("{caller} of {cluster} {} {} {}", of.method.as_deref().unwrap_or("-"), of.path, of.count)
    };
    let mut lines: Vec<String> = sidecar.observed.accepted().into_iter().map(line).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_requests_are_remembered_and_refused_ones_are_not() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http).await;
    mesh.push_peer_mode(&pod, d::PeerMode::Permissive);
    let deny = d::AuthorizationPolicy {
        name: "default/deny".into(),
        action: d::PolicyAction::Deny.into(),
        rules: vec![d::AuthorizationRule {
            to: vec![d::AuthorizationOperation {
                paths: Some(d::Values { any_of: vec!["/admin/*".into()], none_of: vec![] }),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    mesh.resources().push(Kind::AuthorizationPolicy, &policy_name("west", "reviews-a"), &deny, &[]);
    mesh.push_service("reviews", 1, Protocol::Http);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    let mut client = Client::connect(frontend.service_address(1)).await;
    until("the policy is in force", async || client.get("/admin/x").await.status() == 403).await;
    for number in 0..5 {
        assert_eq!(client.get(&format!("/products/{number}?q=1")).await.status(), 200);
    }
    assert_eq!(client.request(Method::POST, "/products", b"x").await.status(), 200);
    pod.app.status.store(404, Relaxed);
    assert_eq!(client.get("/nothing").await.status(), 404);
    pod.app.status.store(500, Relaxed);
    assert_eq!(client.get("/broken").await.status(), 500);
    pod.app.status.store(200, Relaxed);
    assert_eq!(get(pod.gate.address).await.status(), 200, "plaintext");
    assert_eq!(
        observed(&pod.sidecar),
        [
            "- of - -  1",
            "frontend of west GET /broken 1",
            "frontend of west GET /products/{*} 5",
            "frontend of west POST /products 1",
        ]
    );
    assert_eq!(pod.sidecar.observed.unrecorded(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_opaque_connections_are_remembered() {
    let mesh = TestMesh::new().await;
    let pod = mesh.tcp_pod("west", "us-west-1a", "db-a", "db").await;
    mesh.push_service("db", 1, Protocol::Tcp);
    mesh.push_endpoint("db", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    for _ in 0..2 {
        let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_string(&mut String::new()).await.unwrap();
    }
    assert_eq!(observed(&pod.sidecar), ["frontend of west -  2"]);
}
