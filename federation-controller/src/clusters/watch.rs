//! Following one kind in one cluster: list, watch, and again whenever either ends, for ever.

use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;

use super::link_state::Signal;
use super::trouble::{self, Trouble};
use crate::objects::event::{Event, Text};
use crate::objects::records::Watched;

/// What watches and heartbeats tell their link.
#[derive(Debug)]
pub(super) enum Noticed {
    Event(Event),
    Signal(Signal),
}

/// Follows a kind. Ends only when nobody listens any more.
pub(super) async fn follow<K: Watched>(client: Client, cluster: Text, out: mpsc::Sender<Noticed>) {
    let mut stream = watcher(Api::<K>::all(client), watcher::Config::default()).backoff(Pause::default()).boxed();
    let mut told_missing = false;
    while let Some(item) = stream.next().await {
        let sent = match item {
            Ok(event) => {
                let done = matches!(event, watcher::Event::InitDone);
                if done {
                    told_missing = false;
                }
                match to_event(event, &cluster) {
                    Some(event) if done => tell(&out, [Noticed::Event(event), watching::<K>()]).await,
                    Some(event) => tell(&out, [Noticed::Event(event)]).await,
                    None => true,
                }
            }
            Err(error) => match trouble::of_watch(&error) {
                Trouble::Missing | Trouble::Refused(_) if K::OPTIONAL && told_missing => true,
                Trouble::Missing if K::OPTIONAL => {
                    // No such kind means no such objects.
                    told_missing = true;
                    let (kind, cluster) = (K::KIND, cluster.clone());
                    let none = Event::Listing { cluster: cluster.clone(), kind };
                    tell(&out, [Noticed::Event(none), Noticed::Event(Event::Listed { cluster, kind }), watching::<K>()])
                        .await
                }
                Trouble::Refused(why) if K::OPTIONAL => {
                    told_missing = true;
                    tracing::warn!(%cluster, kind = ?K::KIND, why, "may not be watched; going on without it");
                    tell(&out, [watching::<K>()]).await
                }
                Trouble::Missing => refused::<K>(&out, "the server does not know this kind".to_owned()).await,
                Trouble::Refused(why) => refused::<K>(&out, why).await,
                Trouble::Restarts => true,
                Trouble::Failed(why) => {
                    tracing::debug!(%cluster, kind = ?K::KIND, why, "watch interrupted");
                    true
                }
            },
        };
        if !sent {
            return;
        }
    }
}

fn watching<K: Watched>() -> Noticed {
    Noticed::Signal(Signal::Watching(K::KIND))
}

async fn refused<K: Watched>(out: &mpsc::Sender<Noticed>, why: String) -> bool {
    tell(out, [Noticed::Signal(Signal::WatchRefused(K::KIND, why))]).await
}

async fn tell<const N: usize>(out: &mpsc::Sender<Noticed>, all: [Noticed; N]) -> bool {
    for noticed in all {
        if out.send(noticed).await.is_err() {
            return false;
        }
    }
    true
}

fn to_event<K: Watched>(event: watcher::Event<K>, cluster: &Text) -> Option<Event> {
    let cluster = cluster.clone();
    let kind = K::KIND;
    let delete = |namespace: Option<String>, name: String| {
        let namespace = namespace.unwrap_or_default().into();
        Event::Delete { cluster: cluster.clone(), kind, namespace, name: name.into() }
    };
    Some(match event {
        watcher::Event::Init => Event::Listing { cluster, kind },
        watcher::Event::InitApply(object) => Event::Upsert { cluster, object: object.record()? },
        watcher::Event::InitDone => Event::Listed { cluster, kind },
        watcher::Event::Apply(object) => {
            let (namespace, name) = (object.namespace(), object.name_any());
            match object.record() {
                Some(object) => Event::Upsert { cluster, object },
                // It changed into something of no interest, such as a pod that ended.
                None => delete(namespace, name),
            }
        }
        watcher::Event::Delete(object) => delete(object.namespace(), object.name_any()),
    })
}

/// Pauses between attempts: from 0.2 s doubling to 5 s, each moved by up to a quarter either way, so that controllers
/// that lost the same server do not return in step.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
}

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Default for Pause {
    fn default() -> Self {
        Pause { next: FIRST_PAUSE }
    }
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        Some(pause.mul_f64(rand::random_range(0.75..1.25)))
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        *self = Pause::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over() {
        let mut pause = Pause::default();
        let pauses: Vec<_> = pause.by_ref().take(10).collect();
        assert!(pauses[0] >= FIRST_PAUSE.mul_f64(0.75) && pauses[0] <= FIRST_PAUSE.mul_f64(1.25));
        assert!(pauses.iter().all(|p| *p <= LONGEST_PAUSE.mul_f64(1.25)));
        assert!(pauses[9] >= LONGEST_PAUSE.mul_f64(0.75));
        pause.reset();
        assert!(pause.next().unwrap() < Duration::from_millis(300));
    }
}
