//! What there is to tell, encoded once and shared by all streams.
//!
//! For each kind: resources by name, names by the collections and addresses that they answer to, and a log of changes into
//! which every stream holds a cursor. The log is bounded: a stream that falls behind its start compares all it has. A
//! version is a hash of the content, so it is the same after a restart, and writing an equal resource changes nothing.
//!
//! Endpoints are ten times as many as everything else together, so they are kept in a form of their own ([`endpoint`]),
//! found through their service ([`services`]), and encoded when the first stream sends them: the last encodings are kept, so
//! that all streams that are told the same change share one. Everything else is in [`table`]s.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use wire::delta::{self, Source};
use wire::{Kind, name};

mod services;
pub mod snapshot;
mod table;

use crate::compile::endpoint::Told;
use crate::inventory::Group;
use crate::objects::event::Text;
use services::{Endpoints, Services};
use table::{Stored, Table};

/// Encodings that are kept: what a tick changes, for all streams that are told of it.
const ENCODED: usize = 128;

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
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Audience {
    /// Every proxy of the mesh.
    All,
    /// Proxies of these clusters.
    Clusters(Box<[Text]>),
    /// The proxy whose workload name is the resource's, if its certificate is for this service account.
    Itself(Text),
}

/// Which resources a group has.
type Names = Box<[(Kind, Arc<str>)]>;

/// All resources.
#[derive(Debug, Default)]
pub struct Store {
    tables: [Table; Kind::ALL.len()],
    services: Services,
    /// By version, which says it all.
    encoded: Mutex<HashMap<u64, Bytes>>,
    /// But for services: these have what is stored under their host name.
    groups: HashMap<Group, Names>,
    /// Counts all changes; streams wait for it to move.
    changes: u64,
    /// Clusters of which nothing has been heard yet.
    unheard: HashSet<Text>,
    ready: bool,
}

/// A group's results.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Resources, but for endpoints.
    pub resources: Vec<Resource>,
    /// The host name of a service, also of one that is gone: its Service and its endpoints are the group's.
    pub service: Option<Arc<str>>,
    /// A service's endpoints, in no order.
    pub endpoints: Vec<Told>,
}

impl From<Vec<Resource>> for Compiled {
    fn from(resources: Vec<Resource>) -> Self {
        Compiled { resources, service: None, endpoints: Vec::new() }
    }
}

impl Store {
    /// Puts a group's resources in place of those that it had. Returns how many changed.
    pub fn replace(&mut self, group: Group, compiled: impl Into<Compiled>) -> usize {
        let Compiled { resources, service, endpoints } = compiled.into();
        let mut changed = 0;
        let before = match &service {
            Some(hostname) => Box::from([(Kind::Service, hostname.clone())]),
            None => {
                let names: Names = resources.iter().map(|resource| (resource.kind, resource.name.clone())).collect();
                let before =
                    if names.is_empty() { self.groups.remove(&group) } else { self.groups.insert(group, names) };
                before.unwrap_or_default()
            }
        };
        for (kind, name) in &before {
            if !resources.iter().any(|kept| kept.kind == *kind && kept.name == *name) {
                changed += usize::from(self.tables[*kind as usize].remove(name));
            }
        }
        for resource in resources {
            changed += usize::from(self.tables[resource.kind as usize].put(resource));
        }
        if let Some(hostname) = service {
            let told = self.services.replace(&hostname, endpoints);
            changed += told.names.len();
            told.names.into_iter().for_each(|name| self.tables[Kind::Endpoint as usize].note(name));
            if told.addresses {
                // It answers to other addresses than before.
                self.tables[Kind::Service as usize].note(hostname);
            }
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
        self.forget_changes();
        self.changes += 1;
        true
    }

    /// Nobody follows: what changed since is found by comparing.
    pub fn forget_changes(&mut self) {
        self.tables.iter_mut().for_each(Table::forget_log);
    }

    /// Whether there has been a complete view to serve from.
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// A number that moves with every change.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Resources of a kind, and bytes of their bodies; of endpoints, bytes of the records that they are encoded from.
    pub fn size(&self, kind: Kind) -> (usize, usize) {
        match kind {
            Kind::Endpoint => (self.services.count(), self.services.count() * size_of::<Told>()),
            _ => {
                let table = &self.tables[kind as usize];
                (table.len(), table.bytes())
            }
        }
    }

    /// A resource, whoever may have it.
    pub fn get(&self, kind: Kind, name: &str) -> Option<Found<'_>> {
        if kind != Kind::Endpoint {
            return self.tables[kind as usize].get(name).map(|stored| self.whole(kind, stored));
        }
        let parts = name::parse_endpoint(name)?;
        let of = self.services.get(parts.hostname)?;
        of.find(&parts).map(|at| Found { store: self, what: What::Endpoint(of, at) })
    }

    /// All resources of a kind, in no order.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = Found<'_>> {
        let whole = self.tables[kind as usize].iter().map(move |stored| self.whole(kind, stored));
        let of = (kind == Kind::Endpoint).then(|| self.services.iter()).into_iter().flatten();
        whole.chain(of.flat_map(|of| self.endpoints(of)))
    }

    /// All endpoints of a service.
    pub fn endpoints_of(&self, hostname: &str) -> impl Iterator<Item = Found<'_>> {
        self.services.get(hostname).into_iter().flat_map(|of| self.endpoints(of))
    }

    fn endpoints<'a>(&'a self, of: &'a Endpoints) -> impl Iterator<Item = Found<'a>> {
        (0..of.told.len()).map(move |at| Found { store: self, what: What::Endpoint(of, at) })
    }

    fn whole<'a>(&'a self, kind: Kind, stored: &'a Stored) -> Found<'a> {
        let endpoints = if kind == Kind::Service { self.services.get(&stored.name) } else { None };
        Found { store: self, what: What::Whole(stored, endpoints) }
    }

    /// What one proxy may see.
    pub fn view<'a>(&'a self, who: &'a Viewer) -> View<'a> {
        View { store: self, who }
    }
}

/// A hash of the content; never 0, which stands for "none of ours". The seed is fixed: versions outlive the process.
pub(crate) fn version(body: &[u8]) -> u64 {
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

/// A resource.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    store: &'a Store,
    what: What<'a>,
}

#[derive(Clone, Copy, Debug)]
enum What<'a> {
    /// With the endpoints at whose addresses it answers, too.
    Whole(&'a Stored, Option<&'a Endpoints>),
    Endpoint(&'a Endpoints, usize),
}

impl Found<'_> {
    /// Who may have it.
    pub fn audience(&self) -> &Audience {
        match self.what {
            What::Whole(stored, _) => &stored.audience,
            What::Endpoint(of, at) => of.told[at].audience(),
        }
    }

    /// All other names that it answers to.
    pub fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        delta::Found::any_key(self, |key| {
            keys.push(key.to_owned());
            false
        });
        keys
    }
}

impl delta::Found for Found<'_> {
    fn name(&self) -> Arc<str> {
        match self.what {
            What::Whole(stored, _) => stored.name.clone(),
            What::Endpoint(of, at) => of.name(at),
        }
    }

    fn version(&self) -> u64 {
        match self.what {
            What::Whole(stored, _) => stored.version,
            What::Endpoint(of, at) => of.told[at].version(),
        }
    }

    fn body(&self) -> Bytes {
        let version = self.version();
        // Whatever is in it is right, also after a panic elsewhere.
        let mut encoded = self.store.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if encoded.len() >= ENCODED && !encoded.contains_key(&version) {
            encoded.clear();
        }
        let encode = || match self.what {
            What::Whole(stored, _) => Bytes::copy_from_slice(&stored.body),
            What::Endpoint(of, at) => of.told[at].encode(),
        };
        encoded.entry(version).or_insert_with(encode).clone()
    }

    fn any_key(&self, mut does: impl FnMut(&str) -> bool) -> bool {
        match self.what {
            What::Whole(stored, of) => {
                stored.keys().any(&mut does) || of.is_some_and(|of| of.addresses().any(|address| does(&address)))
            }
            What::Endpoint(of, at) => {
                of.told[at].networks().any(|network| does(&name::endpoints(&of.hostname, network)))
            }
        }
    }
}

impl<'a> View<'a> {
    fn visible(&self, found: &Found<'a>) -> bool {
        match found.audience() {
            Audience::All => true,
            Audience::Clusters(clusters) => clusters.contains(&self.who.cluster),
            Audience::Itself(account) => match found.what {
                What::Whole(stored, _) => *stored.name == *self.who.workload && *account == self.who.account,
                What::Endpoint(..) => false,
            },
        }
    }
}

impl<'v> Source for View<'v> {
    type Found<'a>
        = Found<'v>
    where
        Self: 'a;

    fn get(&self, kind: Kind, name: &str) -> Option<Found<'v>> {
        self.store.get(kind, name).filter(|found| self.visible(found))
    }

    fn members(&self, kind: Kind, name: &str) -> impl Iterator<Item = Found<'v>> {
        let store = self.store;
        let named = store.get(kind, name);
        let table = &store.tables[kind as usize];
        let keyed = table.keyed(name).into_iter().map(move |stored| store.whole(kind, stored));
        let address = (kind == Kind::Service).then(|| name::parse_address(name)).flatten();
        let at_address = address.into_iter().flat_map(|(cluster, ip)| store.services.at_address(cluster, ip));
        let at_address = at_address.filter_map(move |of| store.get(kind, &of.hostname));
        let collection = if kind == Kind::Endpoint { name::parse_endpoints(name) } else { None };
        let collected = collection.into_iter().flat_map(|(hostname, network)| {
            store.endpoints_of(hostname).filter(move |found| match found.what {
                What::Endpoint(of, at) => of.told[at].is_for(network),
                What::Whole(..) => false,
            })
        });
        let found: Vec<Found<'v>> = named.into_iter().chain(keyed).chain(at_address).chain(collected).collect();
        let view = *self;
        found.into_iter().filter(move |found| view.visible(found))
    }

    fn answers(&self, kind: Kind, name: &str) -> bool {
        self.members(kind, name).next().is_some()
    }

    fn end(&self, kind: Kind) -> u64 {
        let table = &self.store.tables[kind as usize];
        table.end()
    }

    fn changed(&self, kind: Kind, since: u64) -> Option<Vec<Arc<str>>> {
        self.store.tables[kind as usize].changed(since)
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
            Kind::Service | Kind::NetworkGateway => false,
            Kind::Workload | Kind::PeerAuthentication | Kind::AuthorizationPolicy => {
                !self.store.unheard.contains(&self.who.cluster)
            }
        }
    }
}

#[cfg(test)]
mod tests;
