//! Limits that are exact across workers: on things in progress ([`Limit`]) and on rates ([`RateLimit`]).
//!
//! Workers share nothing else per request. A limit is one atomic cell on a cache line of its own: acquiring and releasing a
//! permit takes two uncontended atomic operations, some 10 ns, and never blocks. Under contention an operation is retried
//! until it succeeds; no permit is granted beyond the limit and none is withheld below it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A limit on things in progress, such as connections or requests. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Limit(Arc<Count>);

/// On a cache line of its own, or workers would slow each other down by unrelated data.
#[derive(Debug)]
#[repr(align(64))]
struct Count {
    used: AtomicU64,
    max: AtomicU64,
}

impl Default for Count {
    fn default() -> Self {
        Self { used: AtomicU64::new(0), max: AtomicU64::new(u64::MAX) }
    }
}

/// A share of a [`Limit`], returned on drop.
#[derive(Debug)]
#[must_use = "the permit is returned when it is dropped"]
pub struct Permit(Arc<Count>);

impl Limit {
    /// Creates a limit.
    pub fn new(max: u64) -> Self {
        let limit = Self::default();
        limit.set_max(max);
        limit
    }

    /// Changes the maximum. Permits that exceed a lower maximum stay valid.
    pub fn set_max(&self, max: u64) {
        self.0.max.store(max, Ordering::Relaxed);
    }

    /// Acquires a permit, or returns `None` if the limit is reached.
    pub fn acquire(&self) -> Option<Permit> {
        let max = self.0.max.load(Ordering::Relaxed);
        let mut used = self.0.used.load(Ordering::Relaxed);
        // Adding first and taking back beyond the limit would be quicker, but inexact: the excess of one worker's failing
        // attempt makes another's fail that has a permit to get.
        loop {
            if used >= max {
                return None;
            }
            match self.0.used.compare_exchange_weak(used, used + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(Permit(self.0.clone())),
                Err(now) => used = now,
            }
        }
    }

    /// Returns the number of permits in use.
    pub fn in_use(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }
}

/// Two limits are equal if they share their count.
impl PartialEq for Limit {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A token bucket with Envoy's semantics: it holds at most `max_tokens` and is refilled with `tokens_per_fill` at the end of
/// each interval. Clones share the bucket.
#[derive(Clone, Debug)]
pub struct RateLimit(Arc<Bucket>);

#[derive(Debug)]
#[repr(align(64))]
struct Bucket {
    /// The number of intervals since `start` in the upper half, tokens in the lower.
    state: AtomicU64,
    start: Instant,
    interval: Duration,
    max_tokens: u32,
    tokens_per_fill: u32,
}

impl RateLimit {
    /// Creates a full bucket at `now`. An interval of zero is taken for a millisecond.
    pub fn new(max_tokens: u32, tokens_per_fill: u32, interval: Duration, now: Instant) -> Self {
        let interval = interval.max(Duration::from_millis(1));
        let state = AtomicU64::new(max_tokens.into());
        Self(Arc::new(Bucket { state, start: now, interval, max_tokens, tokens_per_fill }))
    }

    /// Takes a token, and returns whether there was one.
    pub fn take(&self, now: Instant) -> bool {
        let bucket = &*self.0;
        let intervals = now.saturating_duration_since(bucket.start).as_nanos() / bucket.interval.as_nanos();
        let interval = u32::try_from(intervals).unwrap_or(u32::MAX);
        bucket
            .state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
                let (filled, tokens) = ((state >> 32) as u32, state as u32);
                // Another worker's clock reading may be older than the last fill.
                let fills = interval.saturating_sub(filled);
                let added = u64::from(fills) * u64::from(bucket.tokens_per_fill);
                let tokens = (u64::from(tokens) + added).min(bucket.max_tokens.into());
                let left = tokens.checked_sub(1)?;
                Some(u64::from(interval.max(filled)) << 32 | left)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    const THREADS: usize = 8;

    #[test]
    fn permits_return_on_drop() {
        let limit = Limit::new(2);
        let (one, two) = (limit.acquire(), limit.acquire());
        assert!(one.is_some() && two.is_some() && limit.acquire().is_none());
        drop(one);
        assert_eq!(limit.in_use(), 1);
        assert!(limit.acquire().is_some());
        limit.set_max(1);
        assert!(limit.acquire().is_none(), "the second permit is in use");
        assert!(Limit::default().acquire().is_some(), "the default is unlimited");
    }

    /// Each thread holds one permit at a time, so with as many permits as threads none may ever fail; with one permit less,
    /// never may more than that be held at once.
    #[test]
    fn limits_are_exact_under_contention() {
        let run = |max: u64, rounds: usize| {
            let (limit, held, barrier) = (Limit::new(max), AtomicU64::new(0), Barrier::new(THREADS));
            let (exceeded, refused) = (AtomicBool::new(false), AtomicU64::new(0));
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        barrier.wait();
                        for _ in 0..rounds {
                            let Some(permit) = limit.acquire() else {
                                refused.fetch_add(1, Ordering::Relaxed);
                                continue;
                            };
                            if held.fetch_add(1, Ordering::SeqCst) >= max {
                                exceeded.store(true, Ordering::Relaxed);
                            }
                            held.fetch_sub(1, Ordering::SeqCst);
                            drop(permit);
                        }
                    });
                }
            });
            assert_eq!(limit.in_use(), 0);
            (exceeded.into_inner(), refused.into_inner())
        };
        assert_eq!(run(THREADS as u64, 20_000), (false, 0), "no permit is withheld");
        assert!(!run(THREADS as u64 - 1, 20_000).0, "no permit is granted beyond the limit");
        assert!(!run(1, 20_000).0);
    }

    #[test]
    fn a_bucket_is_refilled_each_interval_up_to_its_maximum() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let bucket = RateLimit::new(3, 2, Duration::from_millis(100), start);
        let take = |millis| (0..10).filter(|_| bucket.take(at(millis))).count();
        assert_eq!(take(0), 3);
        assert_eq!(take(99), 0);
        assert_eq!(take(100), 2);
        assert_eq!(take(50), 0, "a late reading of the clock refills nothing");
        assert_eq!(take(1000), 3, "never beyond the maximum");
        assert_eq!(take(u64::from(u32::MAX) * 200), 3);
    }

    #[test]
    fn rates_are_exact_under_contention() {
        let start = Instant::now();
        let bucket = RateLimit::new(1000, 500, Duration::from_millis(10), start);
        let (taken, barrier) = (AtomicU64::new(0), Barrier::new(THREADS));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    barrier.wait();
                    for step in 0..4 {
                        let now = start + Duration::from_millis(10) * step;
                        let granted = (0..2000).filter(|_| bucket.take(now)).count();
                        taken.fetch_add(granted as u64, Ordering::Relaxed);
                        // All threads see the same time in each step.
                        barrier.wait();
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), 1000 + 3 * 500);
    }
}
