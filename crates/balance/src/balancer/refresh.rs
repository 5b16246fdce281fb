//! Recomputing pools and shares after a change.

use std::time::Instant;

use super::{Balancer, DEGRADED, Health, Pool, Row};
use crate::{Detection, EndpointState, TierHealth, Warmup, loads};

impl<T: Clone> Balancer<T> {
    /// Recomputes pools and shares after a change of endpoints or states, or when an ejection has ended.
    pub(super) fn refresh(&mut self, now: Instant) {
        let changed = match &self.settings.detection {
            Detection::Default(_) => false,
            Detection::Configured(detector) => detector.version() != self.version,
        };
        if changed || self.shared.stale.get() || self.next.is_some_and(|next| now >= next) {
            self.rebuild(now);
        }
    }

    fn rebuild(&mut self, now: Instant) {
        self.shared.stale.set(false);
        self.next = None;
        if let Detection::Configured(detector) = &self.settings.detection {
            self.next = detector.sweep(now);
            self.version = detector.version();
        }
        let warmup = self.settings.warmup();
        let (mut ejected, mut probation) = (0, false);
        for row in &mut self.rows {
            self.next = earliest(self.next, row.refresh(now, warmup));
            if row.host.is_none() {
                ejected += usize::from(!row.in_use);
                probation |= matches!(row.record.state.get(), EndpointState::Probation { .. });
            }
        }
        self.shared.counts.borrow().change_active(self.ejected, ejected);
        self.ejected = ejected;
        self.shared.probation.set(probation);
        let before = std::mem::take(&mut self.pools);
        if self.weights.is_empty() {
            self.make_tiers();
        } else {
            self.make_shares();
        }
        self.total = self.pools.iter().map(|pool| pool.share).sum();
        self.pools.iter_mut().zip(before).for_each(|(pool, before)| pool.continue_from(before));
    }

    /// Makes a pool for each tier, with its share by Envoy's priority arithmetic.
    fn make_tiers(&mut self) {
        self.pools = self.pools_of(self.ranks.len(), |row| Some(row.tier));
        let health = self.health_of(&self.pools);
        let is_panic = self.panic_test();
        let capacity = health.iter().map(|tier| tier.capacity()).sum::<u32>();
        if capacity < 100 && self.pools.iter().any(|pool| pool.ready > 0 && is_panic(pool.in_use, pool.ready)) {
            let total = self.pools.iter().all(|pool| is_panic(pool.in_use, pool.ready));
            for index in 0..self.pools.len() {
                if is_panic(self.pools[index].in_use, self.pools[index].ready) {
                    self.use_all(index, |row| Some(row.tier));
                }
            }
            if total {
                // By the number of endpoints, whatever their health is.
                let regular = self.regular();
                let others = self.pools[..regular].iter().any(|pool| pool.ready > 0);
                for (tier, pool) in self.pools.iter_mut().enumerate() {
                    pool.share = if others && tier >= regular { 0 } else { pool.ready };
                }
                return;
            }
        }
        for (pool, share) in self.pools.iter_mut().zip(loads(&health)) {
            pool.share = share.into();
        }
    }

    /// Makes a pool for each entry of the caller's shares and, if other endpoints take over from an entry that lacks
    /// some, for each tier of these.
    fn make_shares(&mut self) {
        let entries = self.weights.len();
        self.pools = self.pools_of(entries, |row| row.entry);
        let sum = |of: fn(&Pool) -> u64| self.pools.iter().map(of).sum::<u64>();
        let (in_use, ready) = (sum(|pool| pool.in_use), sum(|pool| pool.ready));
        let health = TierHealth { available: sum(|pool| pool.health.available), total: sum(|pool| pool.health.total) };
        if ready > 0 && health.capacity() < 100 && self.panic_test()(in_use, ready) {
            for entry in 0..entries {
                self.use_all(entry, |row| row.entry);
                let used = !self.pools[entry].available.is_empty();
                self.pools[entry].share = if used { self.weights[entry].into() } else { 0 };
            }
            return;
        }
        let capacities: Vec<u64> = self.pools.iter().map(|pool| pool.health.capacity().into()).collect();
        let carried = |entry: usize| u64::from(self.weights[entry]) * capacities[entry];
        let left = (0..entries).map(|entry| u64::from(self.weights[entry]) * 100 - carried(entry)).sum::<u64>();
        let others = if self.takes_over && left > 0 {
            // An entry that lacks endpoints has its own share to carry.
            self.pools_of(self.ranks.len(), |row| {
                row.entry.is_none_or(|entry| capacities[entry] >= 100).then_some(row.tier)
            })
        } else {
            Vec::new()
        };
        let shares = loads(&self.health_of(&others));
        let (carried, covered): (Vec<u64>, _) =
            ((0..entries).map(carried).collect(), shares.iter().any(|share| *share > 0));
        let nothing = !covered && carried.iter().all(|carried| *carried == 0);
        for (entry, pool) in self.pools.iter_mut().enumerate() {
            pool.share = match nothing {
                // A capacity of less than a percent rounds to 0.
                true if !pool.available.is_empty() => self.weights[entry].into(),
                _ => carried[entry] * 100,
            };
        }
        for (mut pool, share) in others.into_iter().zip(shares) {
            pool.share = left * u64::from(share);
            self.pools.push(pool);
        }
    }

    /// Returns the number of tiers before those of the endpoints that are the last resort.
    fn regular(&self) -> usize {
        self.ranks.partition_point(|rank| *rank < DEGRADED)
    }

    /// Returns the health of tiers. Endpoints that are the last resort carry nothing while others are in use.
    fn health_of(&self, tiers: &[Pool]) -> Vec<TierHealth> {
        let regular = self.regular().min(tiers.len());
        let spared = tiers[..regular].iter().any(|tier| tier.health.available > 0);
        let health = |(tier, pool): (usize, &Pool)| {
            if spared && tier >= regular { TierHealth::default() } else { pool.health }
        };
        tiers.iter().enumerate().map(health).collect()
    }

    /// Returns pools of the endpoints in use. `of` returns the pool of a row.
    fn pools_of(&self, count: usize, of: impl Fn(&Row<T>) -> Option<usize>) -> Vec<Pool> {
        let mut pools = Vec::new();
        pools.resize_with(count, Pool::default);
        for (index, row) in self.rows.iter().enumerate() {
            let Some(pool) = of(row).and_then(|pool| pools.get_mut(pool)) else { continue };
            let weight = u64::from(row.endpoint.weight);
            if row.endpoint.health != Health::Draining {
                pool.health.total += weight;
            }
            if !row.is_ready() {
                continue;
            }
            pool.ready += 1;
            if row.in_use {
                pool.in_use += 1;
                pool.health.available += weight;
                pool.add(index, row.weight);
            }
        }
        pools
    }

    /// Adds the ejected endpoints to a pool.
    fn use_all(&mut self, index: usize, of: impl Fn(&Row<T>) -> Option<usize>) {
        let pool = &mut self.pools[index];
        pool.panic = true;
        pool.available.clear();
        for (number, row) in self.rows.iter().enumerate() {
            if of(row) == Some(index) && row.is_ready() {
                pool.add(number, row.weight);
            }
        }
    }

    /// Returns a test whether too few of the endpoints that are ready are in use.
    fn panic_test(&self) -> impl Fn(u64, u64) -> bool + use<T> {
        let threshold = match &self.settings.detection {
            Detection::Default(_) => 0,
            Detection::Configured(detector) => u64::from(detector.policy().min_health_percent.min(100)),
        };
        move |in_use, ready| threshold > 0 && in_use * 100 < threshold * ready.max(1)
    }
}

impl<T> Row<T> {
    /// Brings the state and the weight up to `now`, and returns when they change by themselves.
    fn refresh(&mut self, now: Instant, warmup: Option<Warmup>) -> Option<Instant> {
        let mut next = None;
        self.in_use = match &self.host {
            Some(host) => !host.is_ejected(),
            None => {
                let state = self.record.state.get().at(now);
                self.record.state.set(state);
                if let EndpointState::Ejected { until, .. } = state {
                    next = Some(until);
                }
                state.in_use()
            }
        };
        self.weight = self.endpoint.weight.into();
        if let Some(warmup) = warmup
            && self.is_ready()
        {
            let since = self.record.ready_since.get().unwrap_or(now);
            self.record.ready_since.set(Some(since));
            let (weight, change) = warmup.weight(self.endpoint.weight, since, now);
            self.weight = weight;
            next = earliest(next, change);
        }
        next
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
