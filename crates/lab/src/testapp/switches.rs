//! Faults of the application that are switched on and off.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The faults, until they are ended.
#[derive(Debug)]
pub(super) struct FaultSwitches {
    fail_percent: AtomicU32,
    fail_status: AtomicU16,
    slow_milliseconds: AtomicU64,
    unready: AtomicBool,
    /// Counter that spreads failures evenly instead of at random, so that tests can count them.
    turn: AtomicU32,
}

impl Default for FaultSwitches {
    fn default() -> Self {
        Self {
            fail_percent: AtomicU32::new(0),
            fail_status: AtomicU16::new(503),
            slow_milliseconds: AtomicU64::new(0),
            unready: AtomicBool::new(false),
            turn: AtomicU32::new(0),
        }
    }
}

impl FaultSwitches {
    /// Fails this percentage of requests with `status`.
    pub(super) fn fail(&self, percent: u32, status: u16) {
        self.fail_status.store(status, Relaxed);
        self.fail_percent.store(percent.min(100), Relaxed);
    }

    /// Delays responses.
    pub(super) fn slow(&self, milliseconds: u64) {
        self.slow_milliseconds.store(milliseconds, Relaxed);
    }

    /// Makes the application unready.
    pub(super) fn leave(&self) {
        self.unready.store(true, Relaxed);
    }

    /// Ends all faults.
    pub(super) fn heal(&self) {
        self.fail(0, 503);
        self.slow(0);
        self.unready.store(false, Relaxed);
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.unready.load(Relaxed)
    }

    pub(super) fn delay(&self) -> Duration {
        Duration::from_millis(self.slow_milliseconds.load(Relaxed))
    }

    /// Returns the status to fail the next request with, if it is to fail.
    pub(super) fn next_failure(&self) -> Option<u16> {
        let percent = self.fail_percent.load(Relaxed);
        if percent == 0 {
            return None;
        }
        // The percentage of failures so far never differs from `percent` by more than one request.
        let turn = self.turn.fetch_add(1, Relaxed) % 100;
        ((turn + 1) * percent / 100 > turn * percent / 100).then(|| self.fail_status.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requested_percentage_fails() {
        let switches = FaultSwitches::default();
        assert_eq!(switches.next_failure(), None);
        for percent in [1, 30, 50, 100] {
            switches.turn.store(0, Relaxed);
            switches.fail(percent, 500);
            let failed = (0..100).filter(|_| switches.next_failure() == Some(500)).count();
            assert_eq!(failed, percent as usize);
        }
        switches.heal();
        assert_eq!(switches.next_failure(), None);
    }
}
