//! ALLOW and DENY policies: the rules of Istio's `AuthorizationPolicy`.
//!
//! A policy matches if any of its rules does. A rule matches if any of its sources, any of its operations and all of
//! its conditions do, where an empty list matches everything. Within a source or an operation all fields must match; a
//! field matches if any of its values and none of its excluded values does.
//!
//! On an opaque connection there is no request to look at. A rule that asks about one then allows nothing, and denies
//! by its other fields alone: both err towards refusing.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use identity::SpiffeId;
use ipnet::IpNet;

use crate::{PathPattern, Pattern};

/// What is known of a request or an opaque connection.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The identity that the peer proved, if it did.
    pub principal: Option<&'a SpiffeId>,
    /// The cluster whose intermediate issued the peer's certificate.
    pub cluster: Option<&'a str>,
    /// The peer's address.
    pub source: IpAddr,
    /// The port of the application.
    pub port: u16,
    /// The request; `None` on an opaque connection.
    pub request: Option<Request<'a>>,
}

/// What is known of a request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Its method, as received.
    pub method: &'a str,
    /// Its path without the query.
    pub path: &'a str,
    /// Its host, with the port if there is one.
    pub host: &'a str,
    /// Its headers.
    pub headers: &'a dyn Headers,
}

/// Looks headers up.
pub trait Headers {
    /// The value of a header, by its lower-case name; several values joined by commas.
    fn value(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// What a matching policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Lets pass, and makes everything that no ALLOW policy matches refused.
    Allow,
    /// Refuses, whatever others allow.
    Deny,
}

/// One policy.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `<namespace>/<name>`.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Its rules; none matches nothing.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Who; empty: anybody.
    pub from: Vec<Source>,
    /// What; empty: anything.
    pub to: Vec<Operation>,
    /// Under which conditions on headers.
    pub when: Vec<Header>,
}

/// Accepted and excluded values of one field; both empty matches everything.
#[derive(Debug, Clone)]
pub struct Field<T> {
    /// One of these must match, unless there are none.
    pub any_of: Vec<T>,
    /// None of these may match.
    pub none_of: Vec<T>,
}

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The identity without `spiffe://`.
    pub principals: Field<Pattern>,
    /// The namespace of the identity.
    pub namespaces: Field<Pattern>,
    /// The cluster whose intermediate issued the peer's certificate.
    pub clusters: Field<Pattern>,
    /// The peer's address.
    pub ip_blocks: Field<IpNet>,
}

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Operation {
    /// The host, without regard to case.
    pub hosts: Field<Pattern>,
    /// The port of the application.
    pub ports: Field<u16>,
    /// The method.
    pub methods: Field<Pattern>,
    /// The path without the query.
    pub paths: Field<PathPattern>,
}

/// A condition on a header.
#[derive(Debug, Clone)]
pub struct Header {
    /// Its lower-case name.
    pub name: Arc<str>,
    /// Its value; an absent header has none.
    pub value: Field<Pattern>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may pass.
    Allowed,
    /// A DENY policy matches.
    Denied {
        /// The policy's name.
        policy: Arc<str>,
        /// Which of its rules, from 0.
        rule: usize,
    },
    /// There are ALLOW policies and none matches.
    NotAllowed,
}

/// All policies of one workload, ready to be asked.
#[derive(Debug, Clone, Default)]
pub struct Authorization {
    deny: Vec<Policy>,
    allow: Vec<Policy>,
}

impl Authorization {
    /// Sorts policies by what they do.
    pub fn compile(policies: impl IntoIterator<Item = Policy>) -> Self {
        let (deny, allow) = policies.into_iter().partition(|policy| policy.action == Action::Deny);
        Self { deny, allow }
    }

    /// Whether there is no policy, so everything may pass.
    pub fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty()
    }

    /// Decides: a matching DENY refuses; without ALLOW policies everything else passes; else one of them must match.
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
        if facts.request.is_none() && action == Action::Allow && self.asks_about_requests() {
            return false;
        }
        (self.from.is_empty() || self.from.iter().any(|source| source.matches(facts)))
            && (self.to.is_empty() || self.to.iter().any(|operation| operation.matches(facts)))
            && facts.request.is_none_or(|request| self.when.iter().all(|header| header.matches(&request)))
    }

    fn asks_about_requests(&self) -> bool {
        !self.when.is_empty() || self.to.iter().any(Operation::asks_about_requests)
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
        self.ports.matches(Some(&facts.port), |port, asked: &u16| port == asked)
            && facts.request.is_none_or(|request| {
                self.hosts.matches(Some(request.host), Pattern::matches_ignoring_case)
                    && self.methods.matches(Some(request.method), Pattern::matches)
                    && self.paths.matches(Some(request.path), PathPattern::matches)
            })
    }

    fn asks_about_requests(&self) -> bool {
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

    /// An absent value matches no pattern: it is refused by `any_of` and not excluded by `none_of`.
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
