//! Why a rule does not match, for people: each field by itself.

use super::rule::{Field, Operation, Rule, Source};
use super::{Condition, Matched};
use crate::Facts;

/// The fields of a rule of an ALLOW policy that do not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The rule.
    pub rule: Matched,
    /// The paths of the fields within the rule, such as `from[0].source.principals`.
    pub fields: Vec<String>,
}

impl Rule {
    /// Returns the fields that do not match. Of several sources or operations, of which one has to match, those of the one
    /// that lacks least.
    pub(super) fn missing(&self, facts: &Facts<'_>) -> Vec<String> {
        if facts.request.is_none() && self.has_request_fields() {
            return vec!["a request, which an opaque connection does not have".to_owned()];
        }
        let sources = self.from.iter().enumerate();
        let mut missing = least(sources.map(|(index, of)| of.missing(&format!("from[{index}].source"), facts)));
        let operations = self.to.iter().enumerate();
        missing.extend(least(operations.map(|(index, of)| of.missing(&format!("to[{index}].operation"), facts))));
        let conditions = self.when.iter().enumerate().filter(|(_, of)| !of.matches(facts, true));
        missing.extend(conditions.map(|(index, of)| format!("when[{index}] ({})", name(of))));
        missing
    }
}

fn least(alternatives: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    alternatives.min_by_key(Vec::len).unwrap_or_default()
}

impl Source {
    fn missing(&self, path: &str, facts: &Facts<'_>) -> Vec<String> {
        let with = |name: &'static str, only: Source| (!only.matches(facts, true)).then(|| format!("{path}.{name}"));
        let none = Source::default;
        [
            with("principals", Source { principals: self.principals.clone(), ..none() }),
            with("namespaces", Source { namespaces: self.namespaces.clone(), ..none() }),
            with("serviceAccounts", Source { service_accounts: self.service_accounts.clone(), ..none() }),
            with("trustDomains", Source { trust_domains: self.trust_domains.clone(), ..none() }),
            with("requestPrincipals", Source { request_principals: self.request_principals.clone(), ..none() }),
            with("ipBlocks", Source { ip_blocks: self.ip_blocks.clone(), ..none() }),
            with("remoteIpBlocks", Source { remote_ip_blocks: self.remote_ip_blocks.clone(), ..none() }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Operation {
    fn missing(&self, path: &str, facts: &Facts<'_>) -> Vec<String> {
        let with = |name: &'static str, only: Operation| (!only.matches(facts)).then(|| format!("{path}.{name}"));
        let none = Operation::default;
        [
            with("hosts", Operation { hosts: self.hosts.clone(), ..none() }),
            with("ports", Operation { ports: self.ports.clone(), ..none() }),
            with("methods", Operation { methods: self.methods.clone(), ..none() }),
            with("paths", Operation { paths: self.paths.clone(), ..none() }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Returns the name of a condition's attribute.
fn name(condition: &Condition) -> String {
    fn set<T>(field: &Field<T>) -> bool {
        !field.is_any()
    }
    match condition {
        Condition::Header(name, _) => format!("request.headers[{name}]"),
        Condition::Claim(path, _) => format!("request.auth.claims[{}]", path.join("][")),
        Condition::DestinationIp(_) => "destination.ip".to_owned(),
        Condition::DestinationPort(_) => "destination.port".to_owned(),
        Condition::ServerName(_) => "connection.sni".to_owned(),
        Condition::Source(of) => {
            let names = [
                (set(&of.principals), "source.principal"),
                (set(&of.namespaces), "source.namespace"),
                (set(&of.service_accounts), "source.serviceAccount"),
                (set(&of.trust_domains), "source.trustDomain"),
                (set(&of.clusters), "source.cluster"),
                (set(&of.request_principals), "request.auth.principal"),
                (set(&of.ip_blocks), "source.ip"),
                (set(&of.remote_ip_blocks), "remote.ip"),
            ];
            names.into_iter().find(|(set, _)| *set).map_or("source", |(_, name)| name).to_owned()
        }
    }
}
