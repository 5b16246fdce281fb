//! What there is to tell, encoded once and shared by all streams.
//!
//! For each kind: resources by name, names by the collections and addresses that they answer to, and a log of changes into
//! which every stream holds a cursor. The log is bounded: a stream that falls behind its start compares all it has. A
//! version is a hash of the content, so it is the same after a restart, and writing an equal resource changes nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::Bytes;
use wire::delta::{Item, Source};
use wire::{Kind, name};

use crate::index::Group;
use crate::index::event::Text;

/// Changes remembered per kind. A stream reads them within milliseconds; one that is this far behind is stuck, or new.
const LOG: usize = 8192;

/// A resource as the index computes it.
#[derive(Clone, PartialEq, Debug)]
pub struct Resource {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
    /// Other names that it answers to.
    pub keys: Box<[Arc<str>]>,
    /// Who may have it.
    pub audience: Audience,
    /// Encoded.
    pub body: Bytes,
}

impl Resource {
    /// One that anybody in the mesh may have.
    pub fn for_all(kind: Kind, name: &str, body: Vec<u8>) -> Self {
        Resource { kind, name: name.into(), keys: Box::default(), audience: Audience::All, body: body.into() }
    }
}

/// Who may have a resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Every proxy of the mesh.
    All,
    /// Proxies of these clusters.
    Clusters(Box<[Text]>),
    /// The proxy whose workload name is the resource's, if its certificate is for this service account.
    Itself(Text),
}

/// All resources.
#[derive(Debug, Default)]
pub struct Store {
    tables: [Table; Kind::ALL.len()],
    groups: HashMap<Group, Names>,
    /// Counts all changes; streams wait for it to move.
    changes: u64,
    /// Clusters of which nothing has been heard yet.
    unheard: HashSet<Text>,
    ready: bool,
}

/// Kinds and names of a group's resources.
type Names = Box<[(Kind, Arc<str>)]>;

#[derive(Debug, Default)]
struct Table {
    items: HashMap<Arc<str>, Stored>,
    /// In order. Most keys are a pod's address, which leads to one service, so a tree would be mostly empty space.
    by_key: HashMap<Arc<str>, Vec<Arc<str>>>,
    log: VecDeque<Arc<str>>,
    /// The position of the log's first entry.
    start: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Stored {
    item: Item,
    audience: Audience,
}

impl Store {
    /// Puts a group's resources in place of those that it had. Returns how many changed.
    pub fn replace(&mut self, group: Group, resources: Vec<Resource>) -> usize {
        let mut changed = 0;
        let names: Names = resources.iter().map(|resource| (resource.kind, resource.name.clone())).collect();
        let before = match names.is_empty() {
            true => self.groups.remove(&group),
            false => self.groups.insert(group, names),
        };
        let kept: HashSet<(Kind, Arc<str>)> =
            resources.iter().map(|resource| (resource.kind, resource.name.clone())).collect();
        for gone in before.iter().flatten().filter(|name| !kept.contains(*name)) {
            changed += usize::from(self.tables[gone.0 as usize].remove(&gone.1));
        }
        for resource in resources {
            changed += usize::from(self.tables[resource.kind as usize].put(resource));
        }
        self.changes += changed as u64;
        changed
    }

    /// What the index knows is what there is, from now on: streams may be told that something is not there. But of
    /// `unheard` clusters nothing is known yet, and what a proxy holds of them is left to it. Returns whether anything
    /// differs from before.
    pub fn set_ready(&mut self, unheard: HashSet<Text>) -> bool {
        if self.ready && self.unheard == unheard {
            return false;
        }
        self.ready = true;
        self.unheard = unheard;
        // What was left unsaid is due now: all streams compare.
        for table in &mut self.tables {
            table.forget_log();
        }
        self.changes += 1;
        true
    }

    /// Whether there has been a complete view to serve from.
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// A number that moves with every change.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Resources of a kind, and bytes of their bodies.
    pub fn size(&self, kind: Kind) -> (usize, usize) {
        let table = &self.tables[kind as usize];
        (table.items.len(), table.bytes)
    }

    /// A resource, whoever may have it.
    pub fn get(&self, kind: Kind, name: &str) -> Option<(&Item, &Audience)> {
        self.tables[kind as usize].items.get(name).map(|stored| (&stored.item, &stored.audience))
    }

    /// All resources of a kind, in no order.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&Item, &Audience)> {
        self.tables[kind as usize].items.values().map(|stored| (&stored.item, &stored.audience))
    }

    /// What one proxy may see.
    pub fn view<'a>(&'a self, who: &'a Viewer) -> View<'a> {
        View { store: self, who }
    }
}

impl Table {
    fn put(&mut self, resource: Resource) -> bool {
        let version = version(&resource.body);
        let item = Item { name: resource.name, version, body: resource.body, keys: resource.keys };
        if let Some(known) = self.items.get(&item.name)
            && known.item.version == version
            && known.item.keys == item.keys
            && known.audience == resource.audience
        {
            return false;
        }
        self.remove_silently(&item.name);
        for key in &item.keys {
            let members = self.by_key.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1));
            if let Err(at) = members.binary_search(&item.name) {
                members.insert(at, item.name.clone());
            }
        }
        self.bytes += item.body.len();
        self.note(item.name.clone());
        self.items.insert(item.name.clone(), Stored { item, audience: resource.audience });
        true
    }

    fn remove(&mut self, name: &Arc<str>) -> bool {
        let removed = self.remove_silently(name);
        if removed {
            self.note(name.clone());
        }
        removed
    }

    fn remove_silently(&mut self, name: &Arc<str>) -> bool {
        let Some(stored) = self.items.remove(name) else { return false };
        self.bytes -= stored.item.body.len();
        for key in &stored.item.keys {
            if let Some(members) = self.by_key.get_mut(key) {
                if let Ok(at) = members.binary_search(name) {
                    members.remove(at);
                }
                if members.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        true
    }

    fn note(&mut self, name: Arc<str>) {
        if self.log.len() >= LOG {
            self.log.pop_front();
            self.start += 1;
        }
        self.log.push_back(name);
    }

    fn forget_log(&mut self) {
        self.start += self.log.len() as u64 + 1;
        self.log.clear();
    }
}

/// A hash of the content; never 0, which stands for "none of ours". The seed is fixed: versions outlive the process.
fn version(body: &[u8]) -> u64 {
    foldhash::quality::FixedState::with_seed(0x6973_7468).hash_one(body).max(1)
}

/// Who looks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Viewer {
    /// The cluster that the proxy is in.
    pub cluster: Text,
    /// The name of its own workload.
    pub workload: Text,
    /// The service account that its certificate is for.
    pub account: Text,
}

/// The store as one proxy may see it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    store: &'a Store,
    who: &'a Viewer,
}

impl<'a> View<'a> {
    fn visible(&self, stored: &&'a Stored) -> bool {
        match &stored.audience {
            Audience::All => true,
            Audience::Clusters(clusters) => clusters.contains(&self.who.cluster),
            Audience::Itself(account) => *stored.item.name == *self.who.workload && *account == self.who.account,
        }
    }
}

impl Source for View<'_> {
    fn get(&self, kind: Kind, name: &str) -> Option<&Item> {
        let stored = self.store.tables[kind as usize].items.get(name);
        stored.filter(|stored| self.visible(stored)).map(|stored| &stored.item)
    }

    fn members(&self, kind: Kind, name: &str) -> impl Iterator<Item = &Item> {
        let table = &self.store.tables[kind as usize];
        let named = table.items.get(name).into_iter();
        let keyed = table.by_key.get(name).into_iter().flatten().filter_map(|name| table.items.get(name));
        named.chain(keyed).filter(|stored| self.visible(stored)).map(|stored| &stored.item)
    }

    fn end(&self, kind: Kind) -> u64 {
        let table = &self.store.tables[kind as usize];
        table.start + table.log.len() as u64
    }

    fn changed(&self, kind: Kind, since: u64) -> Option<Vec<Arc<str>>> {
        let table = &self.store.tables[kind as usize];
        let skip = usize::try_from(since.checked_sub(table.start)?).ok()?;
        Some(table.log.iter().skip(skip).cloned().collect())
    }

    fn certain(&self, kind: Kind, name: &str) -> bool {
        match kind {
            // These are replaced, never withdrawn.
            Kind::Trust | Kind::MeshConfig => false,
            _ if self.store.unheard.is_empty() => true,
            Kind::Endpoint => match name::parse_endpoint(name) {
                Some(endpoint) => !self.store.unheard.contains(endpoint.cluster),
                // A whole collection.
                None => false,
            },
            Kind::Service | Kind::Gateway => false,
            Kind::Workload | Kind::Authentication | Kind::Authorization => !self.store.unheard.contains(&self.who.cluster),
        }
    }
}

#[cfg(test)]
mod tests;
