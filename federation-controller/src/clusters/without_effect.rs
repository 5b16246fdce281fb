//! The watches of the kinds without effect ([`api::compatibility`]) in the own cluster. Only names are read: authors learn by
//! notices that nothing reads the rest.

use std::collections::BTreeSet;

use api::compatibility::{KindWithoutEffect, WITHOUT_EFFECT};
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
    let mut objects = BTreeSet::new();
    let mut listed = BTreeSet::new();
    while let Some(item) = stream.next().await {
        let changed = match item {
            Ok(watcher::Event::Init) => {
                listed.clear();
                false
            }
            Ok(watcher::Event::InitApply(object)) => {
                note(&mut listed, &object);
                false
            }
            Ok(watcher::Event::InitDone) => {
                let before = std::mem::replace(&mut objects, std::mem::take(&mut listed));
                before != objects
            }
            Ok(watcher::Event::Apply(object)) => note(&mut objects, &object),
            Ok(watcher::Event::Delete(object)) => key(&object).is_some_and(|key| objects.remove(&key)),
            Err(error) => match trouble::of_watch(&error) {
                // The kind is no longer defined, and its objects are gone.
                Trouble::Missing => !std::mem::take(&mut objects).is_empty(),
                trouble => {
                    tracing::debug!(kind = kind.kind, %trouble, "cannot watch a kind without effect; trying again");
                    false
                }
            },
        };
        let event = Event::WithoutEffect { kind, objects: objects.clone() };
        if changed && events.send(Source::Controller, event).await.is_err() {
            return;
        }
    }
}

/// Adds an object. Returns whether it is new.
fn note(objects: &mut BTreeSet<Key>, object: &Metadata) -> bool {
    key(object).is_some_and(|key| objects.len() < LIMIT && objects.insert(key))
}

fn key(object: &Metadata) -> Option<Key> {
    Some(Key { namespace: fields::namespace(&object.metadata)?, name: fields::name(&object.metadata)? })
}
