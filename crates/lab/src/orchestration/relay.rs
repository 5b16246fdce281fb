//! Delay between networks: a relay at each LoadBalancer address that delays every byte.
//!
//! Kernels without netem cannot delay packets, so the relay accepts connections at the address and copies their bytes
//! after the delay, in both directions. The delay is that of the link to the connecting cluster, which the source address identifies. Relays run
//! only where a topology has a delay; elsewhere the kernel forwards packets.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::controllers::ClusterView;
use crate::controllers::service_proxy::{LoadBalancerPort, load_balancer_ports};
use crate::topology::{Cluster, Delay, Topology};

/// Chunks in flight in one direction of a connection. A link of 100 Mbit/s and 100 ms holds 1.25 MB.
const IN_FLIGHT: usize = 64;
const CHUNK: usize = 32 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The delays of connections to a cluster's LoadBalancer addresses.
#[derive(Debug, Default)]
pub struct RelayDelays {
    /// By address of the client, for clusters whose link has a delay of its own.
    by_client: HashMap<IpAddr, Delay>,
    /// The delay of other clients.
    of_network: Delay,
}

impl RelayDelays {
    /// Returns the delays of a cluster, or `None` if it has none.
    #[must_use]
    pub fn of(topology: &Topology, cluster: &Cluster) -> Option<Self> {
        let of_network = topology.network(&cluster.network).and_then(|network| network.delay);
        let mut by_client = HashMap::new();
        for (link, other) in topology.links_of(&cluster.name) {
            if let Some(delay) = link.delay {
                by_client.extend(other.on_bridge().into_iter().map(|address| (address, delay)));
            }
        }
        let any = of_network.is_some() || !by_client.is_empty();
        let of_network = Delay { mean: of_network.unwrap_or_default(), jitter: Duration::ZERO };
        any.then_some(Self { by_client, of_network })
    }

    fn of_client(&self, address: IpAddr) -> Delay {
        self.by_client.get(&address).copied().unwrap_or(self.of_network)
    }
}

/// Returns the delay of one packet.
fn draw(delay: Delay) -> Duration {
    let least = delay.mean.saturating_sub(delay.jitter);
    least + (2 * delay.jitter).mul_f64(rand::random())
}

/// Runs a relay at every LoadBalancer port of the cluster.
pub async fn run(view: Arc<ClusterView>, delays: RelayDelays) {
    let delays = Arc::new(delays);
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
            relays.entry(front).or_insert_with(|| tasks.spawn(serve(made, delays.clone())));
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            // An address that could not be bound is tried again.
            Some(_) = tasks.join_next() => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn serve(front: LoadBalancerPort, delays: Arc<RelayDelays>) {
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
            Ok((stream, client)) => {
                let delay = delays.of_client(client.ip().to_canonical());
                drop(connections.spawn(carry(stream, front.to, delay)));
            }
            Err(error) => {
                tracing::debug!(%error, "the delay relay cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn carry(near: TcpStream, to: SocketAddr, delay: Delay) {
    // The round trip of the handshake.
    tokio::time::sleep(draw(delay) + draw(delay)).await;
    let Ok(Ok(far)) = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::join!(hold_back(near_in, far_out, delay), hold_back(far_in, near_out, delay));
}

async fn hold_back(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, delay: Delay) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT);
    let reading = async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + draw(delay), buffer[..length].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            // In order: bytes whose time has come before that of earlier ones wait for those.
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(draw(delay)).await;
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
        let delays =
            RelayDelays { of_network: Delay { mean: delay, jitter: Duration::ZERO }, ..RelayDelays::default() };
        let relay = tokio::spawn(serve(LoadBalancerPort { listen, to }, Arc::new(delays)));
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

    #[test]
    fn the_link_of_the_client_decides() {
        let text = "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  networks: [{name: net-a, delay: 9ms}, {name: net-b}, {name: net-c}]\n  links: [{between: [net-a, net-b], delay: 40ms, jitter: 10ms}, {between: [net-b, net-c], loss: 1%}]\n  clusters:\n    - {name: a, role: primary, network: net-a}\n    - {name: b, role: remote, network: net-b}\n    - {name: c, role: remote, network: net-c}\n";
        let topology = Topology::parse(std::path::Path::new("my.yaml"), text).unwrap_or_else(|error| panic!("{error}"));
        let [a, b, c] = topology.clusters.as_slice() else { panic!("three clusters") };
        let (of_link, of_network) = ((40, 10), (9, 0));
        let delay = |(mean, jitter)| Delay { mean: Duration::from_millis(mean), jitter: Duration::from_millis(jitter) };
        let at_a = RelayDelays::of(&topology, a).expect("delays");
        assert_eq!((at_a.of_client(b.uplink()), at_a.of_client(c.uplink())), (delay(of_link), delay(of_network)));
        let at_b = RelayDelays::of(&topology, b).expect("delays");
        assert_eq!((at_b.of_client(a.uplink()), at_b.of_client(c.uplink())), (delay(of_link), Delay::default()));
        assert!(RelayDelays::of(&topology, c).is_none());
        let drawn: Vec<Duration> = (0..1000).map(|_| draw(delay(of_link))).collect();
        let (least, greatest) = (drawn.iter().min().expect("drawn"), drawn.iter().max().expect("drawn"));
        assert!(
            least.as_millis() >= 30 && greatest.as_millis() <= 50 && *greatest - *least > Duration::from_millis(15)
        );
        assert_eq!(draw(delay(of_network)), Duration::from_millis(9));
    }
}
