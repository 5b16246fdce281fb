//! Backoff of failed attempts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Failed attempts by key, each with the time of the next attempt.
///
/// The first delay is short: while a lab starts, a webhook that is not ready yet refuses pods for a few hundred
/// milliseconds, and Kubernetes' own delays would make that seconds.
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
    /// Reports whether `what` may be tried at `now`.
    #[must_use]
    pub fn due(&self, what: &str, now: Instant) -> bool {
        self.failed.get(what).is_none_or(|(_, not_before)| *not_before <= now)
    }

    /// Records a failure of `what`.
    pub fn failed(&mut self, what: &str, now: Instant) {
        let (count, not_before) = self.failed.entry(what.to_owned()).or_insert((0, now));
        let pause = self.first.saturating_mul(1 << (*count).min(10)).min(self.longest);
        *count += 1;
        *not_before = now + pause;
    }

    /// Reports whether `what` has failed, and not succeeded since.
    #[must_use]
    pub fn has_failed(&self, what: &str) -> bool {
        self.failed.contains_key(what)
    }

    /// Records a success of `what`.
    pub fn succeeded(&mut self, what: &str) {
        self.failed.remove(what);
    }

    /// Returns the time until the next attempt. Entries that were due when the pass `started`, and neither failed nor
    /// succeeded in it, are removed.
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
    fn the_backoff_grows_and_is_bounded() {
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
    fn entries_that_are_not_tried_again_are_removed() {
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
