//! Warm-up: an endpoint that becomes ready receives little traffic at first.
//!
//! Source: Envoy's "Slow start mode".

use std::time::{Duration, Instant};

/// How the weight of an endpoint that has become ready grows to its full value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warmup {
    /// How long it takes.
    pub duration: Duration,
    /// The least share of the full weight, in percent.
    pub minimum_percent: f64,
    /// 1 for linear growth; greater values for faster growth at first.
    pub aggression: f64,
}

/// The weight of an endpoint at full share, per unit of its own weight: shares are multiples of a thousandth.
const FULL: f64 = 1000.0;

impl Warmup {
    /// Returns the weight of an endpoint at `now`, and when it changes next; `None` if it has its full share.
    pub(crate) fn weight(&self, weight: u32, ready_since: Instant, now: Instant) -> (u64, Option<Instant>) {
        let elapsed = now.saturating_duration_since(ready_since);
        let full = f64::from(weight) * FULL;
        if elapsed >= self.duration {
            return (full as u64, None);
        }
        let time = elapsed.max(Duration::from_millis(1)).as_secs_f64() / self.duration.as_secs_f64();
        let aggression = if self.aggression > 0.0 { self.aggression } else { 1.0 };
        let share = time.powf(1.0 / aggression).max(self.minimum_percent / 100.0).clamp(0.0, 1.0);
        // A hundred steps are as good as a curve.
        let step = (self.duration / 100).max(Duration::from_millis(1));
        ((full * share).ceil().max(1.0) as u64, Some(now + step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_grow_as_envoy_documents() {
        let start = Instant::now();
        let warmup =
            |minimum_percent, aggression| Warmup { duration: Duration::from_secs(100), minimum_percent, aggression };
        for (minimum, aggression, after, weight) in [
            (10.0, 1.0, 0, 200),
            (10.0, 1.0, 5, 200),
            (10.0, 1.0, 50, 1000),
            (10.0, 1.0, 99, 1980),
            (10.0, 1.0, 100, 2000),
            (10.0, 1.0, 1000, 2000),
            (10.0, 2.0, 25, 1000),
            (0.0, 1.0, 1, 20),
            (0.0, 0.0, 50, 1000),
            (10.0, f64::NAN, 50, 1000),
            (200.0, 1.0, 0, 2000),
        ] {
            let warmup = warmup(minimum, aggression);
            let (found, next) = warmup.weight(2, start, start + Duration::from_secs(after));
            assert_eq!(found, weight, "{warmup:?} after {after} s");
            assert_eq!(next.is_some(), after < 100);
        }
        assert_eq!(warmup(0.0, 0.0001).weight(2, start, start).0, 1, "never nothing");
    }
}
