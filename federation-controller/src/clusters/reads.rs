//! The budget of what is read of one remote API server, which somebody else may run.
//!
//! One answer is bounded ([`super::MAX_ANSWER`]), but lists may have pages without end, and objects may change without end. A
//! cluster beyond the budget is not read for a while, and each time for longer.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::objects::Text;

/// What may be read at once, in bytes. 200,000 pods are 1 GiB of JSON.
const BURST: u64 = 2 << 30;

/// What may be read for good, in bytes a second. In a cluster of 10,000 pods that are all replaced within ten minutes it is 1 MB.
const A_SECOND: u64 = 16 << 20;

/// The shortest and the longest pause of a cluster beyond a budget.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What is read of one API server, and whether a budget is exceeded.
#[derive(Debug)]
pub(super) struct Reads {
    bucket: Option<Mutex<Bucket>>,
    exceeded: watch::Sender<Option<Text>>,
}

#[derive(Debug)]
struct Bucket {
    left: u64,
    filled: Instant,
}

impl Reads {
    /// Creates the budget of a remote cluster.
    pub(super) fn bounded() -> Self {
        Reads { bucket: Some(Mutex::new(Bucket::new(Instant::now()))), exceeded: watch::Sender::default() }
    }

    /// Creates the state of the own cluster, without a budget.
    pub(super) fn unbounded() -> Self {
        Reads { bucket: None, exceeded: watch::Sender::default() }
    }

    /// Counts bytes that were read.
    pub(super) fn count(&self, bytes: usize) {
        let Some(bucket) = &self.bucket else { return };
        let within = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes as u64, Instant::now());
        if !within {
            self.exceed(
                format!("its API server sends more than {} MiB and {} MiB a second", BURST >> 20, A_SECOND >> 20)
                    .into(),
            );
        }
    }

    /// Notes that a budget of the cluster is exceeded, with the reason.
    pub(super) fn exceed(&self, why: Text) {
        if self.bucket.is_some() {
            self.exceeded.send_if_modified(|exceeded| {
                let new = exceeded.is_none();
                exceeded.get_or_insert(why);
                new
            });
        }
    }

    /// Waits until a budget is exceeded, and returns the reason.
    pub(super) async fn until_exceeded(&self) -> Text {
        let mut exceeded = self.exceeded.subscribe();
        match exceeded.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The sender is part of `self`.
            Err(_) => Text::default(),
        }
    }

    /// Starts over with a full budget.
    pub(super) fn reset(&self) {
        if let Some(bucket) = &self.bucket {
            *bucket.lock().unwrap_or_else(PoisonError::into_inner) = Bucket::new(Instant::now());
        }
        self.exceeded.send_replace(None);
    }
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Bucket { left: BURST, filled: now }
    }

    /// Takes bytes. Returns whether they are within the budget.
    fn take(&mut self, bytes: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs();
        if passed > 0 {
            self.left = self.left.saturating_add(passed.saturating_mul(A_SECOND)).min(BURST);
            self.filled = now;
        }
        let within = self.left >= bytes;
        self.left = self.left.saturating_sub(bytes);
        within
    }
}

/// The pauses of a cluster beyond a budget: each twice as long as the one before, unless a long time passed without one.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    last: Option<(Duration, Instant)>,
}

impl Pauses {
    /// Returns the next pause.
    pub(super) fn next(&mut self, now: Instant) -> Duration {
        let pause = match self.last {
            Some((pause, at)) if now.saturating_duration_since(at) < pause + 2 * LONGEST_PAUSE => {
                (2 * pause).min(LONGEST_PAUSE)
            }
            _ => FIRST_PAUSE,
        };
        self.last = Some((pause, now));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_send_much_at_once_and_little_for_good() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut bucket = Bucket::new(start);
        assert!(bucket.take(BURST, start) && !bucket.take(1, start));
        assert!(bucket.take(3 * A_SECOND, after(3)) && !bucket.take(1, after(3)));
        assert!(bucket.take(BURST, after(10_000)) && !bucket.take(1, after(10_000)), "no more is saved up");
    }

    #[test]
    fn pauses_grow_to_an_hour_and_start_over_after_a_long_time() {
        let start = Instant::now();
        let mut pauses = Pauses::default();
        let minutes: Vec<u64> = (0..8).map(|_| pauses.next(start).as_secs() / 60).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses.next(start + 4 * LONGEST_PAUSE), FIRST_PAUSE);
    }

    #[tokio::test]
    async fn the_first_reason_is_reported_until_the_budget_starts_over() {
        let reads = Reads::bounded();
        reads.exceed("one".into());
        reads.exceed("two".into());
        assert_eq!(&*reads.until_exceeded().await, "one");
        reads.reset();
        reads.count(usize::MAX);
        assert!(reads.until_exceeded().await.contains("2048 MiB"));
        let own = Reads::unbounded();
        own.count(usize::MAX);
        own.exceed("one".into());
        assert!(own.exceeded.borrow().is_none(), "the own cluster has no budget");
    }
}
