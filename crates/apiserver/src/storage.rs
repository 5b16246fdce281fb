//! Everything the cluster knows, in memory: objects by resource, namespace and name, one revision counter over all of them, and per
//! resource a bounded log of changes, from which watches and lists of the past are served.
//!
//! Kept values are immutable and shared; a change replaces the whole object.

mod group_resource;
mod log;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::object;
pub(crate) use group_resource::GroupResource;
pub(crate) use log::{Change, Event, Object};
use log::{Compacted, Log};

/// How many changes per resource are remembered for watches and for lists of the past. Two leases' changes
/// of an hour fit (each is renewed every two seconds); a watcher further behind lists again.
pub(crate) const REMEMBERED_CHANGES: usize = 4096;

/// How many objects are kept at most.
const MOST_OBJECTS: usize = 200_000;

/// Why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is an object of that name.
    Exists,
    /// There is no object of that name.
    Missing,
    /// The object is not the one that the change was made for.
    Changed,
    /// [`MOST_OBJECTS`] are kept already.
    Full,
}

/// Everything that is kept, at one moment.
pub(crate) type Everything = [(GroupResource, Object)];

pub(crate) struct Store {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    remembered: usize,
}

struct Inner {
    revision: u64,
    first: u64,
    count: usize,
    tables: HashMap<GroupResource, Table>,
}

struct Table {
    objects: BTreeMap<Key, Object>,
    log: Log,
    changed: watch::Sender<u64>,
}

/// Namespace and name.
type Key = (String, String);

impl Store {
    /// An empty store whose next revision is `first + 1`. A server that starts anew starts from a later number than its
    /// predecessor reached, so that clients who remember an old revision are told that it expired.
    pub(crate) fn new(first: u64, remembered: usize) -> Self {
        let inner = Inner { revision: first, first, count: 0, tables: HashMap::new() };
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(first), remembered }
    }

    /// The revision of the last change.
    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Told of the revision of every change, of whatever resource, that other objects may depend on: all but changes of an object that
    /// leave its owners, finalizers and deletion as they were, of which there are many and from which nothing follows.
    pub(crate) fn consequential_changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Object> {
        let inner = self.lock();
        inner.tables.get(resource)?.objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The objects of one namespace, or of all, ordered by namespace and name, and the revision at which that is so.
    pub(crate) fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> (u64, Vec<Object>) {
        let inner = self.lock();
        let objects = inner.tables.get(resource).map_or_else(Vec::new, |table| in_namespace(&table.objects, namespace));
        (inner.revision, objects)
    }

    /// The objects as they were at a revision of the past.
    pub(crate) fn list_at(
        &self,
        resource: &GroupResource,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Vec<Object>, Compacted> {
        let inner = self.lock();
        let Some(table) = inner.tables.get(resource) else {
            return if revision < inner.first { Err(Compacted { oldest: inner.first }) } else { Ok(Vec::new()) };
        };
        let mut objects = table.objects.clone();
        for event in table.log.after(revision)?.rev() {
            let key = key_of(&event.object);
            match &event.previous {
                Some(previous) => drop(objects.insert(key, Arc::clone(previous))),
                None => drop(objects.remove(&key)),
            }
        }
        Ok(in_namespace(&objects, namespace))
    }

    /// Up to `most` changes of a resource after a revision, and the revision up to which the answer is complete.
    pub(crate) fn changes_after(
        &self,
        resource: &GroupResource,
        revision: u64,
        most: usize,
    ) -> Result<(u64, Vec<Arc<Event>>), Compacted> {
        let inner = self.lock();
        let Some(table) = inner.tables.get(resource) else {
            return if revision < inner.first {
                Err(Compacted { oldest: inner.first })
            } else {
                Ok((inner.revision, Vec::new()))
            };
        };
        let events: Vec<Arc<Event>> = table.log.after(revision)?.take(most).cloned().collect();
        let complete = match events.last() {
            Some(last) if events.len() == most => last.revision,
            _ => inner.revision,
        };
        Ok((complete, events))
    }

    /// Told of the revision of every change of one resource.
    pub(crate) fn subscribe(&self, resource: &GroupResource) -> watch::Receiver<u64> {
        let mut inner = self.lock();
        inner.table(resource, self.remembered).changed.subscribe()
    }

    /// Every object with its resource, and the revision at which that is so.
    pub(crate) fn everything(&self) -> (u64, Vec<(GroupResource, Object)>) {
        let inner = self.lock();
        let all = inner
            .tables
            .iter()
            .flat_map(|(resource, table)| table.objects.values().map(|object| (resource.clone(), Arc::clone(object))));
        (inner.revision, all.collect())
    }

    /// Keeps a new object.
    pub(crate) fn insert(&self, resource: &GroupResource, mut value: Value) -> Result<Object, Refused> {
        let mut inner = self.lock();
        if inner.count >= MOST_OBJECTS {
            return Err(Refused::Full);
        }
        let key = key_of(&value);
        if inner.table(resource, self.remembered).objects.contains_key(&key) {
            return Err(Refused::Exists);
        }
        inner.count += 1;
        let revision = inner.next(&mut value);
        let object = Arc::new(value);
        let table = inner.table(resource, self.remembered);
        table.objects.insert(key, Arc::clone(&object));
        table.record(Event { revision, change: Change::Added, object: Arc::clone(&object), previous: None });
        self.changed.send_replace(revision);
        Ok(object)
    }

    /// Puts `value` in the place of `current`, if that is what is still kept.
    pub(crate) fn replace(
        &self,
        resource: &GroupResource,
        current: &Object,
        mut value: Value,
    ) -> Result<Object, Refused> {
        let mut inner = self.lock();
        let key = key_of(current);
        inner.table(resource, self.remembered).expect_current(&key, current)?;
        let revision = inner.next(&mut value);
        let object = Arc::new(value);
        let table = inner.table(resource, self.remembered);
        let previous = table.objects.insert(key, Arc::clone(&object));
        table.record(Event { revision, change: Change::Modified, object: Arc::clone(&object), previous });
        if is_consequential(resource, current, &object) {
            self.changed.send_replace(revision);
        }
        Ok(object)
    }

    /// Removes `current`, if that is what is still kept. The answer is its last state, with the revision of the removal.
    pub(crate) fn remove(&self, resource: &GroupResource, current: &Object, last: Value) -> Result<Object, Refused> {
        let mut inner = self.lock();
        let key = key_of(current);
        inner.table(resource, self.remembered).expect_current(&key, current)?;
        let mut last = last;
        let revision = inner.next(&mut last);
        inner.count = inner.count.saturating_sub(1);
        let object = Arc::new(last);
        let table = inner.table(resource, self.remembered);
        let previous = table.objects.remove(&key);
        table.record(Event { revision, change: Change::Deleted, object: Arc::clone(&object), previous });
        self.changed.send_replace(revision);
        Ok(object)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that runs under the lock leaves it half changed, so a poisoned lock is still good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn table(&mut self, resource: &GroupResource, remembered: usize) -> &mut Table {
        if !self.tables.contains_key(resource) {
            let table = Table {
                objects: BTreeMap::new(),
                log: Log::new(self.first, remembered),
                changed: watch::Sender::new(self.revision),
            };
            self.tables.insert(resource.clone(), table);
        }
        self.tables.get_mut(resource).expect("inserted above")
    }

    /// Counts one change and writes its revision into the object.
    fn next(&mut self, value: &mut Value) -> u64 {
        self.revision += 1;
        object::set_metadata(value, "resourceVersion", Some(json!(self.revision.to_string())));
        self.revision
    }
}

impl Table {
    fn expect_current(&self, key: &Key, current: &Object) -> Result<(), Refused> {
        match self.objects.get(key) {
            None => Err(Refused::Missing),
            Some(kept) if Arc::ptr_eq(kept, current) => Ok(()),
            Some(_) => Err(Refused::Changed),
        }
    }

    fn record(&mut self, event: Event) {
        let revision = event.revision;
        self.log.push(event);
        self.changed.send_replace(revision);
    }
}

fn is_consequential(resource: &GroupResource, before: &Value, after: &Value) -> bool {
    let differs = |key: &str| {
        let of = |object: &Value| object.get("metadata").and_then(|metadata| metadata.get(key)).cloned();
        of(before) != of(after)
    };
    // Of these the contents matter too.
    matches!(&*resource.resource, "configmaps" | "secrets" | "namespaces" | "customresourcedefinitions")
        || ["deletionTimestamp", "finalizers", "ownerReferences"].into_iter().any(differs)
}

fn key_of(object: &Value) -> Key {
    (object::namespace(object).to_owned(), object::name(object).to_owned())
}

fn in_namespace(objects: &BTreeMap<Key, Object>, namespace: Option<&str>) -> Vec<Object> {
    match namespace {
        None => objects.values().cloned().collect(),
        Some(namespace) => objects
            .range((namespace.to_owned(), String::new())..)
            .take_while(|((of, _), _)| of == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect(),
    }
}
