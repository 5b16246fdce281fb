//! The resources that a fake controller pushes.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use wire::Kind;
use wire::delta::{Item, Source};
use wire::prost::Message;

/// The resources that a fake controller pushes. Clones share them.
#[derive(Clone, Debug)]
pub struct Resources {
    state: Arc<Mutex<State>>,
    pub(crate) changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    items: BTreeMap<(Kind, Arc<str>), Item>,
    delays: HashMap<Kind, Duration>,
    version: u64,
}

impl Default for Resources {
    fn default() -> Self {
        Self { state: Arc::default(), changed: watch::channel(0).0 }
    }
}

impl Resources {
    /// Adds or replaces a resource. `aliases` are further names of the resource and the collections that contain it.
    pub fn push(&self, kind: Kind, name: &str, message: &impl Message, aliases: &[&str]) {
        let body = message.encode_to_vec();
        let mut hasher = DefaultHasher::new();
        hasher.write(&body);
        let name: Arc<str> = name.into();
        let keys = aliases.iter().map(|alias| Arc::from(*alias)).collect();
        // Version 0 is not valid.
        let item = Item { name: name.clone(), version: hasher.finish().max(1), body: body.into(), keys };
        self.change(|state| drop(state.items.insert((kind, name), item)));
    }

    /// Removes a resource.
    pub fn remove(&self, kind: Kind, name: &str) {
        self.change(|state| drop(state.items.remove(&(kind, name.into()))));
    }

    /// Returns whether a resource exists.
    pub fn has(&self, kind: Kind, name: &str) -> bool {
        self.state().items.contains_key(&(kind, name.into()))
    }

    /// Delays each push of a kind.
    pub fn delay(&self, kind: Kind, delay: Duration) {
        self.state().delays.insert(kind, delay);
    }

    pub(crate) fn delay_of(&self, type_url: &str) -> Option<Duration> {
        let kind = Kind::of_url(type_url)?;
        self.state().delays.get(&kind).copied()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        state.version += 1;
        self.changed.send_replace(state.version);
    }
}

impl Source for State {
    type Found<'a> = &'a Item;

    fn get(&self, kind: Kind, name: &str) -> Option<&Item> {
        self.items.get(&(kind, name.into()))
    }

    fn members(&self, kind: Kind, name: &str) -> impl Iterator<Item = &Item> {
        let is_member = move |item: &Item| &*item.name == name || item.keys.iter().any(|key| &**key == name);
        self.items.iter().filter(move |((of, _), item)| *of == kind && is_member(item)).map(|(_, item)| item)
    }

    fn end(&self, _: Kind) -> u64 {
        self.version
    }

    /// There is no log of changes, so all resources are compared after each change.
    fn changed(&self, _: Kind, since: u64) -> Option<Vec<Arc<str>>> {
        (since == self.version).then(Vec::new)
    }
}
