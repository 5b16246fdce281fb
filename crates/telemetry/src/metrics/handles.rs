//! Handles of metrics, and the scopes that create them.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Family, MetricKind, Registry};

/// How a handle updates its cells.
pub trait CellMode: sealed::Sealed {
    #[doc(hidden)]
    fn update(cell: &AtomicU64, change: impl Fn(u64) -> u64);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::PerWorker {}
    impl Sealed for super::Shared {}
}

/// Updates by one thread only; the handles are not `Send`.
#[derive(Clone, Copy, Debug)]
pub struct PerWorker(PhantomData<*const ()>);

/// Atomic updates by any thread.
#[derive(Clone, Copy, Debug)]
pub struct Shared;

impl CellMode for PerWorker {
    #[inline]
    fn update(cell: &AtomicU64, change: impl Fn(u64) -> u64) {
        cell.store(change(cell.load(Relaxed)), Relaxed);
    }
}

impl CellMode for Shared {
    #[inline]
    fn update(cell: &AtomicU64, change: impl Fn(u64) -> u64) {
        let _ = cell.fetch_update(Relaxed, Relaxed, |value| Some(change(value)));
    }
}

/// A source of metric handles. Creating a handle locks the registry: create handles when a connection or route is set
/// up, not per request.
#[derive(Clone, Debug)]
pub struct Scope<M> {
    pub(super) registry: Registry,
    pub(super) id: u32,
    pub(super) mode: PhantomData<M>,
}

impl<M: CellMode> Scope<M> {
    /// Returns the counter with these label values, in the family's order.
    pub fn counter(&self, family: &Family, values: &[&str]) -> Counter<M> {
        Counter { cells: self.registry.cells(family, MetricKind::Counter, values, self.id), mode: PhantomData }
    }

    /// Returns the gauge with these label values.
    pub fn gauge(&self, family: &Family, values: &[&str]) -> Gauge<M> {
        Gauge { cells: self.registry.cells(family, MetricKind::Gauge, values, self.id), mode: PhantomData }
    }

    /// Returns the histogram with these label values. `bounds` are the upper bounds of its buckets, ascending.
    pub fn histogram(&self, family: &Family, bounds: &'static [f64], values: &[&str]) -> Histogram<M> {
        let cells = self.registry.cells(family, MetricKind::Histogram(bounds), values, self.id);
        Histogram { cells, bounds, mode: PhantomData }
    }

    /// Returns the registry of the scope.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// A counter: a value that only increases.
#[derive(Clone, Debug)]
pub struct Counter<M = PerWorker> {
    cells: Arc<[AtomicU64]>,
    mode: PhantomData<M>,
}

impl<M: CellMode> Counter<M> {
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

    /// Returns this scope's value.
    pub fn get(&self) -> u64 {
        self.cells[0].load(Relaxed)
    }
}

/// A gauge: a value that increases and decreases. A scrape adds the values of all workers.
#[derive(Clone, Debug)]
pub struct Gauge<M = PerWorker> {
    cells: Arc<[AtomicU64]>,
    mode: PhantomData<M>,
}

impl<M: CellMode> Gauge<M> {
    /// Adds `amount`, which may be negative.
    #[inline]
    pub fn add(&self, amount: i64) {
        M::update(&self.cells[0], |value| value.wrapping_add_signed(amount));
    }

    /// Sets this scope's value.
    #[inline]
    pub fn set(&self, value: i64) {
        self.cells[0].store(value.cast_unsigned(), Relaxed);
    }

    /// Returns this scope's value.
    pub fn get(&self) -> i64 {
        self.cells[0].load(Relaxed).cast_signed()
    }

    /// Adds one, and subtracts it when the returned guard is dropped.
    pub fn hold(&self) -> GaugeGuard<M>
    where
        M: Clone,
    {
        self.add(1);
        GaugeGuard(Self { cells: Arc::clone(&self.cells), mode: PhantomData })
    }
}

/// Counts one in a [`Gauge`] until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard<M: CellMode = PerWorker>(Gauge<M>);

impl<M: CellMode> Drop for GaugeGuard<M> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// A histogram with fixed buckets.
#[derive(Clone, Debug)]
pub struct Histogram<M = PerWorker> {
    cells: Arc<[AtomicU64]>,
    bounds: &'static [f64],
    mode: PhantomData<M>,
}

impl<M: CellMode> Histogram<M> {
    /// Records one value.
    #[inline]
    pub fn record(&self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        M::update(&self.cells[bucket], |count| count.wrapping_add(1));
        M::update(&self.cells[self.bounds.len() + 1], |sum| (f64::from_bits(sum) + value).to_bits());
    }
}
