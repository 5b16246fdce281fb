//! Token buckets, refilled evenly as in Envoy's `AtomicTokenBucketImpl`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::quota::Quota;

/// Parts of a nanosecond in which times are kept: the cost of a token is rounded to them. Half the range of 64 bits is 18 years.
const PARTS: u64 = 16;
/// The longest time in which a bucket may fill: more than the year that objects may say, which rounding adds to.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 3600);
/// The greatest number of tokens in a second, at which rounding changes a rate by a third of a per mille.
const FASTEST: u64 = 10_000_000;

/// The size of a bucket, and how fast it is refilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    max_tokens: u32,
    /// The time in which a token is added.
    cost: u64,
    /// The time in which all tokens are added.
    capacity: u64,
}

/// Why there is no such rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidRate {
    /// It has no tokens, or adds none, or adds them in no time.
    Zero,
    /// It adds more than ten million tokens in a second.
    TooFast,
    /// It takes more than a year to fill.
    TooSlow,
}

impl std::fmt::Display for InvalidRate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            InvalidRate::Zero => "a token bucket needs tokens, tokens for each fill, and an interval",
            InvalidRate::TooFast => "a token bucket cannot add more than 10,000,000 tokens in a second",
            InvalidRate::TooSlow => "a token bucket cannot take more than a year to fill",
        })
    }
}

impl Rate {
    /// Creates a rate: at most `max_tokens`, of which `tokens` are added evenly in each interval.
    ///
    /// # Errors
    /// Returns an error if the rate is not one that a bucket can count.
    pub fn new(max_tokens: u32, tokens: u32, interval: Duration) -> Result<Self, InvalidRate> {
        let interval_parts = interval.as_nanos() * u128::from(PARTS);
        if max_tokens == 0 || tokens == 0 || interval_parts == 0 {
            return Err(InvalidRate::Zero);
        }
        // Rounded to the nearest.
        let cost = (interval_parts + u128::from(tokens) / 2) / u128::from(tokens);
        if cost < u128::from(1_000_000_000 * PARTS / FASTEST) {
            return Err(InvalidRate::TooFast);
        }
        let capacity = cost * u128::from(max_tokens);
        match u64::try_from(capacity) {
            Ok(capacity) if capacity <= parts(LONGEST) => Ok(Self { max_tokens, cost: cost as u64, capacity }),
            _ => Err(InvalidRate::TooSlow),
        }
    }

    /// Returns the number of tokens of a full bucket.
    pub fn max_tokens(&self) -> u32 {
        self.max_tokens
    }

    /// Returns the time in which a token is added.
    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }
}

/// Returns a time in the unit of buckets.
pub(crate) fn parts(time: Duration) -> u64 {
    let seconds = time.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(time.subsec_nanos().into()).saturating_mul(PARTS)
}

fn duration(parts: u64) -> Duration {
    Duration::from_nanos(parts.div_ceil(PARTS))
}

/// A bucket of tokens that workers share. The cell is the time at which the bucket is full again (GCRA): one in the past is that
/// of a full bucket, so a new one is zero and an idle one needs no work.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct TokenBucket(AtomicU64);

/// How full a bucket is. Most requests need no more than that there was a token, so what is left is computed on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level<'a> {
    rate: &'a Rate,
    /// The time until the bucket is full, with the token that was asked for.
    missing: u64,
}

impl Level<'_> {
    /// Returns what is left.
    pub fn quota(&self) -> Quota {
        let Level { rate, missing } = *self;
        let limit = rate.max_tokens;
        let Some(left) = rate.capacity.checked_sub(missing) else {
            return Quota { limit, remaining: 0, reset: duration(missing - rate.capacity) };
        };
        let remaining = u32::try_from(left / rate.cost).unwrap_or(u32::MAX);
        let reset = if left >= rate.cost { Duration::ZERO } else { duration(rate.cost - left) };
        Quota { limit, remaining, reset }
    }
}

impl TokenBucket {
    /// Takes a token at a time after the start that all its times are counted from.
    ///
    /// # Errors
    /// Returns the level if there is no token.
    #[inline]
    pub fn take<'a>(&self, rate: &'a Rate, elapsed: Duration) -> Result<Level<'a>, Level<'a>> {
        let now = parts(elapsed);
        let mut full = self.0.load(Ordering::Relaxed);
        loop {
            let (next, level) = taken(full, rate, now)?;
            match self.0.compare_exchange_weak(full, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(level),
                Err(changed) => full = changed,
            }
        }
    }
}

/// Takes a token from a bucket that is full again at `full`. Returns when it is full again after that, and the level. Another
/// worker's reading of the clock may be older than the last token: then nothing is refilled.
///
/// # Errors
/// Returns the level if there is no token.
#[inline]
pub(crate) fn taken(full: u64, rate: &Rate, now: u64) -> Result<(u64, Level<'_>), Level<'_>> {
    let next = full.max(now) + rate.cost;
    let level = Level { rate, missing: next - now };
    if level.missing > rate.capacity { Err(level) } else { Ok((next, level)) }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    const THREADS: usize = 8;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_bucket_is_refilled_evenly_up_to_its_maximum() {
        let rate = Rate::new(3, 2, millis(100)).unwrap();
        let bucket = TokenBucket::default();
        let take = |at| (0..10).filter(|_| bucket.take(&rate, millis(at)).is_ok()).count();
        assert_eq!(take(0), 3);
        assert_eq!(take(49), 0);
        assert_eq!(take(50), 1);
        assert_eq!(take(20), 0, "an older reading of the clock refills nothing");
        assert_eq!(take(100), 1);
        assert_eq!(take(10_000), 3, "never beyond the maximum");
        let years = Duration::from_secs(10 * 365 * 24 * 3600);
        assert_eq!((0..10).filter(|_| bucket.take(&rate, years).is_ok()).count(), 3, "also after years");
    }

    #[test]
    fn what_is_left_is_reported() {
        let rate = Rate::new(2, 1, millis(1000)).unwrap();
        let bucket = TokenBucket::default();
        let quota = |remaining, reset| Quota { limit: 2, remaining, reset: millis(reset) };
        let take = |at| bucket.take(&rate, millis(at)).map(|level| level.quota()).map_err(|level| level.quota());
        assert_eq!(take(0), Ok(quota(1, 0)));
        assert_eq!(take(0), Ok(quota(0, 1000)));
        assert_eq!(take(300), Err(quota(0, 700)));
        assert_eq!(take(1000), Ok(quota(0, 1000)));
    }

    #[test]
    fn rates_that_cannot_be_counted_are_refused() {
        for (max, tokens, interval, expected) in [
            (0, 1, millis(1), Err(InvalidRate::Zero)),
            (1, 0, millis(1), Err(InvalidRate::Zero)),
            (1, 1, millis(0), Err(InvalidRate::Zero)),
            (u32::MAX, u32::MAX, Duration::from_secs(1), Err(InvalidRate::TooFast)),
            (u32::MAX, 1, Duration::from_secs(1), Err(InvalidRate::TooSlow)),
            (1, 1, Duration::MAX, Err(InvalidRate::TooSlow)),
            (1_000_000, 1_000_000, Duration::from_secs(1), Ok(())),
            (365, 1, Duration::from_secs(24 * 3600), Ok(())),
        ] {
            assert_eq!(Rate::new(max, tokens, interval).map(|_| ()), expected, "{max} {tokens} {interval:?}");
        }
    }

    #[test]
    fn rates_that_do_not_divide_an_interval_do_not_drift() {
        // 7 tokens a minute for a day, asked for each second.
        let rate = Rate::new(7, 7, Duration::from_secs(60)).unwrap();
        let bucket = TokenBucket::default();
        let granted = (0..24 * 3600).filter(|second| bucket.take(&rate, Duration::from_secs(*second)).is_ok()).count();
        let expected = 7 * 24 * 60 + 7;
        assert!((expected - 8..=expected).contains(&granted), "{granted}");
    }

    #[test]
    fn rates_are_exact_under_contention() {
        let rate = Rate::new(1000, 500, millis(10)).unwrap();
        let (bucket, granted, barrier) = (TokenBucket::default(), AtomicU64::new(0), Barrier::new(THREADS));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for step in 0..4 {
                        barrier.wait();
                        let taken = (0..2000).filter(|_| bucket.take(&rate, millis(10 * step)).is_ok()).count();
                        granted.fetch_add(taken as u64, Ordering::Relaxed);
                        // All threads have the same time in each step.
                        barrier.wait();
                    }
                });
            }
        });
        assert_eq!(granted.into_inner(), 1000 + 3 * 500);
    }
}
