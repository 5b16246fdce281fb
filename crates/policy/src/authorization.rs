//! Authorization: Istio's `AuthorizationPolicy`, and its order of actions.
//!
//! DENY comes first; then ALLOW, of which one has to match if the workload has any. AUDIT decides nothing. A policy of a dry
//! run is evaluated and decides nothing either. CUSTOM asks a server, before
//! all others: [`Authorization::provider`].
//!
//! A policy matches if any of its rules matches ([`rule`]).

mod explain;
mod index;
pub mod rule;

use std::sync::Arc;

pub use explain::Missing;
use index::Rules;
pub use rule::{Condition, Field, Operation, Rule, Source};

use crate::Facts;
use crate::external::{CheckProtocol, Provider};

/// The action of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Allows matching requests. A workload with an ALLOW policy refuses requests that no ALLOW policy matches.
    Allow,
    /// Refuses matching requests, even if an ALLOW policy matches them.
    Deny,
    /// Counts matching requests.
    Audit,
    /// Asks a server about matching requests.
    Custom(Custom),
}

/// Whom a policy asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custom {
    /// The name of the provider in the mesh settings.
    pub name: Arc<str>,
    /// The provider; `None` if there is none of this name.
    pub provider: Option<Arc<Provider>>,
}

impl Custom {
    /// Returns whether the provider speaks HTTP, so that it is not asked about opaque connections.
    pub fn speaks_http(&self) -> bool {
        self.provider.as_ref().is_some_and(|provider| provider.protocol != CheckProtocol::Grpc)
    }
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
    /// Whether the policy only says what it would do.
    pub dry_run: bool,
}

/// A rule that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// The policy's name.
    pub policy: Arc<str>,
    /// The index of the rule, from 0.
    pub rule: usize,
}

/// The result of evaluating the policies of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The request is allowed.
    Allowed,
    /// A DENY policy matches.
    Denied(Matched),
    /// The workload has ALLOW policies and none of them matches.
    NotAllowed,
}

/// The compiled policies of one workload.
#[derive(Debug, Clone, Default)]
pub struct Authorization {
    enforced: Policies,
    dry_run: Policies,
    audit: Vec<Policy>,
    custom: Vec<Policy>,
    /// Whom all of them ask.
    asked: Option<Custom>,
}

/// DENY and ALLOW policies.
#[derive(Debug, Clone, Default)]
struct Policies {
    deny: Rules,
    allow: Rules,
}

impl Authorization {
    /// Compiles policies.
    pub fn compile(policies: impl IntoIterator<Item = Policy>) -> Self {
        let mut compiled = Authorization::default();
        let mut decide: [[Vec<Policy>; 2]; 2] = Default::default();
        for policy in policies {
            let [deny, allow] = &mut decide[usize::from(policy.dry_run)];
            match policy.action {
                Action::Deny => deny.push(policy),
                Action::Allow => allow.push(policy),
                Action::Audit => compiled.audit.push(policy),
                Action::Custom(ref asked) => {
                    compiled.ask(asked);
                    compiled.custom.push(policy);
                }
            }
        }
        let [enforced, dry_run] =
            decide.map(|[deny, allow]| Policies { deny: Rules::new(deny), allow: Rules::new(allow) });
        Authorization { enforced, dry_run, ..compiled }
    }

    /// Returns whether the workload has no policy, so that everything is allowed.
    pub fn is_empty(&self) -> bool {
        self.enforced.is_empty() && self.only_enforces()
    }

    /// Returns whether no policy has to be looked at but those that [`Authorization::evaluate`] does.
    pub fn only_enforces(&self) -> bool {
        self.dry_run.is_empty() && self.audit.is_empty() && self.custom.is_empty()
    }

    /// Evaluates the policies: a matching DENY policy refuses; without ALLOW policies everything else is allowed;
    /// otherwise one ALLOW policy must match.
    pub fn evaluate(&self, facts: &Facts<'_>) -> Decision {
        self.enforced.evaluate(facts)
    }

    /// Evaluates the policies of a dry run in the same way; `None` if there are none.
    pub fn evaluate_dry_run(&self, facts: &Facts<'_>) -> Option<Decision> {
        (!self.dry_run.is_empty()).then(|| self.dry_run.evaluate(facts))
    }

    /// Returns the AUDIT policies that match.
    pub fn audited(&self, facts: &Facts<'_>) -> impl Iterator<Item = &Arc<str>> {
        self.audit.iter().filter(|policy| policy.matched(facts).is_some()).map(|policy| &policy.name)
    }

    /// Returns whether there are CUSTOM policies.
    pub fn asks(&self) -> bool {
        !self.custom.is_empty()
    }

    /// Returns the rule of a CUSTOM policy that matches. [`Authorization::provider`] decides then.
    pub fn custom(&self, facts: &Facts<'_>) -> Option<Matched> {
        self.custom.iter().find_map(|policy| policy.matched(facts))
    }

    /// Returns whom CUSTOM policies ask. Without a provider, what they match is refused: it does not exist, or they name several.
    pub fn asked(&self) -> Option<&Custom> {
        self.asked.as_ref()
    }

    /// Returns the provider of [`Authorization::asked`].
    pub fn provider(&self) -> Option<&Arc<Provider>> {
        self.asked.as_ref()?.provider.as_ref()
    }

    /// Takes whom a policy asks. As in Istio, nobody is asked if policies name several providers.
    fn ask(&mut self, custom: &Custom) {
        match &mut self.asked {
            None => self.asked = Some(custom.clone()),
            Some(asked) if asked.name != custom.name => asked.provider = None,
            Some(_) => {}
        }
    }
}

impl Authorization {
    /// Returns all policies: those that decide first, in the order of their evaluation.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        let Authorization { enforced, dry_run, audit, custom, asked: _ } = self;
        let decide = custom.iter().chain(enforced.deny.policies()).chain(enforced.allow.policies());
        decide.chain(dry_run.deny.policies()).chain(dry_run.allow.policies()).chain(audit)
    }

    /// Returns what each rule of the ALLOW policies in force lacks to match, those that lack least first.
    pub fn missing(&self, facts: &Facts<'_>) -> Vec<Missing> {
        let policies = self.enforced.allow.policies();
        let rules = policies.flat_map(|policy| policy.rules.iter().enumerate().map(move |of| (policy, of)));
        let mut missing: Vec<Missing> = rules
            .map(|(policy, (index, rule))| {
                let matched = Matched { policy: policy.name.clone(), rule: index };
                Missing { rule: matched, fields: rule.missing(facts) }
            })
            .collect();
        missing.sort_by_key(|of| of.fields.len());
        missing
    }
}

impl Policies {
    fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty()
    }

    fn evaluate(&self, facts: &Facts<'_>) -> Decision {
        if let Some(matched) = self.deny.first(facts, false) {
            return Decision::Denied(matched);
        }
        match self.allow.is_empty() || self.allow.any(facts, true) {
            true => Decision::Allowed,
            false => Decision::NotAllowed,
        }
    }
}

impl Policy {
    /// Returns the host of the server that the policy asks.
    pub fn asks(&self) -> Option<&Arc<str>> {
        match &self.action {
            Action::Custom(Custom { provider: Some(provider), .. }) => Some(&provider.hostname),
            _ => None,
        }
    }

    /// Returns the first rule that matches of a policy that allows nothing.
    fn matched(&self, facts: &Facts<'_>) -> Option<Matched> {
        let rule = self.rules.iter().position(|rule| rule.matches(facts, false))?;
        Some(Matched { policy: self.name.clone(), rule })
    }
}

#[cfg(test)]
mod tests;
