//! Authorization: the rules of Istio's `AuthorizationPolicy` with the actions ALLOW and DENY.
//!
//! A policy matches if any of its rules matches. A rule matches if any of its sources, any of its operations and all of
//! its conditions match; an empty list matches everything. A source or an operation matches if all of its fields match. A
//! field matches if any of its values and none of its excluded values matches.
//!
//! An opaque connection has no request. On such a connection an ALLOW rule with fields of requests never matches, and a
//! DENY rule matches by its other fields alone: both err towards refusing, as in Istio.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use identity::SpiffeId;
use ipnet::IpNet;

use crate::{PathPattern, Pattern};

/// The properties of a request or an opaque connection that policies match.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The peer's identity; `None` without mutual TLS.
    pub principal: Option<&'a SpiffeId>,
    /// The cluster whose intermediate issued the peer's certificate.
    pub cluster: Option<&'a str>,
    /// The peer's address.
    pub source: IpAddr,
    /// The destination port of the application.
    pub port: u16,
    /// The request; `None` on an opaque connection.
    pub request: Option<Request<'a>>,
}

/// The properties of an HTTP request that policies match.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method, as received.
    pub method: &'a str,
    /// The path without the query.
    pub path: &'a str,
    /// The host, with the port if the request has one.
    pub host: &'a str,
    /// The headers.
    pub headers: &'a dyn Headers,
}

/// Access to the headers of a request.
pub trait Headers {
    /// Returns the value of a header by its lower-case name; several values are joined by commas.
    fn value(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// The action of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Allows matching requests. A workload with an ALLOW policy refuses requests that no ALLOW policy matches.
    Allow,
    /// Refuses matching requests, even if an ALLOW policy matches them.
    Deny,
}

/// An authorization policy.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `<namespace>/<name>`.
    pub name: Arc<str>,
    /// The action.
    pub action: Action,
    /// The rules. A policy without rules matches nothing.
    pub rules: Vec<Rule>,
}

/// A rule of a policy.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Sources; empty: any source.
    pub from: Vec<Source>,
    /// Operations; empty: any operation.
    pub to: Vec<Operation>,
    /// Conditions on headers; all of them must match.
    pub when: Vec<Header>,
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
    /// The cluster whose intermediate issued the peer's certificate.
    pub clusters: Field<Pattern>,
    /// The peer's address.
    pub ip_blocks: Field<IpNet>,
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

/// A condition on a request header.
#[derive(Debug, Clone)]
pub struct Header {
    /// The lower-case name.
    pub name: Arc<str>,
    /// The value. A header that the request lacks has no value.
    pub value: Field<Pattern>,
}

/// The result of evaluating the policies of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The request is allowed.
    Allowed,
    /// A DENY policy matches.
    Denied {
        /// The policy's name.
        policy: Arc<str>,
        /// The index of the rule, from 0.
        rule: usize,
    },
    /// The workload has ALLOW policies and none of them matches.
    NotAllowed,
}

/// The compiled policies of one workload.
#[derive(Debug, Clone, Default)]
pub struct Authorization {
    deny: Vec<Policy>,
    allow: Vec<Policy>,
}

impl Authorization {
    /// Compiles policies.
    pub fn compile(policies: impl IntoIterator<Item = Policy>) -> Self {
        let (deny, allow) = policies.into_iter().partition(|policy| policy.action == Action::Deny);
        Self { deny, allow }
    }

    /// Returns whether the workload has no policy, so that everything is allowed.
    pub fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty()
    }

    /// Evaluates the policies: a matching DENY policy refuses; without ALLOW policies everything else is allowed;
    /// otherwise one ALLOW policy must match.
    pub fn evaluate(&self, facts: &Facts<'_>) -> Decision {
        for policy in &self.deny {
            if let Some(rule) = policy.rules.iter().position(|rule| rule.matches(facts, Action::Deny)) {
                return Decision::Denied { policy: policy.name.clone(), rule };
            }
        }
        let allowed = |policy: &Policy| policy.rules.iter().any(|rule| rule.matches(facts, Action::Allow));
        if self.allow.is_empty() || self.allow.iter().any(allowed) { Decision::Allowed } else { Decision::NotAllowed }
    }
}

impl Rule {
    fn matches(&self, facts: &Facts<'_>, action: Action) -> bool {
        if facts.request.is_none() && action == Action::Allow && self.has_request_fields() {
            return false;
        }
        (self.from.is_empty() || self.from.iter().any(|source| source.matches(facts)))
            && (self.to.is_empty() || self.to.iter().any(|operation| operation.matches(facts)))
            && facts.request.is_none_or(|request| self.when.iter().all(|header| header.matches(&request)))
    }

    fn has_request_fields(&self) -> bool {
        !self.when.is_empty() || self.to.iter().any(Operation::has_request_fields)
    }
}

impl Source {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        let principal = facts.principal.map(|id| id.as_str().strip_prefix("spiffe://").unwrap_or(id.as_str()));
        self.principals.matches(principal, Pattern::matches)
            && self.namespaces.matches(facts.principal.map(SpiffeId::namespace), Pattern::matches)
            && self.clusters.matches(facts.cluster, Pattern::matches)
            && self.ip_blocks.matches(Some(&facts.source), |block, ip: &IpAddr| block.contains(ip))
    }
}

impl Operation {
    fn matches(&self, facts: &Facts<'_>) -> bool {
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

impl Header {
    fn matches(&self, request: &Request<'_>) -> bool {
        self.value.matches(request.headers.value(&self.name).as_deref(), Pattern::matches)
    }
}

impl<T> Field<T> {
    fn is_any(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }

    /// Returns whether a value matches. An absent value matches no pattern: `any_of` refuses it, `none_of` does not.
    fn matches<V: ?Sized>(&self, value: Option<&V>, matches: impl Fn(&T, &V) -> bool) -> bool {
        let one_of = |patterns: &[T]| value.is_some_and(|value| patterns.iter().any(|pattern| matches(pattern, value)));
        (self.any_of.is_empty() || one_of(&self.any_of)) && !one_of(&self.none_of)
    }
}

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self { any_of: Vec::new(), none_of: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
