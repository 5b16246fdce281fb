//! Opaque bytes: TCP, TLS that is passed on, and TLS that is terminated.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use wire::discovery::ServerTlsMode::{Passthrough, Simple};
use wire::{Kind, discovery as d};

use crate::client::{Client, connect};
use crate::fixture::{Gateway, PublicAuthority, SECRETS, at, destination, free_port, https_server, listener};

/// Starts a server that greets, and then returns what it receives. With `config`, it has TLS.
async fn start_server(greeting: &'static str, config: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let config = config.clone();
            tokio::spawn(async move {
                match config {
                    Some(config) => {
                        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
                        stream.write_all(greeting.as_bytes()).await
                    }
                    None => stream.write_all(greeting.as_bytes()).await,
                }
            });
        }
    });
    address
}

/// Reads a greeting of this length.
async fn greeting(mut stream: impl tokio::io::AsyncRead + Unpin, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, expected.as_bytes());
}

fn tcp_table(service: &str) -> d::RouteTable {
    let route = d::TcpRoute { destinations: vec![destination(service)], ..Default::default() };
    d::RouteTable { source: "default/tcp".into(), tcp: vec![route], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_port_go_to_its_route() {
    let server = start_server("hello", None).await;
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("db", server, d::Protocol::Tcp);
    gateway.push_routes("tcp", "*", &tcp_table("db"));
    let server =
        d::GatewayServer { protocol: d::ServerProtocol::Tcp.into(), ..crate::fixture::http_server("tcp", &["*"]) };
    gateway.push_listeners(vec![listener(port, vec![server])]);
    gateway.start().await;
    // The server speaks first.
    greeting(TcpStream::connect(at(port)).await.unwrap(), "hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_passed_on_by_server_name() {
    let ca = PublicAuthority::new("public");
    let mut gateway = Gateway::new().await;
    let port = free_port();
    for (service, host) in [("a", "a.example.com"), ("b", "b.example.com")] {
        let (certificate, key) = ca.client(host);
        let config = ServerConfig::builder_with_provider(identity::provider().clone());
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate], key).unwrap());
        let name = if service == "a" { "from a" } else { "from b" };
        gateway.push_service(service, start_server(name, Some(config)).await, d::Protocol::Tls);
        let matches = vec![d::TlsMatch { server_names: vec![host.into()], ..Default::default() }];
        let route = d::TlsRoute { matches, destinations: vec![destination(service)] };
        let table = d::RouteTable { source: "default/tls".into(), tls: vec![route], ..Default::default() };
        gateway.push_routes("tls", host, &table);
    }
    let server = d::GatewayServer {
        protocol: d::ServerProtocol::Tcp.into(),
        ..https_server("tls", &["*.example.com"], Passthrough, "")
    };
    gateway.push_listeners(vec![listener(port, vec![server])]);
    gateway.start().await;
    for (host, expected) in [("a.example.com", "from a"), ("b.example.com", "from b")] {
        // The server's own certificate is verified.
        greeting(connect(at(port), host, ca.roots()).await.unwrap(), expected).await;
    }
    for host in ["c.example.com", "a.example.org"] {
        assert!(connect(at(port), host, ca.roots()).await.is_err(), "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_tls_carries_opaque_bytes() {
    let (server, ca) = (start_server("hello", None).await, PublicAuthority::new("public"));
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("db", server, d::Protocol::Tcp);
    gateway.push_routes("tls", "db.example.com", &tcp_table("db"));
    gateway.resources().push(Kind::Credential, &format!("{SECRETS}db"), &ca.credential(&["db.example.com"], None), &[]);
    let server = d::GatewayServer {
        protocol: d::ServerProtocol::Tcp.into(),
        ..https_server("tls", &["db.example.com"], Simple, "db")
    };
    gateway.push_listeners(vec![listener(port, vec![server])]);
    gateway.start().await;
    let client = Client { roots: ca.roots(), certificate: None, alpn: &[] };
    greeting(client.connect(at(port), "db.example.com").await.unwrap(), "hello").await;
}
