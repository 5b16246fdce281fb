//! Outlier detection: when a failing endpoint is ejected, and how it returns.
//!
//! Outlier detection is on by default. Other meshes eject endpoints only with a policy, and never more than a part of
//! them; here every failing endpoint is ejected, and [`crate::Balancer`] uses all endpoints if every one is ejected. A
//! policy that a user writes replaces this one, with Envoy's semantics: [`Detector`].

use std::time::{Duration, Instant};

mod counts;
mod detector;
mod policy;

pub use counts::{Cause, EjectionCounts};
pub use detector::Detector;
pub(crate) use detector::Host;
pub use policy::OutlierPolicy;

/// The outcome of an attempt, passed to [`crate::Pick::report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint responded, other than with an error of the server. For opaque connections: it accepted the
    /// connection.
    Success,
    /// No connection was established: refused, unreachable, timed out, or the handshake failed.
    ConnectFailure,
    /// The connection was established, but ended before a response, or a response did not arrive in time.
    NoResponse,
    /// The endpoint responded 502, 503 or 504.
    GatewayError,
    /// The endpoint responded with another status from 500.
    ServerError,
}

impl Outcome {
    /// Returns the outcome of a response with this status.
    pub fn of_status(status: u16) -> Self {
        match status {
            502..=504 => Self::GatewayError,
            500..=599 => Self::ServerError,
            _ => Self::Success,
        }
    }
}

/// When endpoints are ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// The number of consecutive connect failures that eject an endpoint.
    pub consecutive_connect_failures: u8,
    /// The number of consecutive gateway errors, or connections that ended without a response, that eject an endpoint.
    pub consecutive_gateway_errors: u8,
    /// The duration of the first ejection. It doubles with each further one.
    pub base_ejection: Duration,
    /// The longest duration of an ejection.
    pub max_ejection: Duration,
    /// How long an endpoint must be in use after an ejection for the next one to last
    /// [`OutlierDetection::base_ejection`] again.
    pub forgiven_after: Duration,
}

impl Default for OutlierDetection {
    /// The default values, with reasons:
    ///
    /// - Two connect failures: one can be a listener's full queue; two without a success between them mean that the
    ///   endpoint is down.
    /// - Five gateway errors: Envoy's default for `consecutive_gateway_failure`.
    /// - One second at first: a probation request costs at most one retried attempt, so an endpoint that was restarted
    ///   in place is soon in use again.
    fn default() -> Self {
        Self {
            consecutive_connect_failures: 2,
            consecutive_gateway_errors: 5,
            base_ejection: Duration::from_secs(1),
            max_ejection: Duration::from_secs(30),
            forgiven_after: Duration::from_secs(60),
        }
    }
}

/// The state of an endpoint in outlier detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// In use.
    InUse {
        /// Connect failures since the last success.
        connect_failures: u8,
        /// Gateway errors since the last success.
        gateway_errors: u8,
        /// Ejections that are not forgiven.
        ejections: u32,
        /// The end of the last ejection.
        since: Option<Instant>,
    },
    /// Ejected: not picked.
    Ejected {
        /// The end of the ejection.
        until: Instant,
        /// The number of consecutive ejections, this one included.
        ejections: u32,
    },
    /// The ejection is over, and one request finds out whether the endpoint has recovered.
    Probation {
        /// Whether that request is in progress.
        probing: bool,
        /// The number of consecutive ejections before.
        ejections: u32,
    },
}

impl EndpointState {
    /// The state of a new endpoint.
    pub const NEW: EndpointState =
        EndpointState::InUse { connect_failures: 0, gateway_errors: 0, ejections: 0, since: None };

    /// Returns whether the endpoint may be picked like any other.
    pub fn in_use(self) -> bool {
        matches!(self, EndpointState::InUse { .. })
    }

    /// Returns the state at `now`: an ejection that has ended is followed by probation.
    pub(crate) fn at(self, now: Instant) -> EndpointState {
        match self {
            EndpointState::Ejected { until, ejections } if until <= now => {
                EndpointState::Probation { probing: false, ejections }
            }
            other => other,
        }
    }

    /// Returns the state after an ordinary attempt. Attempts that began before an ejection do not prolong it.
    pub(crate) fn after(self, outcome: Outcome, now: Instant, policy: &OutlierDetection) -> EndpointState {
        let EndpointState::InUse { connect_failures, gateway_errors, ejections, since } = self else { return self };
        let (connect_failures, gateway_errors) = match outcome {
            // An endpoint that responds 500 is available: its application fails, and would elsewhere.
            Outcome::Success | Outcome::ServerError => (0, 0),
            Outcome::ConnectFailure => (connect_failures.saturating_add(1), gateway_errors),
            Outcome::NoResponse | Outcome::GatewayError => (connect_failures, gateway_errors.saturating_add(1)),
        };
        if connect_failures < policy.consecutive_connect_failures && gateway_errors < policy.consecutive_gateway_errors
        {
            return EndpointState::InUse { connect_failures, gateway_errors, ejections, since };
        }
        let forgiven = since.is_none_or(|since| now.saturating_duration_since(since) >= policy.forgiven_after);
        eject(if forgiven { 0 } else { ejections }, now, policy)
    }

    /// Returns the state after the probation request, or after an attempt that was made although every endpoint was
    /// ejected.
    pub(crate) fn after_trial(self, outcome: Outcome, now: Instant, policy: &OutlierDetection) -> EndpointState {
        match (self, outcome) {
            (EndpointState::InUse { .. }, outcome) => self.after(outcome, now, policy),
            (
                EndpointState::Ejected { ejections, .. } | EndpointState::Probation { ejections, .. },
                Outcome::Success | Outcome::ServerError,
            ) => EndpointState::InUse { connect_failures: 0, gateway_errors: 0, ejections, since: Some(now) },
            (EndpointState::Probation { ejections, .. }, _) => eject(ejections, now, policy),
            (ejected @ EndpointState::Ejected { .. }, _) => ejected,
        }
    }
}

fn eject(before: u32, now: Instant, policy: &OutlierDetection) -> EndpointState {
    let doubled = policy.base_ejection.saturating_mul(1 << before.min(10));
    EndpointState::Ejected { until: now + doubled.min(policy.max_ejection), ejections: before.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_follow_the_status() {
        for (status, outcome) in [
            (200, Outcome::Success),
            (404, Outcome::Success),
            (500, Outcome::ServerError),
            (501, Outcome::ServerError),
            (502, Outcome::GatewayError),
            (504, Outcome::GatewayError),
            (505, Outcome::ServerError),
            (599, Outcome::ServerError),
            (600, Outcome::Success),
        ] {
            assert_eq!(Outcome::of_status(status), outcome, "{status}");
        }
    }

    const POLICY: OutlierDetection = OutlierDetection {
        consecutive_connect_failures: 2,
        consecutive_gateway_errors: 5,
        base_ejection: Duration::from_secs(1),
        max_ejection: Duration::from_secs(30),
        forgiven_after: Duration::from_secs(60),
    };

    fn after_all(mut state: EndpointState, outcomes: &[Outcome], now: Instant) -> EndpointState {
        for outcome in outcomes {
            state = state.after(*outcome, now, &POLICY);
        }
        state
    }

    #[test]
    fn only_consecutive_failures_eject() {
        use Outcome::{ConnectFailure as C, GatewayError as G, NoResponse as N, ServerError as E, Success as S};
        let now = Instant::now();
        let table: [(&[Outcome], bool); 11] = [
            (&[C], true),
            (&[C, C], false),
            (&[C, S, C], true),
            (&[G, G, G, G], true),
            (&[G, G, G, G, G], false),
            (&[G, G, G, G, S, G], true),
            (&[C, G, G, G, G], true),
            (&[C, G, C], false),
            (&[N, G, N, G, N], false),
            (&[E, E, E, E, E, E], true),
            (&[G, G, G, G, E, G], true),
        ];
        for (outcomes, in_use) in table {
            assert_eq!(after_all(EndpointState::NEW, outcomes, now).in_use(), in_use, "{outcomes:?}");
        }
    }

    #[test]
    fn ejections_double_up_to_the_maximum() {
        let mut now = Instant::now();
        let mut state = after_all(EndpointState::NEW, &[Outcome::ConnectFailure; 2], now);
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let EndpointState::Ejected { until, .. } = state else { panic!("{state:?}") };
            assert_eq!(until - now, Duration::from_secs(expected));
            assert_eq!(state.at(until - Duration::from_millis(1)), state);
            now = until;
            state = state.at(now).after_trial(Outcome::ConnectFailure, now, &POLICY);
        }
    }

    #[test]
    fn a_successful_probation_request_ends_an_ejection_and_time_in_use_forgives_it() {
        let start = Instant::now();
        let ejected = after_all(EndpointState::NEW, &[Outcome::ConnectFailure; 2], start);
        let returned = start + Duration::from_secs(1);
        let state = ejected.at(returned).after_trial(Outcome::Success, returned, &POLICY);
        assert!(state.in_use());
        for (later, ejection) in [(Duration::from_secs(10), 2), (POLICY.forgiven_after, 1)] {
            let now = returned + later;
            let EndpointState::Ejected { until, .. } = after_all(state, &[Outcome::GatewayError; 5], now) else {
                panic!("the endpoint is in use")
            };
            assert_eq!(until - now, Duration::from_secs(ejection), "after {later:?}");
        }
    }

    #[test]
    fn attempts_that_began_before_an_ejection_do_not_prolong_it() {
        let now = Instant::now();
        let ejected = after_all(EndpointState::NEW, &[Outcome::ConnectFailure; 2], now);
        assert_eq!(ejected.after(Outcome::ConnectFailure, now, &POLICY), ejected);
        assert_eq!(ejected.after(Outcome::Success, now, &POLICY), ejected);
    }

    #[test]
    fn the_policy_sets_thresholds_and_durations() {
        assert_eq!(POLICY, OutlierDetection::default());
        let now = Instant::now();
        let policy =
            OutlierDetection { consecutive_gateway_errors: 1, base_ejection: Duration::from_secs(7), ..POLICY };
        let ejected = EndpointState::NEW.after(Outcome::GatewayError, now, &policy);
        assert_eq!(ejected, EndpointState::Ejected { until: now + Duration::from_secs(7), ejections: 1 });
    }
}
