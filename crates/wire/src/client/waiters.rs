//! Demanded names: subscriptions that exist because a task demanded the name, and the tasks that wait for an answer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Outcome;
use crate::Kind;
use crate::delta::{Answer, Client};

/// The demanded names, with the waiters of each.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    demanded: HashMap<(Kind, Box<str>), Demand>,
}

#[derive(Debug)]
struct Demand {
    waiting: Vec<oneshot::Sender<Outcome>>,
    /// When the name was last demanded.
    last: Instant,
}

impl Waiters {
    /// Adds a demand for a name. Sends the outcome at once if the name is answered; otherwise keeps the waiter until
    /// [`Waiters::answered`].
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
        // A pinned name may have waiters too.
        let key = (kind, name);
        match outcome(answer) {
            Some(outcome) => {
                if let Some(demand) = self.demanded.get_mut(&key) {
                    demand.last = now;
                }
                // The waiter may have timed out.
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

    /// Sends the outcome to the waiters of an answered name.
    pub(super) fn answered(&mut self, kind: Kind, name: Box<str>, answer: Answer) {
        if let (Some(outcome), Some(demand)) = (outcome(answer), self.demanded.get_mut(&(kind, name))) {
            for waiter in demand.waiting.drain(..) {
                let _ = waiter.send(outcome);
            }
        }
    }

    /// Removes a name. The outcome for its waiters is [`Outcome::Unanswered`].
    pub(super) fn forget(&mut self, kind: Kind, name: Box<str>) {
        self.demanded.remove(&(kind, name));
    }

    /// Unsubscribes from demanded names that have no waiters and are absent or unanswered, once the last demand is
    /// `ttl` ago. Pinned names stay subscribed.
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

    fn empty() -> (Waiters, Client, Instant) {
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
    fn absent_names_expire() {
        let (mut waiters, mut client, start) = empty();
        let mut found = demand(&mut waiters, &mut client, "found", start);
        let mut missing = demand(&mut waiters, &mut client, "missing", start);
        answer(&mut waiters, &mut client, &["found"], &["missing"]);
        assert_eq!((found.try_recv(), missing.try_recv()), (Ok(Outcome::Present), Ok(Outcome::Absent)));

        waiters.sweep(&mut client, is_pinned, TTL, start + TTL / 2);
        assert_eq!(client.answer(Kind::Service, "missing"), Some(Answer::Absent), "expired too early");
        waiters.sweep(&mut client, is_pinned, TTL, start + TTL);
        assert_eq!(client.answer(Kind::Service, "missing"), None);
        assert_eq!(client.answer(Kind::Service, "found"), Some(Answer::Present), "present names stay");
        assert_eq!(waiters.demanded.len(), 1);
    }

    #[test]
    fn a_name_stays_subscribed_while_a_task_waits_for_it() {
        let (mut waiters, mut client, start) = empty();
        let waiting = demand(&mut waiters, &mut client, "slow", start);
        waiters.sweep(&mut client, is_pinned, TTL, start + 2 * TTL);
        assert_eq!(client.answer(Kind::Service, "slow"), Some(Answer::Waiting));
        drop(waiting);
        waiters.sweep(&mut client, is_pinned, TTL, start + 2 * TTL);
        assert_eq!(client.answer(Kind::Service, "slow"), None);
    }

    #[test]
    fn pinned_names_stay_subscribed_and_do_not_count_as_demanded() {
        let (mut waiters, mut client, start) = empty();
        client.subscribe(Kind::Service, "pinned");
        let mut waiting = demand(&mut waiters, &mut client, "pinned", start);
        waiters.sweep(&mut client, is_pinned, TTL, start);
        assert_eq!(waiters.demanded.len(), 1, "the name has a waiter");
        answer(&mut waiters, &mut client, &[], &["pinned"]);
        assert_eq!(waiting.try_recv(), Ok(Outcome::Absent));
        waiters.sweep(&mut client, is_pinned, TTL, start + 2 * TTL);
        assert_eq!(waiters.demanded.len(), 0);
        assert_eq!(client.answer(Kind::Service, "pinned"), Some(Answer::Absent), "pinned names stay");
    }
}
