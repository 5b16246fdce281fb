//! The connected proxies, for debug pages and metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use wire::Kind;
use wire::delta::{Server, Stats};
use wire::discovery::ProxyReport;
use wire::name::{Node, Role};

use super::refusals::{Refused, Reported};
use super::serve::Caller;
use crate::compile::resource::Viewer;
use crate::publish::Store;

/// The open streams of all proxies.
#[derive(Debug, Default)]
pub struct Proxies {
    open: Mutex<BTreeMap<u64, Arc<Proxy>>>,
    next: AtomicU64,
}

/// A connected proxy: one open stream.
#[derive(Debug)]
pub struct Proxy {
    key: u64,
    /// The node id.
    pub id: String,
    /// The role.
    pub role: Role,
    /// The name of the pod.
    pub pod: String,
    /// The namespace of the pod.
    pub namespace: String,
    /// The cluster of the pod.
    pub cluster: String,
    /// The SPIFFE ID of the client certificate.
    pub identity: String,
    /// When the client certificate expires.
    pub expires: Option<SystemTime>,
    /// The source address of the connection.
    pub address: SocketAddr,
    /// When the stream was opened.
    pub since: SystemTime,
    viewer: Viewer,
    progress: Mutex<Progress>,
    reported: Mutex<Reported>,
    /// The number of changes of the published resources up to which the proxy has everything.
    current: AtomicU64,
}

/// The progress of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The number of subscriptions of each kind, in the order of [`Kind::ALL`].
    pub subscriptions: [usize; Kind::ALL.len()],
    /// The counts of pushes, resources and bytes.
    pub stats: Stats,
    /// When the oldest push that is not acknowledged was sent.
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

    /// Returns the age of the oldest push that is not acknowledged; zero if the proxy has acknowledged every push.
    pub fn lag(&self, now: Instant) -> Duration {
        self.waiting_since.map(|since| now.saturating_duration_since(since)).unwrap_or_default()
    }
}

impl Proxy {
    pub(super) fn new(node: &Node, caller: &Caller, viewer: Viewer, since: SystemTime) -> Self {
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
            viewer,
            progress: Mutex::default(),
            reported: Mutex::default(),
            current: AtomicU64::new(0),
        }
    }

    /// Returns the progress of the stream.
    pub fn progress(&self) -> Progress {
        *lock(&self.progress)
    }

    pub(super) fn report(&self, progress: Progress) {
        *lock(&self.progress) = progress;
    }

    pub(super) fn receive(&self, report: ProxyReport) {
        lock(&self.reported).receive(report, Instant::now());
    }

    /// Returns what the proxy has refused since it started. `own_cluster` is the controller's, whose policies are for all.
    pub fn refused(&self, store: &Store, own_cluster: &str) -> Vec<Refused> {
        lock(&self.reported).of_policies(store, &self.viewer, own_cluster)
    }

    /// Returns the number of changes of the published resources up to which the proxy has acknowledged everything that is
    /// for it, including all policies of its workload.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    pub(super) fn set_current(&self, changes: u64) {
        self.current.store(changes, Ordering::Release);
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

    /// Returns all connected proxies, ordered by cluster, namespace and pod.
    pub fn list(&self) -> Vec<Arc<Proxy>> {
        let mut all: Vec<Arc<Proxy>> = lock(&self.open).values().cloned().collect();
        all.sort_by(|a, b| (&a.cluster, &a.namespace, &a.pod).cmp(&(&b.cluster, &b.namespace, &b.pod)));
        all
    }

    /// Returns the number of connected proxies.
    pub fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// Returns whether no proxy is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Locks a mutex, also a poisoned one: every change under these locks is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
