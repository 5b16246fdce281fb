//! The objects of one kind in one cluster.
//!
//! A record holds its own name, so the collection keeps no key beside it: four bytes of index and one of hash for each.
//! Each record has a small number ([`Slots`]) by which other structures refer to it. A number is used again after a removal,
//! so a structure that keeps a number drops it when the record is removed.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::objects::{Key, Labels, Record, Text};
use crate::slots::Slots;

/// The objects of one kind in one cluster, by namespace and name, with an index of selectors and, for kinds that declare
/// it, an index by namespace.
#[derive(Debug)]
pub struct Collection<T> {
    slots: Slots<T>,
    index: HashTable<u32>,
    namespaces: BTreeSet<(Text, u32)>,
    selectors: HashMap<Anchor, Vec<u32>>,
    hasher: DefaultHashBuilder,
}

/// One label of a selector, with the namespace of the selected pods. A selector matches only pods that have the label, so
/// the index finds all selectors of a pod by the pod's labels.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Anchor {
    /// Empty: every namespace.
    namespace: Text,
    /// `None`: the selector is empty and matches every pod.
    label: Option<(Text, Text)>,
}

impl<T> Default for Collection<T> {
    fn default() -> Self {
        Collection {
            slots: Slots::default(),
            index: HashTable::new(),
            namespaces: BTreeSet::new(),
            selectors: HashMap::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl<T: Record> Collection<T> {
    /// Returns the number of a record.
    pub(crate) fn id(&self, key: &Key) -> Option<u32> {
        self.id_of(&key.namespace, &key.name)
    }

    /// Returns the record of a number.
    pub(crate) fn at(&self, id: u32) -> Option<&T> {
        self.slots.get(id)
    }

    /// Returns a record.
    pub fn get(&self, key: &Key) -> Option<&T> {
        self.at(self.id(key)?)
    }

    /// Returns a record of a kind without namespaces.
    pub fn named(&self, name: &str) -> Option<&T> {
        self.at(self.id_of("", name)?)
    }

    /// Returns whether a record exists.
    pub fn contains(&self, key: &Key) -> bool {
        self.id(key).is_some()
    }

    /// Returns all records, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter()
    }

    /// Returns the keys of all records, in no order.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.values().map(Record::key)
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns whether the collection is empty.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Returns the records of a namespace, in no order. Empty for kinds without an index by namespace.
    pub fn in_namespace<'a>(&'a self, namespace: &Text) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let range = (namespace.clone(), 0)..=(namespace.clone(), u32::MAX);
        self.namespaces.range(range).filter_map(|(_, id)| self.at(*id))
    }

    /// Returns the records that select a pod of these labels, in no order.
    ///
    /// `namespaces` are the namespaces of selectors that can match the pod: its own, and the root namespace for kinds that
    /// apply to the whole mesh from there. Selectors without a namespace are always considered.
    pub fn selecting<'a>(
        &'a self,
        namespaces: &[&Text],
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let mut found: Vec<u32> = Vec::new();
        if !self.selectors.is_empty() {
            let every = Text::default();
            for namespace in namespaces.iter().copied().chain([&every]) {
                let labelled = labels.iter().map(|(key, value)| Some((key.clone(), value.clone())));
                for label in labelled.chain([None]) {
                    let anchor = Anchor { namespace: namespace.clone(), label };
                    found.extend(self.selectors.get(&anchor).into_iter().flatten());
                }
            }
        }
        let records = found.into_iter().filter_map(|id| self.at(id));
        records.filter(|record| record.selector().is_some_and(|selector| selector.labels.select(labels)))
    }

    /// Inserts a record in place of the record of its key, whose number it keeps. Returns the number.
    pub(crate) fn insert(&mut self, record: T) -> u32 {
        let id = match self.id_of(namespace(&record), record.name()) {
            Some(id) => {
                self.unlink(id);
                self.slots.replace(id, record);
                id
            }
            None => {
                let hash = hash(&self.hasher, &record);
                let id = self.slots.insert(record);
                let (slots, hasher) = (&self.slots, &self.hasher);
                self.index.insert_unique(hash, id, |at| slots.get(*at).map_or(0, |record| self::hash(hasher, record)));
                id
            }
        };
        self.link(id);
        id
    }

    /// Removes a record and returns it with its number.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<(u32, T)> {
        let id = self.id(key)?;
        self.unlink(id);
        let hash = self.hasher.hash_one((&*key.namespace, &*key.name));
        let entry = self.index.find_entry(hash, |at| *at == id);
        entry.into_iter().for_each(|entry| _ = entry.remove());
        let record = self.slots.remove(id)?;
        if self.index.is_empty() {
            // A cluster that lost all objects of a kind may not get as many again.
            *self = Collection::default();
        }
        Some((id, record))
    }

    /// Inserts a record, or removes the record of the key.
    pub(crate) fn replace(&mut self, key: &Key, new: Option<T>) {
        match new {
            Some(new) => drop(self.insert(new)),
            None => drop(self.remove(key)),
        }
    }

    fn id_of(&self, namespace: &str, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one((namespace, name));
        let is = |at: &u32| {
            self.at(*at).is_some_and(|record| **record.name() == *name && self::namespace(record) == namespace)
        };
        self.index.find(hash, is).copied()
    }

    fn link(&mut self, id: u32) {
        let Some(record) = self.slots.get(id) else { return };
        if let Some(namespace) = record.namespace().filter(|_| T::BY_NAMESPACE) {
            self.namespaces.insert((namespace.clone(), id));
        }
        if let Some(anchor) = anchor(record) {
            self.selectors.entry(anchor).or_default().push(id);
        }
    }

    fn unlink(&mut self, id: u32) {
        let Some(record) = self.slots.get(id) else { return };
        if let Some(namespace) = record.namespace().filter(|_| T::BY_NAMESPACE) {
            self.namespaces.remove(&(namespace.clone(), id));
        }
        if let Some(anchor) = anchor(record)
            && let Some(ids) = self.selectors.get_mut(&anchor)
        {
            ids.retain(|of| *of != id);
            if ids.is_empty() {
                self.selectors.remove(&anchor);
            }
        }
    }
}

fn anchor(record: &impl Record) -> Option<Anchor> {
    let selector = record.selector()?;
    let label = selector.labels.iter().next().map(|(key, value)| (key.clone(), value.clone()));
    Some(Anchor { namespace: selector.namespace.cloned().unwrap_or_default(), label })
}

fn namespace(record: &impl Record) -> &str {
    record.namespace().map_or("", |namespace| namespace)
}

fn hash(hasher: &DefaultHashBuilder, record: &impl Record) -> u64 {
    hasher.hash_one((namespace(record), &**record.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Export, Gateway};

    #[test]
    fn numbers_stay_and_are_used_again() {
        let export = |name: &str| Export { namespace: "a".into(), name: name.into(), created: 1, ..Export::default() };
        let mut exports = Collection::default();
        let ids: Vec<u32> = (0..100).map(|i| exports.insert(export(&i.to_string()))).collect();
        assert_eq!(exports.insert(export("7")), ids[7]);
        assert_eq!(exports.remove(&Key::new("a", "7")).map(|(id, _)| id), Some(ids[7]));
        assert!(exports.get(&Key::new("a", "7")).is_none() && exports.at(ids[7]).is_none());
        assert_eq!(exports.insert(export("x")), ids[7]);
        assert_eq!((exports.len(), exports.values().count()), (100, 100));
        assert_eq!(exports.get(&Key::new("a", "99")).map(|of| &*of.name), Some("99"));
        assert!(exports.get(&Key::new("b", "99")).is_none());
    }

    #[test]
    fn the_namespace_index_follows_changes() {
        let mut exports = Collection::default();
        for (namespace, name) in [("a", "x"), ("a", "y"), ("b", "x"), ("ab", "x")] {
            exports.insert(Export { namespace: namespace.into(), name: name.into(), created: 1, ..Export::default() });
        }
        let count = |exports: &Collection<Export>, namespace: &str| exports.in_namespace(&namespace.into()).count();
        assert_eq!((count(&exports, "a"), count(&exports, "b"), count(&exports, "c")), (2, 1, 0));
        exports.remove(&Key::new("a", "x"));
        exports.insert(Export { namespace: "a".into(), name: "y".into(), created: 2, ..Export::default() });
        assert_eq!(count(&exports, "a"), 1);
    }

    #[test]
    fn the_selector_index_finds_what_a_scan_finds() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(key, value)| (Text::from(*key), Text::from(*value))).collect()
        };
        let gateway =
            |name: &str, selector: &[(&str, &str)]| Gateway::exporting("a", name, labels(selector), &["*.local"]);
        let mut gateways = Collection::default();
        for gateway in [
            gateway("all", &[]),
            gateway("app", &[("app", "x")]),
            gateway("both", &[("app", "x"), ("version", "v1")]),
            gateway("other", &[("app", "y")]),
        ] {
            gateways.insert(gateway);
        }
        let found = |gateways: &Collection<Gateway>, pairs: &[(&str, &str)]| {
            let mut names: Vec<String> =
                gateways.selecting(&[&"b".into()], &labels(pairs)).map(|of| of.name.to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(found(&gateways, &[]), ["all"]);
        assert_eq!(found(&gateways, &[("app", "x")]), ["all", "app"]);
        assert_eq!(found(&gateways, &[("app", "x"), ("version", "v1")]), ["all", "app", "both"]);
        gateways.insert(gateway("app", &[("app", "y")]));
        gateways.remove(&Key::new("a", "all"));
        assert_eq!(found(&gateways, &[("app", "x"), ("version", "v1")]), ["both"]);
        assert_eq!(found(&gateways, &[("app", "y")]), ["app", "other"]);
    }
}
