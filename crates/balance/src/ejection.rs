//! When an endpoint is taken out of use for failing, and how it comes back.
//!
//! This works without configuration. Mesh proxies usually need an outlier-detection policy before a dead endpoint stops
//! being picked, and then refuse to eject one of few; here a failing endpoint is always left alone, and
//! [`crate::Balancer`] uses all of them when none is left.

use std::time::{Duration, Instant};

/// What became of one attempt, reported with [`crate::Pick::report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, with anything but a gateway error. For opaque connections: it was connected.
    Success,
    /// No connection came about: refused, unreachable, too slow, or the handshake failed.
    ConnectFailure,
    /// It answered 502, 503 or 504, or ended the connection before it answered.
    GatewayError,
}

/// Consecutive connect failures that eject. One alone can be a listener's full queue; two in a row with no success
/// between are an endpoint that is not there.
const CONNECT_FAILURES: u8 = 2;
/// Consecutive gateway errors that eject: Envoy's default for `consecutive_gateway_failure`.
const GATEWAY_ERRORS: u8 = 5;
/// The first interval. A probation request costs at most one retried attempt, so trying soon is cheap, and an endpoint
/// that was restarted in place is back in use soon.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// The intervals double up to this.
const LONGEST_INTERVAL: Duration = Duration::from_secs(30);
/// An endpoint that has been in use this long since its last ejection starts anew with the first interval.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// Whether an endpoint is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In use.
    InUse {
        /// Connect failures since the last success.
        connect_failures: u8,
        /// Gateway errors since the last success.
        gateway_errors: u8,
        /// Ejections that are remembered.
        ejections: u32,
        /// When it came back from the last one.
        since: Option<Instant>,
    },
    /// Out of use until then.
    Ejected {
        /// When the probation begins.
        until: Instant,
        /// How many times in a row, this one included.
        ejections: u32,
    },
    /// The interval is over and one request may find out.
    Probation {
        /// That request is under way.
        probing: bool,
        /// How many ejections in a row went before.
        ejections: u32,
    },
}

impl Standing {
    /// The standing of an endpoint of which nothing is known.
    pub const FRESH: Standing = Standing::InUse { connect_failures: 0, gateway_errors: 0, ejections: 0, since: None };

    /// In use: may be picked like any other.
    pub fn in_use(self) -> bool {
        matches!(self, Standing::InUse { .. })
    }

    /// What it is at `now`: an ejection ends by itself.
    pub(crate) fn at(self, now: Instant) -> Standing {
        match self {
            Standing::Ejected { until, ejections } if until <= now => Standing::Probation { probing: false, ejections },
            other => other,
        }
    }

    /// What it is after an ordinary attempt. Attempts that began before an ejection do not prolong it.
    pub(crate) fn after(self, outcome: Outcome, now: Instant) -> Standing {
        let Standing::InUse { connect_failures, gateway_errors, ejections, since } = self else { return self };
        let (connect_failures, gateway_errors) = match outcome {
            Outcome::Success => (0, 0),
            Outcome::ConnectFailure => (connect_failures + 1, gateway_errors),
            Outcome::GatewayError => (connect_failures, gateway_errors + 1),
        };
        if connect_failures < CONNECT_FAILURES && gateway_errors < GATEWAY_ERRORS {
            return Standing::InUse { connect_failures, gateway_errors, ejections, since };
        }
        let forgiven = since.is_none_or(|since| now.saturating_duration_since(since) >= FORGIVEN_AFTER);
        eject(if forgiven { 0 } else { ejections }, now)
    }

    /// What it is after the probation request, or after an attempt made although everything was ejected.
    pub(crate) fn after_trial(self, outcome: Outcome, now: Instant) -> Standing {
        match (self, outcome) {
            (Standing::InUse { .. }, outcome) => self.after(outcome, now),
            (Standing::Ejected { ejections, .. } | Standing::Probation { ejections, .. }, Outcome::Success) => {
                Standing::InUse { connect_failures: 0, gateway_errors: 0, ejections, since: Some(now) }
            }
            (Standing::Probation { ejections, .. }, _) => eject(ejections, now),
            (ejected @ Standing::Ejected { .. }, _) => ejected,
        }
    }
}

fn eject(before: u32, now: Instant) -> Standing {
    let doubled = FIRST_INTERVAL.saturating_mul(1 << before.min(10));
    Standing::Ejected { until: now + doubled.min(LONGEST_INTERVAL), ejections: before.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_all(mut standing: Standing, outcomes: &[Outcome], now: Instant) -> Standing {
        for outcome in outcomes {
            standing = standing.after(*outcome, now);
        }
        standing
    }

    #[test]
    fn only_consecutive_failures_eject() {
        use Outcome::{ConnectFailure as C, GatewayError as G, Success as S};
        let now = Instant::now();
        let table: [(&[Outcome], bool); 8] = [
            (&[C], true),
            (&[C, C], false),
            (&[C, S, C], true),
            (&[G, G, G, G], true),
            (&[G, G, G, G, G], false),
            (&[G, G, G, G, S, G], true),
            (&[C, G, G, G, G], true),
            (&[C, G, C], false),
        ];
        for (outcomes, in_use) in table {
            assert_eq!(after_all(Standing::FRESH, outcomes, now).in_use(), in_use, "{outcomes:?}");
        }
    }

    #[test]
    fn intervals_double_up_to_the_longest() {
        let mut now = Instant::now();
        let mut standing = after_all(Standing::FRESH, &[Outcome::ConnectFailure; 2], now);
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let Standing::Ejected { until, .. } = standing else { panic!("{standing:?}") };
            assert_eq!(until - now, Duration::from_secs(expected));
            assert_eq!(standing.at(until - Duration::from_millis(1)), standing);
            now = until;
            standing = standing.at(now).after_trial(Outcome::ConnectFailure, now);
        }
    }

    #[test]
    fn a_good_probation_returns_it_and_a_long_good_time_forgives() {
        let start = Instant::now();
        let ejected = after_all(Standing::FRESH, &[Outcome::ConnectFailure; 2], start);
        let back = start + Duration::from_secs(1);
        let standing = ejected.at(back).after_trial(Outcome::Success, back);
        assert!(standing.in_use());
        for (later, interval) in [(Duration::from_secs(10), 2), (FORGIVEN_AFTER, 1)] {
            let now = back + later;
            let Standing::Ejected { until, .. } = after_all(standing, &[Outcome::GatewayError; 5], now) else {
                panic!("not ejected")
            };
            assert_eq!(until - now, Duration::from_secs(interval), "after {later:?}");
        }
    }

    #[test]
    fn late_reports_change_nothing() {
        let now = Instant::now();
        let ejected = after_all(Standing::FRESH, &[Outcome::ConnectFailure; 2], now);
        assert_eq!(ejected.after(Outcome::ConnectFailure, now), ejected);
        assert_eq!(ejected.after(Outcome::Success, now), ejected);
    }
}
