//! The balancer of one service, as one worker uses it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::{EndpointState, Locality, OutlierDetection, TierHealth, loads};

mod pick;
#[cfg(test)]
mod tests;

pub use pick::Pick;
use pick::{EndpointRecord, SharedState};

/// The health of an endpoint, as discovery reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// In use.
    Ready,
    /// Not in use; counts as capacity that its tier lacks.
    Unready,
    /// Terminating: not in use and not counted.
    Draining,
}

/// An endpoint, or many endpoints behind a gateway.
#[derive(Debug, Clone)]
pub struct Endpoint<T> {
    /// The name. Updates keep the state of endpoints by their names.
    pub id: Arc<str>,
    /// The locality.
    pub locality: Locality,
    /// The weight within the tier. A gateway's weight is the number of ready endpoints behind it. An endpoint of weight
    /// 0 is never picked.
    pub weight: u32,
    /// The health that discovery reports.
    pub health: Health,
    /// What the caller needs to connect.
    pub target: T,
}

/// Why an endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By tiers, weight and load.
    Ordinary,
    /// As the probation request of an endpoint whose ejection has ended.
    Probation,
    /// Every endpoint is ejected, so all of them are used.
    Panic,
}

#[derive(Debug)]
struct Row<T> {
    endpoint: Endpoint<T>,
    tier: usize,
    record: Rc<EndpointRecord>,
}

/// The endpoints of a tier that are in use, with the running sum of their weights.
#[derive(Debug, Default)]
struct Tier {
    health: TierHealth,
    available: Vec<(u64, usize)>,
}

/// The state of a tier, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierView {
    /// The distance of its endpoints ([`Locality::distance_from`]).
    pub distance: u8,
    /// The share of traffic in percent.
    pub share: u32,
    /// The weight of its endpoints.
    pub health: TierHealth,
}

/// Chooses among one service's endpoints. Each worker has balancers of its own, which know the outcomes of its own
/// attempts.
#[derive(Debug)]
pub struct Balancer<T> {
    own: Locality,
    rows: Vec<Row<T>>,
    distances: Vec<u8>,
    tiers: Vec<Tier>,
    shares: Vec<u32>,
    shared: Rc<SharedState>,
    /// The end of the next ejection.
    next_end: Option<Instant>,
}

impl<T: Clone> Balancer<T> {
    /// Creates a balancer without endpoints for a caller in the locality `own`.
    pub fn new(own: Locality) -> Self {
        Self {
            own,
            rows: Vec::new(),
            distances: Vec::new(),
            tiers: Vec::new(),
            shares: Vec::new(),
            shared: Rc::default(),
            next_end: None,
        }
    }

    /// Sets the caller's locality. Takes effect with the next [`Balancer::update`].
    pub fn set_locality(&mut self, own: Locality) {
        self.own = own;
    }

    /// Sets when endpoints are ejected. Takes effect with the next report.
    pub fn set_outlier_detection(&mut self, policy: OutlierDetection) {
        self.shared.outlier_detection.set(policy);
    }

    /// Replaces the endpoints. The state of endpoints that remain is kept, except that of an endpoint that becomes
    /// ready: it was restarted.
    pub fn update(&mut self, endpoints: impl IntoIterator<Item = Endpoint<T>>) {
        let mut before: std::collections::HashMap<Arc<str>, Row<T>> =
            std::mem::take(&mut self.rows).into_iter().map(|row| (row.endpoint.id.clone(), row)).collect();
        for endpoint in endpoints {
            let known = before.remove(&endpoint.id);
            let restarted = known
                .as_ref()
                .is_some_and(|row| row.endpoint.health != Health::Ready && endpoint.health == Health::Ready);
            let record = known.map_or_else(
                || {
                    Rc::new(EndpointRecord {
                        in_flight: Cell::new(0),
                        state: Cell::new(EndpointState::NEW),
                        last_success: Cell::new(None),
                    })
                },
                |row| row.record,
            );
            if restarted {
                record.state.set(EndpointState::NEW);
            }
            self.rows.push(Row { endpoint, tier: 0, record });
        }
        let distances: Vec<u8> = self.rows.iter().map(|row| row.endpoint.locality.distance_from(&self.own)).collect();
        self.distances = distances.clone();
        self.distances.sort_unstable();
        self.distances.dedup();
        for (row, distance) in self.rows.iter_mut().zip(distances) {
            row.tier = self.distances.binary_search(&distance).unwrap_or_default();
        }
        self.shared.stale.set(true);
    }

    /// Picks the endpoint for the next attempt, avoiding those in `previous` (the endpoints of earlier attempts of the
    /// same request) if there is another. `random` is 64 random bits. Returns `None` if no endpoint is ready.
    pub fn pick(&mut self, now: Instant, previous: &[Arc<str>], random: u64) -> Option<Pick<T>> {
        self.refresh(now);
        let (row, mode) = self
            .on_probation(previous)
            .map(|row| (row, Mode::Probation))
            .or_else(|| self.ordinary(previous, random).map(|row| (row, Mode::Ordinary)))
            .or_else(|| self.any_ready(previous, random).map(|row| (row, Mode::Panic)))?;
        Some(self.reserve(row, mode))
    }

    /// Returns the tiers, nearest first.
    pub fn tiers(&mut self, now: Instant) -> Vec<TierView> {
        self.refresh(now);
        (self.distances.iter().zip(&self.shares).zip(&self.tiers))
            .map(|((distance, share), tier)| TierView { distance: *distance, share: *share, health: tier.health })
            .collect()
    }

    /// Returns the endpoints with their states and the numbers of requests in progress.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Endpoint<T>, EndpointState, u32)> {
        self.rows.iter().map(|row| (&row.endpoint, row.record.state.get(), row.record.in_flight.get()))
    }

    /// Returns whether there are no endpoints.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn reserve(&self, row: usize, mode: Mode) -> Pick<T> {
        let Row { endpoint, record, .. } = &self.rows[row];
        record.in_flight.set(record.in_flight.get() + 1);
        if let (Mode::Probation, EndpointState::Probation { ejections, .. }) = (mode, record.state.get()) {
            record.state.set(EndpointState::Probation { probing: true, ejections });
        }
        Pick {
            id: endpoint.id.clone(),
            target: endpoint.target.clone(),
            mode,
            record: record.clone(),
            shared: self.shared.clone(),
            reported: Cell::new(false),
        }
    }

    /// Recomputes tiers and shares after a change of endpoints or states, or when an ejection has ended.
    fn refresh(&mut self, now: Instant) {
        if !self.shared.stale.get() && self.next_end.is_none_or(|end| now < end) {
            return;
        }
        self.shared.stale.set(false);
        self.next_end = None;
        self.tiers.clear();
        self.tiers.resize_with(self.distances.len(), Tier::default);
        for (index, row) in self.rows.iter().enumerate() {
            let state = row.record.state.get().at(now);
            row.record.state.set(state);
            if let EndpointState::Ejected { until, .. } = state {
                self.next_end = Some(self.next_end.map_or(until, |end| end.min(until)));
            }
            let tier = &mut self.tiers[row.tier];
            let weight = u64::from(row.endpoint.weight);
            if row.endpoint.health != Health::Draining {
                tier.health.total += weight;
            }
            if row.endpoint.health == Health::Ready && state.in_use() && weight > 0 {
                tier.health.available += weight;
                tier.available.push((tier.health.available, index));
            }
        }
        let health: Vec<TierHealth> = self.tiers.iter().map(|tier| tier.health).collect();
        self.shares = loads(&health);
    }

    /// Returns an endpoint whose ejection has ended and that is not being probed, in a tier that is used now or in a
    /// nearer one: probing an endpoint farther away would lengthen this request's path without need.
    fn on_probation(&self, previous: &[Arc<str>]) -> Option<usize> {
        let nearest_used = self.shares.iter().position(|share| *share > 0).unwrap_or(self.tiers.len());
        self.rows.iter().position(|row| {
            row.tier <= nearest_used
                && row.endpoint.health == Health::Ready
                && row.endpoint.weight > 0
                && matches!(row.record.state.get(), EndpointState::Probation { probing: false, .. })
                && !previous.contains(&row.endpoint.id)
        })
    }

    /// Picks by share, weight and load. If every endpoint in use was attempted before, picks one of them again.
    fn ordinary(&self, previous: &[Arc<str>], random: u64) -> Option<usize> {
        let mut random = SplitMix64(random);
        let chosen = self.tier_by_share(random.below(100))?;
        let others = (0..self.tiers.len()).filter(|tier| *tier != chosen);
        std::iter::once(chosen)
            .chain(others)
            .find_map(|tier| self.less_loaded_of_two(&self.tiers[tier], previous, &mut random))
            .or_else(|| self.less_loaded_of_two(&self.tiers[chosen], &[], &mut random))
    }

    fn tier_by_share(&self, percent: u64) -> Option<usize> {
        let mut sum = 0;
        self.shares.iter().position(|share| {
            sum += u64::from(*share);
            percent < sum
        })
    }

    /// Draws two endpoints by weight and returns the one with less load for its weight. At equal load the first draw
    /// counts, so that shares follow the weights exactly without load.
    fn less_loaded_of_two(&self, tier: &Tier, previous: &[Arc<str>], random: &mut SplitMix64) -> Option<usize> {
        let first = self.draw(tier, previous, random)?;
        let second = self.draw(tier, previous, random)?;
        let load = |row: usize| u64::from(self.rows[row].record.in_flight.get());
        let weight = |row: usize| u64::from(self.rows[row].endpoint.weight);
        Some(if load(second) * weight(first) < load(first) * weight(second) { second } else { first })
    }

    /// Draws an endpoint by weight. If several draws yield previous endpoints, these are most of the tier, and the
    /// first other endpoint is returned.
    fn draw(&self, tier: &Tier, previous: &[Arc<str>], random: &mut SplitMix64) -> Option<usize> {
        const DRAWS: usize = 4;
        let (sum, _) = *tier.available.last()?;
        let allowed = |row: usize| !previous.contains(&self.rows[row].endpoint.id);
        (0..DRAWS)
            .map(|_| {
                let at = random.below(sum);
                tier.available[tier.available.partition_point(|(end, _)| *end <= at)].1
            })
            .find(|row| allowed(*row))
            .or_else(|| tier.available.iter().map(|(_, row)| *row).find(|row| allowed(*row)))
    }

    /// Picks a ready endpoint although every endpoint is ejected: those not attempted before first, then the nearest
    /// tier.
    fn any_ready(&self, previous: &[Arc<str>], random: u64) -> Option<usize> {
        let ready = |row: &&usize| {
            let endpoint = &self.rows[**row].endpoint;
            endpoint.health == Health::Ready && endpoint.weight > 0
        };
        let indices: Vec<usize> = (0..self.rows.len()).collect();
        let rank = |row: usize| (previous.contains(&self.rows[row].endpoint.id), self.rows[row].tier);
        let best = indices.iter().filter(ready).map(|row| rank(*row)).min()?;
        let equals: Vec<usize> = indices.iter().filter(ready).copied().filter(|row| rank(*row) == best).collect();
        Some(equals[SplitMix64(random).below(equals.len() as u64) as usize])
    }
}

/// Derives many small numbers from 64 random bits, with the SplitMix64 generator.
struct SplitMix64(u64);

impl SplitMix64 {
    /// Returns a number in `0..end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(end)) >> 64) as u64
    }
}
