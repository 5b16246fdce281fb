//! Requests with TLS: certificates by server name, clients with certificates, and replacement of certificates.

use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use wire::discovery::ServerTlsMode::{IstioMutual, Mutual, OptionalMutual, Simple};
use wire::{Kind, discovery as d};

use crate::client::{Client, connect, get_on};
use crate::fixture::{Gateway, PublicAuthority, SECRETS, app, at, free_port, https_server, listener, until};

const HTTP: d::Protocol = d::Protocol::Http;

fn push_secret(gateway: &Gateway, secret: &str, credential: &d::Credential) {
    gateway.resources().push(Kind::Credential, &format!("{SECRETS}{secret}"), credential, &[]);
}

fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_name_decides_which_certificate_is_presented() {
    let (a, ca) = (app("a").await, PublicAuthority::new("public"));
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    for host in ["a.example.com", "b.example.com"] {
        gateway.route(host, host, "a");
        push_secret(&gateway, host, &ca.credential(&[host], None));
    }
    gateway.route("wild", "*", "a");
    push_secret(&gateway, "wild", &ca.credential(&["*.example.org"], None));
    gateway.push_listeners(vec![listener(
        port,
        vec![
            https_server("a.example.com", &["a.example.com"], Simple, "a.example.com"),
            https_server("b.example.com", &["b.example.com"], Simple, "b.example.com"),
            https_server("wild", &["*.example.org"], Simple, "wild"),
            https_server("none", &["none.example.com"], Simple, "missing"),
        ],
    )]);
    gateway.start().await;
    for host in ["a.example.com", "b.example.com", "c.example.org"] {
        // The certificate is verified for the name.
        let mut stream = connect(at(port), host, ca.roots()).await.unwrap();
        let answer = get_on(&mut stream, host, "/", "").await.unwrap();
        assert_eq!((answer.status, answer.header("seen-x-forwarded-proto")), (200, "https"), "{host}");
    }
    // A request for the host of another server.
    let mut stream = connect(at(port), "a.example.com", ca.roots()).await.unwrap();
    assert_eq!(get_on(&mut stream, "b.example.com", "/", "").await.unwrap().status, 404);
    // No server has the name, or the server has no certificate yet.
    assert!(connect(at(port), "example.net", ca.roots()).await.is_err());
    assert!(connect(at(port), "none.example.com", ca.roots()).await.is_err());
    push_secret(&gateway, "missing", &ca.credential(&["none.example.com"], None));
    until("the certificate has arrived", async || connect(at(port), "none.example.com", ca.roots()).await.is_ok())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_without_closing_connections() {
    let (a, ca) = (app("a").await, PublicAuthority::new("public"));
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.route("one", "a.example.com", "a");
    push_secret(&gateway, "a", &ca.credential(&["a.example.com"], None));
    gateway.push_listeners(vec![listener(port, vec![https_server("one", &["*"], Simple, "a")])]);
    gateway.start().await;
    let mut before = connect(at(port), "a.example.com", ca.roots()).await.unwrap();
    assert_eq!(get_on(&mut before, "a.example.com", "/", "").await.unwrap().status, 200);
    let first = leaf(&before);
    // A key of another certificate, half of a certificate, and a Secret that is deleted: the last good one stays.
    let other = ca.credential(&["a.example.com"], None);
    let mixed = d::Credential { private_key: other.private_key.clone(), ..ca.credential(&["a.example.com"], None) };
    let half = d::Credential { certificate_chain: other.certificate_chain.slice(..200), ..other.clone() };
    for bad in [&mixed, &half] {
        push_secret(&gateway, "a", bad);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!(leaf(&connect(at(port), "a.example.com", ca.roots()).await.unwrap()), first);
    }
    gateway.resources().remove(Kind::Credential, &format!("{SECRETS}a"));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(leaf(&connect(at(port), "a.example.com", ca.roots()).await.unwrap()), first);
    push_secret(&gateway, "a", &other);
    until("new connections have the new certificate", async || {
        leaf(&connect(at(port), "a.example.com", ca.roots()).await.unwrap()) != first
    })
    .await;
    assert_eq!(get_on(&mut before, "a.example.com", "/", "").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_certificates_where_the_server_asks_for_them() {
    let (a, ca, clients) = (app("a").await, PublicAuthority::new("public"), PublicAuthority::new("clients"));
    let stranger = PublicAuthority::new("stranger");
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.route("must", "must.example.com", "a");
    gateway.route("may", "may.example.com", "a");
    gateway.route("named", "named.example.com", "a");
    let names = ["must.example.com", "may.example.com", "named.example.com"];
    push_secret(&gateway, "a", &ca.credential(&names, Some(&clients)));
    let mut named = https_server("named", &["named.example.com"], Mutual, "a");
    named.tls.as_mut().unwrap().subject_alt_names = vec!["alice.example".into()];
    gateway.push_listeners(vec![listener(
        port,
        vec![
            https_server("must", &["must.example.com"], Mutual, "a"),
            https_server("may", &["may.example.com"], OptionalMutual, "a"),
            named,
        ],
    )]);
    gateway.start().await;
    for (host, authority, name, expected) in [
        ("must.example.com", Some(&clients), "alice.example", Some(true)),
        ("must.example.com", Some(&stranger), "alice.example", None),
        ("must.example.com", None, "", None),
        ("may.example.com", Some(&clients), "alice.example", Some(true)),
        ("may.example.com", None, "", Some(false)),
        ("may.example.com", Some(&stranger), "alice.example", None),
        ("named.example.com", Some(&clients), "alice.example", Some(true)),
        ("named.example.com", Some(&clients), "bob.example", None),
    ] {
        let certificate = authority.map(|authority| authority.client(name));
        let client = Client { roots: ca.roots(), certificate, alpn: &[b"http/1.1"] };
        let answer = match client.connect(at(port), host).await {
            // In TLS 1.3, a refusal comes after the client's handshake.
            Ok(mut stream) => get_on(&mut stream, host, "/", "x-forwarded-client-cert: Hash=forged\r\n").await.ok(),
            Err(_) => None,
        };
        let shown = answer.map(|answer| {
            let header = answer.header("seen-x-forwarded-client-cert").to_owned();
            assert!(!header.contains("forged"), "{header}");
            if !header.is_empty() {
                assert!(header.starts_with("Hash=") && header.contains(&format!("Subject=\"CN={name}\"")), "{header}");
                assert!(header.ends_with(&format!(";DNS={name}")), "{header}");
            }
            !header.is_empty()
        });
        assert_eq!(shown, expected, "{host} {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_mesh_prove_their_identity() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.route("one", "a.example.com", "a");
    gateway.push_listeners(vec![listener(port, vec![https_server("one", &["a.example.com"], IstioMutual, "")])]);
    gateway.start().await;
    let expected = "spiffe://cluster.local/ns/istio-system/sa/ingress".parse().unwrap();
    let config = gateway.identity("client").client_config(&[expected], &[b"istio", b"http/1.1"]);
    let stream = TcpStream::connect(at(port)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let mut stream = connector.connect("a.example.com".try_into().unwrap(), stream).await.unwrap();
    let answer = get_on(&mut stream, "a.example.com", "/", "").await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.header("seen-x-forwarded-client-cert").contains("URI=spiffe://cluster.local/ns/default/sa/client"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_negotiated() {
    let (a, ca) = (app("a").await, PublicAuthority::new("public"));
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.route("one", "a.example.com", "a");
    push_secret(&gateway, "a", &ca.credential(&["a.example.com"], None));
    gateway.push_listeners(vec![listener(port, vec![https_server("one", &["*"], Simple, "a")])]);
    gateway.start().await;
    let client = Client { roots: ca.roots(), certificate: None, alpn: &[b"h2", b"http/1.1"] };
    let stream = client.connect(at(port), "a.example.com").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://a.example.com/").body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!((response.status(), &response.headers()["answered-by"]), (http::StatusCode::OK, &"a".parse().unwrap()));
}
