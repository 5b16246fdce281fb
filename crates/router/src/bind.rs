//! The sockets of listeners, which come and go with the configuration.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use proxy::listener::BACKLOG;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Published;

/// How often a port that cannot be bound is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// One worker's socket of a listener.
pub(crate) struct Socket {
    /// The listener's address, by which it is found in the configuration.
    pub(crate) address: SocketAddr,
    pub(crate) listener: TcpListener,
    /// Changes when the listener is removed. Dropped after `listener` is closed.
    pub(crate) removed: watch::Receiver<()>,
}

/// Opens and closes sockets as the configuration says.
pub(crate) struct Binder {
    published: Arc<Published>,
    /// Of each worker.
    workers: Vec<mpsc::UnboundedSender<Socket>>,
    open: HashMap<SocketAddr, watch::Sender<()>>,
    /// Addresses whose removed listener some workers still have: they accept connections whose handshake had begun.
    closing: HashSet<SocketAddr>,
    /// Each returns an address of `closing` when all workers have closed it.
    closed: JoinSet<SocketAddr>,
    /// Addresses that could not be bound, which the log says once.
    failed: HashSet<SocketAddr>,
}

impl Binder {
    /// Creates a binder, which sends sockets to workers.
    pub(crate) fn new(published: Arc<Published>, workers: Vec<mpsc::UnboundedSender<Socket>>) -> Self {
        let (closing, failed) = (HashSet::new(), HashSet::new());
        Self { published, workers, open: HashMap::new(), closing, closed: JoinSet::new(), failed }
    }

    /// Follows the configuration. Calls `ready` when the sockets of a configuration are open for the first time; a gateway that no
    /// Gateway selects yet has none, and is ready as well, as in Istio. Must be called within a [`tokio::task::LocalSet`].
    pub(crate) async fn run(mut self, ready: impl FnOnce()) {
        let mut ready = Some(ready);
        loop {
            let published = self.published.clone();
            let changed = published.changed();
            let config = published.newest();
            let wanted: Vec<SocketAddr> = config.listeners.keys().copied().collect();
            self.close_others(&wanted);
            self.failed.retain(|address| wanted.contains(address));
            for address in wanted {
                // An address of the same port may be another name of this one.
                let closing = self.closing.iter().any(|of| of.port() == address.port());
                if closing || self.open.contains_key(&address) {
                    continue;
                }
                match self.bind(address) {
                    Ok(()) => {
                        self.failed.remove(&address);
                    }
                    Err(error) if self.failed.insert(address) => {
                        tracing::error!(%address, %error, "cannot listen; trying again every two seconds");
                    }
                    Err(_) => {}
                }
            }
            let failed = !self.failed.is_empty();
            if !failed
                && config.received
                && let Some(ready) = ready.take()
            {
                ready();
            }
            tokio::select! {
                () = changed => {}
                Some(closed) = self.closed.join_next() => {
                    if let Ok(address) = closed {
                        self.closing.remove(&address);
                    }
                }
                () = tokio::time::sleep(AGAIN), if failed => {}
            }
        }
    }

    /// Removes the listeners of all other addresses. Their connections stay open.
    fn close_others(&mut self, wanted: &[SocketAddr]) {
        for (address, removed) in self.open.extract_if(|address, _| !wanted.contains(address)) {
            // Fails if all workers have ended.
            let _ = removed.send(());
            self.closing.insert(address);
            self.closed.spawn_local(async move {
                removed.closed().await;
                address
            });
        }
    }

    fn bind(&mut self, address: SocketAddr) -> io::Result<()> {
        let listeners = listen(address, self.workers.len())?;
        let (remove, removed) = watch::channel(());
        for (worker, listener) in self.workers.iter().zip(listeners) {
            // Sending fails once the worker has ended, which ends the process.
            let _ = worker.send(Socket { address, listener, removed: removed.clone() });
        }
        tracing::info!(%address, "listening");
        self.open.insert(address, remove);
        Ok(())
    }
}

fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    net::socket::listen_shared(address, count, BACKLOG).or_else(|error| match error.kind() {
        // The machine has no IPv6.
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported if address.ip().is_unspecified() => {
            let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            net::socket::listen_shared(any, count, BACKLOG)
        }
        _ => Err(error),
    })
}
