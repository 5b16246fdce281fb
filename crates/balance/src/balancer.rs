//! One service's endpoints as one worker sees them: which is taken next, and what is known of each.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::{Locality, Outcome, Standing, TierHealth, loads};

/// What discovery says of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// To be used.
    Ready,
    /// Known, not to be used; it counts as capacity that its tier lacks.
    Unready,
    /// About to leave; not to be used and not counted.
    Draining,
}

/// One endpoint, or many behind a gateway.
#[derive(Debug, Clone)]
pub struct Endpoint<T> {
    /// Its name: what is learned of an endpoint stays with this.
    pub id: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Its share among the endpoints of its tier. A gateway's is the number of ready endpoints behind it. Never picked
    /// at 0.
    pub weight: u32,
    /// What discovery says of it.
    pub health: Health,
    /// What the caller needs to reach it.
    pub target: T,
}

/// Why an endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By tiers, weight and load.
    Ordinary,
    /// To find out whether an ejected endpoint is back.
    Probation,
    /// Every endpoint is ejected, so all are used.
    Panic,
}

/// What a worker knows of an endpoint; shared with the picks that are under way and kept over updates.
#[derive(Debug)]
struct State {
    in_flight: Cell<u32>,
    standing: Cell<Standing>,
    succeeded: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Row<T> {
    endpoint: Endpoint<T>,
    tier: usize,
    state: Rc<State>,
}

/// The endpoints of a tier that can be used, with the running sum of their weights.
#[derive(Debug, Default)]
struct Tier {
    health: TierHealth,
    available: Vec<(u64, usize)>,
}

/// One tier, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierView {
    /// The distance of its endpoints, as [`Locality::distance_from`] counts.
    pub distance: u8,
    /// Its share of traffic in percent.
    pub share: u32,
    /// The weight of its endpoints.
    pub health: TierHealth,
}

/// The choice among one service's endpoints. Not shared between threads: what it learns is its worker's own.
#[derive(Debug)]
pub struct Balancer<T> {
    own: Locality,
    rows: Vec<Row<T>>,
    distances: Vec<u8>,
    tiers: Vec<Tier>,
    shares: Vec<u32>,
    /// Set by reports that change an endpoint's standing.
    stale: Rc<Cell<bool>>,
    /// When the next ejection ends.
    next_end: Option<Instant>,
}

impl<T: Clone> Balancer<T> {
    /// A balancer for a caller that runs at `own`, with no endpoints yet.
    pub fn new(own: Locality) -> Self {
        Self {
            own,
            rows: Vec::new(),
            distances: Vec::new(),
            tiers: Vec::new(),
            shares: Vec::new(),
            stale: Rc::default(),
            next_end: None,
        }
    }

    /// Moves the caller, once it is told where it runs. Takes effect with the next [`Balancer::update`].
    pub fn place_at(&mut self, own: Locality) {
        self.own = own;
    }

    /// Takes a new list of endpoints. What is known of endpoints that stay is kept, except that one that was not ready
    /// and is now starts anew: it was restarted.
    pub fn update(&mut self, endpoints: impl IntoIterator<Item = Endpoint<T>>) {
        let mut before: std::collections::HashMap<Arc<str>, Row<T>> =
            std::mem::take(&mut self.rows).into_iter().map(|row| (row.endpoint.id.clone(), row)).collect();
        for endpoint in endpoints {
            let known = before.remove(&endpoint.id);
            let restarted = known
                .as_ref()
                .is_some_and(|row| row.endpoint.health != Health::Ready && endpoint.health == Health::Ready);
            let state = known.map_or_else(
                || {
                    Rc::new(State {
                        in_flight: Cell::new(0),
                        standing: Cell::new(Standing::FRESH),
                        succeeded: Cell::new(None),
                    })
                },
                |row| row.state,
            );
            if restarted {
                state.standing.set(Standing::FRESH);
            }
            self.rows.push(Row { endpoint, tier: 0, state });
        }
        let distances: Vec<u8> = self.rows.iter().map(|row| row.endpoint.locality.distance_from(&self.own)).collect();
        self.distances = distances.clone();
        self.distances.sort_unstable();
        self.distances.dedup();
        for (row, distance) in self.rows.iter_mut().zip(distances) {
            row.tier = self.distances.binary_search(&distance).unwrap_or_default();
        }
        self.stale.set(true);
    }

    /// The next endpoint to try, avoiding those in `previous` (the ids tried before for the same request) where there
    /// is another. `random` is 64 random bits. `None` when discovery knows no ready endpoint.
    pub fn pick(&mut self, now: Instant, previous: &[Arc<str>], random: u64) -> Option<Pick<T>> {
        self.refresh(now);
        let (row, mode) = self
            .on_probation(previous)
            .map(|row| (row, Mode::Probation))
            .or_else(|| self.ordinary(previous, random).map(|row| (row, Mode::Ordinary)))
            .or_else(|| self.any_ready(previous, random).map(|row| (row, Mode::Panic)))?;
        Some(self.take(row, mode))
    }

    /// The tiers, nearest first.
    pub fn tiers(&mut self, now: Instant) -> Vec<TierView> {
        self.refresh(now);
        (self.distances.iter().zip(&self.shares).zip(&self.tiers))
            .map(|((distance, share), tier)| TierView { distance: *distance, share: *share, health: tier.health })
            .collect()
    }

    /// The endpoints with their standing and the requests under way.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Endpoint<T>, Standing, u32)> {
        self.rows.iter().map(|row| (&row.endpoint, row.state.standing.get(), row.state.in_flight.get()))
    }

    /// Whether there is no endpoint at all.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn take(&self, row: usize, mode: Mode) -> Pick<T> {
        let Row { endpoint, state, .. } = &self.rows[row];
        state.in_flight.set(state.in_flight.get() + 1);
        if let (Mode::Probation, Standing::Probation { ejections, .. }) = (mode, state.standing.get()) {
            state.standing.set(Standing::Probation { probing: true, ejections });
        }
        Pick {
            id: endpoint.id.clone(),
            target: endpoint.target.clone(),
            mode,
            state: state.clone(),
            stale: self.stale.clone(),
            reported: Cell::new(false),
        }
    }

    /// Brings tiers and shares up to date after a change of the list, of a standing, or by time.
    fn refresh(&mut self, now: Instant) {
        if !self.stale.get() && self.next_end.is_none_or(|end| now < end) {
            return;
        }
        self.stale.set(false);
        self.next_end = None;
        self.tiers.clear();
        self.tiers.resize_with(self.distances.len(), Tier::default);
        for (index, row) in self.rows.iter().enumerate() {
            let standing = row.state.standing.get().at(now);
            row.state.standing.set(standing);
            if let Standing::Ejected { until, .. } = standing {
                self.next_end = Some(self.next_end.map_or(until, |end| end.min(until)));
            }
            let tier = &mut self.tiers[row.tier];
            let weight = u64::from(row.endpoint.weight);
            if row.endpoint.health != Health::Draining {
                tier.health.total += weight;
            }
            if row.endpoint.health == Health::Ready && standing.in_use() && weight > 0 {
                tier.health.available += weight;
                tier.available.push((tier.health.available, index));
            }
        }
        let health: Vec<TierHealth> = self.tiers.iter().map(|tier| tier.health).collect();
        self.shares = loads(&health);
    }

    /// An endpoint whose ejection is over and that nobody is trying, in a tier that is used now or nearer: asking one
    /// farther away would cost this request distance for nothing.
    fn on_probation(&self, previous: &[Arc<str>]) -> Option<usize> {
        let nearest_used = self.shares.iter().position(|share| *share > 0).unwrap_or(self.tiers.len());
        self.rows.iter().position(|row| {
            row.tier <= nearest_used
                && row.endpoint.health == Health::Ready
                && row.endpoint.weight > 0
                && matches!(row.state.standing.get(), Standing::Probation { probing: false, .. })
                && !previous.contains(&row.endpoint.id)
        })
    }

    /// By share, weight and load. When every endpoint that can be used was tried before, one of them again.
    fn ordinary(&self, previous: &[Arc<str>], random: u64) -> Option<usize> {
        let mut dice = Dice(random);
        let chosen = self.tier_by_share(dice.below(100))?;
        let others = (0..self.tiers.len()).filter(|tier| *tier != chosen);
        std::iter::once(chosen)
            .chain(others)
            .find_map(|tier| self.less_loaded_of_two(&self.tiers[tier], previous, &mut dice))
            .or_else(|| self.less_loaded_of_two(&self.tiers[chosen], &[], &mut dice))
    }

    fn tier_by_share(&self, percent: u64) -> Option<usize> {
        let mut sum = 0;
        self.shares.iter().position(|share| {
            sum += u64::from(*share);
            percent < sum
        })
    }

    /// Two draws by weight; the one with less under way for its weight. At equal load the first draw stands, so that
    /// shares follow the weights exactly when there is no load to go by.
    fn less_loaded_of_two(&self, tier: &Tier, previous: &[Arc<str>], dice: &mut Dice) -> Option<usize> {
        let first = self.draw(tier, previous, dice)?;
        let second = self.draw(tier, previous, dice)?;
        let load = |row: usize| u64::from(self.rows[row].state.in_flight.get());
        let weight = |row: usize| u64::from(self.rows[row].endpoint.weight);
        Some(if load(second) * weight(first) < load(first) * weight(second) { second } else { first })
    }

    /// One draw by weight. Meeting previous endpoints a few times in a row means that they are most of the tier, so
    /// then the rest is looked through in order.
    fn draw(&self, tier: &Tier, previous: &[Arc<str>], dice: &mut Dice) -> Option<usize> {
        const DRAWS: usize = 4;
        let (sum, _) = *tier.available.last()?;
        let allowed = |row: usize| !previous.contains(&self.rows[row].endpoint.id);
        (0..DRAWS)
            .map(|_| {
                let at = dice.below(sum);
                tier.available[tier.available.partition_point(|(end, _)| *end <= at)].1
            })
            .find(|row| allowed(*row))
            .or_else(|| tier.available.iter().map(|(_, row)| *row).find(|row| allowed(*row)))
    }

    /// Everything is ejected: any endpoint that discovery calls ready, nearest tier first, untried ones first.
    fn any_ready(&self, previous: &[Arc<str>], random: u64) -> Option<usize> {
        let ready = |row: &&usize| {
            let endpoint = &self.rows[**row].endpoint;
            endpoint.health == Health::Ready && endpoint.weight > 0
        };
        let indices: Vec<usize> = (0..self.rows.len()).collect();
        let rank = |row: usize| (previous.contains(&self.rows[row].endpoint.id), self.rows[row].tier);
        let best = indices.iter().filter(ready).map(|row| rank(*row)).min()?;
        let equals: Vec<usize> = indices.iter().filter(ready).copied().filter(|row| rank(*row) == best).collect();
        Some(equals[Dice(random).below(equals.len() as u64) as usize])
    }
}

/// An endpoint taken for one attempt; counts as one request under way until dropped.
#[derive(Debug)]
pub struct Pick<T> {
    /// The endpoint's id, to be named in `previous` of the next attempt.
    pub id: Arc<str>,
    /// What the caller needs to reach it.
    pub target: T,
    /// Why this one.
    pub mode: Mode,
    state: Rc<State>,
    stale: Rc<Cell<bool>>,
    reported: Cell<bool>,
}

impl<T> Pick<T> {
    /// Says what became of the attempt. Reporting more than once counts each time, so that a connect failure and later
    /// errors on the same pick are both heard.
    pub fn report(&self, outcome: Outcome, now: Instant) {
        let before = self.state.standing.get();
        let after = match self.mode {
            Mode::Ordinary => before.after(outcome, now),
            Mode::Probation | Mode::Panic => before.after_trial(outcome, now),
        };
        self.reported.set(true);
        if outcome == Outcome::Success {
            self.state.succeeded.set(Some(now));
        }
        self.state.standing.set(after);
        if before.in_use() != after.in_use() || matches!(after, Standing::Ejected { .. }) {
            self.stale.set(true);
        }
    }

    /// Whether an attempt at the same endpoint, this one or another, has succeeded since then: it is slow, but there.
    pub fn has_succeeded_since(&self, then: Instant) -> bool {
        self.state.succeeded.get().is_some_and(|last| last >= then)
    }
}

impl<T> Drop for Pick<T> {
    fn drop(&mut self) {
        self.state.in_flight.set(self.state.in_flight.get().saturating_sub(1));
        // A probation request that nobody waited for told nothing: let the next one find out.
        if let (Mode::Probation, false, Standing::Probation { ejections, .. }) =
            (self.mode, self.reported.get(), self.state.standing.get())
        {
            self.state.standing.set(Standing::Probation { probing: false, ejections });
        }
    }
}

/// Many small numbers out of 64 random bits (the SplitMix64 sequence).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(end)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests;
