//! Resources of one type: by name, by address and collection, and in the order in which they changed.
//!
//! Several resources may have one name, each with another audience: a service of which some clusters have a view of their
//! own. The audiences do not overlap, so a proxy receives one of them.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use wire::name;

use crate::compile::resource::{Audience, Resource, version};
use crate::slots::Slots;

/// The number of changes in the log of a type. A stream reads them within milliseconds. A stream that is further behind is
/// stuck or new, and a comparison costs less than reading more names.
pub(crate) const LOG: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Slots<Stored>,
    by_name: HashTable<u32>,
    /// Hash of an address, and a service with that address. Nearly always there is one, so there is no list.
    by_address: HashTable<(u64, u32)>,
    /// By collection. There are few, with many members.
    collections: HashMap<Box<str>, Vec<u32>>,
    hasher: DefaultHashBuilder,
    log: VecDeque<Arc<str>>,
    /// The position of the first entry of the log.
    start: u64,
    bytes: usize,
}

/// A resource.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) name: Arc<str>,
    pub(crate) version: u64,
    pub(crate) body: Box<[u8]>,
    pub(crate) audience: Audience,
    /// The keys, joined by [`SEPARATOR`].
    keys: Box<str>,
}

/// A character that no name has.
const SEPARATOR: char = '\n';

impl Stored {
    fn new(resource: Resource) -> Self {
        let Resource { kind: _, name, keys, audience, body } = resource;
        let mut joined = String::new();
        // No proxy can subscribe to a key with a line feed.
        for key in keys.iter().filter(|key| !key.contains(SEPARATOR)) {
            if !joined.is_empty() {
                joined.push(SEPARATOR);
            }
            joined.push_str(key);
        }
        Stored { name, version: version(&body), body: body[..].into(), audience, keys: joined.into() }
    }

    /// Returns the addresses and collections that include the resource, except the addresses of its endpoints.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.split(SEPARATOR).filter(|key| !key.is_empty())
    }
}

impl Table {
    /// The number of resources.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The bytes of all bodies.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns all resources, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.slots.iter()
    }

    /// Returns the resources of a name.
    pub(crate) fn named<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Stored> {
        let same = self.by_name.iter_hash(self.hasher.hash_one(name));
        same.filter_map(|at| self.slots.get(*at)).filter(move |stored| *stored.name == *name)
    }

    /// Returns the resources with a key, sorted by name.
    pub(crate) fn keyed(&self, key: &str) -> Vec<&Stored> {
        let mut found: Vec<&Stored> = match name::parse_address(key) {
            Some(_) => {
                let hash = self.hasher.hash_one(key);
                let same = self.by_address.iter_hash(hash).filter(|(of, _)| *of == hash);
                let found = same.filter_map(|(_, at)| self.slots.get(*at));
                found.filter(|stored| stored.keys().any(|of| of == key)).collect()
            }
            None => self.collections.get(key).into_iter().flatten().filter_map(|at| self.slots.get(*at)).collect(),
        };
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Inserts a resource in place of the resource of its name and audience. Returns whether anything differs.
    pub(crate) fn put(&mut self, resource: Resource) -> bool {
        let new = Stored::new(resource);
        if let Some(known) = self.named(&new.name).find(|known| known.audience == new.audience)
            && (known.version, &known.keys) == (new.version, &new.keys)
        {
            return false;
        }
        self.remove_silently(&new.name, &new.audience);
        self.bytes += new.body.len();
        self.note(new.name.clone());
        let hash = self.hasher.hash_one(&*new.name);
        let id = self.slots.insert(new);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_name.insert_unique(hash, id, |at| slots.get(*at).map_or(0, |of| hasher.hash_one(&*of.name)));
        for key in slots.get(id).into_iter().flat_map(Stored::keys) {
            match name::parse_address(key) {
                Some(_) => {
                    let hash = hasher.hash_one(key);
                    self.by_address.insert_unique(hash, (hash, id), |(hash, _)| *hash);
                }
                None => {
                    let members = match self.collections.get_mut(key) {
                        Some(members) => members,
                        None => self.collections.entry(key.into()).or_default(),
                    };
                    if let Err(at) = members.binary_search(&id) {
                        members.insert(at, id);
                    }
                }
            }
        }
        true
    }

    /// Removes the resources of a name except those with audiences to keep. Returns the number of removed resources.
    pub(crate) fn remove(&mut self, name: &Arc<str>, keep: &[&Audience]) -> usize {
        let audiences = self.named(name).map(|stored| &stored.audience).filter(|audience| !keep.contains(audience));
        let audiences: Vec<Audience> = audiences.cloned().collect();
        for audience in &audiences {
            self.remove_silently(name, audience);
            self.note(name.clone());
        }
        audiences.len()
    }

    /// Returns the position after the last change.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.log.len() as u64
    }

    /// Returns the names of the resources that changed since a position, or `None` if the log does not reach back.
    pub(crate) fn changed(&self, since: u64) -> Option<Vec<Arc<str>>> {
        let skip = usize::try_from(since.checked_sub(self.start)?).ok()?;
        Some(self.log.iter().skip(skip).cloned().collect())
    }

    /// Appends a change to the log.
    pub(crate) fn note(&mut self, name: Arc<str>) {
        if self.log.len() >= LOG {
            self.log.pop_front();
            self.start += 1;
        }
        self.log.push_back(name);
    }

    /// Drops the log. Its readers compare.
    pub(crate) fn forget_log(&mut self) {
        self.start += self.log.len() as u64 + 1;
        self.log = VecDeque::new();
    }

    fn id(&self, name: &str, audience: &Audience) -> Option<u32> {
        let is = |stored: &Stored| *stored.name == *name && stored.audience == *audience;
        self.by_name.find(self.hasher.hash_one(name), |at| self.slots.get(*at).is_some_and(is)).copied()
    }

    fn remove_silently(&mut self, name: &str, audience: &Audience) {
        let Some(id) = self.id(name, audience) else { return };
        let entry = self.by_name.find_entry(self.hasher.hash_one(name), |at| *at == id);
        entry.into_iter().for_each(|entry| _ = entry.remove());
        let Some(stored) = self.slots.remove(id) else { return };
        self.bytes -= stored.body.len();
        for key in stored.keys() {
            match name::parse_address(key) {
                Some(_) => {
                    let pair = (self.hasher.hash_one(key), id);
                    let entry = self.by_address.find_entry(pair.0, |of| *of == pair);
                    entry.into_iter().for_each(|entry| _ = entry.remove());
                }
                None => {
                    let Some(members) = self.collections.get_mut(key) else { continue };
                    if let Ok(at) = members.binary_search(&id) {
                        members.remove(at);
                    }
                    if members.is_empty() {
                        self.collections.remove(key);
                    }
                }
            }
        }
    }
}
