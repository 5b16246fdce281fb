//! The store: objects by resource, namespace and name in memory, one revision counter, and a bounded log of changes per
//! resource, from which watches and lists at past revisions are served.
//!
//! Stored values are immutable and shared; a change replaces the object.

mod group_resource;
mod log;
mod saved;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::object;
pub(crate) use group_resource::GroupResource;
use log::{ChangeLog, Compacted};
pub(crate) use log::{EventType, StoreEvent, StoredObject};
pub use saved::SavedObjects;

/// Default number of remembered changes per resource. It holds an hour of two leases, each renewed every two seconds. A
/// client that is further behind has to list again.
pub(crate) const REMEMBERED_CHANGES: usize = 4096;

/// Most objects of a store.
const MAX_OBJECTS: usize = 200_000;

/// Why a write failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// An object with that name exists.
    Exists,
    /// No object with that name exists.
    Missing,
    /// The stored object is not the one that was changed.
    Changed,
    /// The store has [`MAX_OBJECTS`] objects.
    Full,
}

/// All objects with their resources.
pub(crate) type AllObjects = [(GroupResource, StoredObject)];

pub(crate) struct ObjectStore {
    inner: Mutex<StoreState>,
    changed: watch::Sender<u64>,
    remembered: usize,
}

struct StoreState {
    revision: u64,
    first: u64,
    count: usize,
    tables: HashMap<GroupResource, ResourceTable>,
}

struct ResourceTable {
    objects: BTreeMap<ObjectKey, StoredObject>,
    log: ChangeLog,
    changed: watch::Sender<u64>,
}

/// Namespace and name.
type ObjectKey = (String, String);

impl ObjectStore {
    /// An empty store whose next revision is `first + 1`. A restarted server begins with a higher revision than its
    /// predecessor reached, so that old revisions of clients are expired.
    pub(crate) fn new(first: u64, remembered: usize) -> Self {
        let inner = StoreState { revision: first, first, count: 0, tables: HashMap::new() };
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(first), remembered }
    }

    /// The revision of the last change.
    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Receives the revision of changes that other objects may depend on: all changes except those that leave an
    /// object's owners, finalizers and deletion as they were, which are frequent.
    pub(crate) fn consequential_changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<StoredObject> {
        let inner = self.lock();
        inner.tables.get(resource)?.objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The objects of one namespace or of all, ordered by namespace and name, and the current revision.
    pub(crate) fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> (u64, Vec<StoredObject>) {
        let inner = self.lock();
        let objects = inner.tables.get(resource).map_or_else(Vec::new, |table| in_namespace(&table.objects, namespace));
        (inner.revision, objects)
    }

    /// The objects at a past revision.
    pub(crate) fn list_at(
        &self,
        resource: &GroupResource,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Vec<StoredObject>, Compacted> {
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

    /// Up to `most` changes after a revision, and the revision up to which the result is complete.
    pub(crate) fn changes_after(
        &self,
        resource: &GroupResource,
        revision: u64,
        most: usize,
    ) -> Result<(u64, Vec<Arc<StoreEvent>>), Compacted> {
        let inner = self.lock();
        let Some(table) = inner.tables.get(resource) else {
            return if revision < inner.first {
                Err(Compacted { oldest: inner.first })
            } else {
                Ok((inner.revision, Vec::new()))
            };
        };
        let events: Vec<Arc<StoreEvent>> = table.log.after(revision)?.take(most).cloned().collect();
        let complete = match events.last() {
            Some(last) if events.len() == most => last.revision,
            _ => inner.revision,
        };
        Ok((complete, events))
    }

    /// Receives the revision of every change of a resource.
    pub(crate) fn subscribe(&self, resource: &GroupResource) -> watch::Receiver<u64> {
        let mut inner = self.lock();
        inner.table(resource, self.remembered).changed.subscribe()
    }

    /// All objects with their resources, and the current revision.
    pub(crate) fn all_objects(&self) -> (u64, Vec<(GroupResource, StoredObject)>) {
        let inner = self.lock();
        let all = inner
            .tables
            .iter()
            .flat_map(|(resource, table)| table.objects.values().map(|object| (resource.clone(), Arc::clone(object))));
        (inner.revision, all.collect())
    }

    /// Stores a new object.
    pub(crate) fn insert(&self, resource: &GroupResource, mut value: Value) -> Result<StoredObject, WriteError> {
        let mut inner = self.lock();
        if inner.count >= MAX_OBJECTS {
            return Err(WriteError::Full);
        }
        let key = key_of(&value);
        if inner.table(resource, self.remembered).objects.contains_key(&key) {
            return Err(WriteError::Exists);
        }
        inner.count += 1;
        let revision = inner.next(&mut value);
        let object = Arc::new(value);
        let table = inner.table(resource, self.remembered);
        table.objects.insert(key, Arc::clone(&object));
        table.record(StoreEvent { revision, change: EventType::Added, object: Arc::clone(&object), previous: None });
        self.changed.send_replace(revision);
        Ok(object)
    }

    /// Replaces `current` by `value` if `current` is still stored.
    pub(crate) fn replace(
        &self,
        resource: &GroupResource,
        current: &StoredObject,
        mut value: Value,
    ) -> Result<StoredObject, WriteError> {
        let mut inner = self.lock();
        let key = key_of(current);
        inner.table(resource, self.remembered).expect_current(&key, current)?;
        let revision = inner.next(&mut value);
        let object = Arc::new(value);
        let table = inner.table(resource, self.remembered);
        let previous = table.objects.insert(key, Arc::clone(&object));
        table.record(StoreEvent { revision, change: EventType::Modified, object: Arc::clone(&object), previous });
        if is_consequential(resource, current, &object) {
            self.changed.send_replace(revision);
        }
        Ok(object)
    }

    /// Removes `current` if it is still stored. Returns its last state with the revision of the removal.
    pub(crate) fn remove(
        &self,
        resource: &GroupResource,
        current: &StoredObject,
        last: Value,
    ) -> Result<StoredObject, WriteError> {
        let mut inner = self.lock();
        let key = key_of(current);
        inner.table(resource, self.remembered).expect_current(&key, current)?;
        let mut last = last;
        let revision = inner.next(&mut last);
        inner.count = inner.count.saturating_sub(1);
        let object = Arc::new(last);
        let table = inner.table(resource, self.remembered);
        let previous = table.objects.remove(&key);
        table.record(StoreEvent { revision, change: EventType::Deleted, object: Arc::clone(&object), previous });
        self.changed.send_replace(revision);
        Ok(object)
    }

    fn lock(&self) -> MutexGuard<'_, StoreState> {
        // No code under the lock leaves the state partly changed, so that a poisoned lock can be used.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreState {
    fn table(&mut self, resource: &GroupResource, remembered: usize) -> &mut ResourceTable {
        if !self.tables.contains_key(resource) {
            let table = ResourceTable {
                objects: BTreeMap::new(),
                log: ChangeLog::new(self.first, remembered),
                changed: watch::Sender::new(self.revision),
            };
            self.tables.insert(resource.clone(), table);
        }
        self.tables.get_mut(resource).expect("inserted above")
    }

    /// Increments the revision and writes it into the object.
    fn next(&mut self, value: &mut Value) -> u64 {
        self.revision += 1;
        object::set_metadata(value, "resourceVersion", Some(json!(self.revision.to_string())));
        self.revision
    }
}

impl ResourceTable {
    fn expect_current(&self, key: &ObjectKey, current: &StoredObject) -> Result<(), WriteError> {
        match self.objects.get(key) {
            None => Err(WriteError::Missing),
            Some(kept) if Arc::ptr_eq(kept, current) => Ok(()),
            Some(_) => Err(WriteError::Changed),
        }
    }

    fn record(&mut self, event: StoreEvent) {
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
    // The contents of these resources have consequences too.
    matches!(&*resource.resource, "configmaps" | "secrets" | "namespaces" | "customresourcedefinitions")
        || ["deletionTimestamp", "finalizers", "ownerReferences"].into_iter().any(differs)
}

fn key_of(object: &Value) -> ObjectKey {
    (object::namespace(object).to_owned(), object::name(object).to_owned())
}

fn in_namespace(objects: &BTreeMap<ObjectKey, StoredObject>, namespace: Option<&str>) -> Vec<StoredObject> {
    match namespace {
        None => objects.values().cloned().collect(),
        Some(namespace) => objects
            .range((namespace.to_owned(), String::new())..)
            .take_while(|((of, _), _)| of == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect(),
    }
}
