//! A hash map for snapshots: clones share their entries.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// The number of shards. A change copies one of them: 160 entries of a map of 10,000.
const SHARDS: usize = 64;

/// A hash map that is cheap to clone and to change while clones exist: it consists of shards, and a change copies the shard
/// of its key if a clone shares it.
#[derive(Debug)]
pub struct SharedMap<K, V> {
    shards: Arc<[Arc<HashMap<K, V>>]>,
    hasher: RandomState,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { shards: (0..SHARDS).map(|_| empty.clone()).collect(), hasher: RandomState::new(), len: 0 }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone(), hasher: self.hasher.clone(), len: self.len }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    /// Returns the value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards[self.shard(key)].get(key)
    }

    /// Returns whether the map has a key.
    pub fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Sets the value of a key, and returns the previous value.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let shard = self.shard(&key);
        let previous = Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[shard]).insert(key, value);
        self.len += usize::from(previous.is_none());
        previous
    }

    /// Removes a key, and returns its value.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Looked up first: nothing is copied for an absent key.
        self.get(key)?;
        let shard = self.shard(key);
        let removed = Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[shard]).remove(key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the map has no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns all entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// Returns all keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Returns all values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_do_not_see_later_changes() {
        let mut map: SharedMap<u32, u32> = SharedMap::default();
        for key in 0..1000 {
            assert_eq!(map.insert(key, key), None);
        }
        let before = map.clone();
        assert_eq!(map.insert(7, 8), Some(7));
        assert_eq!(map.remove(&9), Some(9));
        assert_eq!(map.remove(&9), None);
        assert_eq!((map.get(&7), map.get(&9), map.len()), (Some(&8), None, 999));
        assert_eq!((before.get(&7), before.get(&9), before.len()), (Some(&7), Some(&9), 1000));
        assert_eq!((map.keys().count(), before.values().count()), (999, 1000));
    }

    #[test]
    fn a_change_copies_one_shard() {
        let mut map: SharedMap<u32, u32> = (0..1000).fold(SharedMap::default(), |mut map, key| {
            map.insert(key, key);
            map
        });
        let before = map.clone();
        map.insert(7, 8);
        let copied = map.shards.iter().zip(before.shards.iter()).filter(|(now, then)| !Arc::ptr_eq(now, then));
        assert_eq!(copied.count(), 1);
    }
}
