//! A TCP relay in front of a server that injects faults.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Open,
    Cut,
    Stalled,
}

/// A TCP relay in front of a server. It can be cut, as if the server were killed, or stalled, as if the server had no
/// time for new connections.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
    connections: Arc<AtomicU64>,
}

impl Gate {
    /// Starts a relay to the server at `upstream`.
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = watch::channel(State::Open).0;
        let connections: Arc<AtomicU64> = Arc::default();
        tokio::spawn(run(address, Some(listener), upstream, state.clone(), connections.clone()));
        Self { address, state, connections }
    }

    /// Resets all connections and refuses new ones.
    pub(crate) async fn cut(&self) {
        self.state.send_replace(State::Cut);
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// Accepts new connections without relaying them until [`Gate::open`]. Open connections are still relayed.
    pub(crate) fn stall(&self) {
        self.state.send_replace(State::Stalled);
    }

    /// Relays connections again.
    pub(crate) async fn open(&self) {
        self.state.send_replace(State::Open);
        while TcpStream::connect(self.address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The number of connections accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }
}

async fn run(
    address: SocketAddr,
    mut listener: Option<TcpListener>,
    upstream: SocketAddr,
    state: watch::Sender<State>,
    connections: Arc<AtomicU64>,
) {
    let mut changes = state.subscribe();
    // While the gate is cut, no other socket takes its port.
    let mut held = None;
    loop {
        let now = *changes.borrow_and_update();
        match now {
            State::Cut => {
                drop(listener.take());
                if held.is_none() {
                    let socket = tokio::net::TcpSocket::new_v4().unwrap();
                    socket.set_reuseaddr(true).unwrap();
                    socket.bind(address).unwrap();
                    held = Some(socket);
                }
            }
            State::Open if listener.is_none() => listener = Some(held.take().unwrap().listen(128).unwrap()),
            State::Open | State::Stalled => {}
        }
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = changes.changed() => {}
            accepted = accept => {
                let (stream, _) = accepted.unwrap();
                connections.fetch_add(1, Relaxed);
                tokio::spawn(relay(stream, upstream, state.subscribe()));
            }
        }
    }
}

async fn relay(mut downstream: TcpStream, upstream: SocketAddr, mut changes: watch::Receiver<State>) {
    if changes.wait_for(|state| *state != State::Stalled).await.is_err() {
        return;
    }
    let Ok(mut upstream) = TcpStream::connect(upstream).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut downstream, &mut upstream) => {}
        _ = changes.wait_for(|state| *state == State::Cut) => {
            // A reset, as when a process is killed with unread data.
            for stream in [&downstream, &upstream] {
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
        }
    }
}
