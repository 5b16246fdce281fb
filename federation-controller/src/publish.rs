//! Published resources: encoded once, shared by all streams.
//!
//! For each type: resources by name, names by the collections and addresses that include them, and a log of changes with a
//! cursor for each stream. The log is bounded: a stream whose cursor is older than the log compares everything that the
//! proxy holds. A version is a hash of the content, so it survives a restart, and publishing an equal resource changes
//! nothing.
//!
//! There are ten times as many endpoints as other resources, so they stay in compact form ([`crate::compile::endpoint`]),
//! by service ([`services`]), and are encoded when the first stream sends them. The last encodings are kept: all streams
//! that send the same change share one. All other resources are in [`table`]s. [`snapshot`] writes the inventory to disk.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use wire::delta::{self, Source};
use wire::{Kind, name};

mod services;
pub mod snapshot;
mod table;
#[cfg(test)]
mod tests;

use services::{Endpoints, Services};
use table::{Stored, Table};

use crate::compile::endpoint::Endpoint;
use crate::compile::resource::{Audience, Compiled, CompiledService, Viewer};
use crate::compile::service::ServiceFacts;
use crate::inventory::Group;
use crate::objects::Text;

/// The number of encodings that are kept: the changes of one batching window.
const ENCODED: usize = 128;

/// The resources of a group.
type Names = Box<[(Kind, Arc<str>)]>;

/// All published resources.
#[derive(Debug, Default)]
pub struct Store {
    tables: [Table; Kind::ALL.len()],
    services: Services,
    /// Encodings by version.
    encoded: Mutex<HashMap<u64, Bytes>>,
    /// Facts about each service, by hostname.
    facts: HashMap<Arc<str>, Arc<ServiceFacts>>,
    /// The resources of all groups but services, whose resources are found by their hostname.
    groups: HashMap<Group, Names>,
    /// The number of changes. Streams wait for it to increase.
    changes: u64,
    /// Clusters whose objects are not all known.
    incomplete: HashSet<Text>,
    ready: bool,
}

impl Store {
    /// Replaces the resources of a group. Returns the number of changed resources.
    pub fn replace(&mut self, group: Group, compiled: impl Into<Compiled>) -> usize {
        let Compiled { resources, service, .. } = compiled.into();
        let mut changed = 0;
        let before = match &service {
            Some(service) => Box::from([(Kind::Service, service.hostname.clone())]),
            None => {
                let names: BTreeSet<(Kind, Arc<str>)> =
                    resources.iter().map(|resource| (resource.kind, resource.name.clone())).collect();
                let names: Names = names.into_iter().collect();
                let before =
                    if names.is_empty() { self.groups.remove(&group) } else { self.groups.insert(group, names) };
                before.unwrap_or_default()
            }
        };
        for (kind, name) in &before {
            let kept = resources.iter().filter(|kept| kept.kind == *kind && kept.name == *name);
            let audiences: Vec<&Audience> = kept.map(|kept| &kept.audience).collect();
            changed += self.tables[*kind as usize].remove(name, &audiences);
        }
        for resource in resources {
            changed += usize::from(self.tables[resource.kind as usize].put(resource));
        }
        if let Some(service) = service {
            changed += self.replace_endpoints(service);
        }
        self.changes += changed as u64;
        changed
    }

    fn replace_endpoints(&mut self, service: CompiledService) -> usize {
        let CompiledService { hostname, endpoints, facts } = service;
        match facts {
            Some(facts) => drop(self.facts.insert(hostname.clone(), facts)),
            None => drop(self.facts.remove(&hostname)),
        }
        let changed = self.services.replace(&hostname, endpoints);
        let count = changed.names.len();
        changed.names.into_iter().for_each(|name| self.tables[Kind::Endpoint as usize].note(name));
        if changed.addresses {
            // The Service is the answer to other addresses than before.
            self.tables[Kind::Service as usize].note(hostname);
        }
        count
    }

    /// Marks the resources as complete, except those of `incomplete` clusters: streams answer that a resource does not
    /// exist, and leave to a proxy what it holds of the incomplete clusters. Returns whether that differs from before.
    pub fn set_ready(&mut self, incomplete: HashSet<Text>) -> bool {
        if self.ready && self.incomplete == incomplete {
            return false;
        }
        self.ready = true;
        self.incomplete = incomplete;
        // Answers that were withheld are due: all streams compare.
        self.forget_changes();
        self.changes += 1;
        true
    }

    /// Drops the log of changes, while no stream reads it. New streams compare.
    pub fn forget_changes(&mut self) {
        self.tables.iter_mut().for_each(Table::forget_log);
    }

    /// Returns whether the resources have been complete once.
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// The number of changes.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns the number of resources of a type, and the bytes of their bodies; of endpoints, the bytes of their compact form.
    pub fn size(&self, kind: Kind) -> (usize, usize) {
        match kind {
            Kind::Endpoint => (self.services.count(), self.services.count() * size_of::<Endpoint>()),
            _ => {
                let table = &self.tables[kind as usize];
                (table.len(), table.bytes())
            }
        }
    }

    /// Returns the resources of a name, each for another audience.
    pub fn named(&self, kind: Kind, name: &str) -> Vec<Found<'_>> {
        if kind != Kind::Endpoint {
            return self.tables[kind as usize].named(name).map(|stored| self.whole(kind, stored)).collect();
        }
        let endpoint = || {
            let parts = name::parse_endpoint(name)?;
            let of = self.services.get(parts.hostname)?;
            of.find(&parts).map(|at| Found { store: self, content: Content::Endpoint(of, at) })
        };
        endpoint().into_iter().collect()
    }

    /// Returns the resource of a name that most proxies receive: for all clusters or namespaces, else for the first one by
    /// name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<Found<'_>> {
        self.named(kind, name).into_iter().min_by(|a, b| {
            let cluster = |found: &Found<'_>| match found.audience() {
                Audience::Clusters(clusters) => clusters.first().cloned(),
                Audience::Namespaces { namespaces, .. } => namespaces.first().cloned(),
                _ => None,
            };
            cluster(a).cmp(&cluster(b))
        })
    }

    /// Returns all resources of a type, in no order.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = Found<'_>> {
        let whole = self.tables[kind as usize].iter().map(move |stored| self.whole(kind, stored));
        let of = (kind == Kind::Endpoint).then(|| self.services.iter()).into_iter().flatten();
        whole.chain(of.flat_map(|of| self.endpoints(of)))
    }

    /// Returns all endpoints of a service.
    pub fn endpoints_of(&self, hostname: &str) -> impl Iterator<Item = Found<'_>> {
        self.services.get(hostname).into_iter().flat_map(|of| self.endpoints(of))
    }

    /// Returns the summaries of a service's endpoints, by which other networks know them.
    pub fn summaries_of(&self, hostname: &str) -> impl Iterator<Item = Found<'_>> {
        self.endpoints_of(hostname).filter(|found| match found.content {
            Content::Endpoint(of, at) => of.endpoints[at].ip().is_none(),
            Content::Whole(..) => false,
        })
    }

    /// Returns the facts about a service.
    pub fn facts(&self, hostname: &str) -> Option<&Arc<ServiceFacts>> {
        self.facts.get(hostname)
    }

    fn endpoints<'a>(&'a self, of: &'a Endpoints) -> impl Iterator<Item = Found<'a>> {
        (0..of.endpoints.len()).map(move |at| Found { store: self, content: Content::Endpoint(of, at) })
    }

    fn whole<'a>(&'a self, kind: Kind, stored: &'a Stored) -> Found<'a> {
        let endpoints = if kind == Kind::Service { self.services.get(&stored.name) } else { None };
        Found { store: self, content: Content::Whole(stored, endpoints) }
    }

    /// Returns the resources that one proxy may receive.
    pub fn view<'a>(&'a self, viewer: &'a Viewer) -> View<'a> {
        View { store: self, viewer }
    }
}

/// The resources that one proxy may receive.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    store: &'a Store,
    viewer: &'a Viewer,
}

/// A published resource.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    store: &'a Store,
    content: Content<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Content<'a> {
    /// A Service also answers to the addresses of its endpoints.
    Whole(&'a Stored, Option<&'a Endpoints>),
    Endpoint(&'a Endpoints, usize),
}

impl Found<'_> {
    /// The proxies that may receive the resource.
    pub fn audience(&self) -> &Audience {
        match self.content {
            Content::Whole(stored, _) => &stored.audience,
            Content::Endpoint(of, at) => of.endpoints[at].audience(),
        }
    }

    /// Returns whether the resource is an endpoint in a cluster, or a summary of such.
    pub fn is_in(&self, cluster: &str) -> bool {
        matches!(self.content, Content::Endpoint(of, at) if *of.endpoints[at].fields().cluster == *cluster)
    }

    /// Returns the addresses and collections that include the resource.
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
        match self.content {
            Content::Whole(stored, _) => stored.name.clone(),
            Content::Endpoint(of, at) => of.name(at),
        }
    }

    fn version(&self) -> u64 {
        match self.content {
            Content::Whole(stored, _) => stored.version,
            Content::Endpoint(of, at) => of.endpoints[at].version(),
        }
    }

    fn body(&self) -> Bytes {
        let version = self.version();
        // The entries are valid even after a panic elsewhere.
        let mut encoded = self.store.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if encoded.len() >= ENCODED && !encoded.contains_key(&version) {
            encoded.clear();
        }
        let encode = || match self.content {
            Content::Whole(stored, _) => Bytes::copy_from_slice(&stored.body),
            Content::Endpoint(of, at) => of.endpoints[at].encode(),
        };
        encoded.entry(version).or_insert_with(encode).clone()
    }

    fn any_key(&self, mut does: impl FnMut(&str) -> bool) -> bool {
        match self.content {
            Content::Whole(stored, of) => {
                stored.keys().any(&mut does) || of.is_some_and(|of| of.addresses().any(|address| does(&address)))
            }
            Content::Endpoint(of, at) => {
                of.endpoints[at].networks().any(|network| does(&name::endpoints(&of.hostname, network)))
            }
        }
    }
}

impl<'a> View<'a> {
    fn includes(&self, found: &Found<'a>) -> bool {
        let name = match found.content {
            Content::Whole(stored, _) => &*stored.name,
            // An endpoint is never one workload's own.
            Content::Endpoint(..) => "",
        };
        found.audience().includes(self.viewer, name)
    }
}

impl<'v> Source for View<'v> {
    type Found<'a>
        = Found<'v>
    where
        Self: 'a;

    fn get(&self, kind: Kind, name: &str) -> Option<Found<'v>> {
        self.store.named(kind, name).into_iter().find(|found| self.includes(found))
    }

    fn members(&self, kind: Kind, name: &str) -> impl Iterator<Item = Found<'v>> {
        let store = self.store;
        let named = store.named(kind, name);
        let table = &store.tables[kind as usize];
        let keyed = table.keyed(name).into_iter().map(move |stored| store.whole(kind, stored));
        let address = (kind == Kind::Service).then(|| name::parse_address(name)).flatten();
        let at_address = address.into_iter().flat_map(|(cluster, ip)| store.services.at_address(cluster, ip));
        let at_address = at_address.flat_map(move |of| store.named(kind, &of.hostname));
        let collection = if kind == Kind::Endpoint { name::parse_endpoints(name) } else { None };
        let collected = collection.into_iter().flat_map(|(hostname, network)| {
            store.endpoints_of(hostname).filter(move |found| match found.content {
                Content::Endpoint(of, at) => of.endpoints[at].is_for(network),
                Content::Whole(..) => false,
            })
        });
        let found: Vec<Found<'v>> = named.into_iter().chain(keyed).chain(at_address).chain(collected).collect();
        let view = *self;
        found.into_iter().filter(move |found| view.includes(found))
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
        let incomplete = &self.store.incomplete;
        match kind {
            // These are replaced, never removed.
            Kind::Trust | Kind::MeshConfig => false,
            _ if incomplete.is_empty() => true,
            Kind::Endpoint => match name::parse_endpoint(name) {
                Some(endpoint) => !incomplete.contains(endpoint.cluster),
                // A collection has endpoints of any cluster.
                None => false,
            },
            Kind::Service | Kind::NetworkGateway => false,
            // The rules of a host are complete as soon as any cluster is known to have its service.
            Kind::RouteTable | Kind::DestinationPolicy => {
                self.store.tables[Kind::Service as usize].named(name).next().is_some()
            }
            // The configuration of workloads is from the proxy's own cluster and from the primary, which is complete.
            _ => !incomplete.contains(&self.viewer.cluster),
        }
    }
}
