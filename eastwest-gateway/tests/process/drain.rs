//! One of two gateways leaves while clients go on connecting to it: a client may be told that nobody listens any more, and
//! goes to the other one, but no connection that was made is broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::*;

/// What came of the connections.
#[derive(Default)]
struct Seen {
    served: [AtomicUsize; 2],
    not_reached: AtomicUsize,
    stop: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_leaves_resets_nobody() {
    const CLIENTS: usize = 8;
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let controller = Arc::new(Controller::start().await);
    let mut gateways = directories.each_ref().map(|directory| start(&controller, directory.path(), 1024));
    for gateway in &gateways {
        until("it is ready", async || matches!(get(gateway.health, "/healthz/ready").await, Some((200, _)))).await;
    }
    let (addresses, seen) = (gateways.each_ref().map(|gateway| gateway.listen), Arc::new(Seen::default()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (controller, seen) = (Arc::clone(&controller), Arc::clone(&seen));
            tokio::spawn(async move {
                while !seen.stop.load(Relaxed) {
                    one(&controller, addresses, &seen).await;
                }
            })
        })
        .collect();

    tokio::time::sleep(Duration::from_millis(500)).await;
    let leaving = rustix::process::Pid::from_child(&gateways[0].process);
    rustix::process::kill_process(leaving, rustix::process::Signal::TERM).unwrap();
    until("it has ended", async || gateways[0].process.try_wait().unwrap().is_some()).await;
    assert!(gateways[0].process.wait().unwrap().success());
    tokio::time::sleep(Duration::from_millis(300)).await;
    seen.stop.store(true, Relaxed);
    for client in clients {
        client.await.expect("no connection that was made is broken");
    }
    let [first, second] = seen.served.each_ref().map(|served| served.load(Relaxed));
    let not_reached = seen.not_reached.load(Relaxed);
    println!("served by the one that left: {first}, by the other: {second}; not reached: {not_reached}");
    assert!(first > CLIENTS && second > CLIENTS && not_reached > 0);
}

/// One connection, to the gateway that leaves as long as it takes it.
async fn one(controller: &Controller, addresses: [SocketAddr; 2], seen: &Seen) {
    const PATIENCE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];
    for ((address, served), patience) in addresses.into_iter().zip(&seen.served).zip(PATIENCE) {
        let Ok(Ok(stream)) = tokio::time::timeout(patience, TcpStream::connect(address)).await else {
            seen.not_reached.fetch_add(1, Relaxed);
            continue;
        };
        let config = controller.client().client_config(&[controller.server().id()], alpn::CLIENT_TCP);
        let mut stream =
            TlsConnector::from(config).connect(ServerName::try_from(SNI).unwrap(), stream).await.expect("a handshake");
        echo(&mut stream, b"to the end").await;
        served.fetch_add(1, Relaxed);
        return;
    }
    panic!("neither gateway was reached");
}
