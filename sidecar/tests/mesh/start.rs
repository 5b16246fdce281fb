//! Starting: the inbound side refuses connections until its policies have arrived.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::app::{App, Client};
use crate::fixture::TestMesh;

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_refused_until_the_authorization_policies_have_arrived() {
    let mesh = TestMesh::new().await;
    let app = App::start("reviews-a").await;
    let inbound = net::socket::bind_shared((Ipv4Addr::LOCALHOST, 0).into(), 2).unwrap();
    let address: SocketAddr = inbound[0].local_addr().unwrap();
    mesh.push_workload("west", "reviews-a", "us-west-1a", vec![]);
    let starting = {
        let (mesh, app) = (mesh.clone(), app.address);
        tokio::task::spawn_blocking(move || mesh.start_sidecar("west", "reviews-a", "reviews", inbound, app))
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        let refused = TcpStream::connect(address).expect_err("the connection is refused");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!starting.is_finished(), "the sidecar is not ready");
    mesh.allow_all("west", "reviews-a");
    let sidecar = starting.await.unwrap();
    assert_eq!(Client::connect(address).await.get("/").await.status(), 200, "a ready sidecar accepts connections");
    drop(sidecar);
}
