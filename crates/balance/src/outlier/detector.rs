//! Outlier detection as a DestinationRule configures it, with Envoy's semantics.
//!
//! The attempts of all workers count together: a [`Detector`] is shared by the balancers of one upstream cluster. A report
//! of success reads atomic counts; only failures write them, and only an ejection takes a lock.
//!
//! Source: Envoy's "Outlier detection" page and its `outlier_detection_impl.cc`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Cause, EjectionCounts, EndpointState, Outcome, OutlierPolicy};

/// Outlier detection of one upstream cluster. Clones share the state.
#[derive(Debug, Clone)]
pub struct Detector(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    policy: OutlierPolicy,
    start: Instant,
    counts: EjectionCounts,
    /// Grows with each ejection and each end of one.
    version: AtomicU64,
    hosts: Mutex<Hosts>,
}

#[derive(Debug, Default)]
struct Hosts {
    by_name: HashMap<Arc<str>, Arc<Host>>,
    ejected: usize,
    /// The number of intervals that have been looked at.
    intervals: u64,
}

/// An endpoint in outlier detection.
#[derive(Debug, Default)]
pub(crate) struct Host {
    consecutive_5xx: AtomicU32,
    gateway_errors: AtomicU32,
    local_origin_failures: AtomicU32,
    ejected: AtomicBool,
    /// Written under the lock of [`Hosts`].
    history: Mutex<History>,
}

#[derive(Debug, Default, Clone, Copy)]
struct History {
    /// The factor of the duration of the present or last ejection.
    backoff: u32,
    ejected_at: Option<Instant>,
    /// The interval in which the last ejection ended.
    returned: Option<u64>,
}

/// Two detectors are equal if they share their state.
impl PartialEq for Detector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Detector {
    /// Creates a detector. `now` is the beginning of the first interval.
    pub fn new(policy: OutlierPolicy, counts: EjectionCounts, now: Instant) -> Self {
        let policy = OutlierPolicy {
            // Zero is refused by the validation of DestinationRules.
            interval: policy.interval.max(Duration::from_millis(1)),
            max_ejection_percent: policy.max_ejection_percent.min(100),
            ..policy
        };
        Self(Arc::new(Shared { policy, start: now, counts, version: AtomicU64::new(0), hosts: Mutex::default() }))
    }

    /// Returns the policy.
    pub fn policy(&self) -> &OutlierPolicy {
        &self.0.policy
    }

    /// Returns the counts of ejections.
    pub fn counts(&self) -> &EjectionCounts {
        &self.0.counts
    }

    /// Returns the names of the endpoints that are ejected at `now`.
    pub fn ejected(&self, now: Instant) -> Vec<Arc<str>> {
        let hosts = self.hosts();
        let is_ejected = |host: &Host| matches!(self.state(host), EndpointState::Ejected { until, .. } if until > now);
        hosts.by_name.iter().filter(|(_, host)| is_ejected(host)).map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn version(&self) -> u64 {
        self.0.version.load(Relaxed)
    }

    /// Replaces the endpoints, and returns the state of each. The state of endpoints that remain is kept.
    pub(crate) fn replace<'a>(&self, names: impl Iterator<Item = &'a Arc<str>>) -> Vec<Arc<Host>> {
        let mut hosts = self.hosts();
        let mut before = std::mem::take(&mut hosts.by_name);
        let found: Vec<Arc<Host>> = names
            .map(|name| {
                let host = before.remove(name).or_else(|| hosts.by_name.get(name).cloned()).unwrap_or_default();
                hosts.by_name.insert(name.clone(), host.clone());
                host
            })
            .collect();
        let ejected = hosts.by_name.values().filter(|host| host.is_ejected()).count();
        self.set_ejected(&mut hosts, ejected);
        found
    }

    /// Ends the ejections that are over at `now`, and returns when the next one ends.
    pub(crate) fn sweep(&self, now: Instant) -> Option<Instant> {
        let mut hosts = self.hosts();
        let current = self.interval_of(now);
        if current > hosts.intervals {
            let (from, mut returned) = (hosts.intervals, 0);
            for host in hosts.by_name.values() {
                returned += usize::from(self.advance(host, from, current));
            }
            hosts.intervals = current;
            let ejected = hosts.ejected - returned.min(hosts.ejected);
            self.set_ejected(&mut hosts, ejected);
        }
        let ends = hosts.by_name.values().filter(|host| host.is_ejected()).filter_map(|host| {
            let history = *lock(&host.history);
            Some(self.end_of_interval(self.return_of(&history)?))
        });
        ends.min()
    }

    /// Returns the state of an endpoint, for display.
    pub(crate) fn state(&self, host: &Host) -> EndpointState {
        let history = *lock(&host.history);
        match self.return_of(&history).filter(|_| host.is_ejected()) {
            Some(end) => EndpointState::Ejected { until: self.end_of_interval(end), ejections: history.backoff },
            None => EndpointState::NEW,
        }
    }

    /// Counts the outcome of an attempt.
    pub(crate) fn report(&self, host: &Host, outcome: Outcome, now: Instant) {
        let policy = &self.0.policy;
        match outcome {
            Outcome::Success => {
                reset(&host.consecutive_5xx);
                reset(&host.gateway_errors);
                reset(&host.local_origin_failures);
            }
            Outcome::ConnectFailure | Outcome::NoResponse if policy.split_local_origin => {
                // As in Envoy: an established connection ends a sequence of failures to connect.
                if outcome == Outcome::NoResponse {
                    reset(&host.local_origin_failures);
                }
                let limit = policy.consecutive_local_origin_failures;
                self.count(host, &host.local_origin_failures, limit, Cause::LocalOrigin, now);
            }
            Outcome::ConnectFailure | Outcome::NoResponse | Outcome::GatewayError => {
                if policy.split_local_origin {
                    reset(&host.local_origin_failures);
                }
                let limit = policy.consecutive_gateway_errors;
                self.count(host, &host.gateway_errors, limit, Cause::GatewayErrors, now);
                self.count(host, &host.consecutive_5xx, policy.consecutive_5xx, Cause::ServerErrors, now);
            }
            Outcome::ServerError => {
                reset(&host.gateway_errors);
                reset(&host.local_origin_failures);
                self.count(host, &host.consecutive_5xx, policy.consecutive_5xx, Cause::ServerErrors, now);
            }
        }
    }

    fn count(&self, host: &Host, count: &AtomicU32, limit: u32, cause: Cause, now: Instant) {
        // One attempt reaches the limit, even if attempts of several workers fail at the same time.
        if count.fetch_add(1, Relaxed).wrapping_add(1) != limit || limit == 0 {
            return;
        }
        count.store(0, Relaxed);
        self.eject(host, cause, now);
    }

    fn eject(&self, host: &Host, cause: Cause, now: Instant) {
        // What is over does not count as ejected.
        self.sweep(now);
        let mut hosts = self.hosts();
        if host.is_ejected() {
            return;
        }
        let (policy, counts) = (&self.0.policy, &self.0.counts);
        counts.note_detected(cause);
        // A host that was removed in the meantime changes nothing.
        let share = (hosts.ejected as u64 + 1) * 100;
        if hosts.by_name.is_empty() || share > u64::from(policy.max_ejection_percent) * hosts.by_name.len() as u64 {
            counts.note_overflow();
            return;
        }
        counts.note_enforced(cause);
        host.ejected.store(true, Relaxed);
        let mut history = lock(&host.history);
        let longest = policy.max_ejection_time() + policy.base_ejection_time;
        if policy.base_ejection_time.saturating_mul(history.backoff) < longest {
            history.backoff = history.backoff.saturating_add(1);
        }
        history.ejected_at = Some(now);
        drop(history);
        let ejected = hosts.ejected + 1;
        self.set_ejected(&mut hosts, ejected);
        self.0.version.fetch_add(1, Relaxed);
    }

    /// Applies the ends of the intervals after `from` up to `current`, and returns whether the host's ejection ended.
    fn advance(&self, host: &Host, from: u64, current: u64) -> bool {
        let mut history = lock(&host.history);
        let mut ended = false;
        if host.is_ejected() {
            let Some(end) = self.return_of(&history).filter(|end| *end <= current) else { return false };
            history.returned = Some(end);
            for count in [&host.consecutive_5xx, &host.gateway_errors, &host.local_origin_failures] {
                reset(count);
            }
            host.ejected.store(false, Relaxed);
            self.0.version.fetch_add(1, Relaxed);
            ended = true;
        }
        if let Some(returned) = history.returned {
            let healthy = current - from.max(returned).min(current);
            history.backoff = history.backoff.saturating_sub(u32::try_from(healthy).unwrap_or(u32::MAX));
        }
        ended
    }

    /// Returns the interval at whose end an ejection is over.
    fn return_of(&self, history: &History) -> Option<u64> {
        let policy = &self.0.policy;
        let duration = policy.base_ejection_time.saturating_mul(history.backoff).min(policy.max_ejection_time());
        let end = history.ejected_at?.checked_add(duration)?.saturating_duration_since(self.0.start);
        u64::try_from(end.as_nanos().div_ceil(policy.interval.as_nanos())).ok()
    }

    /// Returns the number of intervals that have ended.
    fn interval_of(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.0.start).as_nanos();
        u64::try_from(elapsed / self.0.policy.interval.as_nanos()).unwrap_or(u64::MAX)
    }

    fn end_of_interval(&self, number: u64) -> Instant {
        let elapsed = self.0.policy.interval.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        // A day later is as good as never.
        self.0.start.checked_add(elapsed).unwrap_or(self.0.start + Duration::from_secs(86_400))
    }

    fn set_ejected(&self, hosts: &mut Hosts, ejected: usize) {
        self.0.counts.change_active(hosts.ejected, ejected);
        hosts.ejected = ejected;
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        lock(&self.0.hosts)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.counts.change_active(lock(&self.hosts).ejected, 0);
    }
}

impl Host {
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }
}

/// Sets a count to 0, without writing to what is 0: workers would slow each other down.
fn reset(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
