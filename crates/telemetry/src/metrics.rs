//! Counters, gauges and histograms whose handles are resolved once and cost about a nanosecond to use.
//!
//! A worker thread has a [`Scope`] of its own, and each handle taken from it points to cells that only this worker
//! writes: adding is a plain load and store, with no locked instruction and no shared cache line. Reading for a scrape
//! adds the workers' cells up. Code that runs on several threads takes [`Registry::shared`] instead, whose handles add
//! atomically. Output is the Prometheus text format, version 0.0.4.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(test)]
mod tests;
mod text;

/// Upper bounds that Envoy and so Istio use for milliseconds and for bytes.
pub const ENVOY_BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0,
    600000.0, 1800000.0, 3600000.0,
];

/// Label sets that one family may have. Past it all go into one series whose labels read `overflow`, so that a mistake
/// or an attack cannot use up the memory of the proxy or of who scrapes it.
pub const MAX_SERIES: usize = 10_000;

/// A metric's name, help and label names; a constant beside the code that counts.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Name, for a counter with its `_total`.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    /// Label names, in the order in which values are given.
    pub labels: &'static [&'static str],
}

/// All metrics of this process. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    families: Mutex<BTreeMap<&'static str, Entry>>,
    observed: Mutex<Vec<Observed>>,
    workers: AtomicU32,
}

/// Called with what receives each label set and its value.
type Observe = Box<dyn Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync>;

struct Observed {
    family: Family,
    kind: &'static str,
    observe: Observe,
}

struct Entry {
    family: Family,
    kind: Kind,
    series: HashMap<Box<[Box<str>]>, Series>,
}

/// The cells of one label set, by the worker that writes them.
type Series = Vec<(u32, Arc<[AtomicU64]>)>;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    /// Cells: one per bound, one beyond them, the sum (bits of an `f64`).
    Histogram(&'static [f64]),
}

impl Kind {
    fn cells(self) -> usize {
        match self {
            Self::Counter | Self::Gauge => 1,
            Self::Histogram(bounds) => bounds.len() + 2,
        }
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where one worker thread takes its handles from. They stay on that thread.
    pub fn worker(&self) -> Scope<PerWorker> {
        let id = self.inner.workers.fetch_add(1, Relaxed) + 1;
        Scope { registry: self.clone(), id, mode: PhantomData }
    }

    /// Handles that may be used from any thread.
    pub fn shared(&self) -> Scope<Shared> {
        Scope { registry: self.clone(), id: 0, mode: PhantomData }
    }

    /// A gauge whose values are asked for at each scrape.
    pub fn observe_gauge(
        &self,
        family: Family,
        observe: impl Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync + 'static,
    ) {
        self.observe(family, "gauge", Box::new(observe));
    }

    /// A counter that is kept elsewhere, asked for at each scrape.
    pub fn observe_counter(
        &self,
        family: Family,
        observe: impl Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync + 'static,
    ) {
        self.observe(family, "counter", Box::new(observe));
    }

    /// Everything in the Prometheus text format (`text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        text::render(self)
    }

    /// The sum of a counter over all label sets that `matches` accepts, for tests and status pages.
    pub fn total(&self, family: &Family, matches: impl Fn(&[(&str, &str)]) -> bool) -> u64 {
        let families = lock(&self.inner.families);
        let Some(entry) = families.get(family.name) else { return 0 };
        let mut total = 0;
        for (values, series) in &entry.series {
            let labels: Vec<_> = entry.family.labels.iter().copied().zip(values.iter().map(|value| &**value)).collect();
            if matches(&labels) {
                total += series.iter().map(|(_, cells)| cells[0].load(Relaxed)).sum::<u64>();
            }
        }
        total
    }

    fn observe(&self, family: Family, kind: &'static str, observe: Observe) {
        lock(&self.inner.observed).push(Observed { family, kind, observe });
    }

    /// The cells that scope `id` writes for this label set.
    fn cells(&self, family: &Family, kind: Kind, values: &[&str], id: u32) -> Arc<[AtomicU64]> {
        assert_eq!(family.labels.len(), values.len(), "{} takes the labels {:?}", family.name, family.labels);
        let mut families = lock(&self.inner.families);
        let entry =
            families.entry(family.name).or_insert_with(|| Entry { family: *family, kind, series: HashMap::new() });
        assert!(entry.kind == kind, "{} is used as two kinds of metric", family.name);
        let mut key: Box<[Box<str>]> = values.iter().map(|value| Box::from(*value)).collect();
        if entry.series.len() >= MAX_SERIES && !entry.series.contains_key(&key) {
            key = values.iter().map(|_| Box::from("overflow")).collect();
        }
        let series = entry.series.entry(key).or_default();
        if let Some((_, cells)) = series.iter().find(|(owner, _)| *owner == id) {
            return Arc::clone(cells);
        }
        let cells: Arc<[AtomicU64]> = (0..kind.cells()).map(|_| AtomicU64::new(0)).collect();
        series.push((id, Arc::clone(&cells)));
        cells
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("families", &lock(&self.inner.families).len()).finish_non_exhaustive()
    }
}

/// Nothing done under these locks can leave their contents half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a handle writes to its cell.
pub trait Mode: sealed::Sealed {
    #[doc(hidden)]
    fn update(cell: &AtomicU64, change: impl Fn(u64) -> u64);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::PerWorker {}
    impl Sealed for super::Shared {}
}

/// Written by one thread only, which the handles' not being `Send` ensures.
#[derive(Clone, Copy, Debug)]
pub struct PerWorker(PhantomData<*const ()>);

/// Written by any thread.
#[derive(Clone, Copy, Debug)]
pub struct Shared;

impl Mode for PerWorker {
    #[inline]
    fn update(cell: &AtomicU64, change: impl Fn(u64) -> u64) {
        cell.store(change(cell.load(Relaxed)), Relaxed);
    }
}

impl Mode for Shared {
    #[inline]
    fn update(cell: &AtomicU64, change: impl Fn(u64) -> u64) {
        let _ = cell.fetch_update(Relaxed, Relaxed, |value| Some(change(value)));
    }
}

/// Where handles come from. Taking one locks the registry: do it when a connection or route is set up, not per request.
#[derive(Clone, Debug)]
pub struct Scope<M> {
    registry: Registry,
    id: u32,
    mode: PhantomData<M>,
}

impl<M: Mode> Scope<M> {
    /// The counter with these label values, in the family's order.
    pub fn counter(&self, family: &Family, values: &[&str]) -> Counter<M> {
        Counter { cells: self.registry.cells(family, Kind::Counter, values, self.id), mode: PhantomData }
    }

    /// The gauge with these label values.
    pub fn gauge(&self, family: &Family, values: &[&str]) -> Gauge<M> {
        Gauge { cells: self.registry.cells(family, Kind::Gauge, values, self.id), mode: PhantomData }
    }

    /// The histogram with these label values; `bounds` are its upper bounds, ascending.
    pub fn histogram(&self, family: &Family, bounds: &'static [f64], values: &[&str]) -> Histogram<M> {
        let cells = self.registry.cells(family, Kind::Histogram(bounds), values, self.id);
        Histogram { cells, bounds, mode: PhantomData }
    }

    /// The registry that this is a part of.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Only ever grows.
#[derive(Clone, Debug)]
pub struct Counter<M = PerWorker> {
    cells: Arc<[AtomicU64]>,
    mode: PhantomData<M>,
}

impl<M: Mode> Counter<M> {
    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    #[inline]
    pub fn add(&self, amount: u64) {
        M::update(&self.cells[0], |value| value.wrapping_add(amount));
    }

    /// What was counted through this scope.
    pub fn get(&self) -> u64 {
        self.cells[0].load(Relaxed)
    }
}

/// Goes up and down; the workers' values are added up.
#[derive(Clone, Debug)]
pub struct Gauge<M = PerWorker> {
    cells: Arc<[AtomicU64]>,
    mode: PhantomData<M>,
}

impl<M: Mode> Gauge<M> {
    /// Adds `amount`, which may be negative.
    #[inline]
    pub fn add(&self, amount: i64) {
        M::update(&self.cells[0], |value| value.wrapping_add_signed(amount));
    }

    /// Replaces this scope's value.
    #[inline]
    pub fn set(&self, value: i64) {
        self.cells[0].store(value.cast_unsigned(), Relaxed);
    }

    /// This scope's value.
    pub fn get(&self) -> i64 {
        self.cells[0].load(Relaxed).cast_signed()
    }

    /// Adds one now and takes it away when the guard is dropped.
    pub fn hold(&self) -> Held<M>
    where
        M: Clone,
    {
        self.add(1);
        Held(Self { cells: Arc::clone(&self.cells), mode: PhantomData })
    }
}

/// One counted in a [`Gauge`] for as long as it lives.
#[derive(Debug)]
pub struct Held<M: Mode = PerWorker>(Gauge<M>);

impl<M: Mode> Drop for Held<M> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// A distribution over fixed buckets.
#[derive(Clone, Debug)]
pub struct Histogram<M = PerWorker> {
    cells: Arc<[AtomicU64]>,
    bounds: &'static [f64],
    mode: PhantomData<M>,
}

impl<M: Mode> Histogram<M> {
    /// Records one value.
    #[inline]
    pub fn record(&self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        M::update(&self.cells[bucket], |count| count.wrapping_add(1));
        M::update(&self.cells[self.bounds.len() + 1], |sum| (f64::from_bits(sum) + value).to_bits());
    }
}
