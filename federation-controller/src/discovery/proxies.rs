//! The proxies that are connected, for people to look at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use wire::Kind;
use wire::delta::{Server, Stats};
use wire::name::{Node, Role};

use super::serve::Caller;

/// All open streams.
#[derive(Debug, Default)]
pub struct Proxies {
    open: Mutex<BTreeMap<u64, Arc<Proxy>>>,
    next: AtomicU64,
}

/// One open stream.
#[derive(Debug)]
pub struct Proxy {
    key: u64,
    /// Its node id.
    pub id: String,
    /// Sidecar or gateway.
    pub role: Role,
    /// Its pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its cluster.
    pub cluster: String,
    /// The SPIFFE id that its certificate is for.
    pub identity: String,
    /// When that certificate expires.
    pub expires: Option<SystemTime>,
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// Since when the stream is open.
    pub since: SystemTime,
    progress: Mutex<Progress>,
}

/// How far a stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Names subscribed to, in the order of [`Kind::ALL`].
    pub subscriptions: [usize; Kind::ALL.len()],
    /// What went over it.
    pub stats: Stats,
    /// When the oldest response was sent that is not acknowledged.
    pub waiting_since: Option<Instant>,
}

impl Progress {
    pub(super) fn of(server: &Server) -> Self {
        Progress {
            subscriptions: Kind::ALL.map(|kind| server.subscribed(kind).count()),
            stats: server.stats(),
            waiting_since: server.waiting_since(),
        }
    }

    /// How long the proxy has owed us an acknowledgement; zero if it has all that it was sent.
    pub fn lag(&self, now: Instant) -> Duration {
        self.waiting_since.map(|since| now.saturating_duration_since(since)).unwrap_or_default()
    }
}

impl Proxy {
    pub(super) fn new(node: &Node, caller: &Caller, since: SystemTime) -> Self {
        Proxy {
            key: 0,
            id: node.to_string(),
            role: node.role,
            pod: node.pod.clone(),
            namespace: node.namespace.clone(),
            cluster: node.cluster.clone(),
            identity: caller.peer.id.to_string(),
            expires: caller.expires,
            address: caller.address,
            since,
            progress: Mutex::default(),
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        *lock(&self.progress)
    }

    pub(super) fn report(&self, progress: Progress) {
        *lock(&self.progress) = progress;
    }
}

impl Proxies {
    pub(super) fn add(&self, mut proxy: Proxy) -> Arc<Proxy> {
        proxy.key = self.next.fetch_add(1, Ordering::Relaxed);
        let proxy = Arc::new(proxy);
        lock(&self.open).insert(proxy.key, proxy.clone());
        proxy
    }

    pub(super) fn remove(&self, proxy: &Proxy) {
        lock(&self.open).remove(&proxy.key);
    }

    /// All of them, by cluster, namespace and pod.
    pub fn list(&self) -> Vec<Arc<Proxy>> {
        let mut all: Vec<Arc<Proxy>> = lock(&self.open).values().cloned().collect();
        all.sort_by(|a, b| (&a.cluster, &a.namespace, &a.pod).cmp(&(&b.cluster, &b.namespace, &b.pod)));
        all
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Nothing done under these locks can leave their contents half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
