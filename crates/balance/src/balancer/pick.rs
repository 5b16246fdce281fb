//! A picked endpoint, and how its outcomes are reported.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::Mode;
use crate::{EndpointState, Outcome, OutlierDetection};

/// The state of an endpoint on one worker. Shared with the picks in progress, and kept over updates.
#[derive(Debug)]
pub(super) struct EndpointRecord {
    pub(super) in_flight: Cell<u32>,
    pub(super) state: Cell<EndpointState>,
    pub(super) last_success: Cell<Option<Instant>>,
}

/// The state that a balancer shares with its picks.
#[derive(Debug, Default)]
pub(super) struct SharedState {
    /// A report changed an endpoint's state, so tiers and shares are outdated.
    pub(super) stale: Cell<bool>,
    pub(super) outlier_detection: Cell<OutlierDetection>,
}

/// An endpoint picked for one attempt. It counts as a request in progress until it is dropped.
#[derive(Debug)]
pub struct Pick<T> {
    /// The endpoint's name, for `previous` of the next attempt.
    pub id: Arc<str>,
    /// What the caller needs to connect.
    pub target: T,
    /// Why the endpoint was picked.
    pub mode: Mode,
    pub(super) record: Rc<EndpointRecord>,
    pub(super) shared: Rc<SharedState>,
    pub(super) reported: Cell<bool>,
}

impl<T> Pick<T> {
    /// Reports the outcome of the attempt. Each report counts, so that a connect failure and later errors of the same
    /// pick both take effect.
    pub fn report(&self, outcome: Outcome, now: Instant) {
        let policy = self.shared.outlier_detection.get();
        let before = self.record.state.get();
        let after = match self.mode {
            Mode::Ordinary => before.after(outcome, now, &policy),
            Mode::Probation | Mode::Panic => before.after_trial(outcome, now, &policy),
        };
        self.reported.set(true);
        if outcome == Outcome::Success {
            self.record.last_success.set(Some(now));
        }
        self.record.state.set(after);
        if before.in_use() != after.in_use() || matches!(after, EndpointState::Ejected { .. }) {
            self.shared.stale.set(true);
        }
    }

    /// Returns whether any attempt at the same endpoint has succeeded since `then`: the endpoint is slow, but
    /// available.
    pub fn has_succeeded_since(&self, then: Instant) -> bool {
        self.record.last_success.get().is_some_and(|last| last >= then)
    }
}

impl<T> Drop for Pick<T> {
    fn drop(&mut self) {
        self.record.in_flight.set(self.record.in_flight.get().saturating_sub(1));
        // The probation request ended without a report, so the next request is the probation request.
        if let (Mode::Probation, false, EndpointState::Probation { ejections, .. }) =
            (self.mode, self.reported.get(), self.record.state.get())
        {
            self.record.state.set(EndpointState::Probation { probing: false, ejections });
        }
    }
}
