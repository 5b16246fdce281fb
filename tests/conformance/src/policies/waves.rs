//! Waves: cases that run at the same time, each in a namespace of its own.

use crate::case::Case;

use super::{SLOTS, slot};

/// Cases that run at the same time.
#[derive(Debug)]
pub struct Wave<'a> {
    /// The cases with their namespaces.
    pub cases: Vec<(&'a Case, String)>,
    slots: usize,
}

impl<'a> Wave<'a> {
    /// Adds a case, if it may run together with the others.
    fn add(&mut self, case: &'a Case) -> bool {
        let place = case.namespace.clone().or_else(|| (self.slots < SLOTS).then(|| slot(self.slots)));
        let Some(place) = place.filter(|place| self.cases.iter().all(|(_, taken)| taken != place)) else { return false };
        let together = |first: &Case| {
            !first.alone && !case.alone && first.mesh == case.mesh && has_later(first) == has_later(case)
        };
        if !self.cases.first().is_none_or(|(first, _)| together(first)) {
            return false;
        }
        self.slots += usize::from(case.namespace.is_none());
        self.cases.push((case, place));
        true
    }
}

/// Distributes cases over as few waves as possible, those with the same settings of the mesh one after the other.
pub fn waves<'a>(cases: &[&'a Case]) -> Vec<Wave<'a>> {
    let mut cases = cases.to_vec();
    cases.sort_by_key(|case| case.mesh.as_ref().map(ToString::to_string));
    let mut waves: Vec<Wave<'_>> = Vec::new();
    for case in cases {
        if !waves.iter_mut().any(|wave| wave.add(case)) {
            let mut wave = Wave { cases: Vec::new(), slots: 0 };
            wave.add(case);
            waves.push(wave);
        }
    }
    waves
}

fn has_later(case: &Case) -> bool {
    case.config.iter().any(|object| object.get("later").is_some())
}
