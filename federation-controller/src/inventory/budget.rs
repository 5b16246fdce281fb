//! The budgets of one remote cluster, which somebody else may run: how much is kept of it, and how much work its changes cause.
//!
//! The number of objects of each kind is bounded as well ([`crate::objects::Record::LIMIT`]); what is beyond it is left out. A
//! cluster beyond a budget is not read any longer: what is known of it stays, as in an outage, until its link tries again.

use std::time::{Duration, SystemTime};

use crate::objects::KEPT;

/// What is kept while a list runs: objects that the list replaces are there until its end.
const KEPT_WHILE_LISTING: usize = 2 * KEPT;

/// Work that a cluster may cause at once, in units of one object that is looked at or one endpoint that is compiled. A unit
/// takes about a microsecond (2 cores at 2.4 GHz, November 2026). Twenty lists of 200,000 pods cause this much.
pub const WORK: u64 = 50_000_000;

/// Work that a cluster may cause for good, in units a second: a quarter of a core. A service of 10,000 endpoints that changes
/// in each batching window causes 200,000.
pub const WORK_A_SECOND: u64 = 250_000;

/// The state of a cluster's budgets.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    kept: usize,
    work_left: u64,
    refilled: SystemTime,
}

impl Budget {
    pub(super) fn new(now: SystemTime) -> Self {
        Budget { kept: 0, work_left: WORK, refilled: now }
    }

    /// The bytes that are kept.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Notes that a record replaces another one.
    pub(super) fn replace(&mut self, before: usize, after: usize) {
        self.kept = (self.kept + after).saturating_sub(before);
    }

    /// Returns why a record of this size may not be added, if so.
    pub(super) fn refuses(&self, size: usize, listing: bool) -> Option<String> {
        let limit = if listing { KEPT_WHILE_LISTING } else { KEPT };
        let why = || format!("its objects take more than {} MiB, of which the controller keeps no more", limit >> 20);
        (self.kept.saturating_add(size) > limit).then(why)
    }

    /// Takes work from the budget. Returns why the cluster is beyond it, if so.
    pub(super) fn charge(&mut self, units: u64, now: SystemTime) -> Option<String> {
        let passed = now.duration_since(self.refilled).unwrap_or(Duration::ZERO);
        if passed >= Duration::from_secs(1) {
            self.work_left = self.work_left.saturating_add(passed.as_secs() * WORK_A_SECOND).min(WORK);
            self.refilled = now;
        }
        match self.work_left.checked_sub(units) {
            Some(left) => {
                self.work_left = left;
                None
            }
            None => {
                self.work_left = 0;
                Some(format!(
                    "its changes cause more work than {WORK} units and {WORK_A_SECOND} a second; look for objects that change without end"
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_comes_back_with_time() {
        let start = SystemTime::UNIX_EPOCH;
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut budget = Budget::new(start);
        assert_eq!(budget.charge(WORK, start), None);
        assert!(budget.charge(1, start).is_some_and(|why| why.contains("more work")));
        assert_eq!(budget.charge(2 * WORK_A_SECOND, at(2)), None);
        assert!(budget.charge(1, at(2)).is_some());
        assert_eq!(budget.charge(WORK, at(100_000)), None, "no more than the budget is saved up");
        assert!(budget.charge(1, at(100_000)).is_some());
        // A clock that goes back gives nothing.
        assert!(budget.charge(1, start).is_some());
    }

    #[test]
    fn bytes_are_counted_by_what_replaces_what() {
        let mut budget = Budget::new(SystemTime::UNIX_EPOCH);
        budget.replace(0, KEPT - 10);
        assert_eq!(budget.refuses(10, false), None);
        assert!(budget.refuses(11, false).is_some_and(|why| why.contains("256 MiB")));
        assert_eq!(budget.refuses(KEPT, true), None, "the list may replace everything");
        budget.replace(KEPT - 10, 5);
        assert_eq!(budget.kept(), 5);
    }
}
