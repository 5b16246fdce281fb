//! Relations between objects: maps from a key to the objects that refer to it.
//!
//! [`Relation`] has lists rather than trees: nearly all have one member, for which a tree allocates room for eleven. The
//! longest list, the pods of a node, has some hundreds.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Sorted members by key. A key without members has no entry.
#[derive(Clone, Debug)]
pub(crate) struct Relation<K, M> {
    members: HashMap<K, Vec<M>>,
}

impl<K, M> Default for Relation<K, M> {
    fn default() -> Self {
        Relation { members: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone, M: Ord + Clone> Relation<K, M> {
    /// Adds a pair. Returns whether `key` had no members before.
    pub(crate) fn insert(&mut self, key: &K, member: &M) -> bool {
        match self.members.get_mut(key) {
            Some(members) => {
                if let Err(at) = members.binary_search(member) {
                    members.insert(at, member.clone());
                }
                false
            }
            None => self.members.insert(key.clone(), vec![member.clone()]).is_none(),
        }
    }

    /// Removes a pair. Returns whether it was the last member of `key`.
    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, member: &M) -> bool
    where
        K: Borrow<Q>,
    {
        let Some(members) = self.members.get_mut(key) else { return false };
        if let Ok(at) = members.binary_search(member) {
            members.remove(at);
            if members.is_empty() {
                self.members.remove(key);
                return true;
            }
        }
        false
    }

    /// Removes all members of `key`.
    pub(crate) fn clear(&mut self, key: &K) {
        self.members.remove(key);
    }

    /// Returns whether no key has members.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the members of `key`, in order.
    pub(crate) fn of<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> impl Iterator<Item = &M> + Clone
    where
        K: Borrow<Q>,
    {
        self.members.get(key).into_iter().flatten()
    }

    /// Returns whether `key` has members.
    pub(crate) fn has<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.members.contains_key(key)
    }
}

/// From a namespace and name to numbers of records, by the hash of the name alone. A number may belong to another name, so
/// the caller compares, or tolerates it.
#[derive(Debug, Default)]
pub(crate) struct Reverse {
    pairs: HashTable<(u32, u32)>,
    hasher: DefaultHashBuilder,
}

impl Reverse {
    /// Adds a pair.
    pub(crate) fn insert(&mut self, namespace: &str, name: &str, id: u32) {
        let pair = (self.hash(namespace, name), id);
        if self.pairs.find(spread(pair.0), |of| *of == pair).is_none() {
            self.pairs.insert_unique(spread(pair.0), pair, |(hash, _)| spread(*hash));
        }
    }

    /// Removes a pair.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str, id: u32) {
        let pair = (self.hash(namespace, name), id);
        let entry = self.pairs.find_entry(spread(pair.0), |of| *of == pair);
        entry.into_iter().for_each(|entry| _ = entry.remove());
    }

    /// Returns the numbers, in no order.
    pub(crate) fn of(&self, namespace: &str, name: &str) -> impl Iterator<Item = u32> {
        let hash = self.hash(namespace, name);
        self.pairs.iter_hash(spread(hash)).filter(move |(of, _)| *of == hash).map(|(_, id)| *id)
    }

    fn hash(&self, namespace: &str, name: &str) -> u32 {
        self.hasher.hash_one((namespace, name)) as u32
    }
}

/// Spreads 32 bits of hash over the 64 bits that a table uses (2⁶⁴ divided by the golden ratio).
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_and_go() {
        let mut reverse = Reverse::default();
        (0..50).for_each(|id| reverse.insert("a", "x", id));
        reverse.insert("a", "x", 7);
        reverse.insert("a", "y", 1);
        reverse.remove("a", "x", 7);
        let mut found: Vec<u32> = reverse.of("a", "x").collect();
        found.sort_unstable();
        assert_eq!(found, (0..50).filter(|id| *id != 7).collect::<Vec<_>>());
        assert_eq!(reverse.of("b", "x").count(), 0);
    }
}
