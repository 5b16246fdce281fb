//! Delay between networks: a relay at each LoadBalancer address that delays every byte.
//!
//! Kernels without netem cannot delay packets, so the relay accepts connections at the address and copies their bytes
//! after the delay, in both directions. It runs only where a topology has a delay; elsewhere the kernel forwards
//! packets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::controllers::ClusterView;
use crate::controllers::service_proxy::{LoadBalancerPort, load_balancer_ports};

/// Chunks in flight in one direction of a connection. A link of 100 Mbit/s and 100 ms holds 1.25 MB.
const IN_FLIGHT: usize = 64;
const CHUNK: usize = 32 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a relay at every LoadBalancer port of the cluster.
pub async fn run(view: Arc<ClusterView>, delay: Duration) {
    view.synced().await;
    let mut changes = view.changes();
    let mut relays: BTreeMap<LoadBalancerPort, AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        changes.mark_unchanged();
        let wanted = load_balancer_ports(&view.services.list());
        relays.retain(|front, task| {
            let keep = wanted.contains(front) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for front in wanted {
            let made = front.clone();
            relays.entry(front).or_insert_with(|| tasks.spawn(serve(made, delay)));
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            // An address that could not be bound is tried again.
            Some(_) = tasks.join_next() => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn serve(front: LoadBalancerPort, delay: Duration) {
    let listener = match TcpListener::bind(front.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(address = %front.listen, %error, "the delay relay cannot listen");
            return;
        }
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => drop(connections.spawn(carry(stream, front.to, delay))),
            Err(error) => {
                tracing::debug!(%error, "the delay relay cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn carry(near: TcpStream, to: std::net::SocketAddr, delay: Duration) {
    // The round trip of the handshake.
    tokio::time::sleep(2 * delay).await;
    let Ok(Ok(far)) = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::join!(hold_back(near_in, far_out, delay), hold_back(far_in, near_out, delay));
}

async fn hold_back(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let reading = async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(delay).await;
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_arrive_delayed_and_complete() {
        let echo = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let to = echo.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut stream, _) = echo.accept().await.expect("a connection");
            let (mut from, mut back) = stream.split();
            tokio::io::copy(&mut from, &mut back).await.expect("echoed");
            back.shutdown().await.expect("closed");
        });
        let probe = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let listen = probe.local_addr().expect("an address");
        drop(probe);
        let delay = Duration::from_millis(40);
        let relay = tokio::spawn(serve(LoadBalancerPort { listen, to }, delay));
        let listening = async {
            loop {
                if let Ok(client) = TcpStream::connect(listen).await {
                    return client;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let mut client = tokio::time::timeout(Duration::from_secs(5), listening).await.expect("the relay listens");
        let begin = Instant::now();
        let sent = vec![7_u8; 300_000];
        let (mut input, mut output) = client.split();
        let mut received = Vec::new();
        let write = async {
            output.write_all(&sent).await.expect("sent");
            output.shutdown().await.expect("closed");
        };
        let (_, read) = tokio::join!(write, input.read_to_end(&mut received));
        read.expect("read");
        assert_eq!(received.len(), sent.len());
        assert!(begin.elapsed() >= 4 * delay, "handshake and data each go there and back: {:?}", begin.elapsed());
        relay.abort();
    }
}
