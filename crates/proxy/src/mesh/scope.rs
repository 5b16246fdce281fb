//! The scope of the own workload: which services and routes its Sidecar lets the proxy see.
//!
//! What is not in the scope is as if it were not in the mesh. A scope narrows what lookups return; nothing is sent for
//! it beyond what the application uses.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use wire::discovery as message;

use super::convert::{Result, port_number};
use super::model::Service;
use super::snapshot::OutboundPolicy;

/// The number of services that are requested before their first use.
const MAX_PREFETCHED: usize = 256;

/// What the own workload's Sidecar lets the proxy see.
#[derive(Debug, Default, PartialEq)]
pub struct Scope {
    /// The Sidecar: `<namespace>/<name>`.
    pub source: Arc<str>,
    /// The treatment of destinations that are not in the scope; `None`: as in the mesh settings.
    pub outbound_policy: Option<OutboundPolicy>,
    /// The service that such destinations are reached through.
    pub egress_proxy: Option<EgressProxy>,
    /// Ports with a listener of their own.
    ports: HashMap<u16, Hosts>,
    /// All other ports; `None`: nothing is reached through them.
    others: Option<Hosts>,
}

/// A port of a service that leads to destinations outside of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressProxy {
    /// The service.
    pub hostname: Arc<str>,
    /// Its port.
    pub port: u16,
    /// Its subset; empty: none.
    pub subset: Arc<str>,
}

/// The hosts of one listener.
#[derive(Debug, Default, PartialEq)]
struct Hosts {
    included: Patterns,
    excluded: Patterns,
}

/// Patterns by namespace; `*` is any.
#[derive(Debug, Default, PartialEq)]
struct Patterns(HashMap<Box<str>, HostSet>);

/// Patterns of hosts of one namespace.
#[derive(Debug, Default, PartialEq)]
struct HostSet {
    all: bool,
    exact: HashSet<Box<str>>,
    /// What follows the `*`, from a dot on.
    suffixes: HashSet<Box<str>>,
    /// What follows a `*` within a label.
    endings: Vec<Box<str>>,
}

impl Scope {
    /// Converts a scope, for a workload of a namespace.
    ///
    /// # Errors
    /// Returns an error if a port is not one.
    pub(super) fn of(message: &message::Scope, namespace: &str) -> Result<Self> {
        let mut scope = Scope {
            source: message.source.as_str().into(),
            outbound_policy: message.registry_only.map(|registry_only| match registry_only {
                true => OutboundPolicy::RegistryOnly,
                false => OutboundPolicy::AllowAny,
            }),
            ..Scope::default()
        };
        if let Some(proxy) = &message.egress_proxy {
            scope.egress_proxy = Some(EgressProxy {
                hostname: proxy.hostname.as_str().into(),
                port: port_number(proxy.port)?,
                subset: proxy.subset.as_str().into(),
            });
        }
        for listener in &message.listeners {
            let hosts = Hosts::of(&listener.hosts, namespace);
            match listener.port {
                0 => scope.others = Some(hosts),
                port => drop(scope.ports.insert(port_number(port)?, hosts)),
            }
        }
        Ok(scope)
    }

    /// Returns whether the application reaches a service through a port.
    pub fn includes(&self, service: &Service, port: u16) -> bool {
        let hosts = self.ports.get(&port).or(self.others.as_ref());
        hosts.is_some_and(|hosts| hosts.include(&service.namespace, &service.hostname))
    }

    /// Returns whether the application reaches a service through any port.
    pub fn names(&self, service: &Service) -> bool {
        self.imports(&service.namespace, &service.hostname)
    }

    /// Returns whether an object of a namespace that is for a host has effect.
    pub fn imports(&self, namespace: &str, hostname: &str) -> bool {
        self.listeners().any(|hosts| hosts.include(namespace, hostname))
    }

    /// Returns the hosts whose services are requested before their first use, and kept: those that are listed by their
    /// full names.
    pub(super) fn prefetched(&self) -> impl Iterator<Item = &str> {
        let listed = self.listeners().flat_map(|hosts| hosts.included.0.values());
        listed.flat_map(|of| of.exact.iter().map(|host| &**host)).take(MAX_PREFETCHED)
    }

    fn listeners(&self) -> impl Iterator<Item = &Hosts> {
        self.ports.values().chain(&self.others)
    }
}

impl Hosts {
    fn of(patterns: &[message::HostPattern], own: &str) -> Self {
        let mut hosts = Hosts::default();
        for pattern in patterns {
            let namespace = if pattern.namespace == "." { own } else { &*pattern.namespace };
            let to = if pattern.exclude { &mut hosts.excluded } else { &mut hosts.included };
            to.0.entry(namespace.into()).or_default().add(&pattern.host);
        }
        hosts
    }

    fn include(&self, namespace: &str, hostname: &str) -> bool {
        self.included.match_any(namespace, hostname) && !self.excluded.match_any(namespace, hostname)
    }
}

impl Patterns {
    fn match_any(&self, namespace: &str, hostname: &str) -> bool {
        ["*", namespace].into_iter().filter_map(|of| self.0.get(of)).any(|hosts| hosts.matches(hostname))
    }
}

impl HostSet {
    fn add(&mut self, host: &str) {
        match host.strip_prefix('*') {
            Some("") => self.all = true,
            Some(suffix) if suffix.starts_with('.') => drop(self.suffixes.insert(suffix.into())),
            Some(ending) => self.endings.push(ending.into()),
            None => drop(self.exact.insert(host.into())),
        }
    }

    /// Returns whether a hostname, which may be a wildcard itself, is one of these.
    fn matches(&self, hostname: &str) -> bool {
        let suffix = |at: usize| self.suffixes.contains(&hostname[at..]);
        self.all
            || self.exact.contains(hostname)
            || hostname.match_indices('.').any(|(at, _)| suffix(at))
            || self.endings.iter().any(|ending| hostname.ends_with(&**ending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(patterns: &[(&str, &str, bool)]) -> Vec<message::HostPattern> {
        let pattern = |(namespace, host, exclude): &(&str, &str, bool)| message::HostPattern {
            namespace: (*namespace).to_owned(),
            host: (*host).to_owned(),
            exclude: *exclude,
        };
        patterns.iter().map(pattern).collect()
    }

    /// A namespace, a host, and whether it is excluded.
    type Pattern = (&'static str, &'static str, bool);

    fn scope(listeners: &[(u32, &[Pattern])]) -> Scope {
        let listener =
            |(port, patterns): &(u32, &[Pattern])| message::ScopeListener { port: *port, hosts: hosts(patterns) };
        let message = message::Scope { listeners: listeners.iter().map(listener).collect(), ..Default::default() };
        Scope::of(&message, "shop").unwrap()
    }

    fn service(hostname: &str, namespace: &str) -> Service {
        Service { hostname: hostname.into(), namespace: namespace.into(), ..Service::default() }
    }

    #[test]
    fn a_host_is_included_by_namespace_and_name() {
        let scope = scope(&[(
            0,
            &[
                (".", "*", false),
                ("bank", "a.bank.svc.cluster.local", false),
                ("*", "*.example.com", false),
                ("*", "*-api.example.org", false),
                ("*", "secret.example.com", true),
                ("blog", "*", true),
            ],
        )]);
        for (hostname, namespace, expected) in [
            ("x.shop.svc.cluster.local", "shop", true),
            ("a.bank.svc.cluster.local", "bank", true),
            ("b.bank.svc.cluster.local", "bank", false),
            ("a.bank.svc.cluster.local", "other", false),
            ("api.example.com", "other", true),
            ("*.example.com", "other", true),
            ("deep.api.example.com", "other", true),
            ("example.com", "other", false),
            ("badexample.com", "other", false),
            ("pay-api.example.org", "other", true),
            ("api.example.org", "other", false),
            ("secret.example.com", "shop", false),
            ("api.example.com", "blog", false),
        ] {
            assert_eq!(scope.names(&service(hostname, namespace)), expected, "{namespace}/{hostname}");
        }
        assert_eq!(scope.prefetched().collect::<Vec<_>>(), ["a.bank.svc.cluster.local"]);
    }

    #[test]
    fn a_port_has_the_hosts_of_its_own_listener() {
        let by_port = scope(&[(80, &[(".", "*", false)]), (0, &[("bank", "*", false)])]);
        let (own, bank) = (service("a.shop.svc.cluster.local", "shop"), service("a.bank.svc.cluster.local", "bank"));
        assert!(by_port.includes(&own, 80) && !by_port.includes(&bank, 80));
        assert!(!by_port.includes(&own, 81) && by_port.includes(&bank, 81));
        assert!(by_port.names(&own) && by_port.names(&bank));
        let alone = scope(&[(80, &[(".", "*", false)])]);
        assert!(alone.includes(&own, 80) && !alone.includes(&own, 81));
        assert!(!scope(&[(0, &[("*", "*", true)])]).names(&own), "no egress");
    }

    #[test]
    fn a_port_beyond_the_range_is_an_error() {
        let listener = message::ScopeListener { port: 70_000, hosts: Vec::new() };
        let message = message::Scope { listeners: vec![listener], ..Default::default() };
        assert!(Scope::of(&message, "shop").is_err());
    }
}
