//! A pool: endpoints that a share of the traffic goes to.

use std::cell::{OnceCell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::choose::SplitMix64;
use crate::TierHealth;
use crate::hashing::HashTable;

/// The endpoints of a tier or of an entry of shares that are in use.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// By weight, as tiers are compared.
    pub(super) health: TierHealth,
    /// The number of endpoints that are ready, and of those that are not ejected either.
    pub(super) ready: u64,
    pub(super) in_use: u64,
    /// The share of traffic, of [`super::Balancer::total`].
    pub(super) share: u64,
    /// Too few endpoints are in use, so all that are ready are available.
    pub(super) panic: bool,
    /// The rows, each with the sum of the weights up to it.
    pub(super) available: Vec<(u64, usize)>,
    pub(super) rotation: RefCell<Option<Rotation>>,
    pub(super) table: OnceCell<Option<HashTable>>,
}

impl Pool {
    pub(super) fn add(&mut self, row: usize, weight: u64) {
        let before = self.available.last().map_or(0, |(sum, _)| *sum);
        self.available.push((before + weight, row));
    }

    /// Takes over what does not change with weights: the turns of endpoints.
    pub(super) fn continue_from(&mut self, before: Pool) {
        let rows = |pool: &Pool| pool.available.iter().map(|(_, row)| *row).collect::<Vec<_>>();
        if before.rotation.borrow().is_some() && rows(&before) == rows(self) {
            self.rotation = before.rotation;
        }
        if before.available == self.available {
            self.table = before.table;
        }
    }
}

/// The turns of endpoints: each is due once in a time that is inverse to its weight (earliest deadline first).
#[derive(Debug)]
pub(super) struct Rotation(BinaryHeap<Reverse<(u64, usize)>>);

impl Rotation {
    /// Creates the turns of rows in a random phase, or all proxies would begin with the same endpoint.
    pub(super) fn new(
        rows: impl Iterator<Item = usize>,
        weight: impl Fn(usize) -> u64,
        random: &mut SplitMix64,
    ) -> Self {
        const PHASES: u64 = 1 << 32;
        let due = |row| Reverse(((phase(random.below(PHASES), PHASES) / of(weight(row))).to_bits(), row));
        Self(rows.map(due).collect())
    }

    /// Returns the row whose turn it is.
    pub(super) fn next(&mut self, weight: impl Fn(usize) -> u64) -> Option<usize> {
        // The bits of positive floating-point numbers have the order of the numbers.
        let mut first = self.0.peek_mut()?;
        let Reverse((due, row)) = *first;
        *first = Reverse(((f64::from_bits(due) + 1.0 / of(weight(row))).to_bits(), row));
        Some(row)
    }
}

fn phase(number: u64, of: u64) -> f64 {
    number as f64 / of as f64
}

fn of(weight: u64) -> f64 {
    weight.max(1) as f64
}
