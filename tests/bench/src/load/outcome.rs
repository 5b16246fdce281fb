//! The outcome of a load.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Failure;

/// The limit on different failure messages.
const MAX_TEXTS: usize = 8;
/// A request counts as failed if it is in flight for this long, and for the whole window, at the end.
const SILENCE: Duration = Duration::from_secs(5);

/// The outcome of a load within its window.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The number of requests with a correct response.
    pub requests: u64,
    /// The number of failed requests.
    pub failed: u64,
    /// The number of requests of an open loop that were due within the window and had no response at its end. `latency`
    /// contains their wait until then.
    pub unanswered: u64,
    /// The number of received bytes of bodies and messages, without heads and frames.
    pub bytes: u64,
    /// The length of the window.
    pub elapsed: Duration,
    /// The latency in nanoseconds, precise to a microsecond or three digits, until the end of the response: from the start of a
    /// closed loop's request, or from the time when an open loop's request was due.
    pub latency: Histogram<u64>,
    /// The first few different failure messages, with the number of each.
    pub errors: BTreeMap<String, u64>,
}

impl Outcome {
    /// Requests with a correct response per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// Received bytes per second.
    pub fn throughput(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency at a quantile, such as 0.99.
    pub fn latency_at(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(share))
    }
}

/// The measured window. The calling thread sets its edges, and the generator's thread reads them.
#[derive(Debug)]
pub(super) struct Window {
    origin: Instant,
    /// Nanoseconds since `origin`; `u64::MAX` before the edge.
    begin: AtomicU64,
    end: AtomicU64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), begin: AtomicU64::new(u64::MAX), end: AtomicU64::new(u64::MAX) }
    }

    pub(super) fn begin(&self) {
        self.begin.store(self.since_origin(Instant::now()), Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.end.store(self.since_origin(Instant::now()), Ordering::Relaxed);
    }

    pub(super) fn length(&self) -> Duration {
        let (begin, end) = (self.begin.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        Duration::from_nanos(end.saturating_sub(begin))
    }

    fn has(&self, time: Instant) -> bool {
        let time = self.since_origin(time);
        self.begin.load(Ordering::Relaxed) <= time && time < self.end.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.end.load(Ordering::Relaxed) != u64::MAX
    }

    fn since_origin(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX - 1)
    }
}

/// Which requests belong to the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// Requests with a response within the window. Requests in flight at its end do not count.
    Answered,
    /// Requests that are due within the window.
    Due,
}

/// The counters of the generator's thread.
#[derive(Debug)]
pub(super) struct Tally {
    window: Arc<Window>,
    counted: Counted,
    sums: RefCell<Sums>,
    /// For each caller, when its request in flight was sent or due.
    in_flight: Box<[Cell<Option<Instant>>]>,
}

#[derive(Debug)]
struct Sums {
    requests: u64,
    failed: u64,
    bytes: u64,
    latency: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new(window: Arc<Window>, counted: Counted, callers: usize) -> Self {
        let latency = Histogram::new_with_bounds(1_000, 120_000_000_000, 3).expect("bounds of a histogram");
        let sums = Sums { requests: 0, failed: 0, bytes: 0, latency, errors: BTreeMap::new() };
        Self { window, counted, sums: RefCell::new(sums), in_flight: (0..callers).map(|_| Cell::new(None)).collect() }
    }

    /// Records that a caller begins a request that was sent or due at `start`.
    pub(super) fn begin(&self, caller: usize, start: Instant) {
        self.in_flight[caller].set(Some(start));
    }

    /// Records the end of a caller's request.
    pub(super) fn finish(&self, caller: usize, result: &Result<u64, Failure>) {
        let Some(start) = self.in_flight[caller].take() else { return };
        let now = Instant::now();
        let counts = match self.counted {
            Counted::Answered => self.window.has(now),
            // A response after the window's end counts as unanswered.
            Counted::Due => self.window.has(start) && !self.window.is_over(),
        };
        if !counts {
            return;
        }
        let sums = &mut *self.sums.borrow_mut();
        match result {
            Ok(bytes) => {
                sums.requests += 1;
                sums.bytes += bytes;
                sums.latency.saturating_record(nanoseconds(now - start));
            }
            Err(failure) => sums.fail(failure),
        }
    }

    /// The outcome, after the window's end. `waiting` has the due times of requests that no caller has begun.
    pub(super) fn outcome(&self, waiting: impl Iterator<Item = Instant>) -> Outcome {
        let end = self.window.origin + Duration::from_nanos(self.window.end.load(Ordering::Relaxed));
        let elapsed = self.window.length();
        let mut sums = self.sums.borrow_mut();
        let mut unanswered = 0;
        for start in self.in_flight.iter().filter_map(Cell::get).chain(waiting) {
            let age = end.saturating_duration_since(start);
            match self.counted {
                Counted::Due if self.window.has(start) => {
                    unanswered += 1;
                    sums.latency.saturating_record(nanoseconds(age));
                }
                Counted::Answered if age >= SILENCE.max(elapsed) => sums.fail(&Failure::Silence(age)),
                Counted::Due | Counted::Answered => {}
            }
        }
        let Sums { requests, failed, bytes, ref latency, ref errors } = *sums;
        Outcome { requests, failed, unanswered, bytes, elapsed, latency: latency.clone(), errors: errors.clone() }
    }
}

impl Sums {
    fn fail(&mut self, failure: &Failure) {
        self.failed += 1;
        let text = failure.to_string();
        if self.errors.len() < MAX_TEXTS || self.errors.contains_key(&text) {
            *self.errors.entry(text).or_default() += 1;
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
