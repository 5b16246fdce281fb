//! The connected proxies, for debug pages and metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use wire::Kind;
use wire::delta::{Server, Stats};
use wire::discovery::{ApplicationHealth, ProxyReport};
use wire::name::{self, Node, Role};

use super::refusals::{Refused, Reported};
use super::serve::Caller;
use crate::compile::resource::Viewer;
use crate::inventory::registered::Member;
use crate::objects::Key;
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
    node: Node,
    progress: Mutex<Progress>,
    reported: Mutex<Reported>,
    registration: Mutex<Option<Registration>>,
    /// The number of changes of the published resources up to which the proxy has everything.
    current: AtomicU64,
}

/// What the proxy of a workload that is no pod says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Registration {
    group: String,
    network: String,
    health: ApplicationHealth,
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
            node: node.clone(),
            progress: Mutex::default(),
            reported: Mutex::default(),
            registration: Mutex::default(),
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

    /// Notes a report. Returns whether the registration of its workload differs from the last one.
    pub(super) fn receive(&self, report: ProxyReport) -> bool {
        let health = ApplicationHealth::try_from(report.health).unwrap_or_default();
        let group = report.workload_group.clone();
        let new = (!group.is_empty()).then(|| Registration { group, network: report.network.clone(), health });
        let old = std::mem::replace(&mut *lock(&self.registration), new.clone());
        lock(&self.reported).receive(report, Instant::now());
        old != new
    }

    /// Returns the proxy as one that is to be registered; `None` if it has not asked for that.
    pub(crate) fn member(&self) -> Option<Member> {
        let registration = lock(&self.registration).clone()?;
        let entry = name::parse_workload_entry(&self.pod)?;
        Some(Member {
            cluster: self.viewer.cluster.clone(),
            entry: Key::new(&self.namespace, entry),
            group: registration.group.into(),
            ip: self.node.ip,
            network: registration.network.into(),
            account: self.viewer.account.clone(),
            health: registration.health,
        })
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
