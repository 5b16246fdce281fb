//! Rules of policies.
//!
//! A rule matches if any of its sources, any of its operations and all of its conditions match; an empty list matches
//! everything. A source or an operation matches if all of its fields match. A field matches if any of its values and none of
//! its excluded values matches.
//!
//! What is not known errs towards refusing. An opaque connection has no request: on it, an ALLOW rule with fields of requests
//! never matches, and a rule of another action matches by its other fields alone, as in Istio. In the same way, a caller whose
//! cluster is not known matches no ALLOW rule and every other rule on clusters.

use std::net::IpAddr;
use std::sync::Arc;

use identity::SpiffeId;
use ipnet::IpNet;

use crate::pattern::{PathPattern, Pattern, TokenPrincipal};
use crate::{Facts, Request, principal_of};

/// A rule of a policy.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Sources; empty: any source.
    pub from: Vec<Source>,
    /// Operations; empty: any operation.
    pub to: Vec<Operation>,
    /// Conditions; all of them must match.
    pub when: Vec<Condition>,
}

/// Accepted and excluded values of one field; both empty matches everything.
#[derive(Debug, Clone)]
pub struct Field<T> {
    /// At least one of these values must match, unless the list is empty.
    pub any_of: Vec<T>,
    /// None of these values may match.
    pub none_of: Vec<T>,
}

/// The source of a request.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The peer's principal: the SPIFFE ID without `spiffe://`.
    pub principals: Field<Pattern>,
    /// The namespace of the peer's identity.
    pub namespaces: Field<Pattern>,
    /// The namespace and service account of the peer's identity.
    pub service_accounts: Field<(Arc<str>, Arc<str>)>,
    /// The trust domain of the peer's identity.
    pub trust_domains: Field<Pattern>,
    /// The cluster whose intermediate issued the peer's certificate.
    pub clusters: Field<Pattern>,
    /// The issuer and subject of the request's token.
    pub request_principals: Field<TokenPrincipal>,
    /// The peer's address.
    pub ip_blocks: Field<IpNet>,
    /// The address of the original client.
    pub remote_ip_blocks: Field<IpNet>,
}

/// The operation of a request.
#[derive(Debug, Clone, Default)]
pub struct Operation {
    /// The host; matched case-insensitively.
    pub hosts: Field<Pattern>,
    /// The destination port of the application.
    pub ports: Field<u16>,
    /// The HTTP method.
    pub methods: Field<Pattern>,
    /// The path without the query.
    pub paths: Field<PathPattern>,
}

/// A condition of a rule.
#[derive(Debug, Clone)]
pub enum Condition {
    /// On the source, as in `from`.
    Source(Box<Source>),
    /// On a request header: its lower-case name, and its values. Each line of the header is a value.
    Header(Arc<str>, Field<Pattern>),
    /// On a claim of the request's token: its path, and its values. Each element of a list is a value.
    Claim(Vec<Arc<str>>, Field<Pattern>),
    /// On the application's address.
    DestinationIp(Field<IpNet>),
    /// On the destination port of the application.
    DestinationPort(Field<u16>),
    /// On the server name of the TLS ClientHello.
    ServerName(Field<Pattern>),
}

impl Rule {
    /// Returns whether the rule matches. `strict`: an unknown property does not match.
    pub fn matches(&self, facts: &Facts<'_>, strict: bool) -> bool {
        if facts.request.is_none() && strict && self.has_request_fields() {
            return false;
        }
        (self.from.is_empty() || self.from.iter().any(|source| source.matches(facts, strict)))
            && (self.to.is_empty() || self.to.iter().any(|operation| operation.matches(facts)))
            && self.when.iter().all(|condition| condition.matches(facts, strict))
    }

    pub(super) fn has_request_fields(&self) -> bool {
        self.from.iter().any(Source::has_request_fields)
            || self.to.iter().any(Operation::has_request_fields)
            || self.when.iter().any(Condition::has_request_fields)
    }
}

impl Source {
    pub(super) fn matches(&self, facts: &Facts<'_>, strict: bool) -> bool {
        let id = facts.principal;
        let principal = id.map(principal_of);
        let account = |(namespace, name): &(Arc<str>, Arc<str>), id: &SpiffeId| {
            **namespace == *id.namespace() && **name == *id.service_account()
        };
        let block = |block: &IpNet, ip: &IpAddr| block.contains(ip);
        self.principals.matches(principal, Pattern::matches)
            && self.namespaces.matches(id.map(SpiffeId::namespace), Pattern::matches)
            && self.service_accounts.matches(id, account)
            && self.trust_domains.matches(id.map(SpiffeId::trust_domain), Pattern::matches)
            && self.matches_cluster(facts.cluster, strict)
            && self.ip_blocks.matches(Some(&facts.source), block)
            && self.remote_ip_blocks.matches(Some(&facts.remote), block)
            && facts.request.is_none_or(|request| self.matches_token(&request))
    }

    fn matches_cluster(&self, cluster: Option<&str>, strict: bool) -> bool {
        match cluster {
            Some(cluster) => self.clusters.matches(Some(cluster), Pattern::matches),
            None => self.clusters.is_any() || !strict,
        }
    }

    fn matches_token(&self, request: &Request<'_>) -> bool {
        let principals = &self.request_principals;
        principals.is_any() || principals.matches(request.claims, |principal, claims| principal.matches(claims))
    }

    fn has_request_fields(&self) -> bool {
        !self.request_principals.is_any()
    }
}

impl Operation {
    pub(super) fn matches(&self, facts: &Facts<'_>) -> bool {
        self.ports.matches(Some(&facts.port), |port, actual: &u16| port == actual)
            && facts.request.is_none_or(|request| {
                self.hosts.matches(Some(request.host), Pattern::matches_ignoring_case)
                    && self.methods.matches(Some(request.method), Pattern::matches)
                    && self.paths.matches(Some(request.path), PathPattern::matches)
            })
    }

    fn has_request_fields(&self) -> bool {
        !(self.hosts.is_any() && self.methods.is_any() && self.paths.is_any())
    }
}

impl Condition {
    pub(super) fn matches(&self, facts: &Facts<'_>, strict: bool) -> bool {
        let in_request = |matches: &dyn Fn(&Request<'_>) -> bool| facts.request.as_ref().is_none_or(matches);
        let block = |block: &IpNet, ip: &IpAddr| block.contains(ip);
        match self {
            Condition::Source(source) => source.matches(facts, strict),
            Condition::Header(name, values) => in_request(&|request| {
                values.matches_values(|matches| request.headers.any(name, &mut |value| matches(&value)))
            }),
            Condition::Claim(path, values) => in_request(&|request| {
                values.matches_values(|matches| request.claims.is_some_and(|claims| claims.any(path, matches)))
            }),
            Condition::DestinationIp(blocks) => blocks.matches(Some(&facts.destination), block),
            Condition::DestinationPort(ports) => ports.matches(Some(&facts.port), |port, of: &u16| port == of),
            Condition::ServerName(names) => names.matches(facts.server_name, Pattern::matches),
        }
    }

    fn has_request_fields(&self) -> bool {
        match self {
            Condition::Header(..) | Condition::Claim(..) => true,
            Condition::Source(source) => source.has_request_fields(),
            _ => false,
        }
    }
}

impl<T> Field<T> {
    pub(super) fn is_any(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }

    /// Returns whether a value matches. An absent value matches no pattern: `any_of` refuses it, `none_of` does not.
    fn matches<V: ?Sized>(&self, value: Option<&V>, matches: impl Fn(&T, &V) -> bool) -> bool {
        if self.is_any() {
            return true;
        }
        let one_of = |patterns: &[T]| value.is_some_and(|value| patterns.iter().any(|pattern| matches(pattern, value)));
        (self.any_of.is_empty() || one_of(&self.any_of)) && !one_of(&self.none_of)
    }
}

impl Field<Pattern> {
    /// Returns whether values match: any of them, and none of them an excluded one. `any` calls a function for each value
    /// until it returns true, and returns whether it did.
    fn matches_values(&self, any: impl Fn(&mut dyn FnMut(&str) -> bool) -> bool) -> bool {
        let one_of = |patterns: &[Pattern]| {
            !patterns.is_empty() && any(&mut |value| patterns.iter().any(|pattern| pattern.matches(value)))
        };
        (self.any_of.is_empty() || one_of(&self.any_of)) && !one_of(&self.none_of)
    }
}

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self { any_of: Vec::new(), none_of: Vec::new() }
    }
}
