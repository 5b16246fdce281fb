//! Limits that are exact across workers, on things in progress. Those on rates are in `ratelimit`.
//!
//! Workers share nothing else per request. A limit is one atomic cell on a cache line of its own: acquiring and releasing a
//! permit takes two uncontended atomic operations, some 10 ns, and never blocks. Under contention an operation is retried
//! until it succeeds; no permit is granted beyond the limit and none is withheld below it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
}
