//! The watch of one kind in one cluster: a list, then changes, and again whenever either ends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;

use super::link_state::Signal;
use super::reads::Reads;
use super::trouble::{self, Trouble};
use crate::objects::event::Event;
use crate::objects::{Record, Text};

/// A message of a watch or of the heartbeat to its link.
#[derive(Debug)]
pub(super) enum Report {
    /// Boxed: an event is many times as large as a signal.
    Event(Box<Event>),
    Signal(Signal),
}

impl From<Event> for Report {
    fn from(event: Event) -> Self {
        Report::Event(Box::new(event))
    }
}

/// The number of objects on a page of a list: one answer of a server with large objects stays below the bound.
pub(crate) const PAGE: u32 = 250;

/// Watches a kind. Returns when the receiver is gone.
pub(super) async fn watch<T: Record>(client: Client, cluster: Text, reads: Arc<Reads>, out: mpsc::Sender<Report>) {
    let config = watcher::Config::default().page_size(PAGE);
    let mut stream = watcher(Api::<T::Source>::all(client), config).backoff(Pause::default()).boxed();
    let mut listed = 0;
    // An optional kind is missing or denied, and has been reported.
    let mut absent = false;
    while let Some(item) = stream.next().await {
        match item {
            Ok(watcher::Event::Init) => listed = 0,
            Ok(watcher::Event::InitApply(_)) => listed += 1,
            _ => {}
        }
        if listed > 2 * T::LIMIT {
            reads.exceed(format!("its list of {}s has more than {} objects", T::NAME, 2 * T::LIMIT).into());
        }
        let sent = match item {
            Ok(event) => {
                let listed = matches!(event, watcher::Event::InitDone);
                if listed {
                    absent = false;
                }
                match to_event::<T>(event, &cluster) {
                    Some(event) if listed => send(&out, [event.into(), watching::<T>()]).await,
                    Some(event) => send(&out, [event.into()]).await,
                    None => true,
                }
            }
            Err(error) => match trouble::of_watch(&error) {
                Trouble::Missing | Trouble::Refused(_) if T::OPTIONAL && absent => true,
                Trouble::Missing if T::OPTIONAL => {
                    // A cluster without the kind has no objects of it.
                    absent = true;
                    let (kind, cluster) = (T::KIND, cluster.clone());
                    let begin = Event::Listing { cluster: cluster.clone(), kind }.into();
                    send(&out, [begin, Event::Listed { cluster, kind }.into(), watching::<T>()]).await
                }
                Trouble::Refused(why) if T::OPTIONAL => {
                    absent = true;
                    tracing::warn!(%cluster, kind = T::NAME, why, "not permitted to watch the kind; continuing without it");
                    let denied = Event::Denied { cluster: cluster.clone(), kind: T::KIND, why: why.into() };
                    send(&out, [denied.into(), watching::<T>()]).await
                }
                Trouble::Missing => refused::<T>(&out, "the server does not have this kind".to_owned()).await,
                Trouble::Refused(why) => refused::<T>(&out, why).await,
                Trouble::Restarts => true,
                Trouble::Failed(why) => {
                    tracing::debug!(%cluster, kind = T::NAME, why, "watch interrupted");
                    true
                }
            },
        };
        if !sent {
            return;
        }
    }
}

fn watching<T: Record>() -> Report {
    Report::Signal(Signal::Watching(T::KIND))
}

async fn refused<T: Record>(out: &mpsc::Sender<Report>, why: String) -> bool {
    send(out, [Report::Signal(Signal::WatchRefused(T::KIND, why))]).await
}

async fn send<const N: usize>(out: &mpsc::Sender<Report>, all: [Report; N]) -> bool {
    for report in all {
        if out.send(report).await.is_err() {
            return false;
        }
    }
    true
}

fn to_event<T: Record>(event: watcher::Event<T::Source>, cluster: &Text) -> Option<Event> {
    let cluster = cluster.clone();
    let kind = T::KIND;
    let delete = |namespace: Option<String>, name: String| {
        let namespace = namespace.unwrap_or_default().into();
        Event::Delete { cluster: cluster.clone(), kind, namespace, name: name.into() }
    };
    Some(match event {
        watcher::Event::Init => Event::Listing { cluster, kind },
        watcher::Event::InitApply(object) => Event::Upsert { cluster, object: T::extract(object)?.into() },
        watcher::Event::InitDone => Event::Listed { cluster, kind },
        watcher::Event::Apply(object) => {
            let (namespace, name) = (object.namespace(), object.name_any());
            match T::extract(object) {
                Some(record) => Event::Upsert { cluster, object: record.into() },
                // The object is of no interest any longer, such as a finished pod.
                None => delete(namespace, name),
            }
        }
        watcher::Event::Delete(object) => delete(object.namespace(), object.name_any()),
    })
}

/// The backoff between attempts: from 0.2 s doubling to 5 s, each with a jitter of a quarter, so that controllers that lost
/// the same server do not return in step.
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
