use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Edge, Protocol, Shape, Timing, closed_loop};
use crate::backend;

const QUICK: Timing = Timing { warm_up: Duration::from_millis(20), duration: Duration::from_millis(200) };

/// A backend on a thread of its own, which lasts as long as the test's process.
fn backend(options: backend::Options) -> Vec<SocketAddr> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        super::runtime().unwrap().block_on(async {
            tell.send(backend::start(&options).unwrap()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[test]
fn closed_loops() {
    let server = backend(backend::Options { http: vec![any()], ..Default::default() })[0];
    for protocol in [Protocol::Http1, Protocol::NewConnection] {
        for body in [0, 1024, 64 * 1024, 1 << 20] {
            let shape = Shape { protocol, body, connections: 4 };
            let mut edges = Vec::new();
            let outcome = closed_loop(server, "backend", shape, QUICK, &mut |edge| edges.push(edge)).unwrap();
            assert_eq!(edges, [Edge::Begin, Edge::End]);
            assert!(outcome.requests > 10 && outcome.failed == 0, "{shape}: {outcome:?}");
            assert_eq!(outcome.bytes, outcome.requests * body as u64, "{shape}");
            assert_eq!(outcome.latency.len(), outcome.requests);
        }
    }
}
