//! Records by namespace and name, each with a small number by which others refer to it.
//!
//! A record holds its own name, so the table keeps no key beside it: four bytes of index and one of hash for each. Numbers
//! are used again after a removal, so whoever keeps one lets go of it when the record goes.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Key;
use crate::objects::event::Text;
use crate::slots::Slots;

/// Something that has a namespace and a name.
pub(crate) trait Named {
    /// The namespace.
    fn namespace(&self) -> &Text;
    /// The name.
    fn name(&self) -> &Text;

    /// Both.
    fn key(&self) -> Key {
        Key { namespace: self.namespace().clone(), name: self.name().clone() }
    }
}

/// Records of one kind.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Slots<T>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { slots: Slots::default(), index: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }
}

impl<T: Named> Table<T> {
    /// The number of a record.
    pub(crate) fn id(&self, key: &Key) -> Option<u32> {
        let hash = self.hasher.hash_one((&*key.namespace, &*key.name));
        let is = |at: &u32| {
            self.at(*at).is_some_and(|record| *record.name() == key.name && *record.namespace() == key.namespace)
        };
        self.index.find(hash, is).copied()
    }

    /// The record of a number.
    pub(crate) fn at(&self, id: u32) -> Option<&T> {
        self.slots.get(id)
    }

    /// A record.
    pub(crate) fn get(&self, key: &Key) -> Option<&T> {
        self.at(self.id(key)?)
    }

    /// Whether there is such a record.
    pub(crate) fn contains_key(&self, key: &Key) -> bool {
        self.id(key).is_some()
    }

    /// Puts a record in place of the one of its name. It keeps that one's number.
    pub(crate) fn insert(&mut self, record: T) -> u32 {
        if let Some(id) = self.id(&record.key()) {
            self.slots.replace(id, record);
            return id;
        }
        let hash = self.hasher.hash_one((&**record.namespace(), &**record.name()));
        let id = self.slots.insert(record);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert_unique(hash, id, |at| {
            slots.get(*at).map_or(0, |of| hasher.hash_one((&**of.namespace(), &**of.name())))
        });
        id
    }

    /// Takes a record out.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<(u32, T)> {
        let id = self.id(key)?;
        let hash = self.hasher.hash_one((&*key.namespace, &*key.name));
        let entry = self.index.find_entry(hash, |at| *at == id);
        entry.into_iter().for_each(|entry| _ = entry.remove());
        let record = self.slots.remove(id)?;
        if self.index.is_empty() {
            // A cluster that lost all of a kind may not get as many again.
            *self = Table::default();
        }
        Some((id, record))
    }

    /// Puts a record in, or takes out what there was under its name.
    pub(crate) fn replace(&mut self, key: &Key, new: Option<T>) {
        match new {
            Some(new) => drop(self.insert(new)),
            None => drop(self.remove(key)),
        }
    }

    /// All records.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter()
    }

    /// The keys of all records.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.values().map(Named::key)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}

/// From a name to numbers of records, by the hash of the name alone: what is found may be of another name, so whoever asks
/// looks, or does not mind.
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

    /// The numbers, in no order.
    pub(crate) fn of(&self, namespace: &str, name: &str) -> impl Iterator<Item = u32> {
        let hash = self.hash(namespace, name);
        self.pairs.iter_hash(spread(hash)).filter(move |(of, _)| *of == hash).map(|(_, id)| *id)
    }

    fn hash(&self, namespace: &str, name: &str) -> u32 {
        self.hasher.hash_one((namespace, name)) as u32
    }
}

/// Spreads 32 bits of hash over the 64 that a table looks at (2⁶⁴ divided by the golden ratio).
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::event::Export;

    #[test]
    fn numbers_stay_and_are_used_again() {
        let export = |name: &str| Export { namespace: "a".into(), name: name.into(), created: 1 };
        let mut table = Table::default();
        let ids: Vec<u32> = (0..100).map(|i| table.insert(export(&i.to_string()))).collect();
        assert_eq!(table.insert(export("7")), ids[7]);
        assert_eq!(table.remove(&Key::new("a", "7")).map(|(id, _)| id), Some(ids[7]));
        assert!(table.get(&Key::new("a", "7")).is_none() && table.at(ids[7]).is_none());
        assert_eq!(table.insert(export("x")), ids[7]);
        assert_eq!((table.len(), table.values().count()), (100, 100));
        assert_eq!(table.get(&Key::new("a", "99")).map(|of| &*of.name), Some("99"));
        assert!(table.get(&Key::new("b", "99")).is_none());
    }

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
