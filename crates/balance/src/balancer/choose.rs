//! Choosing an endpoint: first a pool by its share, then one of its endpoints.

use std::sync::Arc;

use super::pool::{Pool, Rotation};
use super::{Balancer, Mode};
use crate::hashing::{HashTable, Member};
use crate::{Algorithm, Detection, EndpointState};

/// How often an endpoint is drawn if those of earlier attempts are to be avoided.
const DRAWS: usize = 4;

impl<T: Clone> Balancer<T> {
    /// Returns an endpoint whose ejection has ended and that is not being probed, in a tier that is used now or in a
    /// nearer one: probing an endpoint farther away would lengthen this request's path without need.
    pub(super) fn on_probation(&self, previous: &[Arc<str>]) -> Option<usize> {
        if !self.shared.probation.get() {
            return None;
        }
        let nearest = if self.weights.is_empty() { self.pools.iter().position(|pool| pool.share > 0) } else { None };
        self.rows.iter().position(|row| {
            nearest.is_none_or(|nearest| row.tier <= nearest)
                && row.is_ready()
                && self.includes(row)
                && matches!(row.record.state.get(), EndpointState::Probation { probing: false, .. })
                && !previous.contains(&row.endpoint.id)
        })
    }

    /// Chooses by share and algorithm. If every endpoint in use was attempted before, chooses one of them again.
    pub(super) fn ordinary(&self, previous: &[Arc<str>], bits: u64) -> Option<(usize, Mode)> {
        let mut random = SplitMix64(bits);
        let chosen = self.pool_by_share(random.below(self.total))?;
        let of = |index: usize| (index, &self.pools[index]);
        let found = |(row, pool): (usize, &Pool)| (row, if pool.panic { Mode::Panic } else { Mode::Ordinary });
        let (_, first) = of(chosen);
        if let Some(row) = self.choose(first, previous, bits, &mut random) {
            return Some(found((row, first)));
        }
        (0..self.pools.len())
            .filter(|index| *index != chosen)
            .map(of)
            .find_map(|(_, pool)| Some(found((self.choose(pool, previous, bits, &mut random)?, pool))))
            .or_else(|| Some(found((self.choose(first, &[], bits, &mut random)?, first))))
    }

    fn pool_by_share(&self, at: u64) -> Option<usize> {
        let mut sum = 0;
        self.pools.iter().position(|pool| {
            sum += pool.share;
            at < sum
        })
    }

    fn choose(&self, pool: &Pool, previous: &[Arc<str>], bits: u64, random: &mut SplitMix64) -> Option<usize> {
        match self.settings.algorithm {
            Algorithm::LeastRequest => self.less_loaded_of_two(pool, previous, random),
            Algorithm::Random => self.draw(pool, previous, random),
            Algorithm::RoundRobin => self.in_turn(pool, previous, random),
            Algorithm::RingHash { .. } | Algorithm::Maglev { .. } => {
                let table = pool.table.get_or_init(|| self.table(pool)).as_ref()?;
                table.find(bits, |row| self.is_allowed(row, previous))
            }
        }
    }

    fn is_allowed(&self, row: usize, previous: &[Arc<str>]) -> bool {
        !previous.contains(&self.rows[row].endpoint.id)
    }

    /// Draws two endpoints by weight and returns the one with less load for its weight. At equal load the first draw
    /// counts, so that shares follow the weights exactly without load.
    fn less_loaded_of_two(&self, pool: &Pool, previous: &[Arc<str>], random: &mut SplitMix64) -> Option<usize> {
        if let [(_, only)] = *pool.available {
            return Some(only).filter(|row| self.is_allowed(*row, previous));
        }
        let first = self.draw(pool, previous, random)?;
        let second = self.draw(pool, previous, random)?;
        let load = |row: usize| u64::from(self.rows[row].record.in_flight.get());
        let weight = |row: usize| self.rows[row].weight;
        Some(if load(second) * weight(first) < load(first) * weight(second) { second } else { first })
    }

    /// Draws an endpoint by weight. If several draws yield previous endpoints, these are most of the pool, and the
    /// first other endpoint is returned.
    fn draw(&self, pool: &Pool, previous: &[Arc<str>], random: &mut SplitMix64) -> Option<usize> {
        let (sum, _) = *pool.available.last()?;
        (0..DRAWS)
            .map(|_| {
                let at = random.below(sum);
                pool.available[pool.available.partition_point(|(end, _)| *end <= at)].1
            })
            .find(|row| self.is_allowed(*row, previous))
            .or_else(|| self.first_allowed(pool, previous))
    }

    /// Returns the endpoint whose turn it is.
    fn in_turn(&self, pool: &Pool, previous: &[Arc<str>], random: &mut SplitMix64) -> Option<usize> {
        let weight = |row: usize| self.rows[row].weight;
        let mut rotation = pool.rotation.borrow_mut();
        let rotation =
            rotation.get_or_insert_with(|| Rotation::new(pool.available.iter().map(|(_, row)| *row), weight, random));
        (0..DRAWS)
            .map_while(|_| rotation.next(weight))
            .find(|row| self.is_allowed(*row, previous))
            .or_else(|| self.first_allowed(pool, previous))
    }

    fn first_allowed(&self, pool: &Pool, previous: &[Arc<str>]) -> Option<usize> {
        pool.available.iter().map(|(_, row)| *row).find(|row| self.is_allowed(*row, previous))
    }

    fn table(&self, pool: &Pool) -> Option<HashTable> {
        let member = |(_, index): &(u64, usize)| {
            let row = &self.rows[*index];
            Member { name: &row.endpoint.id, weight: row.weight, row: u32::try_from(*index).unwrap_or(u32::MAX) }
        };
        HashTable::build(self.settings.algorithm, pool.available.iter().map(member).collect())
    }

    /// Picks a ready endpoint although every endpoint is ejected.
    pub(super) fn any_ready(&self, previous: &[Arc<str>], random: u64) -> Option<usize> {
        let equals = self.last_resort(previous);
        equals.get(SplitMix64(random).below(equals.len() as u64) as usize).copied()
    }

    /// Returns the ready endpoints that are used although every endpoint is ejected: those not attempted before first, then
    /// those of the nearest tier. A configured outlier detection decides that itself.
    pub(super) fn last_resort(&self, previous: &[Arc<str>]) -> Vec<usize> {
        if matches!(self.settings.detection, Detection::Configured(_)) {
            return Vec::new();
        }
        let ready = |index: &usize| self.rows[*index].is_ready() && self.includes(&self.rows[*index]);
        let candidates: Vec<usize> = (0..self.rows.len()).filter(ready).collect();
        let rank = |row: usize| {
            let row = &self.rows[row];
            (previous.contains(&row.endpoint.id), !self.weights.is_empty() && row.entry.is_none(), row.tier)
        };
        let Some(best) = candidates.iter().map(|row| rank(*row)).min() else { return Vec::new() };
        candidates.into_iter().filter(|row| rank(*row) == best).collect()
    }
}

/// Derives many small numbers from 64 random bits, with the SplitMix64 generator.
pub(super) struct SplitMix64(pub(super) u64);

impl SplitMix64 {
    /// Returns a number in `0..end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        let bits = crate::hashing::mix(self.0);
        self.0 = self.0.wrapping_add(crate::hashing::GOLDEN);
        ((u128::from(bits) * u128::from(end)) >> 64) as u64
    }
}
