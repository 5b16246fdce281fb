//! The watches of the kinds without effect ([`api::compatibility`]) in the own cluster. Only names are read: authors learn by
//! notices that nothing reads the rest.

use std::collections::BTreeSet;

use api::compatibility::{KindWithoutEffect, WITHOUT_EFFECT};
use api::export::{MANAGED_BY, MANAGED_BY_LABEL};
use futures_util::StreamExt as _;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};

use super::queue::{Queues, Source};
use super::trouble::{self, Trouble};
use super::watch::{PAGE, Pause};
use crate::objects::event::Event;
use crate::objects::{Key, fields};

/// An object of any kind, of which only the metadata is read.
type Metadata = PartialObjectMeta<DynamicObject>;

/// The number of objects of a kind that are noted.
const LIMIT: usize = 1_000;

/// Watches the kinds and sends the names of their objects to the pipeline. Never returns.
pub(super) async fn follow(client: Client, events: Queues) {
    let watches = WITHOUT_EFFECT.iter().map(|kind| watch(kind, client.clone(), events.clone()));
    futures_util::future::join_all(watches).await;
}

async fn watch(kind: &'static KindWithoutEffect, client: Client, events: Queues) {
    let api = Api::<Metadata>::all_with(client, &kind.resource());
    let config = watcher::Config::default().page_size(PAGE);
    let mut stream = watcher(api, config).backoff(Pause::default()).boxed();
    let mut names = Names::default();
    while let Some(item) = stream.next().await {
        let changed = match item {
            Ok(event) => names.apply(event),
            Err(error) => match trouble::of_watch(&error) {
                // The kind is no longer defined, and its objects are gone.
                Trouble::Missing => names.clear(),
                trouble => {
                    tracing::debug!(kind = kind.kind, %trouble, "cannot watch a kind without effect; trying again");
                    false
                }
            },
        };
        if changed {
            let event = Event::WithoutEffect { kind, objects: names.known.clone() };
            if events.send(Source::Controller, event).await.is_err() {
                return;
            }
        }
    }
}

/// The names of the objects of a kind. Those beyond [`LIMIT`] are left out.
#[derive(Default)]
struct Names {
    known: BTreeSet<Key>,
    /// The names of a list that is not complete.
    listed: BTreeSet<Key>,
}

impl Names {
    /// Applies an event. Returns whether the known names changed.
    fn apply(&mut self, event: watcher::Event<Metadata>) -> bool {
        match event {
            watcher::Event::Init => {
                self.listed.clear();
                false
            }
            watcher::Event::InitApply(object) => {
                add(&mut self.listed, &object);
                false
            }
            watcher::Event::InitDone => {
                let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.listed));
                before != self.known
            }
            watcher::Event::Apply(object) => add(&mut self.known, &object),
            watcher::Event::Delete(object) => key(&object).is_some_and(|key| self.known.remove(&key)),
        }
    }

    /// Removes all names. Returns whether there were any.
    fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.known).is_empty()
    }
}

/// Adds the name of an object. Returns whether it is new.
fn add(names: &mut BTreeSet<Key>, object: &Metadata) -> bool {
    key(object).is_some_and(|key| names.len() < LIMIT && names.insert(key))
}

/// Returns the name of an object; `None` for those that the controller writes.
fn key(object: &Metadata) -> Option<Key> {
    if object.metadata.labels.as_ref().is_some_and(|of| of.get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY)) {
        return None;
    }
    Some(Key { namespace: fields::namespace(&object.metadata)?, name: fields::name(&object.metadata)? })
}
