//! Counts of ejections, for metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Consecutive errors of the server. Envoy's `consecutive_5xx`.
    ServerErrors,
    /// Consecutive gateway errors. Envoy's `consecutive_gateway_failure`.
    GatewayErrors,
    /// Consecutive failures to connect. Envoy's `consecutive_local_origin_failure`.
    LocalOrigin,
}

impl Cause {
    /// All causes.
    pub const ALL: [Cause; 3] = [Cause::ServerErrors, Cause::GatewayErrors, Cause::LocalOrigin];

    /// Returns Envoy's name, as it is part of the names of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::ServerErrors => "consecutive_5xx",
            Cause::GatewayErrors => "consecutive_gateway_failure",
            Cause::LocalOrigin => "consecutive_local_origin_failure",
        }
    }
}

/// The ejections of an upstream cluster, of all workers. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct EjectionCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    active: AtomicU64,
    overflow: AtomicU64,
    detected: [AtomicU64; 3],
    enforced: [AtomicU64; 3],
    panic: AtomicU64,
}

impl EjectionCounts {
    /// Returns the number of endpoints that are ejected at present. An endpoint that several workers have ejected, each
    /// by its own attempts, counts for each.
    pub fn active(&self) -> u64 {
        self.0.active.load(Relaxed)
    }

    /// Returns how often an endpoint was not ejected because too many are.
    pub fn overflow(&self) -> u64 {
        self.0.overflow.load(Relaxed)
    }

    /// Returns how often an endpoint was found to fail.
    pub fn detected(&self, cause: Cause) -> u64 {
        self.0.detected[cause as usize].load(Relaxed)
    }

    /// Returns how often an endpoint was ejected.
    pub fn enforced(&self, cause: Cause) -> u64 {
        self.0.enforced[cause as usize].load(Relaxed)
    }

    /// Returns the number of ejections for any cause.
    pub fn enforced_total(&self) -> u64 {
        Cause::ALL.iter().map(|cause| self.enforced(*cause)).sum()
    }

    /// Returns the number of picks among all endpoints because too few are healthy.
    pub fn panic(&self) -> u64 {
        self.0.panic.load(Relaxed)
    }

    pub(crate) fn note_detected(&self, cause: Cause) {
        self.0.detected[cause as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn note_enforced(&self, cause: Cause) {
        self.0.enforced[cause as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn note_overflow(&self) {
        self.0.overflow.fetch_add(1, Relaxed);
    }

    pub(crate) fn note_panic(&self) {
        self.0.panic.fetch_add(1, Relaxed);
    }

    /// Changes the number of active ejections.
    pub(crate) fn change_active(&self, before: usize, after: usize) {
        match after.checked_sub(before) {
            Some(0) => {}
            Some(more) => drop(self.0.active.fetch_add(more as u64, Relaxed)),
            None => drop(self.0.active.fetch_sub((before - after) as u64, Relaxed)),
        }
    }
}
