//! The next sizes of a Deployment's ReplicaSets.
//!
//! The arithmetic is that of `RollingUpdate` and `Recreate` in the documentation of Kubernetes: never more than
//! `replicas + maxSurge` pods, never fewer than `replicas - maxUnavailable` available ones.

use k8s_openapi::api::apps::v1::DeploymentStrategy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The size of a ReplicaSet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetSize {
    /// `spec.replicas`.
    pub wanted: i32,
    /// `status.availableReplicas`.
    pub available: i32,
}

/// The strategy, with percentages resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutStrategy {
    /// All old pods are deleted before the first new one is created.
    Recreate,
    /// Pods are replaced a few at a time.
    Rolling {
        /// Pods above the desired number.
        surge: i32,
        /// Pods below the desired number.
        unavailable: i32,
    },
}

impl RolloutStrategy {
    /// Resolves a Deployment's strategy for `replicas` pods. The default is 25% both ways.
    #[must_use]
    pub fn resolve(strategy: Option<&DeploymentStrategy>, replicas: i32) -> Self {
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self::Recreate;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = share(rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter), replicas, true);
        let unavailable = share(rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter), replicas, false);
        // With neither, a rollout could not start.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(replicas.max(1)) };
        Self::Rolling { surge, unavailable }
    }
}

/// Resolves a number of pods or a percentage of all pods.
pub(super) fn share(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or(25).clamp(0, 100);
            let product = i64::from(percent) * i64::from(of);
            let rounded = if up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(rounded).unwrap_or(of)
        }
    }
}

/// Returns the next size of the new ReplicaSet and of the old ones, oldest first.
///
/// `old_pods` is whether pods of old ReplicaSets still run, which `Recreate` waits for.
#[must_use]
pub fn next(
    strategy: RolloutStrategy,
    replicas: i32,
    new: SetSize,
    old: &[SetSize],
    old_pods: bool,
) -> (i32, Vec<i32>) {
    let keep = |sets: &[SetSize]| sets.iter().map(|set| set.wanted).collect::<Vec<_>>();
    match strategy {
        RolloutStrategy::Recreate => {
            if old.iter().any(|set| set.wanted > 0) {
                (new.wanted, vec![0; old.len()])
            } else if old_pods {
                (new.wanted, keep(old))
            } else {
                (replicas, keep(old))
            }
        }
        RolloutStrategy::Rolling { surge, unavailable } => {
            let grown = grow(replicas, surge, new, old);
            let shrunk = shrink(replicas, unavailable, SetSize { wanted: grown, ..new }, old);
            (grown, shrunk)
        }
    }
}

fn grow(replicas: i32, surge: i32, new: SetSize, old: &[SetSize]) -> i32 {
    if new.wanted >= replicas {
        return replicas;
    }
    let total = new.wanted + old.iter().map(|set| set.wanted).sum::<i32>();
    let room = (replicas + surge - total).max(0);
    new.wanted + room.min(replicas - new.wanted)
}

fn shrink(replicas: i32, unavailable: i32, new: SetSize, old: &[SetSize]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| set.wanted).collect();
    let total = new.wanted + sizes.iter().sum::<i32>();
    let least = replicas - unavailable;
    let new_unavailable = (new.wanted - new.available).max(0);
    let mut budget = total - least - new_unavailable;
    if budget <= 0 {
        return sizes;
    }
    // Unavailable pods are deleted first: they cost no availability.
    for (size, set) in sizes.iter_mut().zip(old) {
        let broken = (set.wanted - set.available).max(0).min(budget);
        *size -= broken;
        budget -= broken;
    }
    let available = new.available.min(new.wanted) + old.iter().map(|set| set.available).sum::<i32>();
    let mut spare = (available - least).max(0).min(budget);
    for size in &mut sizes {
        let taken = (*size).min(spare);
        *size -= taken;
        spare -= taken;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(wanted: i32, available: i32) -> SetSize {
        SetSize { wanted, available }
    }

    const QUARTER: RolloutStrategy = RolloutStrategy::Rolling { surge: 1, unavailable: 0 };

    #[test]
    fn percentages_round_towards_safety() {
        let strategy = |text: &str| serde_json::from_str::<DeploymentStrategy>(text).expect(text);
        let cases: &[(Option<&str>, i32, RolloutStrategy)] = &[
            (None, 2, RolloutStrategy::Rolling { surge: 1, unavailable: 0 }),
            (None, 10, RolloutStrategy::Rolling { surge: 3, unavailable: 2 }),
            (Some(r#"{"type":"Recreate"}"#), 3, RolloutStrategy::Recreate),
            (
                Some(r#"{"rollingUpdate":{"maxSurge":0,"maxUnavailable":0}}"#),
                3,
                RolloutStrategy::Rolling { surge: 0, unavailable: 1 },
            ),
            (
                Some(r#"{"rollingUpdate":{"maxSurge":"50%","maxUnavailable":"100%"}}"#),
                3,
                RolloutStrategy::Rolling { surge: 2, unavailable: 3 },
            ),
        ];
        for (text, replicas, expected) in cases {
            let strategy = text.map(strategy);
            assert_eq!(RolloutStrategy::resolve(strategy.as_ref(), *replicas), *expected, "{text:?} of {replicas}");
        }
    }

    #[test]
    fn steps() {
        type Step<'a> = (&'a str, RolloutStrategy, i32, SetSize, &'a [SetSize], bool, i32, &'a [i32]);
        let cases: &[Step<'_>] = &[
            ("first", QUARTER, 2, set(0, 0), &[], false, 2, &[]),
            ("scaled up", QUARTER, 5, set(2, 2), &[], false, 5, &[]),
            ("scaled down", QUARTER, 1, set(3, 3), &[], false, 1, &[]),
            ("one more", QUARTER, 2, set(0, 0), &[set(2, 2)], true, 1, &[2]),
            ("new is not ready", QUARTER, 2, set(1, 0), &[set(2, 2)], true, 1, &[2]),
            ("new is ready", QUARTER, 2, set(1, 1), &[set(2, 2)], true, 1, &[1]),
            ("next one", QUARTER, 2, set(1, 1), &[set(1, 1)], true, 2, &[1]),
            ("last one", QUARTER, 2, set(2, 2), &[set(1, 1)], true, 2, &[0]),
            ("old is broken", QUARTER, 2, set(1, 0), &[set(2, 1)], true, 1, &[2]),
            (
                "broken first",
                RolloutStrategy::Rolling { surge: 0, unavailable: 1 },
                2,
                set(0, 0),
                &[set(2, 1)],
                true,
                0,
                &[1],
            ),
            ("nothing left", QUARTER, 0, set(0, 0), &[set(2, 2)], true, 0, &[0]),
            ("recreate: down", RolloutStrategy::Recreate, 2, set(0, 0), &[set(2, 2)], true, 0, &[0]),
            ("recreate: wait", RolloutStrategy::Recreate, 2, set(0, 0), &[set(0, 0)], true, 0, &[0]),
            ("recreate: up", RolloutStrategy::Recreate, 2, set(0, 0), &[set(0, 0)], false, 2, &[0]),
        ];
        for (name, strategy, replicas, new, old, old_pods, grown, shrunk) in cases {
            let got = next(*strategy, *replicas, *new, old, *old_pods);
            assert_eq!(got, (*grown, shrunk.to_vec()), "{name}");
        }
    }

    #[test]
    fn a_rollout_ends_and_keeps_its_bounds() {
        for replicas in 0..8 {
            for (surge, unavailable) in [(1, 0), (0, 1), (2, 2), (8, 0)] {
                let strategy = RolloutStrategy::Rolling { surge, unavailable };
                let (mut new, mut old) = (set(0, 0), vec![set(replicas, replicas)]);
                let mut steps = 0;
                while new.wanted != replicas || old[0].wanted != 0 || new.available != replicas {
                    let (grown, shrunk) = next(strategy, replicas, new, &old, true);
                    assert!(grown + shrunk[0] <= replicas + surge, "never more than replicas + surge");
                    // Old pods end at once, new pods become available one by one.
                    old[0] = set(shrunk[0], old[0].available.min(shrunk[0]));
                    assert!(new.available + old[0].available >= replicas - unavailable, "enough stay available");
                    new = set(grown, (new.available + 1).min(grown));
                    steps += 1;
                    assert!(steps < 100, "{replicas} replicas, surge {surge}, unavailable {unavailable}");
                }
            }
        }
    }
}
