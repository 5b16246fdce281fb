//! Connections to the sidecar's own ports.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::TestMesh;

/// Sends a request, and returns the bytes that are received until the connection ends.
async fn request(address: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut received = Vec::new();
    let read = stream.read_to_end(&mut received);
    // The kernel may report the end as a reset.
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await.expect("the connection ends");
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_an_own_port_is_refused_instead_of_proxied_to_the_sidecar_itself() {
    let mesh = TestMesh::new().await;
    let frontend = mesh.client("frontend").await;
    let mut outbound = frontend.service_address(1);
    let port = outbound.port();
    outbound.set_ip(Ipv4Addr::new(127, 0, 0, 1).into());
    // Not captured: the destination is the listener's own address.
    assert!(request(outbound).await.is_empty());
    let mapped = Ipv4Addr::new(127, 0, 0, 1).to_ipv6_mapped();
    for ip in
        [mapped.into(), Ipv4Addr::new(127, 1, 2, 3).into(), Ipv6Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into()]
    {
        let address = frontend.captured_address(SocketAddr::new(ip, port));
        assert!(request(address).await.is_empty(), "{ip}");
    }
    // None of them opened further connections.
    assert!(frontend.connections() <= 1, "{}", frontend.connections());
}
