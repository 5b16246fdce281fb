//! The hosts of a cluster's AUTO_PASSTHROUGH Gateways, indexed by what they match.
//!
//! A cluster may have a thousand hosts and ten thousand services. Whether a host matches a service is found by the parts of the
//! service's hostname, in as many lookups as the hostname has labels, whatever the number of hosts.

use std::collections::HashMap;

use crate::objects::{Gateway, Key, Text};

/// The hosts of the Gateways that export, each with the number of times that it is there.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    counts: HashMap<(Scope, Text), usize>,
}

/// The namespaces of the services that a host matches.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Scope {
    Every,
    Of(Text),
}

impl Hosts {
    /// Adds the hosts of a Gateway.
    pub(super) fn add(&mut self, gateway: &Gateway) {
        for entry in gateway.exported_hosts().filter_map(|host| parse(host, &gateway.namespace)) {
            *self.counts.entry(entry).or_default() += 1;
        }
    }

    /// Removes the hosts of a Gateway that was added.
    pub(super) fn remove(&mut self, gateway: &Gateway) {
        for entry in gateway.exported_hosts().filter_map(|host| parse(host, &gateway.namespace)) {
            if let Some(count) = self.counts.get_mut(&entry) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&entry);
                }
            }
        }
    }

    /// Returns whether a host matches a service.
    pub(super) fn match_service(&self, key: &Key, hostname: &str) -> bool {
        if self.counts.is_empty() {
            return false;
        }
        let dots = hostname.match_indices('.').map(|(at, _)| &hostname[at..]);
        // `*`, the hostname itself, and `*.<suffix>` for each suffix.
        let forms = ["*".into(), Text::from(hostname)].into_iter().chain(dots.map(|rest| format!("*{rest}").into()));
        let scopes = [Scope::Every, Scope::Of(key.namespace.clone())];
        forms
            .into_iter()
            .any(|form: Text| scopes.iter().any(|scope| self.counts.contains_key(&(scope.clone(), form.clone()))))
    }
}

/// Parses a Gateway's host. The forms are `host`, `namespace/host`, `*/host` and `./host`; the host part is exact, `*`, or
/// `*.suffix`. Returns `None` for others, which match nothing.
fn parse(host: &str, gateway_namespace: &Text) -> Option<(Scope, Text)> {
    let (namespace, host) = host.split_once('/').unwrap_or(("*", host));
    let scope = match namespace {
        "*" => Scope::Every,
        "." => Scope::Of(gateway_namespace.clone()),
        named => Scope::Of(named.into()),
    };
    match host.strip_prefix('*') {
        Some(suffix) if !suffix.is_empty() && (!suffix.starts_with('.') || suffix.len() < 2) => None,
        None if host.is_empty() => None,
        _ => Some((scope, host.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Labels;

    fn gateway(hosts: &[&str]) -> Gateway {
        Gateway::exporting("istio-system", "g", Labels::default(), hosts)
    }

    #[test]
    fn hosts_match_services_as_in_istio() {
        let key = Key::new("default", "reviews");
        let hostname = "reviews.default.svc.cluster.local";
        let matches = |gateway: Gateway| {
            let mut hosts = Hosts::default();
            hosts.add(&gateway);
            let found = hosts.match_service(&key, hostname);
            hosts.remove(&gateway);
            assert!(hosts.counts.is_empty());
            found
        };
        for (host, expected) in [
            ("*", true),
            ("*.local", true),
            ("*.svc.cluster.local", true),
            ("*.default.svc.cluster.local", true),
            ("*.other.svc.cluster.local", false),
            ("*cluster.local", false),
            (hostname, true),
            ("ratings.default.svc.cluster.local", false),
            ("*.reviews.default.svc.cluster.local", false),
            ("default/*", true),
            ("other/*", false),
            ("*/reviews.default.svc.cluster.local", true),
            ("./*.local", false),
            ("", false),
            ("*.", false),
        ] {
            assert_eq!(matches(gateway(&[host])), expected, "{host}");
        }
        assert!(matches(Gateway::exporting("default", "g", Labels::default(), &["./*.local"])));
    }

    #[test]
    fn a_host_of_two_gateways_matches_until_both_are_gone() {
        let key = Key::new("default", "reviews");
        let mut hosts = Hosts::default();
        hosts.add(&gateway(&["*.local", "*.local"]));
        hosts.add(&gateway(&["*.local"]));
        hosts.remove(&gateway(&["*.local", "*.local"]));
        assert!(hosts.match_service(&key, "reviews.default.svc.cluster.local"));
        hosts.remove(&gateway(&["*.local"]));
        assert!(!hosts.match_service(&key, "reviews.default.svc.cluster.local"));
    }
}
