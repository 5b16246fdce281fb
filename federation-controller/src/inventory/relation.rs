//! Which things belong to which: a map to sorted lists that has no empty lists.
//!
//! Lists rather than trees: nearly all have one member, for which a tree allocates room for eleven. The longest, the pods of
//! a node, has some hundreds.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Members by what they belong to.
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
    /// Adds a pair; true if `key` had no members before.
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

    /// Removes a pair; true if it was the last member of `key`.
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

    /// The members of `key`, in order.
    pub(crate) fn of<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> impl Iterator<Item = &M> + Clone
    where
        K: Borrow<Q>,
    {
        self.members.get(key).into_iter().flatten()
    }

    /// Whether `key` has members.
    pub(crate) fn has<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.members.contains_key(key)
    }
}
