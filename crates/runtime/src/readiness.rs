//! Readiness: whether the process may receive traffic. It is ready once all of its start conditions are met, until it
//! drains.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The readiness of a process. Clones refer to the same process.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    missing: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// A condition of readiness that is not met yet. If it is dropped without [`ReadinessCondition::done`], the process
/// never becomes ready.
#[derive(Debug)]
#[must_use = "call `done` when the condition is met"]
pub struct ReadinessCondition {
    readiness: Readiness,
    what: &'static str,
}

impl Readiness {
    /// Creates a readiness without conditions: the process is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition. The process is not ready until `done` is called on the returned value.
    pub fn needs(&self, what: &'static str) -> ReadinessCondition {
        *self.lock().entry(what).or_default() += 1;
        ReadinessCondition { readiness: self.clone(), what }
    }

    /// Makes the process not ready from now on, because it drains.
    pub fn leave(&self) {
        let _ = self.needs("draining");
    }

    /// Returns whether the process is ready.
    pub fn is_ready(&self) -> bool {
        self.lock().is_empty()
    }

    /// Returns the names of the conditions that are not met.
    pub fn missing(&self) -> Vec<&'static str> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadinessCondition {
    /// Marks the condition as met.
    pub fn done(self) {
        let mut missing = self.readiness.lock();
        if let Some(count) = missing.get_mut(self.what) {
            *count -= 1;
            if *count == 0 {
                missing.remove(self.what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_conditions_are_met_until_drain() {
        let readiness = Readiness::new();
        let (identity, again, routes) =
            (readiness.needs("identity"), readiness.needs("identity"), readiness.needs("routes"));
        assert_eq!(readiness.missing(), ["identity", "routes"]);
        identity.done();
        routes.done();
        assert_eq!(readiness.missing(), ["identity"]);
        again.done();
        assert!(readiness.is_ready());
        readiness.leave();
        assert!(!readiness.is_ready());
    }

    #[test]
    fn a_dropped_condition_is_never_met() {
        let readiness = Readiness::new();
        drop(readiness.needs("identity"));
        assert!(!readiness.is_ready());
    }
}
