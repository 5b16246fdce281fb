//! A picked endpoint, and how its outcomes are reported.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::Mode;
use crate::outlier::Host;
use crate::{Cause, Detector, EjectionCounts, EndpointState, Outcome, OutlierDetection};

/// The state of an endpoint on one worker. Shared with the picks in progress, and kept over updates.
#[derive(Debug)]
pub(super) struct EndpointRecord {
    pub(super) in_flight: Cell<u32>,
    pub(super) state: Cell<EndpointState>,
    pub(super) last_success: Cell<Option<Instant>>,
    /// When the endpoint was first seen ready, for warm-up.
    pub(super) ready_since: Cell<Option<Instant>>,
}

impl Default for EndpointRecord {
    fn default() -> Self {
        Self {
            in_flight: Cell::new(0),
            state: Cell::new(EndpointState::NEW),
            last_success: Cell::new(None),
            ready_since: Cell::new(None),
        }
    }
}

/// The state that a balancer shares with its picks.
#[derive(Debug, Default)]
pub(super) struct SharedState {
    /// A report changed an endpoint's state, so tiers and shares are outdated.
    pub(super) stale: Cell<bool>,
    /// Some endpoint is on probation.
    pub(super) probation: Cell<bool>,
    pub(super) outlier_detection: Cell<OutlierDetection>,
    pub(super) counts: RefCell<EjectionCounts>,
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
    /// The configured outlier detection, which then receives reports.
    pub(super) detection: Option<(Detector, Arc<Host>)>,
    pub(super) reported: Cell<bool>,
}

impl<T> Pick<T> {
    /// Reports the outcome of the attempt. Each report counts, so that a connect failure and later errors of the same
    /// pick both take effect.
    pub fn report(&self, outcome: Outcome, now: Instant) {
        if matches!(outcome, Outcome::Success | Outcome::ServerError) {
            self.record.last_success.set(Some(now));
        }
        if let Some((detector, host)) = &self.detection {
            return detector.report(host, outcome, now);
        }
        let policy = self.shared.outlier_detection.get();
        let before = self.record.state.get();
        let after = match self.mode {
            Mode::Ordinary => before.after(outcome, now, &policy),
            Mode::Probation | Mode::Panic => before.after_trial(outcome, now, &policy),
        };
        self.reported.set(true);
        self.record.state.set(after);
        if before.in_use() != after.in_use() || matches!(after, EndpointState::Ejected { .. }) {
            self.shared.stale.set(true);
        }
        if before != after && matches!(after, EndpointState::Ejected { .. }) {
            let counts = self.shared.counts.borrow();
            let cause = if outcome == Outcome::ConnectFailure { Cause::LocalOrigin } else { Cause::GatewayErrors };
            counts.note_detected(cause);
            counts.note_enforced(cause);
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
