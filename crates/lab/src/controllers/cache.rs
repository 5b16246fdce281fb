//! The objects of one kind, as a watch and the controllers' own writes report them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use kube::Resource;

/// Number of deleted objects that are remembered, so that a late watch event does not restore one.
const REMEMBERED: usize = 4096;

/// Namespace and name. The namespace of a cluster-scoped object is empty.
pub type ObjectKey = (String, String);

/// The objects of one kind.
#[derive(Debug)]
pub struct Cache<K> {
    state: Mutex<CacheState<K>>,
}

#[derive(Debug)]
struct CacheState<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    deleted: VecDeque<String>,
    listed: bool,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { state: Mutex::new(CacheState { objects: BTreeMap::new(), deleted: VecDeque::new(), listed: false }) }
    }
}

impl<K: Resource<DynamicType = ()>> Cache<K> {
    fn state(&self) -> MutexGuard<'_, CacheState<K>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns every object, ordered by namespace and name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.state().objects.values().cloned().collect()
    }

    /// Returns one object.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.state().objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Stores `object` unless a newer version is stored. Returns whether it was stored.
    pub fn put(&self, object: K) -> bool {
        let mut state = self.state();
        let meta = object.meta();
        if meta.uid.as_ref().is_some_and(|uid| state.deleted.contains(uid)) {
            return false;
        }
        let key = key_of(&object);
        if let Some(known) = state.objects.get(&key)
            && known.meta().uid == meta.uid
            && version_of(known.as_ref()) >= version_of(&object)
        {
            return false;
        }
        state.objects.insert(key, Arc::new(object));
        true
    }

    /// Stores the expected result of the caller's own request, at the stored version. The next event about the object
    /// replaces it.
    pub fn assume(&self, object: K) {
        let mut state = self.state();
        let key = key_of(&object);
        if state.objects.get(&key).is_some_and(|known| version_of(known.as_ref()) == version_of(&object)) {
            state.objects.insert(key, Arc::new(object));
        }
    }

    /// Removes `object`, also against late events.
    pub fn remove(&self, object: &K) {
        let mut state = self.state();
        let key = key_of(object);
        if state.objects.get(&key).is_some_and(|known| known.meta().uid == object.meta().uid) {
            state.objects.remove(&key);
        }
        if let Some(uid) = object.meta().uid.clone() {
            state.deleted.push_back(uid);
            if state.deleted.len() > REMEMBERED {
                state.deleted.pop_front();
            }
        }
    }

    /// Replaces the objects with a new list, and returns whether it is the first. Objects that were written since stay
    /// if they are newer.
    pub(super) fn replace(&self, objects: Vec<K>) -> bool {
        let fresh: std::collections::BTreeSet<ObjectKey> = objects.iter().map(key_of).collect();
        let first = {
            let mut state = self.state();
            state.objects.retain(|key, _| fresh.contains(key));
            !std::mem::replace(&mut state.listed, true)
        };
        for object in objects {
            self.put(object);
        }
        first
    }
}

fn key_of<K: Resource<DynamicType = ()>>(object: &K) -> ObjectKey {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Resource versions of the lab's API server are growing numbers (KEP-5504 promises the same of Kubernetes).
fn version_of<K: Resource<DynamicType = ()>>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(uid: &str, version: u64) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some("a".into());
        pod.metadata.namespace = Some("default".into());
        pod.metadata.uid = Some(uid.into());
        pod.metadata.resource_version = Some(version.to_string());
        pod
    }

    fn version(cache: &Cache<Pod>) -> Option<u64> {
        cache.get("default", "a").map(|pod| version_of(pod.as_ref()))
    }

    #[test]
    fn newer_wins_whatever_the_order() {
        let cache = Cache::default();
        assert!(cache.put(pod("1", 7)));
        assert!(!cache.put(pod("1", 6)), "a late event is older than what was written");
        assert_eq!(version(&cache), Some(7));
        assert!(cache.put(pod("1", 8)));
        assert_eq!(version(&cache), Some(8));
    }

    #[test]
    fn deleted_stays_deleted_but_its_name_can_come_back() {
        let cache = Cache::default();
        cache.put(pod("1", 7));
        cache.remove(&pod("1", 8));
        assert!(!cache.put(pod("1", 7)));
        assert_eq!(version(&cache), None);
        assert!(cache.put(pod("2", 9)));
        cache.remove(&pod("1", 8));
        assert_eq!(version(&cache), Some(9), "the deletion of another object of the name changes nothing");
    }

    #[test]
    fn a_new_list_removes_missing_objects() {
        let cache = Cache::default();
        cache.put(pod("1", 7));
        cache.replace(Vec::new());
        assert_eq!(version(&cache), None);
    }
}
