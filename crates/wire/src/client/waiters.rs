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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::{DeltaDiscoveryResponse, Resource};

    const TTL: Duration = Duration::from_secs(10);

    fn nobody() -> (Waiters, Client, Instant) {
        (Waiters::default(), Client::new("pod".into(), "east".into()), Instant::now())
    }

    fn demand(waiters: &mut Waiters, client: &mut Client, name: &str, now: Instant) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        waiters.demand(client, Kind::Service, name.into(), sender, 10, now);
        receiver
    }

    fn answer(waiters: &mut Waiters, client: &mut Client, present: &[&str], absent: &[&str]) {
        let response = DeltaDiscoveryResponse {
            type_url: Kind::Service.url().into(),
            resources: present.iter().map(|name| Resource { name: (*name).into(), ..Default::default() }).collect(),
            removed_resources: absent.iter().map(|name| (*name).into()).collect(),
            ..Default::default()
        };
        let (_, receipt) = client.receive(response).unwrap();
        for (name, answer) in client.applied(receipt, Ok(())) {
            waiters.answered(Kind::Service, name, answer);
        }
    }

    fn is_pinned(_: Kind, name: &str) -> bool {
        name == "pinned"
    }

    #[test]
    fn what_was_not_found_is_given_up_once_it_is_old() {
        let (mut waiters, mut client, start) = nobody();
        let mut found = demand(&mut waiters, &mut client, "found", start);
        let mut missing = demand(&mut waiters, &mut client, "missing", start);
        answer(&mut waiters, &mut client, &["found"], &["missing"]);
        assert_eq!((found.try_recv(), missing.try_recv()), (Ok(Outcome::Present), Ok(Outcome::Absent)));

        waiters.sweep(&mut client, is_pinned, TTL, start + TTL / 2);
        assert_eq!(client.answer(Kind::Service, "missing"), Some(Answer::Absent), "young");
        waiters.sweep(&mut client, is_pinned, TTL, start + TTL);
        assert_eq!(client.answer(Kind::Service, "missing"), None);
        assert_eq!(client.answer(Kind::Service, "found"), Some(Answer::Present), "kept, however old");
        assert_eq!(waiters.demanded.len(), 1);
    }

    #[test]
    fn what_is_waited_for_is_kept_until_those_who_wait_give_up() {
        let (mut waiters, mut client, start) = nobody();
        let waiting = demand(&mut waiters, &mut client, "slow", start);
        waiters.sweep(&mut client, is_pinned, TTL, start + 2 * TTL);
        assert_eq!(client.answer(Kind::Service, "slow"), Some(Answer::Waiting));
        drop(waiting);
        waiters.sweep(&mut client, is_pinned, TTL, start + 2 * TTL);
        assert_eq!(client.answer(Kind::Service, "slow"), None);
    }

    #[test]
    fn what_is_pinned_stays_wanted_but_takes_no_place_of_what_is_demanded() {
        let (mut waiters, mut client, start) = nobody();
        client.subscribe(Kind::Service, "pinned");
        let mut waiting = demand(&mut waiters, &mut client, "pinned", start);
        waiters.sweep(&mut client, is_pinned, TTL, start);
        assert_eq!(waiters.demanded.len(), 1, "waited for");
        answer(&mut waiters, &mut client, &[], &["pinned"]);
        assert_eq!(waiting.try_recv(), Ok(Outcome::Absent));
        waiters.sweep(&mut client, is_pinned, TTL, start + 2 * TTL);
        assert_eq!(waiters.demanded.len(), 0);
        assert_eq!(client.answer(Kind::Service, "pinned"), Some(Answer::Absent), "subscribed to for good");
    }
}
