//! Leases: for how long the knowledge of a remote cluster holds while its API server does not answer.
//!
//! Three signals renew a lease: the link to the API server, handshakes of proxies through the cluster's gateway, and the
//! outcomes of their requests. The last two arrive as words of proxies ([`words`]); a quorum of one cluster's proxies can
//! drain another cluster for themselves. The state of each lease follows from the signals and the time ([`lease`]), and
//! everything returns with the signals.
//!
//! ```text
//! Fresh ◄──────── the link is up
//! Stale           the link is lost, and the lease runs: everything stays
//! Drained         the link is lost, and a quorum of proxies does not reach the cluster: theirs prefer all others
//! Expired         no proof of life for as long as the lease: withdrawn, but never the last source of a service
//! ```
//!
//! Nothing here does IO. The pipeline steps the leases every second. `compile` applies what follows: `compile/mesh.rs` names
//! the drained clusters, `compile/members/withdrawal.rs` withdraws the expired ones. `recorder/leases.rs` writes Events.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub mod lease;
pub mod mailbox;
#[cfg(test)]
mod tests;
pub mod words;

use lease::{ClusterLease, LeaseState, Signals};
use words::{Opinion, Speaker, Word, Words};

use crate::objects::Text;
use crate::objects::event::LEASE;

/// How often proxies report of their paths at most, and how often at least.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
/// Words are asked for this many times in a lease.
const PER_LEASE: u32 = 4;
/// A word counts for this many intervals.
const VALID: u32 = 3;
/// Time between two steps beyond which nobody has watched: the process was suspended, or did not run.
const UNWATCHED: Duration = Duration::from_secs(10);
/// What is left of every lease after such a time at least, so that proxies can open their streams and report.
const GRACE: Duration = Duration::from_secs(15);
/// How long a link is down before a lease runs: a link that has been lost is often back with the next heartbeat.
const SETTLING: Duration = Duration::from_secs(3);
/// The number of transitions that are kept for Events.
const RECENT: usize = 64;

/// The leases of all remote clusters.
#[derive(Debug)]
pub struct Leases {
    length: Duration,
    leases: BTreeMap<Text, ClusterLease>,
    words: Words,
    /// The clusters whose links are down, and since which step.
    down: BTreeMap<Text, SystemTime>,
    /// The time of the last step; of the snapshot's after a restart.
    stepped: Option<SystemTime>,
    /// The newest transitions, each with its number.
    recent: VecDeque<(u64, Transition)>,
    /// The number of all transitions.
    count: u64,
    /// The number of transitions of each cluster to each state.
    counts: BTreeMap<(Text, LeaseState), u64>,
}

/// A change of a lease's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    /// The cluster.
    pub cluster: Text,
    /// The state before.
    pub from: LeaseState,
    /// The state since.
    pub to: LeaseState,
    /// When.
    pub at: SystemTime,
    /// What it means, for people.
    pub message: String,
}

/// What a step changed for others.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// The clusters that have expired, or have no longer.
    pub expired: Vec<Text>,
    /// Which clusters are drained for whom.
    pub drained: bool,
}

/// A remote cluster at a step.
#[derive(Debug, Clone)]
pub struct Known {
    /// The cluster.
    pub cluster: Text,
    /// The link to its API server.
    pub link: KnownLink,
}

/// The link to the API server of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KnownLink {
    /// The server answers, and the cluster is read.
    Up,
    /// The link was begun, and it is not known whether the server answers.
    Begun,
    /// The server does not answer, or the cluster is not read.
    Down,
}

/// The leases as the snapshot keeps them. Times are of the clock, so that they mean the same after a restart.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLeases {
    /// When this was saved.
    at: SystemTime,
    leases: BTreeMap<Text, ClusterLease>,
}

impl Default for Leases {
    fn default() -> Self {
        Leases {
            length: LEASE,
            leases: BTreeMap::new(),
            words: Words::default(),
            down: BTreeMap::new(),
            stepped: None,
            recent: VecDeque::new(),
            count: 0,
            counts: BTreeMap::new(),
        }
    }
}

impl Leases {
    /// Sets the length of leases.
    pub fn set_length(&mut self, length: Duration) {
        self.length = length;
    }

    /// The length of leases.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// Returns how often proxies report of their paths.
    pub fn interval(&self) -> Duration {
        (self.length / PER_LEASE).clamp(INTERVALS.0, INTERVALS.1)
    }

    /// Takes the words of a proxy, which replace its earlier ones.
    pub fn hear(&mut self, speaker: Speaker, words: Vec<Word>, now: SystemTime) {
        self.words.hear(speaker, words, now);
    }

    /// Brings all leases up to now. Clusters that are not known any longer lose theirs.
    pub fn step(&mut self, known: &[Known], now: SystemTime) -> Changes {
        self.skip_unwatched(now);
        let (length, valid) = (self.length, self.valid());
        self.words.forget(now, valid);
        let mut changes = Changes::default();
        let drained = self.leases.values().filter(|lease| !lease.drained().is_empty()).count();
        self.leases.retain(|name, _| known.iter().any(|of| of.cluster == *name));
        self.counts.retain(|(name, _), _| self.leases.contains_key(name));
        self.down.retain(|name, _| self.leases.contains_key(name));
        changes.drained = drained != self.leases.values().filter(|lease| !lease.drained().is_empty()).count();
        for Known { cluster, link } in known {
            let lease = self.leases.entry(cluster.clone()).or_insert_with(|| ClusterLease::new(now));
            let settling = match link {
                KnownLink::Up => {
                    self.down.remove(cluster);
                    false
                }
                KnownLink::Begun => true,
                KnownLink::Down => {
                    let since = *self.down.entry(cluster.clone()).or_insert(now);
                    now.duration_since(since).is_ok_and(|time| time < SETTLING)
                }
            };
            if settling && lease.state() == LeaseState::Fresh {
                continue;
            }
            let link = *link == KnownLink::Up;
            // Of a cluster that answers, proxies' words change nothing but the end of a drain.
            let opinions = match link && lease.drained().is_empty() {
                true => Vec::new(),
                false => self.words.opinions(cluster, now, valid),
            };
            let alive = opinions.iter().filter_map(|opinion| opinion.last_alive).max();
            let verdicts = opinions.iter().map(|opinion| (opinion.viewer.clone(), opinion.verdict())).collect();
            let before = (lease.state(), lease.drained().clone());
            lease.step(&Signals { link, alive, verdicts }, length, now);
            changes.drained |= *lease.drained() != before.1;
            let to = lease.state();
            if (before.0 == LeaseState::Expired) != (to == LeaseState::Expired) {
                changes.expired.push(cluster.clone());
            }
            if before.0 != to {
                let message = lease.describe(cluster, link, &opinions, length);
                let transition = Transition { cluster: cluster.clone(), from: before.0, to, at: now, message };
                self.note(transition);
            }
        }
        changes
    }

    /// Returns whether any cluster has expired.
    pub fn any_expired(&self) -> bool {
        self.leases.values().any(|lease| lease.state() == LeaseState::Expired)
    }

    /// Returns whether a cluster has expired.
    pub fn is_expired(&self, cluster: &str) -> bool {
        self.leases.get(cluster).is_some_and(|lease| lease.state() == LeaseState::Expired)
    }

    /// Returns the clusters that are drained, each with the clusters for whose proxies.
    pub fn drained(&self) -> impl Iterator<Item = (&Text, impl Iterator<Item = &Text>)> {
        let drained = self.leases.iter().filter(|(_, lease)| !lease.drained().is_empty());
        drained.map(|(cluster, lease)| (cluster, lease.drained().iter()))
    }

    /// Returns the lease of a cluster; the controller's own has none.
    pub fn of(&self, cluster: &str) -> Option<&ClusterLease> {
        self.leases.get(cluster)
    }

    /// Returns all leases, by cluster.
    pub fn all(&self) -> impl Iterator<Item = (&Text, &ClusterLease)> {
        self.leases.iter()
    }

    /// Returns what the proxies of other clusters say of a cluster now.
    pub fn opinions(&self, cluster: &str, now: SystemTime) -> Vec<Opinion> {
        self.words.opinions(cluster, now, self.valid())
    }

    /// Returns the transitions after the one of this number, each with its number. At most [`RECENT`] are kept.
    pub fn transitions_after(&self, number: u64) -> Vec<(u64, Transition)> {
        self.recent.iter().filter(|(of, _)| *of > number).cloned().collect()
    }

    /// Returns the number of all transitions since the start.
    pub fn transitions(&self) -> u64 {
        self.count
    }

    /// Returns the number of transitions of each cluster to each state.
    pub fn counts(&self) -> &BTreeMap<(Text, LeaseState), u64> {
        &self.counts
    }

    /// Returns the leases for the snapshot.
    pub fn save(&self) -> SavedLeases {
        SavedLeases { at: self.stepped.unwrap_or(SystemTime::UNIX_EPOCH), leases: self.leases.clone() }
    }

    /// Returns whether some lease changes with the time, so that a snapshot of some seconds ago is out of date.
    pub fn are_running(&self) -> bool {
        self.leases.values().any(|lease| lease.state() != LeaseState::Fresh)
    }

    /// Takes the leases of the snapshot. The time since it was saved counts for none of them.
    pub fn restore(&mut self, saved: SavedLeases) {
        self.stepped = Some(saved.at);
        self.leases = saved.leases;
    }

    /// Returns for how long a word counts.
    fn valid(&self) -> Duration {
        self.interval() * VALID
    }

    fn skip_unwatched(&mut self, now: SystemTime) {
        let before = self.stepped.replace(now);
        let Some(gap) = before.and_then(|before| now.duration_since(before).ok()).filter(|gap| *gap > UNWATCHED) else {
            return;
        };
        let earliest = now - self.length.saturating_sub(GRACE.min(self.length));
        self.leases.values_mut().for_each(|lease| lease.extend(gap, earliest, now));
    }

    fn note(&mut self, transition: Transition) {
        self.count += 1;
        *self.counts.entry((transition.cluster.clone(), transition.to)).or_default() += 1;
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((self.count, transition));
    }
}
