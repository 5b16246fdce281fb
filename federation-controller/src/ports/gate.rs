//! A bounded number of connections, shared fairly by their sources.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use telemetry::metrics::{Counter, Family, Registry, Shared};
use tokio_util::sync::CancellationToken;

use super::source_of;

/// Counts connections that lost their place to another one.
pub const EVICTED: Family = Family {
    name: "isthmus_controller_connections_evicted_total",
    help: "Connections without a proved identity that were closed in favour of another source, by port.",
    labels: &["port"],
};

/// The places of a port's connections. Clones refer to the same places.
#[derive(Clone)]
pub struct Gate {
    places: Arc<Mutex<Places>>,
    evicted: Counter<Shared>,
}

struct Places {
    max: usize,
    taken: usize,
    next: u64,
    /// The connections of each source, the oldest first.
    sources: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
}

impl Gate {
    /// Creates a gate with `max` places. `port` names it in metrics.
    pub fn new(port: &'static str, max: usize, metrics: &Registry) -> Self {
        let places = Places { max: max.max(1), taken: 0, next: 0, sources: HashMap::new() };
        Gate { places: Arc::new(Mutex::new(places)), evicted: metrics.shared().counter(&EVICTED, &[port]) }
    }

    /// Takes a place for a connection. If none is free, the source with the most connections loses its oldest one; of
    /// several such sources, the one whose connection is oldest.
    pub fn admit(&self, address: IpAddr) -> Place {
        let source = source_of(address);
        let mut places = lock(&self.places);
        if places.taken >= places.max {
            places.evict();
            self.evicted.increment();
        }
        let key = places.next;
        places.next += 1;
        places.taken += 1;
        let lost = CancellationToken::new();
        places.sources.entry(source).or_default().insert(key, lost.clone());
        Place { places: Arc::clone(&self.places), source, key, lost }
    }

    /// Returns the number of connections.
    pub fn taken(&self) -> usize {
        lock(&self.places).taken
    }
}

impl Places {
    fn evict(&mut self) {
        // At most as many sources as places.
        let oldest = |held: &BTreeMap<u64, CancellationToken>| held.keys().next().copied();
        let most = self.sources.iter().max_by_key(|(_, held)| (held.len(), std::cmp::Reverse(oldest(held))));
        let Some((source, key)) = most.and_then(|(source, held)| Some((*source, oldest(held)?))) else { return };
        if let Some(lost) = self.remove(source, key) {
            lost.cancel();
        }
    }

    fn remove(&mut self, source: IpAddr, key: u64) -> Option<CancellationToken> {
        let held = self.sources.get_mut(&source)?;
        let removed = held.remove(&key);
        if held.is_empty() {
            self.sources.remove(&source);
        }
        self.taken -= usize::from(removed.is_some());
        removed
    }
}

/// A connection's place. Dropping it frees the place.
pub struct Place {
    places: Arc<Mutex<Places>>,
    source: IpAddr,
    key: u64,
    lost: CancellationToken,
}

impl Place {
    /// Completes when another connection takes the place.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns a token that is cancelled when another connection takes the place.
    pub fn token(&self) -> CancellationToken {
        self.lost.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places).remove(self.source, self.key);
    }
}

/// Locks a mutex, also a poisoned one: every change under this lock is a single step.
fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_full_gate_drops_the_oldest_connection_of_the_source_with_the_most() {
        let registry = Registry::new();
        let gate = Gate::new("test", 4, &registry);
        let own = gate.admit(ip(1));
        let greedy: Vec<Place> = (0..10).map(|_| gate.admit(ip(2))).collect();
        assert!(!own.lost.is_cancelled(), "another source keeps its place");
        let open: Vec<bool> = greedy.iter().map(|place| !place.lost.is_cancelled()).collect();
        assert_eq!(open, [false, false, false, false, false, false, false, true, true, true]);
        assert_eq!((gate.taken(), registry.total(&EVICTED, |_| true)), (4, 7));
        let late = gate.admit(ip(3));
        assert!(!late.lost.is_cancelled() && greedy[7].lost.is_cancelled());
        drop((greedy, own, late));
        assert_eq!(gate.taken(), 0, "also places that were lost are free once");
    }

    #[test]
    fn among_many_sources_the_oldest_connection_goes() {
        let gate = Gate::new("test", 3, &Registry::new());
        let places: Vec<Place> = (1..=4).map(|source| gate.admit(ip(source))).collect();
        let lost: Vec<bool> = places.iter().map(|place| place.lost.is_cancelled()).collect();
        assert_eq!(lost, [true, false, false, false]);
    }
}
