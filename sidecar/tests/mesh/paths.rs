//! Clusters that the controller has drained, because nobody of this cluster reaches them.

use wire::discovery::{DrainedCluster, Protocol};

use crate::app::{get, pod_of};
use crate::fixture::{TestMesh, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_cluster_is_the_last_resort_and_returns() {
    let mesh = TestMesh::new().await;
    let near = mesh.pod("east", "us-west-1a", "near", "reviews", Protocol::Http).await;
    let own = mesh.pod("west", "us-west-1b", "own", "reviews", Protocol::Http).await;
    mesh.push_service("reviews", 1, Protocol::Http);
    for pod in [&near, &own] {
        mesh.push_endpoint("reviews", pod, |_| {});
    }
    let frontend = mesh.client("frontend").await;
    let address = frontend.service_address(1);
    assert_eq!(pod_of(&get(address).await), "near");
    let drain = |viewer: &str| {
        let drained = DrainedCluster { cluster: "east".into(), viewers: vec![viewer.into()] };
        mesh.push_settings(|settings| settings.drained = vec![drained]);
    };
    drain("west");
    until("requests go to another cluster", async || pod_of(&get(address).await) == "own").await;
    for _ in 0..10 {
        assert_eq!(pod_of(&get(address).await), "own");
    }
    own.gate.cut().await;
    for _ in 0..10 {
        let response = get(address).await;
        assert_eq!((response.status().as_u16(), pod_of(&response)), (200, "near"), "the last resort");
    }
    own.gate.open().await;
    until("the other cluster takes over again", async || pod_of(&get(address).await) == "own").await;
    // It is drained for others alone.
    drain("north");
    until("the near pod is used again", async || pod_of(&get(address).await) == "near").await;
}
