//! Counters, gauges and histograms. Handles are resolved once; using one costs about a nanosecond.
//!
//! A worker thread has a [`Scope`] of its own. The handles of that scope point to cells that only this worker writes:
//! an update is a plain load and store, without locked instructions and shared cache lines. A scrape adds the cells of
//! all workers. Code that runs on several threads uses [`Registry::shared`], whose handles update atomically. The
//! output is the Prometheus text format, version 0.0.4.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

mod handles;
#[cfg(test)]
mod tests;
mod text;

pub use handles::{CellMode, Counter, Gauge, GaugeGuard, Histogram, PerWorker, Scope, Shared};
pub use text::Scrape;

/// The bucket bounds that Envoy and Istio use for milliseconds and for bytes.
pub const ENVOY_BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0,
    600000.0, 1800000.0, 3600000.0,
];

/// The maximum number of label sets of one family of counters or gauges. Further label sets share one series whose label
/// values are `overflow`, so that a mistake or an attack cannot exhaust the memory of the proxy or of the scraper.
/// [`OVERFLOW`] counts them. A label set of Istio's takes some 1.3 KB in memory and 700 bytes in the text.
pub const MAX_SERIES: usize = 4_000;
/// The same for histograms, whose label sets have some twenty lines each.
pub const MAX_HISTOGRAM_SERIES: usize = 1_000;

/// The number of label sets that were counted as `overflow`: more than zero means that metrics are incomplete.
pub const OVERFLOW: Family = Family {
    name: "isthmus_metrics_overflow_total",
    help: "Label sets beyond the limit of a family, which share the series whose label values are `overflow`.",
    labels: &["family"],
};

/// A metric's name, help text and label names; a constant next to the code that updates it.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The name; names of counters end with `_total`.
    pub name: &'static str,
    /// The help text: one line.
    pub help: &'static str,
    /// The label names, in the order of the values.
    pub labels: &'static [&'static str],
}

/// The metrics of a process. Clones refer to the same registry.
#[derive(Clone, Default)]
pub struct Registry {
    inner: Arc<RegistryState>,
}

#[derive(Default)]
struct RegistryState {
    families: Mutex<BTreeMap<&'static str, FamilyEntry>>,
    observed: Mutex<Vec<Observed>>,
    workers: AtomicU32,
}

/// Computes values at a scrape; calls its argument with each label set and value.
type Observe = Box<dyn Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync>;

struct Observed {
    family: Family,
    kind: &'static str,
    observe: Observe,
}

struct FamilyEntry {
    family: Family,
    kind: MetricKind,
    /// Sorted, so that a scrape can go on from where it was.
    series: BTreeMap<LabelValues, Series>,
    /// The number of label sets beyond the limit.
    overflowed: u64,
}

type LabelValues = Box<[Box<str>]>;

/// The cells of one label set, with the id of the worker that writes them.
type Series = Vec<(u32, Arc<[AtomicU64]>)>;

#[derive(Clone, Copy, PartialEq)]
enum MetricKind {
    Counter,
    Gauge,
    /// The cells are: one per bound, one for greater values, and the sum (bits of an `f64`).
    Histogram(&'static [f64]),
}

impl MetricKind {
    fn cells(self) -> usize {
        match self {
            Self::Counter | Self::Gauge => 1,
            Self::Histogram(bounds) => bounds.len() + 2,
        }
    }

    fn max_series(self) -> usize {
        match self {
            Self::Counter | Self::Gauge => MAX_SERIES,
            Self::Histogram(_) => MAX_HISTOGRAM_SERIES,
        }
    }
}

impl Registry {
    /// Creates an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the scope of one worker thread. Its handles cannot leave that thread.
    pub fn worker(&self) -> Scope<PerWorker> {
        let id = self.inner.workers.fetch_add(1, Relaxed) + 1;
        Scope { registry: self.clone(), id, mode: PhantomData }
    }

    /// Returns the scope whose handles can be used on any thread.
    pub fn shared(&self) -> Scope<Shared> {
        Scope { registry: self.clone(), id: 0, mode: PhantomData }
    }

    /// Registers a gauge whose values are computed at each scrape.
    pub fn observe_gauge(
        &self,
        family: Family,
        observe: impl Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync + 'static,
    ) {
        self.observe(family, "gauge", Box::new(observe));
    }

    /// Registers a counter whose values are computed at each scrape.
    pub fn observe_counter(
        &self,
        family: Family,
        observe: impl Fn(&mut dyn FnMut(&[&str], f64)) + Send + Sync + 'static,
    ) {
        self.observe(family, "counter", Box::new(observe));
    }

    /// Renders all metrics in the Prometheus text format (`text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        self.scrape().collect()
    }

    /// Begins a scrape: the text of [`Registry::render`] in pieces of some 64 KiB, so that neither memory nor the time for
    /// which the registry is locked depends on the number of series.
    pub fn scrape(&self) -> Scrape {
        Scrape::new(self)
    }

    /// Returns the sum of a counter over all label sets that `matches` accepts, for tests and status pages.
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

    /// Returns the values of a counter of one label, by the label's values.
    pub fn by_label(&self, family: &Family) -> BTreeMap<Box<str>, u64> {
        let families = lock(&self.inner.families);
        let series = families.get(family.name).into_iter().flat_map(|entry| &entry.series);
        let value = |series: &Series| series.iter().map(|(_, cells)| cells[0].load(Relaxed)).sum();
        series.filter_map(|(values, cells)| Some((values.first()?.clone(), value(cells)))).collect()
    }

    fn observe(&self, family: Family, kind: &'static str, observe: Observe) {
        lock(&self.inner.observed).push(Observed { family, kind, observe });
    }

    /// Returns the cells of scope `id` for a label set.
    fn cells(&self, family: &Family, kind: MetricKind, values: &[&str], id: u32) -> Arc<[AtomicU64]> {
        assert_eq!(family.labels.len(), values.len(), "{} has the labels {:?}", family.name, family.labels);
        let mut families = lock(&self.inner.families);
        let entry = families.entry(family.name).or_insert_with(|| FamilyEntry {
            family: *family,
            kind,
            series: BTreeMap::new(),
            overflowed: 0,
        });
        assert!(entry.kind == kind, "{} is used with two metric types", family.name);
        let mut key: LabelValues = values.iter().map(|value| Box::from(*value)).collect();
        if entry.series.len() >= kind.max_series() && !entry.series.contains_key(&key) {
            entry.overflowed += 1;
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

/// Locks a mutex. A panic under these locks leaves no inconsistent state, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
