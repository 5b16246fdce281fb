//! A relay before a pod that can be cut off, as if the pod were killed, or held up, as if it had no time for newcomers.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Open,
    Cut,
    Busy,
}

pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
    connections: Arc<std::sync::atomic::AtomicU64>,
}

impl Gate {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = watch::channel(State::Open).0;
        let connections: Arc<std::sync::atomic::AtomicU64> = Arc::default();
        tokio::spawn(run(address, Some(listener), to, state.clone(), connections.clone()));
        Self { address, state, connections }
    }

    /// Resets all connections and refuses new ones.
    pub(crate) async fn cut(&self) {
        self.state.send_replace(State::Cut);
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// Takes new connections and does nothing with them until it is open. Those that there are go on.
    pub(crate) fn hold_up(&self) {
        self.state.send_replace(State::Busy);
    }

    /// Lets connections through again.
    pub(crate) async fn open(&self) {
        self.state.send_replace(State::Open);
        while TcpStream::connect(self.address).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Connections that came so far.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(std::sync::atomic::Ordering::Relaxed)
    }
}

async fn run(
    address: SocketAddr,
    mut listener: Option<TcpListener>,
    to: SocketAddr,
    state: watch::Sender<State>,
    connections: Arc<std::sync::atomic::AtomicU64>,
) {
    let mut changes = state.subscribe();
    loop {
        let now = *changes.borrow_and_update();
        match now {
            State::Cut => listener = None,
            State::Open if listener.is_none() => {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.set_reuseaddr(true).unwrap();
                socket.bind(address).unwrap();
                listener = Some(socket.listen(128).unwrap());
            }
            State::Open | State::Busy => {}
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
                connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::spawn(relay(stream, to, state.subscribe()));
            }
        }
    }
}

async fn relay(mut near: TcpStream, to: SocketAddr, mut changes: watch::Receiver<State>) {
    if changes.wait_for(|state| *state != State::Busy).await.is_err() {
        return;
    }
    let Ok(mut far) = TcpStream::connect(to).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = changes.wait_for(|state| *state == State::Cut) => {
            // A reset, as when a process is killed with data unread.
            for stream in [&near, &far] {
                let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
            }
        }
    }
}
