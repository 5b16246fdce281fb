//! The balancer of one service, as one worker uses it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::outlier::Host;
use crate::{Algorithm, Detection, EjectionCounts, EndpointState, Locality, Settings, TierHealth};

mod choose;
mod forecast;
mod pick;
mod pool;
mod refresh;
#[cfg(test)]
mod tests;

pub use forecast::{EndpointForecast, Forecast};
pub use pick::Pick;
use pick::{EndpointRecord, SharedState};
use pool::Pool;

/// Added to the rank of endpoints that are the last resort, which puts them behind all others.
const DEGRADED: u32 = 1 << 31;

/// The health of an endpoint, as discovery reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// In use.
    Ready,
    /// Ready, but used only while no endpoint that is [`Health::Ready`] is in use: the last resort.
    Degraded,
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
    /// The rank by labels ([`crate::FailoverPriority::rank`]), if [`crate::Preference`] says so. 0 is used first.
    pub priority: u32,
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
    /// By tiers, weight and algorithm.
    Ordinary,
    /// As the probation request of an endpoint whose ejection has ended.
    Probation,
    /// Too few endpoints are in use, so all of them are.
    Panic,
}

#[derive(Debug)]
struct Row<T> {
    endpoint: Endpoint<T>,
    /// The index of its rank.
    tier: usize,
    /// The entry of the caller's shares that it belongs to.
    entry: Option<usize>,
    record: Rc<EndpointRecord>,
    /// Its state in a configured outlier detection.
    host: Option<Arc<Host>>,
    /// It is not ejected.
    in_use: bool,
    /// The weight with warm-up.
    weight: u64,
}

/// The state of a tier or of an entry of shares, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierView {
    /// The rank: by default, the distance of its endpoints ([`Locality::distance_from`]).
    pub rank: u32,
    /// The share of traffic in percent.
    pub share: u32,
    /// The weight of its endpoints.
    pub health: TierHealth,
}

/// Chooses among one service's endpoints. Each worker has balancers of its own.
#[derive(Debug)]
pub struct Balancer<T> {
    own: Locality,
    settings: Settings,
    rows: Vec<Row<T>>,
    /// The ranks that occur.
    ranks: Vec<u32>,
    /// The weights of the caller's shares; empty: it has none.
    weights: Vec<u32>,
    /// With shares, endpoints without one take over from those with one.
    takes_over: bool,
    /// By tier. With shares: by entry, then the tiers that take over.
    pools: Vec<Pool>,
    /// The sum of the shares of all pools.
    total: u64,
    shared: Rc<SharedState>,
    /// When something changes without a report: an ejection ends, or warm-up goes on.
    next: Option<Instant>,
    /// The version of the configured outlier detection that pools were made with.
    version: u64,
    /// The number of endpoints that the default outlier detection has ejected.
    ejected: usize,
}

impl<T: Clone> Balancer<T> {
    /// Creates a balancer without endpoints for a caller in the locality `own`.
    pub fn new(own: Locality) -> Self {
        Self {
            own,
            settings: Settings::default(),
            rows: Vec::new(),
            ranks: Vec::new(),
            weights: Vec::new(),
            takes_over: false,
            pools: Vec::new(),
            total: 0,
            shared: Rc::default(),
            next: None,
            version: 0,
            ejected: 0,
        }
    }

    /// Sets the caller's locality. Takes effect with the next [`Balancer::update`].
    pub fn set_locality(&mut self, own: Locality) {
        self.own = own;
    }

    /// Sets how endpoints are chosen, and when they are ejected. Takes effect with the next [`Balancer::update`].
    pub fn set_settings(&mut self, settings: Settings) {
        if let Detection::Default(policy) = settings.detection {
            self.shared.outlier_detection.set(policy);
        } else {
            self.rows.iter().for_each(|row| row.record.state.set(EndpointState::NEW));
        }
        self.settings = settings;
    }

    /// Sets where the ejections of the default outlier detection are counted, before the first
    /// [`Balancer::update`].
    pub fn set_counts(&mut self, counts: EjectionCounts) {
        *self.shared.counts.borrow_mut() = counts;
    }

    /// Replaces the endpoints. The state of endpoints that remain is kept, except that of an endpoint that becomes
    /// ready: it was restarted.
    pub fn update(&mut self, endpoints: impl IntoIterator<Item = Endpoint<T>>) {
        let mut before: std::collections::HashMap<Arc<str>, Row<T>> =
            std::mem::take(&mut self.rows).into_iter().map(|row| (row.endpoint.id.clone(), row)).collect();
        let policy = &self.settings.locality;
        let shares = policy.shares_for(&self.own);
        let mut ranks = Vec::new();
        for endpoint in endpoints {
            let known = before.remove(&endpoint.id);
            let restarted = known
                .as_ref()
                .is_some_and(|row| row.endpoint.health != Health::Ready && endpoint.health == Health::Ready);
            let record = known.map_or_else(Rc::default, |row| row.record);
            if restarted {
                record.state.set(EndpointState::NEW);
                record.ready_since.set(None);
            }
            let rank = policy.rank(&self.own, &endpoint.locality, endpoint.priority);
            ranks.push(if endpoint.health == Health::Degraded { rank | DEGRADED } else { rank });
            let matches = |(to, _): &(crate::LocalityPattern, u32)| to.matches(&endpoint.locality);
            let entry = shares.and_then(|shares| shares.iter().position(matches));
            self.rows.push(Row { endpoint, tier: 0, entry, record, host: None, in_use: true, weight: 0 });
        }
        if self.rows.iter().any(|row| row.entry.is_some() && row.endpoint.health == Health::Ready) {
            // Others carry the share of a locality whose endpoints are the last resort.
            self.rows.iter_mut().filter(|row| row.is_degraded()).for_each(|row| row.entry = None);
        }
        self.weights = shares.into_iter().flatten().map(|(_, weight)| *weight).collect();
        self.takes_over = policy.takes_over();
        self.ranks = ranks.clone();
        self.ranks.sort_unstable();
        self.ranks.dedup();
        for (row, rank) in self.rows.iter_mut().zip(ranks) {
            row.tier = self.ranks.binary_search(&rank).unwrap_or_default();
        }
        if let Detection::Configured(detector) = &self.settings.detection {
            let hosts = detector.replace(self.rows.iter().map(|row| &row.endpoint.id));
            self.rows.iter_mut().zip(hosts).for_each(|(row, host)| row.host = Some(host));
        }
        self.pools.clear();
        self.shared.stale.set(true);
    }

    /// Picks the endpoint for the next attempt, avoiding those in `previous` (the endpoints of earlier attempts of the
    /// same request) if there is another. `random` is 64 random bits. Returns `None` if no endpoint is ready.
    pub fn pick(&mut self, now: Instant, previous: &[Arc<str>], random: u64) -> Option<Pick<T>> {
        self.pick_by(now, previous, None, random)
    }

    /// Picks as [`Balancer::pick`] does. `hash` is the hash of the request for [`Algorithm::RingHash`] and
    /// [`Algorithm::Maglev`]; without one, `random` takes its place.
    pub fn pick_by(&mut self, now: Instant, previous: &[Arc<str>], hash: Option<u64>, random: u64) -> Option<Pick<T>> {
        self.refresh(now);
        let random = hash.filter(|_| self.hashes()).unwrap_or(random);
        let (row, mode) = self
            .on_probation(previous)
            .map(|row| (row, Mode::Probation))
            .or_else(|| self.ordinary(previous, random))
            .or_else(|| self.any_ready(previous, random).map(|row| (row, Mode::Panic)))?;
        if mode == Mode::Panic {
            match &self.settings.detection {
                Detection::Default(_) => self.shared.counts.borrow().note_panic(),
                Detection::Configured(detector) => detector.counts().note_panic(),
            }
        }
        Some(self.reserve(row, mode))
    }

    /// Returns whether picks depend on the hash of the request.
    pub fn hashes(&self) -> bool {
        matches!(self.settings.algorithm, Algorithm::RingHash { .. } | Algorithm::Maglev { .. })
    }

    /// Returns the tiers, the one that is used first first. With shares for the caller, first the entries, then the tiers
    /// that take over.
    pub fn tiers(&mut self, now: Instant) -> Vec<TierView> {
        self.refresh(now);
        let entries = self.weights.len();
        let view = |(index, pool): (usize, &Pool)| TierView {
            rank: if index < entries { 0 } else { self.ranks[index - entries] },
            share: (pool.share * 100).checked_div(self.total).unwrap_or(0) as u32,
            health: pool.health,
        };
        self.pools.iter().enumerate().map(view).collect()
    }

    /// Returns the endpoints with their states and the numbers of requests in progress.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Endpoint<T>, EndpointState, u32)> {
        let state = |row: &Row<T>| match (&self.settings.detection, &row.host) {
            (Detection::Configured(detector), Some(host)) => detector.state(host),
            _ => row.record.state.get(),
        };
        self.rows.iter().map(move |row| (&row.endpoint, state(row), row.record.in_flight.get()))
    }

    /// Returns whether there are no endpoints.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn reserve(&self, row: usize, mode: Mode) -> Pick<T> {
        let Row { endpoint, record, host, .. } = &self.rows[row];
        record.in_flight.set(record.in_flight.get() + 1);
        if let (Mode::Probation, EndpointState::Probation { ejections, .. }) = (mode, record.state.get()) {
            record.state.set(EndpointState::Probation { probing: true, ejections });
        }
        let detection = match (&self.settings.detection, host) {
            (Detection::Configured(detector), Some(host)) => Some((detector.clone(), host.clone())),
            _ => None,
        };
        Pick {
            id: endpoint.id.clone(),
            target: endpoint.target.clone(),
            mode,
            record: record.clone(),
            shared: self.shared.clone(),
            detection,
            reported: Cell::new(false),
        }
    }

    /// Returns whether the caller's shares and tiers include an endpoint.
    fn includes(&self, row: &Row<T>) -> bool {
        self.weights.is_empty() || row.entry.is_some() || self.takes_over
    }
}

impl<T> Row<T> {
    /// Returns whether the endpoint would be picked, were it not ejected.
    fn is_ready(&self) -> bool {
        matches!(self.endpoint.health, Health::Ready | Health::Degraded) && self.endpoint.weight > 0
    }

    fn is_degraded(&self) -> bool {
        self.endpoint.health == Health::Degraded
    }
}

impl<T> Drop for Balancer<T> {
    fn drop(&mut self) {
        self.shared.counts.borrow().change_active(self.ejected, 0);
    }
}
