//! The state machine of one lease. Its inputs are signals and the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::words::{Opinion, Verdict};
use crate::objects::Text;

/// The state of the knowledge of a remote cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum LeaseState {
    /// The link to the cluster's API server is up.
    Fresh,
    /// The link is lost, and the lease runs. Everything that is known stays in use.
    Stale,
    /// The link was lost, and a quorum of some cluster's proxies does not reach the cluster. For them, its endpoints are the
    /// last resort.
    Drained,
    /// There was no proof of life for as long as the lease. The cluster's endpoints are withdrawn from others, except where
    /// they are the last source of a service.
    Expired,
}

impl LeaseState {
    /// All states.
    pub const ALL: [LeaseState; 4] = [LeaseState::Fresh, LeaseState::Stale, LeaseState::Drained, LeaseState::Expired];

    /// Returns the name of the state, for metrics and tables.
    pub fn word(self) -> &'static str {
        match self {
            LeaseState::Fresh => "fresh",
            LeaseState::Stale => "stale",
            LeaseState::Drained => "drained",
            LeaseState::Expired => "expired",
        }
    }
}

/// What is known of a cluster at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Signals {
    /// The link to the cluster's API server is up.
    pub link: bool,
    /// When a proxy of another cluster last reached the cluster.
    pub alive: Option<SystemTime>,
    /// The verdicts of the proxies of other clusters, by their cluster. A cluster without words has none.
    pub verdicts: BTreeMap<Text, Verdict>,
}

/// The lease of one cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterLease {
    state: LeaseState,
    since: SystemTime,
    /// The last proof of life.
    renewed: SystemTime,
    /// The clusters whose proxies do not reach this one.
    drained: BTreeSet<Text>,
}

impl ClusterLease {
    /// Creates the lease of a cluster that has just been added.
    pub fn new(now: SystemTime) -> Self {
        ClusterLease { state: LeaseState::Fresh, since: now, renewed: now, drained: BTreeSet::new() }
    }

    /// The state.
    pub fn state(&self) -> LeaseState {
        self.state
    }

    /// When the lease entered the state.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// The clusters for whose proxies this one's endpoints are the last resort.
    pub fn drained(&self) -> &BTreeSet<Text> {
        &self.drained
    }

    /// Returns what is left of a lease of this length.
    pub fn left(&self, length: Duration, now: SystemTime) -> Duration {
        length.saturating_sub(now.duration_since(self.renewed).unwrap_or_default())
    }

    /// Applies the signals of this moment.
    pub fn step(&mut self, signals: &Signals, length: Duration, now: SystemTime) {
        let alive = if signals.link { Some(now) } else { signals.alive };
        // Of a clock that was set back, and of words that are ahead of it, nothing is in the future.
        self.renewed = alive.map_or(self.renewed, |alive| self.renewed.max(alive)).min(now);
        self.drained.retain(|viewer| match signals.verdicts.get(viewer) {
            Some(Verdict::Dead | Verdict::Unclear) => true,
            Some(Verdict::Alive) => false,
            // Nobody uses the cluster any longer, so nobody will say that it is reached again.
            None => !signals.link,
        });
        if !signals.link {
            let dead = signals.verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Dead);
            self.drained.extend(dead.map(|(viewer, _)| viewer.clone()));
        }
        let next = if self.left(length, now).is_zero() {
            LeaseState::Expired
        } else if !self.drained.is_empty() {
            LeaseState::Drained
        } else if signals.link {
            LeaseState::Fresh
        } else {
            LeaseState::Stale
        };
        if next != self.state {
            (self.state, self.since) = (next, now);
        }
    }

    /// Extends the lease by a time in which nobody watched. What is left begins at `earliest` or later, unless the lease was
    /// over before.
    pub(super) fn extend(&mut self, gap: Duration, earliest: SystemTime, now: SystemTime) {
        if self.state != LeaseState::Expired {
            self.renewed = (self.renewed + gap).max(earliest).min(now);
        }
    }

    /// Describes the state for people.
    pub(super) fn describe(&self, cluster: &str, link: bool, opinions: &[Opinion], length: Duration) -> String {
        let lease = format!("{} s", length.as_secs_f64());
        match self.state {
            LeaseState::Fresh => format!("cluster {cluster}: its API server answers; everything of it is in use"),
            LeaseState::Stale => {
                let reached = opinions.iter().map(|of| format!("; {of}")).collect::<String>();
                format!(
                    "cluster {cluster}: its API server does not answer; its endpoints stay as last known{reached}. Without proof of life its lease ends after {lease}"
                )
            }
            LeaseState::Drained => {
                let server = if link { "answers again" } else { "does not answer" };
                let dead = opinions.iter().filter(|of| self.drained.contains(&of.viewer));
                let words = dead.map(ToString::to_string).collect::<Vec<_>>().join("; ");
                format!(
                    "cluster {cluster}: its API server {server}, and its data path is dead: {words}. They prefer other clusters"
                )
            }
            LeaseState::Expired => format!(
                "cluster {cluster}: no proof of life for {lease}; its endpoints are withdrawn wherever another cluster has the service"
            ),
        }
    }
}
