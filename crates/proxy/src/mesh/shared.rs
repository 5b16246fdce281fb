//! What the workers of a proxy share of an upstream cluster: limits, outlier detection as configured, and counts.
//!
//! Limits are exact: a permit of one worker is one less for all others. A cluster without limits costs nothing here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use balance::{Detector, EjectionCounts, OutlierPolicy};
use runtime::limits::{Limit, Permit};
use tokio::sync::Notify;

use super::traffic::TrafficPolicy;

/// How often idle connections of other workers are asked for while none is closed.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// What is counted of an upstream cluster, besides ejections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterCounter {
    /// A retry was sent.
    Retry,
    /// A retry was answered, other than with an outcome that is repeated.
    RetrySuccess,
    /// A request was not repeated because too many retries are in progress.
    RetryOverflow,
    /// A request was not repeated because it has used up its attempts.
    RetryLimitExceeded,
    /// No connection was opened because too many are open.
    ConnectionOverflow,
    /// A request was refused because too many are in progress or wait for a connection.
    PendingOverflow,
}

impl ClusterCounter {
    /// All counters.
    pub const ALL: [ClusterCounter; 6] = [
        ClusterCounter::Retry,
        ClusterCounter::RetrySuccess,
        ClusterCounter::RetryOverflow,
        ClusterCounter::RetryLimitExceeded,
        ClusterCounter::ConnectionOverflow,
        ClusterCounter::PendingOverflow,
    ];
}

/// What the workers share of an upstream cluster.
#[derive(Debug, Default)]
pub struct SharedCluster {
    connections: Limit,
    pending: Limit,
    requests: Limit,
    retries: Limit,
    /// Requests that wait for the time of their retry.
    waiting: Limit,
    /// The ejections.
    pub ejections: EjectionCounts,
    counts: [AtomicU64; ClusterCounter::ALL.len()],
    detector: Mutex<Option<Detector>>,
    /// Something was configured.
    configured: AtomicBool,
    /// Notified when a connection is closed that others may wait for.
    closed: Notify,
    /// Notified when a connection is needed that idle ones of other workers take the place of.
    needed: Notify,
}

/// The place of a connection among those that may be open. Returned on drop.
#[derive(Debug)]
pub struct Connection {
    permit: Option<Permit>,
    cluster: Arc<SharedCluster>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.cluster.closed.notify_one();
    }
}

impl SharedCluster {
    /// Applies a policy.
    pub fn apply(&self, policy: &TrafficPolicy) {
        let set = |limit: &Limit, max: Option<u32>| limit.set_max(max.map_or(u64::MAX, u64::from));
        set(&self.connections, policy.pool.max_connections);
        set(&self.pending, policy.pool.max_pending_requests);
        set(&self.requests, policy.pool.max_requests);
        set(&self.retries, policy.pool.max_retries);
        let configured = policy.pool.is_limited()
            || policy.pool.max_retries.is_some()
            || policy.retry_budget.is_some()
            || policy.outlier_detection.is_some();
        self.configured.store(configured, Relaxed);
    }

    /// Returns whether limits or outlier detection are configured.
    pub fn is_configured(&self) -> bool {
        self.configured.load(Relaxed)
    }

    /// Returns the outlier detection of a policy: the present one, if that has this policy.
    pub fn detector(&self, policy: OutlierPolicy, now: Instant) -> Detector {
        let mut current = lock(&self.detector);
        match &*current {
            Some(detector) if *detector.policy() == policy => detector.clone(),
            _ => current.insert(Detector::new(policy, self.ejections.clone(), now)).clone(),
        }
    }

    /// Returns the names of the endpoints that configured outlier detection has ejected at `now`.
    pub fn ejected(&self, now: Instant) -> Vec<Arc<str>> {
        lock(&self.detector).as_ref().map(|detector| detector.ejected(now)).unwrap_or_default()
    }

    /// Acquires the place of a connection. Returns `None`, and counts it, if too many are open.
    pub fn connection(self: &Arc<Self>) -> Option<Connection> {
        match self.connections.acquire() {
            Some(permit) => Some(Connection { permit: Some(permit), cluster: self.clone() }),
            None => {
                self.count(ClusterCounter::ConnectionOverflow);
                None
            }
        }
    }

    /// Acquires the place of a connection when one is closed. Idle connections of all workers are closed for it.
    pub async fn next_connection(self: &Arc<Self>) -> Connection {
        loop {
            let mut closed = std::pin::pin!(self.closed.notified());
            // Before the check, so that no notification is missed.
            closed.as_mut().enable();
            if let Some(permit) = self.connections.acquire() {
                return Connection { permit: Some(permit), cluster: self.clone() };
            }
            self.needed.notify_waiters();
            // A connection may become idle in another worker meanwhile.
            let _ = tokio::time::timeout(ASK_AGAIN, closed).await;
        }
    }

    /// Waits until a connection is needed that an idle one of this worker takes the place of.
    pub async fn connection_needed(&self) {
        self.needed.notified().await;
    }

    /// Acquires the place of a request in progress, or counts that there is none.
    pub fn request(&self) -> Option<Permit> {
        self.or_count(self.requests.acquire(), ClusterCounter::PendingOverflow)
    }

    /// Acquires the place of a request that waits for a connection, or counts that there is none.
    pub fn pending(&self) -> Option<Permit> {
        self.or_count(self.pending.acquire(), ClusterCounter::PendingOverflow)
    }

    /// Counts a request that waits for the time of its retry, until the permit is dropped: it is still in progress.
    pub fn waiting(&self) -> Option<Permit> {
        self.waiting.acquire()
    }

    /// Acquires the place of a retry, or counts that there is none.
    pub fn retry(&self, policy: &TrafficPolicy) -> Option<Permit> {
        if let Some(budget) = &policy.retry_budget {
            let active = self.requests.in_use() + self.pending.in_use() + self.waiting.in_use();
            let share = (active as f64 * budget.percent / 100.0) as u64;
            // Instead of `maxRetries`, as in Envoy.
            self.retries.set_max(share.max(budget.min_retries.into()));
        }
        let permit = self.or_count(self.retries.acquire(), ClusterCounter::RetryOverflow)?;
        self.count(ClusterCounter::Retry);
        Some(permit)
    }

    fn or_count(&self, permit: Option<Permit>, otherwise: ClusterCounter) -> Option<Permit> {
        if permit.is_none() {
            self.count(otherwise);
        }
        permit
    }

    /// Adds one.
    pub fn count(&self, counter: ClusterCounter) {
        self.counts[counter as usize].fetch_add(1, Relaxed);
    }

    /// Returns a count.
    pub fn counted(&self, counter: ClusterCounter) -> u64 {
        self.counts[counter as usize].load(Relaxed)
    }
}

/// The clusters that workers share, by name.
#[derive(Debug, Default)]
pub(super) struct SharedClusters(Mutex<HashMap<Arc<str>, Weak<SharedCluster>>>);

impl SharedClusters {
    /// Returns what is shared of the cluster of this name.
    pub(super) fn get(&self, name: &Arc<str>) -> Arc<SharedCluster> {
        let mut clusters = lock(&self.0);
        if let Some(cluster) = clusters.get(name).and_then(Weak::upgrade) {
            return cluster;
        }
        // Those that no worker uses any more.
        clusters.retain(|_, cluster| cluster.strong_count() > 0);
        let cluster = Arc::<SharedCluster>::default();
        clusters.insert(name.clone(), Arc::downgrade(&cluster));
        cluster
    }

    /// Calls `visit` for each cluster in use, in the order of names.
    pub(super) fn each(&self, mut visit: impl FnMut(&str, &SharedCluster)) {
        let mut clusters: Vec<_> =
            lock(&self.0).iter().filter_map(|(name, cluster)| Some((name.clone(), cluster.upgrade()?))).collect();
        clusters.sort_by(|(one, _), (other, _)| one.cmp(other));
        clusters.iter().for_each(|(name, cluster)| visit(name, cluster));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::RetryBudget;

    fn limited() -> (Arc<SharedCluster>, TrafficPolicy) {
        let mut policy = TrafficPolicy::default();
        policy.pool.max_connections = Some(1);
        policy.pool.max_pending_requests = Some(1);
        policy.pool.max_requests = Some(2);
        policy.pool.max_retries = Some(1);
        let cluster = Arc::<SharedCluster>::default();
        cluster.apply(&policy);
        (cluster, policy)
    }

    #[test]
    fn what_exceeds_a_limit_is_refused_and_counted() {
        let (cluster, policy) = limited();
        let held =
            (cluster.connection(), cluster.pending(), cluster.request(), cluster.request(), cluster.retry(&policy));
        assert!(held.0.is_some() && held.1.is_some() && held.2.is_some() && held.3.is_some() && held.4.is_some());
        assert!(cluster.connection().is_none() && cluster.pending().is_none() && cluster.request().is_none());
        assert!(cluster.retry(&policy).is_none());
        use ClusterCounter::{ConnectionOverflow, PendingOverflow, Retry, RetryOverflow};
        let counts =
            [ConnectionOverflow, PendingOverflow, Retry, RetryOverflow].map(|counter| cluster.counted(counter));
        assert_eq!(counts, [1, 2, 1, 1]);
        drop(held);
        assert!(cluster.connection().is_some());
        cluster.apply(&TrafficPolicy::default());
        let many: [_; 10] = std::array::from_fn(|_| cluster.request());
        assert!(many.iter().all(Option::is_some), "unlimited");
    }

    #[test]
    fn a_retry_budget_is_a_share_of_the_requests_in_progress() {
        let cluster = SharedCluster::default();
        let budget = RetryBudget { percent: 20.0, min_retries: 1 };
        let policy = TrafficPolicy { retry_budget: Some(budget), ..TrafficPolicy::default() };
        let first = cluster.retry(&policy);
        assert!(first.is_some() && cluster.retry(&policy).is_none(), "the minimum");
        let requests: Vec<_> = (0..15).filter_map(|_| cluster.request()).collect();
        let second = cluster.retry(&policy);
        let third = cluster.retry(&policy);
        assert!(second.is_some() && third.is_some() && cluster.retry(&policy).is_none(), "20 % of 15");
        drop(requests);
        assert!(cluster.retry(&policy).is_none());
        let waiting: Vec<_> = (0..20).filter_map(|_| cluster.waiting()).collect();
        assert!(waiting.len() == 20 && cluster.retry(&policy).is_some(), "those that wait are in progress");
    }

    #[test]
    fn a_policy_keeps_its_detector() {
        let (cluster, now) = (SharedCluster::default(), Instant::now());
        let policy = OutlierPolicy::default();
        let detector = cluster.detector(policy, now);
        assert_eq!(detector, cluster.detector(policy, now));
        assert_ne!(detector, cluster.detector(OutlierPolicy { consecutive_5xx: 1, ..policy }, now));
    }

    #[tokio::test]
    async fn a_worker_waits_for_a_connection_that_another_one_closes() {
        let (cluster, _) = limited();
        let held = cluster.connection().expect("a place");
        let waiting = tokio::spawn({
            let cluster = cluster.clone();
            async move { drop(cluster.next_connection().await) }
        });
        // The other worker closes an idle connection.
        cluster.connection_needed().await;
        drop(held);
        tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time").expect("no panic");
    }

    #[test]
    fn workers_share_a_cluster_by_its_name() {
        let clusters = SharedClusters::default();
        let name: Arc<str> = "outbound|9080||reviews".into();
        let one = clusters.get(&name);
        assert!(Arc::ptr_eq(&one, &clusters.get(&name)));
        assert!(!Arc::ptr_eq(&one, &clusters.get(&"outbound|9080|v2|reviews".into())));
        one.count(ClusterCounter::Retry);
        drop(one);
        assert_eq!(clusters.get(&name).counted(ClusterCounter::Retry), 0, "no worker used it");
        let mut names = 0;
        clusters.each(|_, _| names += 1);
        assert_eq!(names, 0);
    }
}
