//! How the link to a cluster's API server is: a state machine fed with what was noticed, and with the time.
//!
//! Two kinds of signal: a heartbeat (a cheap request every second) says whether the server answers us at all, and each
//! watch says whether it has its list or is refused. The state follows from the last of each; nothing here ever says that
//! something of the cluster is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::Serialize;

use crate::objects::event::{Kind, Link};

/// Heartbeats that fail in a row before the link counts as lost: one may be an accident.
const FAILURES: u32 = 2;

/// How a link is, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum LinkState {
    /// Waiting for the first answer.
    Connecting,
    /// The server answers; waiting for the first list of some kinds.
    Syncing,
    /// All is known and followed.
    Connected,
    /// The server does not answer. Waiting for it; what is known stays.
    Unreachable {
        /// What the last attempt said.
        why: String,
    },
    /// The server answers and does not let us in. Waiting for better credentials or permissions; what is known stays.
    Refused {
        /// What it said.
        why: String,
    },
}

impl LinkState {
    /// One word, for metrics and tables.
    pub fn word(&self) -> &'static str {
        match self {
            LinkState::Connecting => "connecting",
            LinkState::Syncing => "syncing",
            LinkState::Connected => "connected",
            LinkState::Unreachable { .. } => "unreachable",
            LinkState::Refused { .. } => "refused",
        }
    }

    /// As the index tells it on.
    pub(super) fn link(&self) -> Link {
        match self {
            LinkState::Connecting | LinkState::Syncing => Link::Connecting,
            LinkState::Connected => Link::Connected,
            LinkState::Unreachable { why } => Link::Lost(why.as_str().into()),
            LinkState::Refused { why } => Link::Refused(why.as_str().into()),
        }
    }
}

/// What was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal {
    /// A heartbeat was answered.
    Answered,
    /// A heartbeat was not answered.
    Unreachable(String),
    /// A heartbeat was answered with a refusal.
    Refused(String),
    /// A kind's list is complete, or its watch goes on.
    Watching(Kind),
    /// A kind's watch was refused.
    WatchRefused(Kind, String),
}

/// The state of one link.
#[derive(Debug)]
pub(super) struct Machine {
    state: LinkState,
    since: SystemTime,
    last_contact: Option<SystemTime>,
    waiting_for: BTreeSet<Kind>,
    refused: BTreeMap<Kind, String>,
    heartbeat: Heartbeat,
}

#[derive(Debug)]
enum Heartbeat {
    None,
    Good,
    /// So many times in a row.
    Failing(u32, String),
    Refused(String),
}

impl Machine {
    pub(super) fn new(now: SystemTime) -> Self {
        Machine {
            state: LinkState::Connecting,
            since: now,
            last_contact: None,
            waiting_for: Kind::ALL.into(),
            refused: BTreeMap::new(),
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

    /// Whether every kind has been listed once.
    pub(super) fn is_synced(&self) -> bool {
        self.waiting_for.is_empty()
    }

    /// Takes a signal in; true where the state changed.
    pub(super) fn on(&mut self, signal: Signal, now: SystemTime) -> bool {
        match signal {
            Signal::Answered => {
                self.last_contact = Some(now);
                self.heartbeat = Heartbeat::Good;
            }
            Signal::Unreachable(why) => {
                let failures = match self.heartbeat {
                    Heartbeat::Failing(failures, _) => failures + 1,
                    // A server that never answered needs no second chance before it is said.
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
        }
        let next = self.derive();
        if next == self.state {
            return false;
        }
        // Another wording of the same trouble does not make it younger.
        if next.word() != self.state.word() {
            self.since = now;
        }
        self.state = next;
        true
    }

    fn derive(&self) -> LinkState {
        match &self.heartbeat {
            Heartbeat::None => LinkState::Connecting,
            Heartbeat::Refused(why) => LinkState::Refused { why: why.clone() },
            Heartbeat::Failing(failures, why) if *failures >= FAILURES => LinkState::Unreachable { why: why.clone() },
            // One failure: what was stays for another beat.
            Heartbeat::Failing(..) => self.state.clone(),
            Heartbeat::Good => match self.refused.iter().next() {
                Some((kind, why)) => LinkState::Refused { why: format!("watching {kind:?}: {why}") },
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
            Run { machine: Machine::new(now), now }
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
    fn from_connecting_to_connected() {
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
    fn lost_after_two_beats_and_back_at_the_first() {
        let mut run = Run::new();
        run.sync();
        assert_eq!(run.on(lost()), "connected");
        assert_eq!(run.on(Signal::Answered), "connected");
        run.on(lost());
        assert_eq!(run.on(lost()), "unreachable");
        let (since, contact) = (run.machine.since(), run.machine.last_contact());
        assert_eq!(run.on(Signal::Unreachable("timed out".into())), "unreachable");
        assert_eq!((run.machine.since(), run.machine.last_contact()), (since, contact), "it ages");
        assert_eq!(run.on(Signal::Answered), "connected", "the watches were never stopped");
    }

    #[test]
    fn never_reached_is_said_at_once() {
        let mut run = Run::new();
        assert_eq!(run.on(lost()), "unreachable");
        assert_eq!(run.machine.last_contact(), None);
    }

    #[test]
    fn refused_by_the_server_or_for_one_kind() {
        let mut run = Run::new();
        run.sync();
        assert_eq!(run.on(Signal::Refused("token expired".into())), "refused");
        assert_eq!(run.on(Signal::Answered), "connected");
        assert_eq!(run.on(Signal::WatchRefused(Kind::Pod, "forbidden".into())), "refused");
        assert_eq!(run.on(Signal::Answered), "refused", "a heartbeat needs no permission to read pods");
        assert!(matches!(run.machine.state(), LinkState::Refused { why } if why.contains("Pod")));
        assert_eq!(run.on(Signal::Watching(Kind::Pod)), "connected");
    }
}
