//! Starting: whoever comes too early goes elsewhere.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::app::{App, Client};
use crate::fixture::World;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_taken_before_it_is_known_who_may() {
    let world = World::new().await;
    let app = App::start("reviews-a").await;
    let inbound = net::socket::bind_shared((Ipv4Addr::LOCALHOST, 0).into(), 2).unwrap();
    let address: SocketAddr = inbound[0].local_addr().unwrap();
    world.introduce("west", "reviews-a", "us-west-1a", vec![]);
    let starting = {
        let (world, app) = (world.clone(), app.address);
        tokio::task::spawn_blocking(move || world.sidecar("west", "reviews-a", "reviews", inbound, app))
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        let refused = TcpStream::connect(address).expect_err("a connection was taken that nobody may have");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!starting.is_finished(), "it is not ready either");
    world.let_in("west", "reviews-a");
    let sidecar = starting.await.unwrap();
    assert_eq!(Client::connect(address).await.get("/").await.status(), 200, "ready means that it takes all who come");
    drop(sidecar);
}
