//! The hosts of the servers of Gateways, and of the VirtualServices that are bound to the Gateways.
//!
//! The routes of a server are by the hosts that it has in common with VirtualServices: of a host that covers another one,
//! the covered one. They are found without a scan: by the suffixes that cover a host, and by the hosts within a suffix.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use api::networking::gateway::{gateway_of, host_of};
use api::networking::virtual_service::MESH_GATEWAY;

use super::rules::{ByHost, Specificity, full_host};
use crate::objects::{Gateway, Key, Record as _, Text, VirtualService, fields};

/// A Gateway and a host that it has routes of.
pub type Bound = (Key, Text);

/// The hosts of all Gateways and of the VirtualServices that are bound to them.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    servers: HashMap<Key, ServerHosts>,
    /// VirtualServices by Gateway, which may not exist.
    routes: HashMap<Key, HostIndex>,
}

/// The hosts of the servers of a Gateway. Their numbers are the places in the list.
#[derive(Debug, Default)]
struct ServerHosts {
    list: Vec<ServerHost>,
    hosts: HostIndex,
}

/// HostIndex, each with numbers.
#[derive(Debug, Default)]
struct HostIndex {
    by_host: ByHost,
    /// By the reversed host, with the count. All hosts within a wildcard follow its suffix.
    reversed: BTreeMap<String, usize>,
}

impl HostIndex {
    fn insert(&mut self, host: &Text, id: u32) {
        self.by_host.insert(host, id);
        *self.reversed.entry(reverse(host)).or_default() += 1;
    }

    fn remove(&mut self, host: &Text, id: u32) {
        self.by_host.remove(host, id);
        let reversed = reverse(host);
        if let Some(count) = self.reversed.get_mut(&reversed) {
            *count -= 1;
            if *count == 0 {
                self.reversed.remove(&reversed);
            }
        }
    }

    /// Returns the hosts that these have in common with another one: it, if one of these covers it, and those within it.
    fn common(&self, host: &Text) -> Vec<Text> {
        let mut found: Vec<Text> = self.by_host.matches(host).then(|| host.clone()).into_iter().collect();
        if let Some(suffix) = host.strip_prefix('*') {
            let (from, own) = (reverse(suffix), reverse(host));
            let within = self.reversed.range(from.clone()..).map(|(of, _)| of).take_while(|of| of.starts_with(&from));
            found.extend(within.filter(|of| **of != own).map(|of| Text::from(reverse(of))));
        }
        found
    }
}

fn reverse(host: &str) -> String {
    host.chars().rev().collect()
}

/// A host of a server of a Gateway.
#[derive(Debug)]
pub struct ServerHost {
    /// The index of the server.
    pub server: usize,
    /// The host, in lower case.
    pub host: Text,
    /// The namespace of the VirtualServices that may route it; `None`: any.
    pub namespace: Option<Text>,
}

/// Returns the hosts of the servers of ingress and egress gateways that a Gateway has.
fn server_hosts(gateway: &Gateway) -> impl Iterator<Item = ServerHost> {
    let own = &gateway.namespace;
    let servers = gateway.spec.iter().flat_map(|spec| spec.servers.iter().enumerate());
    let all = servers.filter(|(_, server)| !server.is_auto_passthrough()).flat_map(move |(index, server)| {
        server.hosts.iter().filter(|host| host.len() <= fields::MAX_HOST).map(move |host| {
            let (namespace, host) = host_of(host, own);
            ServerHost { server: index, host: host.to_ascii_lowercase().into(), namespace: namespace.map(Text::from) }
        })
    });
    all.take(fields::MAX_HOSTS)
}

/// Returns the Gateways that a VirtualService is bound to.
pub fn gateways_of(rule: &VirtualService) -> impl Iterator<Item = Key> {
    let names = rule.spec.iter().flat_map(|spec| &spec.gateways).filter(|name| *name != MESH_GATEWAY);
    let keys: BTreeSet<Key> = names
        .map(|name| gateway_of(name, &rule.namespace))
        .map(|(namespace, name)| Key::new(namespace, name))
        .collect();
    keys.into_iter()
}

/// Returns the hosts that a VirtualService has on Gateways.
fn bound_hosts(rule: &VirtualService, domain: &str) -> BTreeSet<Text> {
    let hosts = rule.spec.iter().flat_map(|spec| &spec.hosts).filter(|host| !host.is_empty());
    let hosts = hosts.map(|host| full_host(host, &rule.namespace, domain));
    hosts.filter(|host| host.len() <= fields::MAX_HOST).collect()
}

impl Bindings {
    /// Adds the servers of a Gateway, or removes them.
    pub(super) fn index_gateway(&mut self, gateway: &Gateway, add: bool) {
        let key = gateway.key();
        if !add {
            self.servers.remove(&key);
        } else if gateway.has_listeners() {
            let servers = self.servers.entry(key).or_default();
            servers.list = server_hosts(gateway).collect();
            (0..).zip(&servers.list).for_each(|(id, of)| servers.hosts.insert(&of.host, id));
        }
    }

    /// Adds a VirtualService, or removes it.
    pub(super) fn index_routes(&mut self, id: u32, rule: &VirtualService, domain: &str, add: bool) {
        for gateway in gateways_of(rule) {
            let hosts = self.routes.entry(gateway.clone()).or_default();
            for host in bound_hosts(rule, domain) {
                if add { hosts.insert(&host, id) } else { hosts.remove(&host, id) }
            }
            if hosts.reversed.is_empty() {
                self.routes.remove(&gateway);
            }
        }
    }

    /// Returns all hosts that a Gateway has routes of.
    pub(super) fn of_gateway(&self, gateway: &Key) -> BTreeSet<Bound> {
        let (Some(servers), Some(routes)) = (self.servers.get(gateway), self.routes.get(gateway)) else {
            return BTreeSet::new();
        };
        let hosts = servers.hosts.reversed.keys().map(|of| Text::from(reverse(of)));
        hosts.flat_map(|host| routes.common(&host)).map(|host| (gateway.clone(), host)).collect()
    }

    /// Returns the hosts that a VirtualService has routes of, on each of its Gateways.
    pub(super) fn of_rule(&self, rule: &VirtualService, domain: &str) -> BTreeSet<Bound> {
        let mut found = BTreeSet::new();
        for gateway in gateways_of(rule) {
            let Some(servers) = self.servers.get(&gateway) else { continue };
            for host in bound_hosts(rule, domain) {
                found.extend(servers.hosts.common(&host).into_iter().map(|host| (gateway.clone(), host)));
            }
        }
        found
    }

    /// Returns the hosts of a VirtualService that a Gateway does not serve.
    pub(super) fn unserved(&self, gateway: &Key, rule: &VirtualService, domain: &str) -> BTreeSet<Text> {
        let mut hosts = bound_hosts(rule, domain);
        let serves = |host: &Text| {
            self.servers_for(gateway, host).any(|of| of.namespace.as_ref().is_none_or(|of| *of == rule.namespace))
        };
        if let Some(servers) = self.servers.get(gateway) {
            hosts.retain(|host| !servers.hosts.common(host).iter().any(serves));
        }
        hosts
    }

    /// Returns the hosts of servers of a Gateway that cover a host.
    pub(super) fn servers_for(&self, gateway: &Key, host: &str) -> impl Iterator<Item = &ServerHost> {
        self.servers.get(gateway).into_iter().flat_map(move |servers| {
            servers.hosts.by_host.matching(host).filter_map(|(_, id)| servers.list.get(id as usize))
        })
    }

    /// Returns the VirtualServices of a Gateway whose hosts cover a host.
    pub(super) fn routes_for(&self, gateway: &Key, host: &str) -> impl Iterator<Item = (Specificity, u32)> {
        self.routes.get(gateway).into_iter().flat_map(move |hosts| hosts.by_host.matching(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_hosts_the_covered_one_is_common() {
        let mut hosts = HostIndex::default();
        let all = ["a.example.com", "*.example.com", "*.b.example.com", "x.b.example.com", "example.com"];
        (0..).zip(all).for_each(|(id, host)| hosts.insert(&host.into(), id));
        for (host, expected) in [
            ("a.example.com", vec!["a.example.com"]),
            ("c.example.com", vec!["c.example.com"]),
            ("example.com", vec!["example.com"]),
            ("example.org", vec![]),
            ("*.b.example.com", vec!["*.b.example.com", "x.b.example.com"]),
            ("*.c.example.com", vec!["*.c.example.com"]),
            ("*.org", vec![]),
            ("*", vec!["example.com", "*.example.com", "a.example.com", "*.b.example.com", "x.b.example.com"]),
        ] {
            let found = hosts.common(&host.into());
            let mut found: Vec<&str> = found.iter().map(|host| &**host).collect();
            let mut expected = expected;
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{host}");
        }
        (0..).zip(all).for_each(|(id, host)| hosts.remove(&host.into(), id));
        assert!(hosts.by_host.is_empty() && hosts.reversed.is_empty());
    }
}
