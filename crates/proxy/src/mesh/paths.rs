//! The paths to other clusters, as the proxy has seen them work or fail.
//!
//! All workers note the outcomes of what they send to another cluster, and the control thread those of its own handshakes. What
//! the controller is told of a path, with the words of other proxies, decides about a cluster whose API server does not answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The number of clusters whose paths are noted. Meshes have up to some fifty clusters.
pub const MAX_PATHS: usize = 64;
/// A path fails after this many failures since its last success…
const FAILURES: u32 = 2;
/// … of which the first is this long ago. A gateway that restarts refuses connections for less.
const LASTING: Duration = Duration::from_secs(1);
/// A path fails for this long after its last failure. While it is used, or handshakes are made, failures follow each other faster.
const REMEMBERED: Duration = Duration::from_secs(15);
/// Successes that follow each other faster are noted once, so that requests share no cache line.
const RESOLUTION: u64 = 50;
/// Further failures are not counted.
const MANY: u32 = 1 << 16;

/// The paths to all other clusters whose endpoints the proxy has used.
#[derive(Debug)]
pub struct Paths {
    began: Instant,
    by_cluster: Mutex<BTreeMap<Arc<str>, Arc<ClusterPath>>>,
}

impl Default for Paths {
    fn default() -> Self {
        Paths { began: Instant::now(), by_cluster: Mutex::default() }
    }
}

impl Paths {
    /// Returns the path to a cluster; `None` if there are [`MAX_PATHS`] others.
    pub fn to(&self, cluster: &Arc<str>) -> Option<Arc<ClusterPath>> {
        let mut paths = self.lock();
        if let Some(known) = paths.get(cluster) {
            return Some(known.clone());
        }
        if paths.len() >= MAX_PATHS {
            return None;
        }
        let path = Arc::new(ClusterPath::new(cluster.clone(), self.began));
        paths.insert(cluster.clone(), path.clone());
        Some(path)
    }

    /// Returns all paths, by cluster.
    pub fn all(&self) -> Vec<Arc<ClusterPath>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<ClusterPath>>> {
        // Every change under this lock is a single step.
        self.by_cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path to the endpoints of one other cluster.
#[derive(Debug)]
pub struct ClusterPath {
    cluster: Arc<str>,
    began: Instant,
    /// The last success, in milliseconds since `began`, plus one; 0: none.
    success: AtomicU64,
    /// The number of failures since then.
    failures: AtomicU32,
    /// The first of them, as `success`.
    first_failure: AtomicU64,
    /// The last of them, as `success`.
    last_failure: AtomicU64,
}

/// Two paths are equal if they are the same one.
impl PartialEq for ClusterPath {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl ClusterPath {
    fn new(cluster: Arc<str>, began: Instant) -> Self {
        let (success, failures, first_failure, last_failure) = Default::default();
        ClusterPath { cluster, began, success, failures, first_failure, last_failure }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// Notes a connection that was established, or a response that arrived.
    pub fn succeeded(&self, now: Instant) {
        let at = self.millis(now);
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
        }
        if at >= self.success.load(Relaxed) + RESOLUTION || self.success.load(Relaxed) == 0 {
            self.success.store(at, Relaxed);
        }
    }

    /// Notes a connection that was not established, or was lost because the peer acknowledged nothing.
    pub fn failed(&self, now: Instant) {
        let (failures, at) = (self.failures.load(Relaxed), self.millis(now));
        self.last_failure.store(at, Relaxed);
        if failures == 0 {
            self.first_failure.store(at, Relaxed);
        }
        if failures < MANY {
            self.failures.fetch_add(1, Relaxed);
        }
    }

    /// Returns the time since the last success, to within 50 ms; `None`: there was none.
    pub fn success_age(&self, now: Instant) -> Option<Duration> {
        let at = self.success.load(Relaxed);
        (at > 0).then(|| Duration::from_millis(self.millis(now).saturating_sub(at)))
    }

    /// Returns whether there were failures since the last success.
    pub fn is_doubtful(&self) -> bool {
        self.failures.load(Relaxed) > 0
    }

    /// Returns whether the path fails: several failures since the last success, the first some time ago and the last of late.
    pub fn is_failing(&self, now: Instant) -> bool {
        let since = |at: &AtomicU64| Duration::from_millis(self.millis(now).saturating_sub(at.load(Relaxed)));
        let lasting = since(&self.first_failure) >= LASTING && since(&self.last_failure) < REMEMBERED;
        self.failures.load(Relaxed) >= FAILURES && lasting
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_fails_after_failures_that_last_and_works_after_one_success() {
        let paths = Paths::default();
        let path = paths.to(&"east".into()).unwrap();
        let at = |ms| paths.began + Duration::from_millis(ms);
        assert!(!path.is_failing(at(0)) && path.success_age(at(0)).is_none());
        path.succeeded(at(0));
        path.failed(at(1_000));
        assert!(path.is_doubtful() && !path.is_failing(at(9_000)), "one failure may be an accident");
        path.failed(at(1_100));
        assert!(!path.is_failing(at(1_900)), "they followed each other at once");
        assert!(path.is_failing(at(2_000)));
        assert_eq!(path.success_age(at(2_000)), Some(Duration::from_millis(2_000)));
        path.succeeded(at(2_100));
        assert!(!path.is_doubtful() && !path.is_failing(at(9_000)));
        path.failed(at(9_000));
        path.failed(at(9_000));
        assert!(!path.is_failing(at(9_500)) && path.is_failing(at(10_000)), "the time counts from the first one");
        assert!(path.is_failing(at(23_000)) && !path.is_failing(at(24_000)), "nobody has used the path since");
    }

    #[test]
    fn paths_are_shared_and_bounded() {
        let paths = Paths::default();
        let first = paths.to(&"a".into()).unwrap();
        assert_eq!(first, paths.to(&"a".into()).unwrap());
        let many = (0..1_000).filter_map(|number| paths.to(&format!("c{number}").into())).count();
        assert_eq!((many, paths.all().len()), (MAX_PATHS - 1, MAX_PATHS));
        assert!(paths.to(&"a".into()).is_some(), "known ones stay");
    }
}
