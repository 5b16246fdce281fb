//! Which security policies are in force in the proxies that they select.
//!
//! A version of a policy is in force once every connected proxy that it selects has acknowledged what was published with
//! it, and a proxy acknowledges what it has applied. Proxies that connect later accept no connection before they have
//! their policies, so a version that is in force stays so.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::compile::policies::own_policies;
use crate::discovery::proxies::Proxies;
use crate::inventory::{ClusterInventory, Inventory, RuleState, machines};
use crate::objects::{Key, Kind, Record as _};

/// How long a policy waits for proxies that are not connected, such as after a restart of the controller.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a version of a policy is in force.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Enforcement {
    /// Proxies have not acknowledged it.
    Waiting(ProxyCount),
    /// Every connected proxy has acknowledged it.
    InForce(ProxyCount),
}

/// The proxies that a policy selects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct ProxyCount {
    /// Those that have acknowledged it.
    pub(super) acknowledged: usize,
    /// Those that are connected and have not.
    pub(super) waiting: usize,
    /// Those that are not connected.
    pub(super) away: usize,
}

impl ProxyCount {
    /// Returns the number of connected proxies.
    pub(super) fn connected(self) -> usize {
        self.acknowledged + self.waiting
    }
}

/// A version of a policy.
#[derive(Debug)]
struct PolicyVersion {
    generation: i64,
    /// The number of changes of the published resources with which it was published.
    published: u64,
    since: Instant,
    enforcement: Option<Enforcement>,
}

impl PolicyVersion {
    fn is_in_force(&self) -> bool {
        matches!(self.enforcement, Some(Enforcement::InForce(_)))
    }
}

/// The versions of all policies.
#[derive(Debug, Default)]
pub(super) struct Enforcements(HashMap<(Kind, Key), PolicyVersion>);

impl Enforcements {
    /// Notes the versions of policies that are published, with `published` changes.
    pub(super) fn note(&mut self, states: &[RuleState], published: u64, now: Instant) {
        let mut kept = HashMap::with_capacity(self.0.len());
        for state in states.iter().filter(|state| is_policy(state.kind) && !state.refused) {
            let key = (state.kind, state.object.clone());
            let known = self.0.remove(&key).filter(|known| known.generation == state.generation);
            let new = || PolicyVersion { generation: state.generation, published, since: now, enforcement: None };
            kept.insert(key, known.unwrap_or_else(new));
        }
        self.0 = kept;
    }

    /// Returns whether a policy is not known to be in force.
    pub(super) fn any_waiting(&self) -> bool {
        self.0.values().any(|version| !version.is_in_force())
    }

    /// Counts the proxies that have acknowledged each version that is not in force yet.
    pub(super) fn update(&mut self, inventory: &Inventory, proxies: &Proxies, now: Instant) {
        if !self.any_waiting() {
            return;
        }
        let proxies = proxies.list();
        let mut current: HashMap<(&str, Key), u64> = HashMap::new();
        for proxy in &proxies {
            // A proxy that has just connected again may have two streams.
            let most = current.entry((proxy.cluster.as_str(), Key::new(&proxy.namespace, &proxy.pod))).or_default();
            *most = proxy.current().max(*most);
        }
        let mut counts: HashMap<(Kind, Key), ProxyCount> = HashMap::new();
        // The proxies of another primary are connected to its own controller.
        let served = |cluster: &ClusterInventory| {
            cluster.info.own || proxies.iter().any(|proxy| *proxy.cluster == *cluster.info.name)
        };
        for cluster in inventory.clusters().filter(|cluster| served(cluster)) {
            let pods = cluster.pods().values().filter(|pod| pod.accepts_mutual_tls() && !pod.terminating);
            for pod in pods {
                let has = current.get(&(&*cluster.info.name, pod.key()));
                if has.is_none() && machines::is_derived(&pod.name) {
                    // Not every WorkloadEntry has a proxy of its own.
                    continue;
                }
                for key in own_policies(inventory, cluster, pod) {
                    let Some(version) = self.0.get(&key).filter(|version| !version.is_in_force()) else { continue };
                    let count = counts.entry(key).or_default();
                    match has {
                        Some(changes) if *changes >= version.published => count.acknowledged += 1,
                        Some(_) => count.waiting += 1,
                        None => count.away += 1,
                    }
                }
            }
        }
        for (key, version) in self.0.iter_mut().filter(|(_, version)| !version.is_in_force()) {
            let count = counts.remove(key).unwrap_or_default();
            version.enforcement = Some(judge(count, now.saturating_duration_since(version.since)));
        }
    }

    /// Returns whether the version in a state is in force; `None` for objects that are not policies, and refused ones.
    pub(super) fn of(&self, state: &RuleState) -> Option<Enforcement> {
        let version = self.0.get(&(state.kind, state.object.clone()))?;
        version.enforcement.filter(|_| version.generation == state.generation)
    }
}

fn judge(count: ProxyCount, age: Duration) -> Enforcement {
    match count.waiting == 0 && (count.away == 0 || age >= PATIENCE) {
        true => Enforcement::InForce(count),
        false => Enforcement::Waiting(count),
    }
}

fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::AuthorizationPolicy
            | Kind::PeerAuthentication
            | Kind::RequestAuthentication
            | Kind::EnvoyFilter
            | Kind::RateLimit
            | Kind::HttpLocalRateLimitPolicy
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(generation: i64, refused: bool) -> RuleState {
        RuleState {
            kind: Kind::PeerAuthentication,
            object: Key::new("istio-system", "default"),
            generation,
            refused,
            in_force: true,
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_policy_waits_for_its_connected_proxies_and_a_while_for_others() {
        let count = |acknowledged, waiting, away| ProxyCount { acknowledged, waiting, away };
        for (count, age, in_force) in [
            (count(0, 0, 0), 0, true),
            (count(3, 0, 0), 0, true),
            (count(2, 1, 0), 600, false),
            (count(2, 0, 1), 0, false),
            (count(2, 0, 1), 30, true),
        ] {
            let expected = if in_force { Enforcement::InForce(count) } else { Enforcement::Waiting(count) };
            assert_eq!(judge(count, Duration::from_secs(age)), expected);
        }
    }

    #[test]
    fn a_new_version_is_not_in_force_because_the_last_one_was() {
        let (mut all, now) = (Enforcements::default(), Instant::now());
        let count = ProxyCount { acknowledged: 1, ..ProxyCount::default() };
        let key = (Kind::PeerAuthentication, state(1, false).object);
        all.note(&[state(1, false)], 7, now);
        assert_eq!((all.of(&state(1, false)), all.any_waiting()), (None, true));
        all.0.get_mut(&key).expect("noted").enforcement = Some(Enforcement::InForce(count));
        all.note(&[state(1, false)], 9, now);
        assert_eq!((all.of(&state(1, false)), all.any_waiting()), (Some(Enforcement::InForce(count)), false));
        assert_eq!(all.of(&state(2, false)), None, "a version that was not noted");
        all.note(&[state(2, false)], 11, now);
        assert_eq!((all.of(&state(2, false)), all.any_waiting()), (None, true));
        assert_eq!(all.0[&key].published, 11);
        all.note(&[state(3, true)], 12, now);
        assert!(all.0.is_empty(), "a refused version is not published");
    }
}
