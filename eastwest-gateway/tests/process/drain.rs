//! One of two gateways drains while clients connect to it: new connections are refused and clients use the other
//! gateway, but no accepted connection is reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::*;

/// The outcomes of connections.
#[derive(Default)]
struct Outcomes {
    /// The connections served by each gateway.
    served: [AtomicUsize; 2],
    refused: AtomicUsize,
    stop: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_gateway_resets_no_connection() {
    const CLIENTS: usize = 8;
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let controller = Arc::new(Controller::start().await);
    let mut gateways = directories.each_ref().map(|directory| start_gateway(&controller, directory.path(), 1024));
    for gateway in &gateways {
        gateway.ready().await;
    }
    let (addresses, outcomes) = (gateways.each_ref().map(|gateway| gateway.listen), Arc::new(Outcomes::default()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (controller, outcomes) = (Arc::clone(&controller), Arc::clone(&outcomes));
            tokio::spawn(async move {
                while !outcomes.stop.load(Relaxed) {
                    connect_to_either(&controller, addresses, &outcomes).await;
                }
            })
        })
        .collect();

    let served = |gateway: usize| outcomes.served[gateway].load(Relaxed);
    until("the first gateway serves connections", async || served(0) > 5 * CLIENTS).await;
    let draining = rustix::process::Pid::from_child(&gateways[0].process);
    rustix::process::kill_process(draining, rustix::process::Signal::TERM).unwrap();
    until("the first gateway has ended", async || gateways[0].process.try_wait().unwrap().is_some()).await;
    assert!(gateways[0].process.wait().unwrap().success());
    until("the second gateway serves connections", async || served(1) > CLIENTS).await;
    outcomes.stop.store(true, Relaxed);
    for client in clients {
        client.await.expect("no accepted connection is reset");
    }
    let refused = outcomes.refused.load(Relaxed);
    println!("served by the draining gateway: {}, by the other: {}; refused: {refused}", served(0), served(1));
    assert!(refused > 0);
}

/// Opens a connection and uses it: to the first gateway, or to the second one if the first refuses.
async fn connect_to_either(controller: &Controller, addresses: [SocketAddr; 2], outcomes: &Outcomes) {
    const TIMEOUTS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];
    for ((address, served), timeout) in addresses.into_iter().zip(&outcomes.served).zip(TIMEOUTS) {
        let Ok(Ok(stream)) = tokio::time::timeout(timeout, TcpStream::connect(address)).await else {
            outcomes.refused.fetch_add(1, Relaxed);
            continue;
        };
        let config = controller.client().client_config(&[controller.server().id()], alpn::CLIENT_TCP);
        let mut stream =
            TlsConnector::from(config).connect(ServerName::try_from(SNI).unwrap(), stream).await.expect("a handshake");
        echo(&mut stream, b"to the end").await;
        served.fetch_add(1, Relaxed);
        return;
    }
    panic!("both gateways refuse connections");
}
