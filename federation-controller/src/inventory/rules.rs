//! The rules of routing, indexed by the hosts that they are for, as in Istio: exact hosts, and wildcards by their suffix.
//!
//! Which rules are for a host is found in as many lookups as there are lengths of wildcards, whatever the number of rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::networking::virtual_service::Destination;
use api::networking::{DestinationRuleSpec, VirtualServiceSpec};
use api::smi;

use super::relation::Relation;
use crate::objects::{DestinationRule, Key, ServiceProfile, Text, TrafficSplit, VirtualService, fields};

/// Returns a host of a rule as a full name: a name without a dot is a service of the rule's namespace, as in Istio.
pub fn full_host(host: &str, namespace: &str, domain: &str) -> Text {
    let host = host.to_ascii_lowercase();
    if host.contains('.') || host == "*" || host.parse::<IpAddr>().is_ok() {
        return host.into();
    }
    format!("{host}.{namespace}.svc.{domain}").into()
}

/// Returns whether a host is a wildcard: it matches every hostname that ends with what follows the `*`.
pub fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// How specific a host is: an exact one more than a wildcard, and a longer wildcard more than a shorter one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Specificity {
    /// A wildcard with this length of its suffix.
    Wildcard(usize),
    /// The hostname itself.
    Exact,
}

/// Numbers of rules, by host.
#[derive(Debug, Default)]
pub(super) struct ByHost {
    exact: Relation<Text, u32>,
    /// By the length of the suffix, then by the suffix.
    wildcards: BTreeMap<usize, Relation<Text, u32>>,
    count: usize,
}

impl ByHost {
    pub(super) fn insert(&mut self, host: &Text, id: u32) {
        self.count += 1;
        match host.strip_prefix('*') {
            Some(suffix) => drop(self.wildcards.entry(suffix.len()).or_default().insert(&suffix.into(), &id)),
            None => drop(self.exact.insert(host, &id)),
        }
    }

    /// Removes what was inserted.
    pub(super) fn remove(&mut self, host: &Text, id: u32) {
        self.count = self.count.saturating_sub(1);
        let Some(suffix) = host.strip_prefix('*') else {
            self.exact.remove(host, &id);
            return;
        };
        if let Some(of_length) = self.wildcards.get_mut(&suffix.len()) {
            of_length.remove(suffix, &id);
            if of_length.is_empty() {
                self.wildcards.remove(&suffix.len());
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the rules whose hosts match a hostname, those with the most specific hosts first.
    pub(super) fn matching(&self, hostname: &str) -> impl Iterator<Item = (Specificity, u32)> {
        let exact = self.exact.of(hostname).map(|id| (Specificity::Exact, *id));
        let wildcards = self.wildcards.range(..=hostname.len()).rev().flat_map(move |(length, suffixes)| {
            let suffix = hostname.get(hostname.len() - length..).unwrap_or_default();
            suffixes.of(suffix).map(|id| (Specificity::Wildcard(*length), *id))
        });
        exact.chain(wildcards)
    }

    /// Returns whether a host matches a hostname.
    pub(super) fn matches(&self, hostname: &str) -> bool {
        !self.is_empty() && self.matching(hostname).next().is_some()
    }
}

/// The rules of the controller's own cluster.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// VirtualServices for sidecars, by host.
    pub(super) routes: ByHost,
    /// DestinationRules.
    pub(super) policies: ByHost,
    /// VirtualServices by the hosts of their destinations.
    pub(super) destinations: Relation<Text, u32>,
    /// VirtualServices by those that they delegate to.
    pub(super) roots: Relation<Key, u32>,
    /// TrafficSplits by the hosts of their root services.
    pub(super) splits: Relation<Text, u32>,
    /// TrafficSplits by the hosts of their backends.
    pub(super) backends: Relation<Text, u32>,
    /// TrafficSplits by the HTTPRouteGroups that they refer to.
    pub(super) grouped: Relation<Key, u32>,
    /// ServiceProfiles by the hosts that they are for.
    pub(super) profiles: Relation<Text, u32>,
    /// ServiceProfiles by the hosts of their overrides.
    pub(super) overrides: Relation<Text, u32>,
}

impl Rules {
    /// Adds a VirtualService, or removes it.
    pub(super) fn index_routes(&mut self, id: u32, of: &VirtualService, domain: &str, add: bool) {
        let Some(spec) = &of.spec else { return };
        for host in route_hosts(of, domain) {
            if add { self.routes.insert(&host, id) } else { self.routes.remove(&host, id) }
        }
        let destinations = destinations(spec).map(|to| full_host(&to.host, &of.namespace, domain));
        for host in destinations.filter(|host| host.len() <= fields::MAX_HOST) {
            if add {
                self.destinations.insert(&host, &id)
            } else {
                self.destinations.remove(&host, &id)
            };
        }
        for delegate in delegates(of) {
            if add {
                self.roots.insert(&delegate, &id)
            } else {
                self.roots.remove(&delegate, &id)
            };
        }
    }

    /// Adds a DestinationRule, or removes it.
    pub(super) fn index_policy(&mut self, id: u32, of: &DestinationRule, domain: &str, add: bool) {
        if let Some(host) = policy_host(of, domain) {
            if add { self.policies.insert(&host, id) } else { self.policies.remove(&host, id) }
        }
    }

    /// Adds a TrafficSplit, or removes it.
    pub(super) fn index_split(&mut self, id: u32, of: &TrafficSplit, domain: &str, add: bool) {
        if let Some(host) = split_host(of, domain) {
            change(&mut self.splits, &host, id, add);
        }
        for host in split_backends(of, domain) {
            change(&mut self.backends, &host, id, add);
        }
        for group in split_groups(of) {
            change(&mut self.grouped, &group, id, add);
        }
    }

    /// Adds a ServiceProfile, or removes it.
    pub(super) fn index_profile(&mut self, id: u32, of: &ServiceProfile, domain: &str, add: bool) {
        change(&mut self.profiles, &of.name, id, add);
        for host in profile_destinations(of, domain) {
            change(&mut self.overrides, &host, id, add);
        }
    }

    /// Returns whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        let istio = self.routes.is_empty() && self.policies.is_empty() && self.destinations.is_empty();
        istio && self.splits.is_empty() && self.profiles.is_empty()
    }
}

fn change<K: std::hash::Hash + Eq + Clone>(relation: &mut Relation<K, u32>, key: &K, id: u32, add: bool) {
    if add {
        relation.insert(key, &id);
    } else {
        relation.remove(key, &id);
    }
}

/// Returns the hostname of the service that an object of SMI names, if it is one of the object's own namespace.
pub fn service_host(name: &str, namespace: &str, domain: &str) -> Option<Text> {
    let (service, of) = smi::service_of(name, namespace, domain)?;
    let host = format!("{}.{namespace}.svc.{domain}", service.to_ascii_lowercase());
    (of == namespace && host.len() <= fields::MAX_HOST).then(|| host.into())
}

/// Returns the host of the root service of a TrafficSplit.
pub fn split_host(of: &TrafficSplit, domain: &str) -> Option<Text> {
    service_host(&of.spec.as_ref()?.service, &of.namespace, domain)
}

/// Returns the hosts of the backends of a TrafficSplit.
fn split_backends(of: &TrafficSplit, domain: &str) -> BTreeSet<Text> {
    let backends = of.spec.iter().flat_map(|spec| &spec.backends);
    backends.filter_map(|backend| service_host(&backend.service, &of.namespace, domain)).collect()
}

/// Returns the HTTPRouteGroups that a TrafficSplit refers to.
fn split_groups(of: &TrafficSplit) -> BTreeSet<Key> {
    let references = of.spec.iter().flat_map(|spec| &spec.matches);
    references.map(|reference| Key::new(&of.namespace, &reference.name)).collect()
}

/// Returns the hosts of the overrides of a ServiceProfile.
fn profile_destinations(of: &ServiceProfile, domain: &str) -> BTreeSet<Text> {
    let overrides = of.spec.iter().flat_map(|spec| &spec.dst_overrides);
    let hosts = overrides.filter_map(|of| of.host_and_port()).map(|(host, _)| full_host(host, &of.namespace, domain));
    hosts.filter(|host| host.len() <= fields::MAX_HOST).collect()
}

/// Returns the hosts that sidecars route by a VirtualService.
pub(super) fn route_hosts(of: &VirtualService, domain: &str) -> BTreeSet<Text> {
    let spec = of.spec.as_ref().filter(|spec| spec.applies_to_mesh());
    let hosts = spec.into_iter().flat_map(|spec| &spec.hosts);
    let hosts = hosts.filter(|host| !host.is_empty()).map(|host| full_host(host, &of.namespace, domain));
    hosts.filter(|host| host.len() <= fields::MAX_HOST).collect()
}

/// Returns the host of a DestinationRule.
pub(super) fn policy_host(of: &DestinationRule, domain: &str) -> Option<Text> {
    let spec: &DestinationRuleSpec = of.spec.as_ref()?;
    let host = full_host(&spec.host, &of.namespace, domain);
    (!spec.host.is_empty() && host.len() <= fields::MAX_HOST).then_some(host)
}

/// Returns the VirtualServices that a VirtualService delegates to.
fn delegates(of: &VirtualService) -> impl Iterator<Item = Key> {
    let routes = of.spec.iter().flat_map(|spec| &spec.http);
    routes.filter_map(|route| route.delegate.as_ref()).map(|to| {
        let namespace = if to.namespace.is_empty() { &*of.namespace } else { &to.namespace };
        Key::new(namespace, &to.name)
    })
}

/// Returns all destinations of a VirtualService, mirrors included.
pub fn destinations(spec: &VirtualServiceSpec) -> impl Iterator<Item = &Destination> {
    let http = spec.http.iter().flat_map(|route| {
        let routes = route.route.iter().filter_map(|to| to.destination.as_ref());
        let mirrors = route.mirrors.iter().filter_map(|to| to.destination.as_ref());
        routes.chain(&route.mirror).chain(mirrors)
    });
    let tls = spec.tls.iter().flat_map(|route| &route.route);
    let layer4 = tls.chain(spec.tcp.iter().flat_map(|route| &route.route));
    http.chain(layer4.filter_map(|to| to.destination.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_dot_are_of_the_rules_namespace() {
        for (host, expected) in [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("Reviews", "reviews.shop.svc.cluster.local"),
            ("reviews.other", "reviews.other"),
            ("*", "*"),
            ("*.local", "*.local"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
        ] {
            assert_eq!(&*full_host(host, "shop", "cluster.local"), expected);
        }
    }

    #[test]
    fn the_most_specific_hosts_come_first() {
        let hostname = "reviews.shop.svc.cluster.local";
        let hosts = ["*", "*.local", "*.shop.svc.cluster.local", "*views.shop.svc.cluster.local", hostname];
        let others =
            ["*.other.svc.cluster.local", "*.reviews.shop.svc.cluster.local", "ratings.shop.svc.cluster.local"];
        let mut index = ByHost::default();
        let all = || (0..).zip(hosts.iter().chain(&others).map(|host| Text::from(*host)));
        all().for_each(|(id, host)| index.insert(&host, id));
        let found: Vec<u32> = index.matching(hostname).map(|(_, id)| id).collect();
        assert_eq!(found, [4, 3, 2, 1, 0]);
        assert!(index.matching(hostname).is_sorted_by(|a, b| a.0 > b.0));
        assert!(index.matches("local") && !ByHost::default().matches("local"));
        all().for_each(|(id, host)| index.remove(&host, id));
        assert!(index.is_empty() && index.wildcards.is_empty() && !index.matches(hostname));
    }
}
