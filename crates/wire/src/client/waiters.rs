//! Who waits for which name, and which names are wanted only because somebody asked.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Outcome;
use crate::Kind;
use crate::delta::{Answer, Client};

/// Demanded names, with those who wait for them.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    demanded: HashMap<(Kind, Box<str>), Demand>,
}

#[derive(Debug)]
struct Demand {
    waiting: Vec<oneshot::Sender<Outcome>>,
    last: Instant,
}

impl Waiters {
    /// Someone wants to know of a name: answers at once if it can, else keeps them until [`Waiters::answered`].
    pub(super) fn demand(
        &mut self,
        client: &mut Client,
        kind: Kind,
        name: Box<str>,
        waiter: oneshot::Sender<Outcome>,
        max: usize,
        now: Instant,
    ) {
        let answer = match client.answer(kind, &name) {
            Some(answer) => answer,
            None if self.demanded.len() >= max => {
                let _ = waiter.send(Outcome::Unanswered);
                return;
            }
            None => {
                self.demanded.insert((kind, name.clone()), Demand { waiting: Vec::new(), last: now });
                client.subscribe(kind, &name)
            }
        };
        // A name subscribed to for good can be waited for as well.
        let key = (kind, name);
        match outcome(answer) {
            Some(outcome) => {
                if let Some(demand) = self.demanded.get_mut(&key) {
                    demand.last = now;
                }
                // Who asked may have given up.
                let _ = waiter.send(outcome);
            }
            None => {
                let demand = self.demanded.entry(key).or_insert_with(|| Demand { waiting: Vec::new(), last: now });
                demand.last = now;
                demand.waiting.retain(|waiter| !waiter.is_closed());
                demand.waiting.push(waiter);
            }
        }
    }

    /// A name was answered.
    pub(super) fn answered(&mut self, kind: Kind, name: Box<str>, answer: Answer) {
        if let (Some(outcome), Some(demand)) = (outcome(answer), self.demanded.get_mut(&(kind, name))) {
            for waiter in demand.waiting.drain(..) {
                let _ = waiter.send(outcome);
            }
        }
    }

    /// A name is no longer wanted: those who wait for it are told that there was no answer.
    pub(super) fn forget(&mut self, kind: Kind, name: Box<str>) {
        self.demanded.remove(&(kind, name));
    }

    /// Gives up demanded names that nobody waits for and that were not found, once they are older than `ttl`. Those that are
    /// subscribed to for good (`pinned`) stay subscribed to.
    pub(super) fn sweep(
        &mut self,
        client: &mut Client,
        pinned: impl Fn(Kind, &str) -> bool,
        ttl: Duration,
        now: Instant,
    ) {
        self.demanded.retain(|(kind, name), demand| {
            demand.waiting.retain(|waiter| !waiter.is_closed());
            if !demand.waiting.is_empty() {
                return true;
            }
            if pinned(*kind, name) {
                return false;
            }
            let found = client.answer(*kind, name) == Some(Answer::Present);
            let kept = found || now.duration_since(demand.last) < ttl;
            if !kept {
                client.unsubscribe(*kind, name);
            }
            kept
        });
    }
}

fn outcome(answer: Answer) -> Option<Outcome> {
    match answer {
        Answer::Waiting => None,
        Answer::Present => Some(Outcome::Present),
        Answer::Absent => Some(Outcome::Absent),
    }
}
