//! When to try again what failed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Failed attempts by what was attempted, each with the time before which it is left alone.
///
/// The first pause is short: while a lab starts, a webhook that is not up yet refuses pods for a few hundred milliseconds,
/// and Kubernetes' own pauses would make that seconds.
#[derive(Debug)]
pub struct Retries {
    first: Duration,
    longest: Duration,
    failed: BTreeMap<String, (u32, Instant)>,
}

impl Default for Retries {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), longest: Duration::from_millis(500), failed: BTreeMap::new() }
    }
}

impl Retries {
    /// Whether `what` may be tried at `now`.
    #[must_use]
    pub fn due(&self, what: &str, now: Instant) -> bool {
        self.failed.get(what).is_none_or(|(_, not_before)| *not_before <= now)
    }

    /// Notes that `what` failed.
    pub fn failed(&mut self, what: &str, now: Instant) {
        let (count, not_before) = self.failed.entry(what.to_owned()).or_insert((0, now));
        let pause = self.first.saturating_mul(1 << (*count).min(10)).min(self.longest);
        *count += 1;
        *not_before = now + pause;
    }

    /// Whether `what` has failed before, and not succeeded since.
    #[must_use]
    pub fn has_failed(&self, what: &str) -> bool {
        self.failed.contains_key(what)
    }

    /// Notes that `what` succeeded.
    pub fn succeeded(&mut self, what: &str) {
        self.failed.remove(what);
    }

    /// How long until something may be tried again. What was due when the pass that ends now `started`, and neither failed again
    /// nor succeeded in it, is not wanted any more and is forgotten.
    pub fn next(&mut self, started: Instant) -> Option<Duration> {
        self.failed.retain(|_, (_, not_before)| *not_before > started);
        let now = Instant::now();
        self.failed.values().map(|(_, not_before)| not_before.saturating_duration_since(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut retries = Retries::default();
        let start = Instant::now();
        let pauses: Vec<u128> = (0..8)
            .map(|_| {
                retries.failed("a", start);
                assert!(!retries.due("a", start));
                let milliseconds = [50, 100, 200, 400, 500];
                let due = |wait: &u64| retries.due("a", start + Duration::from_millis(*wait));
                milliseconds.iter().find(|wait| due(wait)).map_or(0, |wait| u128::from(*wait))
            })
            .collect();
        assert_eq!(pauses, [50, 100, 200, 400, 500, 500, 500, 500]);
        assert!(retries.next(start).is_some_and(|wait| wait <= Duration::from_millis(500)));
        assert!(retries.due("b", start));
        retries.succeeded("a");
        assert_eq!(retries.next(start), None);
    }

    #[test]
    fn what_is_not_wanted_any_more_keeps_nobody_awake() {
        let mut retries = Retries::default();
        let start = Instant::now();
        retries.failed("gone", start);
        retries.failed("wanted", start);
        assert!(retries.next(start).is_some());
        let later = start + Duration::from_secs(1);
        retries.failed("wanted", later);
        assert!(retries.next(later).is_some());
        assert!(!retries.has_failed("gone") && retries.has_failed("wanted"));
    }
}
