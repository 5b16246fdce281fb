//! Endpoints by service, and services by the addresses of their endpoints.
//!
//! A service's endpoints are one sorted slice, in which names, collections and addresses are found without an index.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use hashbrown::{DefaultHashBuilder, HashTable};
use wire::name;

use crate::compile::endpoint::Endpoint;
use crate::slots::Slots;

/// The services with endpoints.
#[derive(Debug, Default)]
pub(crate) struct Services {
    slots: Slots<Endpoints>,
    by_host: HashTable<u32>,
    /// Hash of an endpoint's address, and a service with that endpoint.
    by_ip: HashTable<(u32, u32)>,
    hasher: DefaultHashBuilder,
    count: usize,
}

/// A service's endpoints.
#[derive(Debug)]
pub(crate) struct Endpoints {
    pub(crate) hostname: Arc<str>,
    pub(crate) endpoints: Box<[Endpoint]>,
    /// The further addresses of endpoints, sorted, with the endpoints' positions.
    further: Box<[(IpAddr, u32)]>,
    /// The names of all endpoints, once the first proxy holds one.
    names: OnceLock<Box<[Arc<str>]>>,
}

/// The difference between a service's endpoints and its earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// The endpoints that were added, removed or changed.
    pub(crate) names: Vec<Arc<str>>,
    /// Whether the service is the answer to other addresses.
    pub(crate) addresses: bool,
}

impl Endpoints {
    /// Returns the name of an endpoint.
    pub(crate) fn name(&self, at: usize) -> Arc<str> {
        let names = self.names.get_or_init(|| self.endpoints.iter().map(|of| of.name().into()).collect());
        names[at].clone()
    }

    /// Returns the position of an endpoint.
    pub(crate) fn find(&self, parts: &name::EndpointName<'_>) -> Option<usize> {
        if parts.network == name::SUMMARY {
            let summaries = self.endpoints.partition_point(|of| of.ip().is_some());
            // A handful per service: one per cluster and zone.
            let is = |at: &usize| {
                let endpoints = self.endpoints[*at].name();
                name::parse_endpoint(&endpoints).is_some_and(|of| of == *parts)
            };
            return (summaries..self.endpoints.len()).find(is);
        }
        let ip: IpAddr = parts.id.parse().ok()?;
        let first = self.endpoints.partition_point(|of| of.ip().is_some_and(|other| other < ip));
        let same = self.endpoints[first..].iter().take_while(|of| of.ip() == Some(ip));
        let is = |of: &Endpoint| *of.fields().cluster == *parts.cluster && *of.fields().network == *parts.network;
        same.into_iter().position(is).map(|at| first + at)
    }

    /// Returns whether an address is one of an endpoint, and valid in a cluster.
    pub(crate) fn is_reached_at(&self, cluster: &str, ip: IpAddr) -> bool {
        let first = self.endpoints.partition_point(|of| of.ip().is_some_and(|other| other < ip));
        let same = self.endpoints[first..].iter().take_while(|of| of.ip() == Some(ip));
        let first = self.further.partition_point(|(other, _)| *other < ip);
        let further = self.further[first..].iter().take_while(|(other, _)| *other == ip);
        let mut all = same.chain(further.map(|(_, at)| &self.endpoints[*at as usize]));
        all.any(|of| of.fields().reachable_in.iter().any(|name| **name == *cluster))
    }

    /// Returns the address names of the service's endpoints.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = String> {
        let addresses =
            self.endpoints.iter().flat_map(|of| of.ip().into_iter().chain(of.further_ip()).map(move |ip| (of, ip)));
        addresses.flat_map(|(of, ip)| of.fields().reachable_in.iter().map(move |cluster| name::address(cluster, ip)))
    }
}

impl Services {
    /// Returns a service's endpoints.
    pub(crate) fn get(&self, hostname: &str) -> Option<&Endpoints> {
        let hash = self.hasher.hash_one(hostname);
        let at = self.by_host.find(hash, |at| self.at(*at).is_some_and(|of| *of.hostname == *hostname))?;
        self.at(*at)
    }

    /// Returns the endpoints of all services, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Endpoints> {
        self.slots.iter()
    }

    /// The number of endpoints.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the services with an endpoint at an address that is valid in a cluster, sorted by name.
    pub(crate) fn at_address(&self, cluster: &str, ip: IpAddr) -> Vec<&Endpoints> {
        let hash = self.ip_hash(ip);
        let found = self.by_ip.iter_hash(u64::from(hash).wrapping_mul(SPREAD));
        let found = found.filter(move |(of, _)| *of == hash).filter_map(|(_, at)| self.at(*at));
        let mut found: Vec<&Endpoints> = found.filter(|of| of.is_reached_at(cluster, ip)).collect();
        found.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        found
    }

    /// Replaces a service's endpoints.
    pub(crate) fn replace(&mut self, hostname: &Arc<str>, mut endpoints: Vec<Endpoint>) -> Changed {
        endpoints.sort_by(Endpoint::order);
        let hash = self.hasher.hash_one(&**hostname);
        let slots = &self.slots;
        let is = |at: &u32| slots.get(*at).is_some_and(|of| of.hostname == *hostname);
        let known = self.by_host.find(hash, is).copied();
        if known.is_none() && endpoints.is_empty() {
            return Changed::default();
        }
        let before = known.and_then(|at| self.slots.get(at));
        let mut changed = Changed::default();
        let names = compare(before, &endpoints, &mut changed);
        let old = before.map_or(&[][..], |before| &before.endpoints);
        let gone: Vec<IpAddr> = if changed.addresses { ips(old).collect() } else { Vec::new() };
        self.count = self.count + endpoints.len() - old.len();
        let new: Vec<IpAddr> = if changed.addresses { ips(&endpoints).collect() } else { Vec::new() };
        let none = endpoints.is_empty();
        let names = names.map(OnceLock::from).unwrap_or_default();
        let further = further(&endpoints);
        let endpoints = Endpoints { hostname: hostname.clone(), endpoints: endpoints.into(), further, names };
        let at = match known {
            Some(at) => {
                self.slots.replace(at, endpoints);
                at
            }
            None => {
                let at = self.slots.insert(endpoints);
                let (slots, hasher) = (&self.slots, &self.hasher);
                let rehash = |at: &u32| slots.get(*at).map_or(hash, |of| hasher.hash_one(&*of.hostname));
                self.by_host.insert_unique(hash, at, rehash);
                at
            }
        };
        if changed.addresses {
            for ip in gone {
                let of = self.ip_hash(ip);
                let entry = self.by_ip.find_entry(u64::from(of).wrapping_mul(SPREAD), |entry| *entry == (of, at));
                entry.into_iter().for_each(|entry| _ = entry.remove());
            }
            for ip in new {
                let of = self.ip_hash(ip);
                let spread = |(of, _): &(u32, u32)| u64::from(*of).wrapping_mul(SPREAD);
                self.by_ip.insert_unique(spread(&(of, at)), (of, at), spread);
            }
        }
        if none {
            let entry = self.by_host.find_entry(hash, |of| *of == at);
            entry.into_iter().for_each(|entry| _ = entry.remove());
            self.slots.remove(at);
        }
        changed
    }

    fn at(&self, at: u32) -> Option<&Endpoints> {
        self.slots.get(at)
    }

    fn ip_hash(&self, ip: IpAddr) -> u32 {
        self.hasher.hash_one(ip) as u32
    }
}

/// Spreads 32 bits of hash over the 64 bits that the table uses (2⁶⁴ divided by the golden ratio).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Returns the addresses, each once. Several clusters may use the same address.
fn ips(endpoints: &[Endpoint]) -> impl Iterator<Item = IpAddr> {
    let mut last = None;
    let further = further(endpoints).into_iter().map(|(ip, _)| ip).collect::<BTreeSet<_>>();
    // Almost always empty.
    let listed_later = further.clone();
    let first = endpoints.iter().filter_map(Endpoint::ip).filter(move |ip| !listed_later.contains(ip));
    first.filter(move |ip| last.replace(*ip) != Some(*ip)).chain(further)
}

/// Returns the further addresses, sorted, with the positions of their endpoints.
fn further(endpoints: &[Endpoint]) -> Box<[(IpAddr, u32)]> {
    let mut further: Vec<(IpAddr, u32)> =
        (0..).zip(endpoints).filter_map(|(at, of)| Some((of.further_ip()?, at))).collect();
    further.sort_unstable();
    further.into()
}

/// Notes the difference. Returns the names of the new endpoints if a proxy holds one of the old.
fn compare(before: Option<&Endpoints>, endpoints: &[Endpoint], changed: &mut Changed) -> Option<Box<[Arc<str>]>> {
    let old: &[Endpoint] = before.map_or(&[], |before| &before.endpoints);
    let in_use = before.is_some_and(|before| before.names.get().is_some());
    let mut names = Vec::with_capacity(if in_use { endpoints.len() } else { 0 });
    let (mut left, mut right) = (0, 0);
    while left < old.len() || right < endpoints.len() {
        let order = match (old.get(left), endpoints.get(right)) {
            (Some(was), Some(is)) => was.order(is),
            (Some(_), None) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        };
        let name_before = || match before.filter(|_| in_use) {
            Some(before) => before.name(left),
            None => old[left].name().into(),
        };
        match order {
            std::cmp::Ordering::Less => {
                changed.names.push(name_before());
                changed.addresses |= old[left].ip().is_some();
                left += 1;
            }
            std::cmp::Ordering::Greater => {
                let name: Arc<str> = endpoints[right].name().into();
                changed.addresses |= endpoints[right].ip().is_some();
                changed.names.push(name.clone());
                if in_use {
                    names.push(name);
                }
                right += 1;
            }
            std::cmp::Ordering::Equal => {
                let (was, is) = (&old[left], &endpoints[right]);
                if is.differs(was) {
                    changed.names.push(name_before());
                }
                changed.addresses |= is.ip().is_some() && is.fields().reachable_in != was.fields().reachable_in;
                changed.addresses |= is.further_ip() != was.further_ip();
                if in_use {
                    names.push(name_before());
                }
                (left, right) = (left + 1, right + 1);
            }
        }
    }
    in_use.then(|| names.into())
}
