//! The objects of a store as a value, from which a server that replaces it continues.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::{GroupResource, ObjectStore, StoreState, key_of};

/// All objects of a server, with the revision of its last change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedObjects {
    revision: u64,
    objects: Vec<SavedObject>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedObject {
    group: String,
    resource: String,
    object: Arc<Value>,
}

impl ObjectStore {
    /// A store with saved objects. Its next revision follows theirs, so that a watch from their last one misses nothing;
    /// older revisions are expired.
    pub(crate) fn restored(saved: SavedObjects, remembered: usize) -> Self {
        let first = saved.revision;
        let mut state = StoreState { revision: first, first, count: saved.objects.len(), tables: HashMap::new() };
        for SavedObject { group, resource, object } in saved.objects {
            let table = state.table(&GroupResource::new(&group, &resource), remembered);
            table.objects.insert(key_of(&object), object);
        }
        Self { inner: Mutex::new(state), changed: watch::Sender::new(first), remembered }
    }

    /// Returns all objects, and blocks every later use of the store for good: no change that a client could learn of is
    /// missing from the result.
    pub(crate) fn freeze(&self) -> SavedObjects {
        let state = self.lock();
        let objects = state.tables.iter().flat_map(|(of, table)| {
            table.objects.values().map(|object| SavedObject {
                group: of.group.to_string(),
                resource: of.resource.to_string(),
                object: Arc::clone(object),
            })
        });
        let saved = SavedObjects { revision: state.revision, objects: objects.collect() };
        std::mem::forget(state);
        saved
    }
}
