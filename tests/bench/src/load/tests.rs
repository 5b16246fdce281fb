use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use identity::{Authority, KeyAndRequest, SpiffeId, certificates_to_pem};

use super::passthrough::{self, Payload};
use super::{Edge, Protocol, Shape, Timing, closed_loop, idle, idle_passthrough, open_loop, tls};
use crate::backend;

const QUICK: Timing = Timing { warm_up: Duration::from_millis(20), duration: Duration::from_millis(200) };
const ALL: [Protocol; 6] = [
    Protocol::Http1,
    Protocol::Http2,
    Protocol::GrpcUnary,
    Protocol::GrpcStream,
    Protocol::Tcp,
    Protocol::NewConnection,
];

/// Starts a backend on a thread of its own, for the lifetime of the test process.
fn backend(options: backend::Options) -> Vec<SocketAddr> {
    let (send, bound) = mpsc::channel();
    thread::spawn(move || {
        super::runtime().unwrap().block_on(async {
            send.send(backend::start(&options).unwrap()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    bound.recv().unwrap()
}

fn any() -> Vec<SocketAddr> {
    vec!["127.0.0.1:0".parse().unwrap()]
}

/// Starts a backend's services; the result maps a protocol to its address.
fn services() -> impl Fn(Protocol) -> SocketAddr {
    let bound = backend(backend::Options { http: any(), echo: any(), ..Default::default() });
    move |protocol| if protocol == Protocol::Tcp { bound[1] } else { bound[0] }
}

#[test]
fn closed_loops() {
    let service = services();
    for protocol in ALL {
        for (body, connections) in [(0, 1), (1024, 16), (64 * 1024, 40), (1 << 20, 4), (3 << 20, 1)] {
            if matches!(protocol, Protocol::GrpcUnary | Protocol::GrpcStream) && body > 1 << 20 {
                continue;
            }
            let shape = Shape { protocol, body, connections };
            let mut edges = Vec::new();
            let outcome =
                closed_loop(service(protocol), "backend", shape, QUICK, &mut |edge| edges.push(edge)).unwrap();
            assert_eq!(edges, [Edge::Begin, Edge::End]);
            assert!(outcome.requests > 0 && outcome.failed == 0, "{shape}: {outcome:?}");
            let least = if protocol == Protocol::Tcp { 1 } else { 0 };
            assert_eq!(outcome.bytes, outcome.requests * body.max(least) as u64, "{shape}");
            assert_eq!(outcome.latency.len(), outcome.requests);
            assert!(outcome.latency_at(0.5) > Duration::from_micros(1) && outcome.elapsed >= QUICK.duration);
        }
    }
}

#[test]
fn open_loops() {
    let service = services();
    for protocol in ALL {
        let shape = Shape { protocol, body: 64, connections: 8 };
        let outcome = open_loop(service(protocol), "backend", shape, 500.0, QUICK, &mut |_| ()).unwrap();
        let due = outcome.requests + outcome.unanswered;
        assert!((95..=130).contains(&due) && outcome.failed == 0, "{shape}: {outcome:?}");
        assert_eq!(outcome.latency.len(), due);
    }
}

/// A server that handles one connection after another. `answer` returns the response to each request, by its number over all
/// connections.
fn scripted(answer: impl Fn(usize) -> Option<&'static str> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut count = 0;
        while let Ok((mut stream, _)) = listener.accept() {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                count += 1;
                let Some(text) = answer(count) else { break };
                stream.write_all(text.as_bytes()).unwrap();
            }
        }
    });
    address
}

const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const ONE: Shape = Shape { protocol: Protocol::Http1, body: 0, connections: 1 };

#[test]
fn failures_are_counted_and_named() {
    for (answer, text) in [
        (None, "the connection was closed in the middle of an exchange"),
        (Some("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"), "status 503"),
        (Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"), "2 bytes instead of 0"),
        (Some("220 mail\r\n\r\n"), "malformed response: no status line"),
    ] {
        let server = scripted(move |count| if count == 1 { Some(EMPTY) } else { answer });
        let outcome = closed_loop(server, "backend", ONE, QUICK, &mut |_| ()).unwrap();
        assert_eq!(outcome.requests, 0);
        assert!(outcome.failed > 3, "{outcome:?}");
        assert_eq!(outcome.errors.into_iter().collect::<Vec<_>>(), [(text.to_owned(), outcome.failed)]);
    }
}

#[test]
fn a_connection_that_the_server_closes_in_order_is_no_failure() {
    let server = scripted(|count| {
        Some(if count % 3 == 0 { "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" } else { EMPTY })
    });
    let outcome = closed_loop(server, "backend", ONE, QUICK, &mut |_| ()).unwrap();
    assert!(outcome.requests > 10 && outcome.failed == 0, "{outcome:?}");
}

#[test]
fn requests_that_are_due_while_the_server_stalls_wait() {
    let stalls_once = || {
        scripted(|count| {
            if count == 200 {
                thread::sleep(Duration::from_millis(100));
            }
            Some(EMPTY)
        })
    };
    let timing = Timing { warm_up: Duration::from_millis(50), duration: Duration::from_millis(500) };
    let open = open_loop(stalls_once(), "backend", ONE, 1000.0, timing, &mut |_| ()).unwrap();
    assert!(open.latency_at(0.99) > Duration::from_millis(50), "{:?}", open.latency_at(0.99));
    assert!(open.latency_at(0.85) > Duration::from_millis(10), "{:?}", open.latency_at(0.85));
    // A server that stops responding: all requests that were due have waited since.
    let server = scripted(|count| {
        if count == 200 {
            thread::sleep(Duration::from_secs(5));
        }
        Some(EMPTY)
    });
    let outcome = open_loop(server, "backend", ONE, 1000.0, timing, &mut |_| ()).unwrap();
    assert!(outcome.unanswered > 200, "{outcome:?}");
    assert!(outcome.latency_at(0.99) > Duration::from_millis(200), "{:?}", outcome.latency_at(0.99));
}

#[test]
fn idle_connections_are_kept_open_and_counted() {
    let service = services();
    for protocol in [Protocol::Http1, Protocol::Tcp] {
        let connections = idle(service(protocol), "backend", Shape { protocol, body: 1, connections: 100 }).unwrap();
        assert_eq!(connections.count().unwrap(), 100);
    }
    let closes = scripted(|count| if count == 1 { Some(EMPTY) } else { None });
    assert_eq!(idle(closes, "backend", ONE).unwrap().count().unwrap(), 0);
}

/// Files with a server's certificate, its key and its root.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    root: PathBuf,
}

impl Files {
    fn make(directory: &Path, server_name: &str) -> Self {
        let day = Duration::from_secs(24 * 3600);
        let root = Authority::self_signed_root("isthmus-bench", day).unwrap();
        let made = KeyAndRequest::generate().unwrap();
        let id = SpiffeId::new("cluster.local", "bench", "server").unwrap();
        let chain = root.issue_server(&made.public_key().unwrap(), &id, &[server_name], day).unwrap();
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        Self {
            certificate: write("server.pem", certificates_to_pem(&chain)),
            key: write("server.key", made.key.to_pem()),
            root: write("root.pem", root.roots_pem()),
        }
    }
}

#[test]
fn passthrough_with_and_without_tls() {
    const NAME: &str = "outbound_.80_._.server.bench.svc.cluster.local";
    let directory = tempfile::tempdir().unwrap();
    let files = Files::make(directory.path(), NAME);
    let options = backend::Options {
        behind_hello: any(),
        tls: any(),
        certificate: Some(files.certificate),
        key: Some(files.key),
        ..Default::default()
    };
    let bound = backend(options);
    let client = tls::TlsClient::new(&files.root, NAME).unwrap();
    for (target, payload) in [(bound[0], Payload::Raw(client.hello().unwrap())), (bound[1], Payload::Tls(client))] {
        let outcome = passthrough::bulk(target, &payload, 4, QUICK, &mut |_| ()).unwrap();
        assert!(outcome.bytes > 1 << 20 && outcome.failed == 0, "{outcome:?}");
        let outcome = passthrough::new_connections(target, &payload, 4, None, QUICK, &mut |_| ()).unwrap();
        assert!(outcome.requests > 3 && outcome.failed == 0, "{outcome:?}");
        assert_eq!(outcome.bytes, outcome.requests * 64);
        let outcome = passthrough::new_connections(target, &payload, 4, Some(50.0), QUICK, &mut |_| ()).unwrap();
        assert!(outcome.requests > 3 && outcome.failed == 0, "{outcome:?}");
        assert_eq!(idle_passthrough(target, &payload, 20).unwrap().count().unwrap(), 20);
    }
}

#[test]
fn a_source_sends_the_requested_number_of_bytes() {
    let server = backend(backend::Options { source: any(), ..Default::default() })[0];
    let mut stream = TcpStream::connect(server).unwrap();
    for length in [0, 5, 3 << 20] {
        stream.write_all(&u64::to_be_bytes(length)).unwrap();
        let mut bytes = Vec::new();
        (&mut stream).take(length).read_to_end(&mut bytes).unwrap();
        assert!(bytes.len() as u64 == length && bytes.iter().all(|byte| *byte == b'x'));
    }
}
