//! Exponential backoff with jitter.

use std::time::Duration;

/// The waits between retries: each is twice as long as the one before, up to a limit.
pub(super) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// Returns the next wait in milliseconds, without jitter.
    pub(super) fn next_ms(&self) -> u64 {
        u64::try_from(self.next.as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits. Jitter of ±25 % spreads the retries of proxies that failed at the same time.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.next.mul_f64(rand::random_range(0.75..1.25))).await;
        self.next = (self.next * 2).min(self.longest);
    }
}
