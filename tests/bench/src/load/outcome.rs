//! What came of a load.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Failure;

/// How many different texts of failures are kept.
const MAX_TEXTS: usize = 8;
/// A request under way for so long at the end, and for the whole window, was not answered.
const SILENCE: Duration = Duration::from_secs(5);

/// What came of a load, within its window.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests that were answered as they should be.
    pub requests: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Requests of an open loop that were due within the window and had no answer at its end. Their waiting until then is
    /// in `latency`.
    pub unanswered: u64,
    /// Bytes that arrived: bodies and messages, without heads and frames.
    pub bytes: u64,
    /// How long the window was.
    pub elapsed: Duration,
    /// In nanoseconds, to a microsecond or three digits: of a closed loop from the request's beginning, of an open one from
    /// the time when it was due, to the end of the answer.
    pub latency: Histogram<u64>,
    /// Why requests failed: the first few different texts and how often each.
    pub errors: BTreeMap<String, u64>,
}

impl Outcome {
    /// Answered requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// Bytes that arrived per second.
    pub fn throughput(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this share of requests (0.99) does not exceed.
    pub fn latency_at(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(share))
    }
}

/// When the window is, as the thread that opens and closes it tells the generator's.
#[derive(Debug)]
pub(super) struct Window {
    origin: Instant,
    /// Nanoseconds since `origin`; `u64::MAX` as long as it has not happened.
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

/// What decides whether a request belongs to the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// That it is answered within: requests under way at its end are not counted.
    Answered,
    /// That it is due within.
    Due,
}

/// Counts, on the generator's thread.
#[derive(Debug)]
pub(super) struct Tally {
    window: Arc<Window>,
    counted: Counted,
    sums: RefCell<Sums>,
    /// When what each lane is at began, or was due.
    under_way: Box<[Cell<Option<Instant>>]>,
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
    pub(super) fn new(window: Arc<Window>, counted: Counted, lanes: usize) -> Self {
        let latency = Histogram::new_with_bounds(1_000, 120_000_000_000, 3).expect("bounds of a histogram");
        let sums = Sums { requests: 0, failed: 0, bytes: 0, latency, errors: BTreeMap::new() };
        Self { window, counted, sums: RefCell::new(sums), under_way: (0..lanes).map(|_| Cell::new(None)).collect() }
    }

    /// A lane begins what began or was due at `start`.
    pub(super) fn begin(&self, lane: usize, start: Instant) {
        self.under_way[lane].set(Some(start));
    }

    /// It is done with it.
    pub(super) fn finish(&self, lane: usize, result: &Result<u64, Failure>) {
        let Some(start) = self.under_way[lane].take() else { return };
        let now = Instant::now();
        let counts = match self.counted {
            Counted::Answered => self.window.has(now),
            // What is answered after the end was unanswered at the end.
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

    /// After the window's end; `waiting` are those due that no lane has begun.
    pub(super) fn outcome(&self, waiting: impl Iterator<Item = Instant>) -> Outcome {
        let end = self.window.origin + Duration::from_nanos(self.window.end.load(Ordering::Relaxed));
        let elapsed = self.window.length();
        let mut sums = self.sums.borrow_mut();
        let mut unanswered = 0;
        for start in self.under_way.iter().filter_map(Cell::get).chain(waiting) {
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
