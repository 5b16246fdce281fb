//! Requests without TLS: hosts, routes, what a request says of its origin, and redirection.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use wire::discovery as d;

use crate::client::{get, get_on};
use crate::fixture::{Gateway, app, at, free_port, http_route, http_server, listener, table, until};

const HTTP: d::Protocol = d::Protocol::Http;

#[tokio::test(flavor = "multi_thread")]
async fn the_host_decides_and_the_best_match_is_used() {
    let (a, b) = (app("a").await, app("b").await);
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.push_service("b", b.address, HTTP);
    gateway.route("one", "a.example.com", "a");
    gateway.route("one", "*.example.com", "b");
    // Outside of the server's hosts.
    gateway.route("one", "a.example.org", "a");
    // As far as it is within them.
    gateway.route("two", "*", "a");
    let servers = vec![http_server("one", &["*.example.com"]), http_server("two", &["two.example.net"])];
    gateway.push_listeners(vec![listener(port, servers)]);
    gateway.start().await;
    for (host, expected) in [
        ("a.example.com", "a"),
        ("A.Example.com:8080", "a"),
        ("c.example.com", "b"),
        ("two.example.net", "a"),
        ("example.com", ""),
        ("a.example.org", ""),
        ("three.example.net", ""),
    ] {
        let answer = get(at(port), host, "/", "").await;
        assert_eq!(answer.header("answered-by"), expected, "{host}: {answer:?}");
        assert_eq!(answer.status, if expected.is_empty() { 404 } else { 200 }, "{host}");
    }
    // A connection follows changes of routes.
    let mut stream = TcpStream::connect(at(port)).await.unwrap();
    assert_eq!(get_on(&mut stream, "a.example.com", "/", "").await.unwrap().header("answered-by"), "a");
    gateway.route("one", "a.example.com", "b");
    until("the change has arrived", async || {
        get_on(&mut stream, "a.example.com", "/", "").await.unwrap().header("answered-by") == "b"
    })
    .await;
    gateway.resources().remove(wire::Kind::RouteTable, "one|a.example.com");
    gateway.resources().remove(wire::Kind::RouteTable, "one|*.example.com");
    until("the routes are gone", async || get(at(port), "a.example.com", "/", "").await.status == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_several_gateways_for_one_host_are_tried_in_order() {
    let (a, b) = (app("a").await, app("b").await);
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.push_service("b", b.address, HTTP);
    let prefix = |prefix: &str| d::HttpMatch {
        path: Some(d::StringMatch {
            pattern: Some(d::string_match::Pattern::Prefix(prefix.into())),
            ignore_case: false,
        }),
        port: port.into(),
        ..Default::default()
    };
    gateway.push_routes("one", "a.example.com", &table(vec![http_route(vec![prefix("/a")], "a")]));
    gateway.push_routes("two", "a.example.com", &table(vec![http_route(vec![prefix("/")], "b")]));
    gateway.push_listeners(vec![listener(port, vec![http_server("one", &["*"]), http_server("two", &["*"])])]);
    gateway.start().await;
    for (path, expected) in [("/a/x", "a"), ("/b", "b")] {
        assert_eq!(get(at(port), "a.example.com", path, "").await.header("answered-by"), expected, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_its_origin_is_not_believed() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.route("one", "*", "a");
    gateway.push_listeners(vec![listener(port, vec![http_server("one", &["*"])])]);
    gateway.start().await;
    let forged = "x-forwarded-for: 1.1.1.1\r\nx-forwarded-proto: https\r\nx-forwarded-client-cert: By=x\r\nx-isthmus-peer: \
                  x\r\nx-envoy-retry-on: 5xx\r\n";
    let answer = get(at(port), "a", "/", forged).await;
    assert_eq!(answer.header("seen-x-forwarded-for"), "1.1.1.1,127.0.0.1");
    assert_eq!(answer.header("seen-x-forwarded-proto"), "http");
    assert!(answer.header("seen-x-isthmus-peer").contains("istio-system"), "the gateway's own");
    for name in ["seen-x-forwarded-client-cert", "seen-x-envoy-retry-on"] {
        assert_eq!(answer.header(name), "", "{name}");
    }
    assert!(!answer.header("seen-x-request-id").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_redirected_to_https_where_a_server_says_so() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.route("plain", "plain.example.com", "a");
    gateway.route("secure", "a.example.com", "a");
    let secure = d::GatewayServer { https_redirect: true, ..http_server("secure", &["*.example.com"]) };
    gateway.push_listeners(vec![listener(port, vec![http_server("plain", &["plain.example.com"]), secure])]);
    gateway.start().await;
    for host in ["a.example.com", "b.example.com"] {
        let answer = get(at(port), host, "/x?y=1", "").await;
        assert_eq!((answer.status, answer.header("location")), (301, &*format!("https://{host}/x?y=1")));
    }
    assert_eq!(get(at(port), "plain.example.com", "/", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_says_the_client_by_the_proxy_protocol() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.route("one", "*", "a");
    let listeners = vec![listener(port, vec![http_server("one", &["*"])])];
    gateway.push(d::Listeners { listeners, proxy_protocol: true, ..Default::default() });
    gateway.start().await;
    let mut stream = TcpStream::connect(at(port)).await.unwrap();
    stream.write_all(b"PROXY TCP4 203.0.113.7 10.0.0.1 40000 80\r\n").await.unwrap();
    let answer = get_on(&mut stream, "a", "/", "").await.unwrap();
    assert_eq!(answer.header("seen-x-forwarded-for"), "203.0.113.7");
    let mut without = TcpStream::connect(at(port)).await.unwrap();
    assert!(get_on(&mut without, "a", "/", "").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_proxies_say_the_scheme_of_the_client() {
    let a = app("a").await;
    let mut gateway = Gateway::new().await;
    let port = free_port();
    gateway.push_service("a", a.address, HTTP);
    gateway.route("one", "*", "a");
    let listeners = vec![listener(port, vec![http_server("one", &["*"])])];
    gateway.push(d::Listeners { listeners, trusted_proxies: 1, ..Default::default() });
    gateway.start().await;
    let answer = get(at(port), "a", "/", "x-forwarded-for: 6.6.6.6, 1.1.1.1\r\nx-forwarded-proto: https\r\n").await;
    assert_eq!(answer.header("seen-x-envoy-external-address"), "1.1.1.1");
    assert_eq!(answer.header("seen-x-forwarded-proto"), "https");
}
