//! Waves: cases that run at the same time, each in a namespace of its own.

use crate::case::Case;

/// Cases that run at the same time.
#[derive(Debug)]
pub struct Wave<'a> {
    /// The cases with their namespaces.
    pub cases: Vec<(&'a Case, String)>,
    slots: usize,
}

impl<'a> Wave<'a> {
    /// Adds a case, if it may run together with the others.
    fn add(&mut self, case: &'a Case, slots: &[String]) -> bool {
        let place = case.namespace.clone().or_else(|| slots.get(self.slots).cloned());
        let Some(place) = place.filter(|place| self.cases.iter().all(|(_, taken)| taken != place)) else {
            return false;
        };
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

/// Distributes cases over as few waves as possible, those with the same settings of the mesh one after the other. `slots` are the
/// namespaces that are made for cases.
pub fn waves<'a>(cases: &[&'a Case], slots: &[String]) -> Vec<Wave<'a>> {
    let mut cases = cases.to_vec();
    cases.sort_by_key(|case| case.mesh.as_ref().map(ToString::to_string));
    let mut waves: Vec<Wave<'_>> = Vec::new();
    for case in cases {
        if !waves.iter_mut().any(|wave| wave.add(case, slots)) {
            let mut wave = Wave { cases: Vec::new(), slots: 0 };
            wave.add(case, slots);
            waves.push(wave);
        }
    }
    waves
}

fn has_later(case: &Case) -> bool {
    case.config.iter().any(|object| object.get("later").is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SLOTS: usize = 16;

    fn case(name: &str, with: Value) -> Case {
        let mut case = json!({"name": name, "about": "", "requests": [{}]});
        for (field, value) in with.as_object().into_iter().flatten() {
            case[field] = value.clone();
        }
        serde_json::from_value(case).unwrap()
    }

    #[test]
    fn cases_share_a_wave_unless_they_would_see_each_other() {
        let mut cases: Vec<Case> = (0..SLOTS + 1).map(|n| case(&format!("a-{n}"), json!({}))).collect();
        cases.extend([
            case("alone", json!({"alone": true})),
            case("shop-1", json!({"namespace": "shop"})),
            case("shop-2", json!({"namespace": "shop"})),
            case("mesh", json!({"mesh": {"a": 1}})),
            case("later", json!({"config": [{"later": true}]})),
        ]);
        let slots: Vec<String> = (0..SLOTS).map(|index| format!("slot-{index}")).collect();
        let waves = waves(&cases.iter().collect::<Vec<_>>(), &slots);
        let of = |name: &str| waves.iter().position(|wave| wave.cases.iter().any(|(case, _)| case.name == name));
        assert_eq!(waves.iter().map(|wave| wave.cases.len()).sum::<usize>(), cases.len());
        assert_eq!((of("a-0"), of("shop-1"), of("a-16"), of("shop-2")), (Some(0), Some(0), Some(1), Some(1)));
        for name in ["alone", "mesh", "later"] {
            assert_eq!(waves[of(name).unwrap()].cases.len(), 1, "{name}");
        }
        for wave in &waves {
            let places: std::collections::BTreeSet<_> = wave.cases.iter().map(|(_, place)| place).collect();
            assert_eq!(places.len(), wave.cases.len());
        }
    }
}
