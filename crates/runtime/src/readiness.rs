//! Whether this process may be sent traffic: everything that it waits for at start is there, and it is not leaving.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What is still missing. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    missing: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// Something that the process is not ready without. Dropping it unfinished keeps the process unready.
#[derive(Debug)]
#[must_use = "call `done` when it is there"]
pub struct Missing {
    readiness: Readiness,
    what: &'static str,
}

impl Readiness {
    /// Ready, until something is missing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until `done` is called on what is returned.
    pub fn needs(&self, what: &'static str) -> Missing {
        *self.lock().entry(what).or_default() += 1;
        Missing { readiness: self.clone(), what }
    }

    /// Not ready from now on.
    pub fn leave(&self) {
        let _ = self.needs("draining");
    }

    /// Whether nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.lock().is_empty()
    }

    /// What is missing, for people.
    pub fn missing(&self) -> Vec<&'static str> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Missing {
    /// It is there.
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
    fn is_ready_when_all_is_there_until_it_leaves() {
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
    fn what_is_dropped_stays_missing() {
        let readiness = Readiness::new();
        drop(readiness.needs("identity"));
        assert!(!readiness.is_ready());
    }
}
