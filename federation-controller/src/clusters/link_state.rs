//! The state machine of a link to a cluster's API server. Its inputs are signals and the time.
//!
//! There are two kinds of signals: the heartbeat (a cheap request, by default every second) reports whether the server
//! answers, and each watch reports whether its list is complete or it is refused. The state follows from the last
//! signal of each. No state removes an object of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::Serialize;

use crate::objects::event::{ClusterRole, Link};
use crate::objects::{Kind, Text};

/// The number of consecutive failed heartbeats after which a link is lost. A single failure can be an accident.
const FAILURES: u32 = 2;

/// The state of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum LinkState {
    /// The link waits for the first answer of the server.
    Connecting,
    /// The server answers; the link waits for the first list of some kinds.
    Syncing,
    /// Every kind is listed and watched.
    Connected,
    /// The server does not answer. The known objects stay.
    Unreachable {
        /// The error of the last attempt.
        why: String,
    },
    /// The server refuses the credentials, or a watch for lack of permission. The known objects stay.
    Refused {
        /// The reason of the server.
        why: String,
    },
    /// The controller does not read the cluster: another one has its API server, or it is over a budget.
    Excluded {
        /// The reason.
        why: String,
    },
}

impl LinkState {
    /// Returns why the link is not connected, if there is a reason.
    pub fn why(&self) -> Option<&str> {
        match self {
            LinkState::Unreachable { why } | LinkState::Refused { why } | LinkState::Excluded { why } => Some(why),
            LinkState::Connecting | LinkState::Syncing | LinkState::Connected => None,
        }
    }

    /// Returns the name of the state, for metrics and tables.
    pub fn word(&self) -> &'static str {
        match self {
            LinkState::Connecting => "connecting",
            LinkState::Syncing => "syncing",
            LinkState::Connected => "connected",
            LinkState::Unreachable { .. } => "unreachable",
            LinkState::Refused { .. } => "refused",
            LinkState::Excluded { .. } => "excluded",
        }
    }

    /// Returns the state as the inventory stores it.
    pub(super) fn link(&self) -> Link {
        match self {
            LinkState::Connecting | LinkState::Syncing => Link::Connecting,
            LinkState::Connected => Link::Connected,
            LinkState::Unreachable { why } => Link::Lost(why.as_str().into()),
            LinkState::Refused { why } => Link::Refused(why.as_str().into()),
            LinkState::Excluded { why } => Link::Excluded(why.as_str().into()),
        }
    }
}

/// A signal of the heartbeat or of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal {
    /// The server answered a heartbeat.
    Answered,
    /// The server did not answer a heartbeat; with the error.
    Unreachable(String),
    /// The server refused a heartbeat; with the reason.
    Refused(String),
    /// The list of a kind is complete, or its watch is open again.
    Watching(Kind),
    /// The server refused the watch of a kind; with the reason.
    WatchRefused(Kind, String),
    /// The cluster is not read, for this reason. Its watches have ended.
    Excluded(Exclusion),
    /// The cluster is read again, from new lists.
    Admitted,
}

/// Why a cluster is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exclusion {
    /// Another cluster has its API server. Its objects are removed.
    Duplicate(String),
    /// It is beyond a budget. Its known objects stay.
    OverBudget(Text),
}

impl Exclusion {
    fn why(&self) -> &str {
        match self {
            Exclusion::Duplicate(why) => why,
            Exclusion::OverBudget(why) => why,
        }
    }
}

/// The state machine of one link.
#[derive(Debug)]
pub(super) struct Machine {
    state: LinkState,
    since: SystemTime,
    last_contact: Option<SystemTime>,
    waiting_for: BTreeSet<Kind>,
    refused: BTreeMap<Kind, String>,
    excluded: Option<String>,
    role: ClusterRole,
    heartbeat: Heartbeat,
}

/// The last result of the heartbeat.
#[derive(Debug)]
enum Heartbeat {
    None,
    Good,
    /// The number of consecutive failures, and the last error.
    Failing(u32, String),
    Refused(String),
}

impl Machine {
    pub(super) fn new(role: ClusterRole, now: SystemTime) -> Self {
        Machine {
            state: LinkState::Connecting,
            since: now,
            last_contact: None,
            waiting_for: Kind::watched_in(role).collect(),
            refused: BTreeMap::new(),
            excluded: None,
            role,
            heartbeat: Heartbeat::None,
        }
    }

    pub(super) fn state(&self) -> &LinkState {
        &self.state
    }

    pub(super) fn since(&self) -> SystemTime {
        self.since
    }

    pub(super) fn last_contact(&self) -> Option<SystemTime> {
        self.last_contact
    }

    /// Returns whether every kind has been listed.
    pub(super) fn is_synced(&self) -> bool {
        self.waiting_for.is_empty()
    }

    /// Applies a signal. Returns whether the state changed.
    pub(super) fn on(&mut self, signal: Signal, now: SystemTime) -> bool {
        match signal {
            Signal::Answered => {
                self.last_contact = Some(now);
                self.heartbeat = Heartbeat::Good;
            }
            Signal::Unreachable(why) => {
                let failures = match self.heartbeat {
                    Heartbeat::Failing(failures, _) => failures + 1,
                    // A server that never answered is unreachable after the first failure.
                    Heartbeat::None => FAILURES,
                    _ => 1,
                };
                self.heartbeat = Heartbeat::Failing(failures, why);
            }
            Signal::Refused(why) => self.heartbeat = Heartbeat::Refused(why),
            Signal::Watching(kind) => {
                self.last_contact = Some(now);
                self.waiting_for.remove(&kind);
                self.refused.remove(&kind);
            }
            Signal::WatchRefused(kind, why) => {
                self.refused.insert(kind, why);
            }
            Signal::Excluded(exclusion) => {
                self.excluded = Some(exclusion.why().to_owned());
                self.refused.clear();
                self.waiting_for = Kind::watched_in(self.role).collect();
            }
            Signal::Admitted => self.excluded = None,
        }
        let next = self.derive();
        if next == self.state {
            return false;
        }
        // Another reason for the same state does not change its age.
        if next.word() != self.state.word() {
            self.since = now;
        }
        self.state = next;
        true
    }

    fn derive(&self) -> LinkState {
        if let Some(why) = &self.excluded {
            return LinkState::Excluded { why: why.clone() };
        }
        match &self.heartbeat {
            Heartbeat::None => LinkState::Connecting,
            Heartbeat::Refused(why) => LinkState::Refused { why: why.clone() },
            Heartbeat::Failing(failures, why) if *failures >= FAILURES => LinkState::Unreachable { why: why.clone() },
            // A single failure: the state stays until the next heartbeat.
            Heartbeat::Failing(..) => self.state.clone(),
            Heartbeat::Good => match self.refused.iter().next() {
                Some((kind, why)) => LinkState::Refused { why: format!("watch of {}: {why}", kind.as_str()) },
                None if self.waiting_for.is_empty() => LinkState::Connected,
                None => LinkState::Syncing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Run {
        machine: Machine,
        now: SystemTime,
    }

    impl Run {
        fn new() -> Self {
            let now = SystemTime::UNIX_EPOCH;
            Run { machine: Machine::new(ClusterRole::Remote, now), now }
        }

        fn on(&mut self, signal: Signal) -> &'static str {
            self.now += Duration::from_secs(1);
            self.machine.on(signal, self.now);
            self.machine.state().word()
        }

        fn sync(&mut self) -> &'static str {
            self.on(Signal::Answered);
            for kind in Kind::ALL {
                self.on(Signal::Watching(kind));
            }
            self.machine.state().word()
        }
    }

    fn lost() -> Signal {
        Signal::Unreachable("connection refused".into())
    }

    #[test]
    fn a_link_connects_after_all_lists() {
        let mut run = Run::new();
        assert_eq!(run.machine.state().word(), "connecting");
        assert_eq!(run.on(Signal::Answered), "syncing");
        assert_eq!(run.on(Signal::Watching(Kind::Pod)), "syncing");
        assert_eq!(run.sync(), "connected");
        let since = run.machine.since();
        assert_eq!(run.on(Signal::Answered), "connected");
        assert_eq!(run.machine.since(), since);
        assert!(run.machine.last_contact() > Some(since));
    }

    #[test]
    fn a_link_is_lost_after_two_failures_and_returns_with_the_first_answer() {
        let mut run = Run::new();
        run.sync();
        assert_eq!(run.on(lost()), "connected");
        assert_eq!(run.on(Signal::Answered), "connected");
        run.on(lost());
        assert_eq!(run.on(lost()), "unreachable");
        let (since, contact) = (run.machine.since(), run.machine.last_contact());
        assert_eq!(run.on(Signal::Unreachable("timed out".into())), "unreachable");
        assert_eq!((run.machine.since(), run.machine.last_contact()), (since, contact), "the state keeps its age");
        assert_eq!(run.on(Signal::Answered), "connected", "the watches still run");
    }

    #[test]
    fn a_server_that_never_answered_is_unreachable_at_once() {
        let mut run = Run::new();
        assert_eq!(run.on(lost()), "unreachable");
        assert_eq!(run.machine.last_contact(), None);
    }

    #[test]
    fn a_link_is_excluded_until_it_is_admitted_and_then_needs_all_lists_again() {
        let mut run = Run::new();
        run.sync();
        assert_eq!(run.on(Signal::Excluded(Exclusion::Duplicate("its API server is that of east".into()))), "excluded");
        assert_eq!(run.machine.state().why(), Some("its API server is that of east"));
        assert_eq!(run.on(Signal::Answered), "excluded", "the server still answers");
        assert!(!run.machine.is_synced());
        assert_eq!(run.on(Signal::Admitted), "syncing");
        assert_eq!(run.sync(), "connected");
    }

    #[test]
    fn a_link_is_refused_by_the_server_or_for_one_kind() {
        let mut run = Run::new();
        run.sync();
        assert_eq!(run.on(Signal::Refused("token expired".into())), "refused");
        assert_eq!(run.on(Signal::Answered), "connected");
        assert_eq!(run.on(Signal::WatchRefused(Kind::Pod, "forbidden".into())), "refused");
        assert_eq!(run.on(Signal::Answered), "refused", "a heartbeat does not require permission to read pods");
        assert!(matches!(run.machine.state(), LinkState::Refused { why } if why.contains("Pod")));
        assert_eq!(run.on(Signal::Watching(Kind::Pod)), "connected");
    }
}
