//! Endpoints by service, and the services that a pod's address leads to.
//!
//! A service's endpoints are one sorted slice: names, collections and aliases are found in it, so nothing of them is kept.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use hashbrown::{DefaultHashBuilder, HashTable};
use wire::name;

use crate::compile::endpoint::Told;
use crate::slots::Slots;

/// All services that have endpoints.
#[derive(Debug, Default)]
pub(crate) struct Services {
    slots: Slots<Endpoints>,
    by_host: HashTable<u32>,
    /// Hash of a pod's address, and a service that has it.
    by_ip: HashTable<(u32, u32)>,
    hasher: DefaultHashBuilder,
    count: usize,
}

/// A service's endpoints.
#[derive(Debug)]
pub(crate) struct Endpoints {
    pub(crate) hostname: Arc<str>,
    pub(crate) told: Box<[Told]>,
    /// Names of all of them, from when the first proxy holds any.
    names: OnceLock<Box<[Arc<str>]>>,
}

/// What a service's new endpoints changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Endpoints that are new, gone, or not as they were.
    pub(crate) names: Vec<Arc<str>>,
    /// Addresses came or went, so the service answers to others.
    pub(crate) addresses: bool,
}

impl Endpoints {
    /// The name of the endpoint at this place.
    pub(crate) fn name(&self, at: usize) -> Arc<str> {
        let names = self.names.get_or_init(|| self.told.iter().map(|told| told.name().into()).collect());
        names[at].clone()
    }

    /// The place of an endpoint.
    pub(crate) fn find(&self, parts: &name::EndpointName<'_>) -> Option<usize> {
        if parts.network == name::SUMMARY {
            let sums = self.told.partition_point(|told| told.ip().is_some());
            // A handful per service: one per cluster and zone.
            let is = |at: &usize| {
                let told = self.told[*at].name();
                name::parse_endpoint(&told).is_some_and(|of| of == *parts)
            };
            return (sums..self.told.len()).find(is);
        }
        let ip: IpAddr = parts.id.parse().ok()?;
        let first = self.told.partition_point(|told| told.ip().is_some_and(|of| of < ip));
        let same = self.told[first..].iter().take_while(|told| told.ip() == Some(ip));
        let is = |told: &Told| *told.common().cluster == *parts.cluster && *told.common().network == *parts.network;
        same.into_iter().position(is).map(|at| first + at)
    }

    /// Whether the address of a pod leads to the service in a cluster.
    pub(crate) fn leads(&self, cluster: &str, ip: IpAddr) -> bool {
        let first = self.told.partition_point(|told| told.ip().is_some_and(|of| of < ip));
        let mut same = self.told[first..].iter().take_while(|told| told.ip() == Some(ip));
        same.any(|told| told.common().near.iter().any(|of| **of == *cluster))
    }

    /// Each address of a pod under which the service is known.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = String> {
        let direct = self.told.iter().filter_map(|told| Some((told, told.ip()?)));
        direct.flat_map(|(told, ip)| told.common().near.iter().map(move |of| name::address(of, ip)))
    }
}

impl Services {
    /// A service's endpoints.
    pub(crate) fn get(&self, hostname: &str) -> Option<&Endpoints> {
        let hash = self.hasher.hash_one(hostname);
        let at = self.by_host.find(hash, |at| self.at(*at).is_some_and(|of| *of.hostname == *hostname))?;
        self.at(*at)
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Endpoints> {
        self.slots.iter()
    }

    /// How many endpoints there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Services that the address of a pod leads to in a cluster, by name.
    pub(crate) fn at_address(&self, cluster: &str, ip: IpAddr) -> Vec<&Endpoints> {
        let hash = self.ip_hash(ip);
        let found = self.by_ip.iter_hash(u64::from(hash).wrapping_mul(SPREAD));
        let found = found.filter(move |(of, _)| *of == hash).filter_map(|(_, at)| self.at(*at));
        let mut found: Vec<&Endpoints> = found.filter(|of| of.leads(cluster, ip)).collect();
        found.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        found
    }

    /// Puts a service's endpoints in place of those that it had.
    pub(crate) fn replace(&mut self, hostname: &Arc<str>, mut told: Vec<Told>) -> Changed {
        told.sort_by(Told::order);
        let hash = self.hasher.hash_one(&**hostname);
        let slots = &self.slots;
        let is = |at: &u32| slots.get(*at).is_some_and(|of| of.hostname == *hostname);
        let known = self.by_host.find(hash, is).copied();
        if known.is_none() && told.is_empty() {
            return Changed::default();
        }
        let before = known.and_then(|at| self.slots.get(at));
        let mut changed = Changed::default();
        let names = compare(before, &told, &mut changed);
        let old = before.map_or(&[][..], |before| &before.told);
        let gone: Vec<IpAddr> = if changed.addresses { ips(old).collect() } else { Vec::new() };
        self.count = self.count + told.len() - old.len();
        let new: Vec<IpAddr> = if changed.addresses { ips(&told).collect() } else { Vec::new() };
        let none = told.is_empty();
        let names = names.map(OnceLock::from).unwrap_or_default();
        let endpoints = Endpoints { hostname: hostname.clone(), told: told.into(), names };
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

/// Spreads 32 bits of hash over the 64 that the table looks at (2⁶⁴ divided by the golden ratio).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Addresses, each once: clusters may use the same ones.
fn ips(told: &[Told]) -> impl Iterator<Item = IpAddr> {
    let mut last = None;
    told.iter().filter_map(Told::ip).filter(move |ip| last.replace(*ip) != Some(*ip))
}

/// Notes what differs. Returns the names of the new ones where those of the old were in use.
fn compare(before: Option<&Endpoints>, told: &[Told], changed: &mut Changed) -> Option<Box<[Arc<str>]>> {
    let old: &[Told] = before.map_or(&[], |before| &before.told);
    let in_use = before.is_some_and(|before| before.names.get().is_some());
    let mut names = Vec::with_capacity(if in_use { told.len() } else { 0 });
    let (mut left, mut right) = (0, 0);
    while left < old.len() || right < told.len() {
        let order = match (old.get(left), told.get(right)) {
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
                let name: Arc<str> = told[right].name().into();
                changed.addresses |= told[right].ip().is_some();
                changed.names.push(name.clone());
                if in_use {
                    names.push(name);
                }
                right += 1;
            }
            std::cmp::Ordering::Equal => {
                let (was, is) = (&old[left], &told[right]);
                if is.differs(was) {
                    changed.names.push(name_before());
                }
                changed.addresses |= is.ip().is_some() && is.common().near != was.common().near;
                if in_use {
                    names.push(name_before());
                }
                (left, right) = (left + 1, right + 1);
            }
        }
    }
    in_use.then(|| names.into())
}
