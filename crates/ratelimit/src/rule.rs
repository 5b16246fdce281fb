//! The rules of a proxy.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use policy::Facts;
use policy::authorization::Rule as Condition;

use crate::descriptor::{Descriptor, DescriptorActions, RequestFacts};
use crate::local::LocalLimit;

/// The requests that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// To the application of the proxy's pod.
    Inbound,
    /// Of the application.
    Outbound,
    /// Of clients of a gateway.
    Gateway,
}

/// A share of requests, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub u32);

impl Share {
    /// Every request.
    pub const ALL: Share = Share(1_000_000);

    /// Returns whether a request is part of the share. `random` is called unless all are, or none is.
    pub fn has(self, random: impl FnOnce() -> u32) -> bool {
        self.0 >= Self::ALL.0 || self.0 > 0 && random() % Self::ALL.0 < self.0
    }
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// The object that it comes from, as metrics show it.
    pub policy: Arc<str>,
    /// The requests that it is about.
    pub side: Side,
    /// Any of these; empty: every request.
    pub matches: Box<[Condition]>,
    /// Of the rules of a policy with the same number other than 0, the first one that a request matches applies.
    pub alternative: u32,
    /// The requests that are counted.
    pub enabled: Share,
    /// Of these, the requests that are answered if they exceed the limit. Others are carried, and reported.
    pub enforced: Share,
    /// What a request is counted by.
    pub descriptors: Box<[DescriptorActions]>,
    /// The stage of the descriptors of routes that are used as well.
    pub route_stage: Option<u32>,
    /// The limit.
    pub limit: Limit,
    /// The answer to requests that exceed it.
    pub answer: Answer,
}

/// The limit of a rule.
#[derive(Debug)]
pub enum Limit {
    /// The proxy counts it.
    Local(LocalLimit),
    /// A service counts it.
    Global(GlobalLimit),
}

/// A service that counts requests, and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalLimit {
    /// The hostname of the service.
    pub hostname: Arc<str>,
    /// Its port.
    pub port: u16,
    /// The domain of the limits.
    pub domain: Box<str>,
    /// The time within which it has to answer.
    pub timeout: Duration,
    /// The status of requests about which it cannot be asked; `None`: they are carried.
    pub status_on_error: Option<StatusCode>,
    /// Whether answers have `x-envoy-ratelimited`.
    pub marked: bool,
}

/// The answer to a request that exceeds a limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Headers.
    pub headers: Box<[AnswerHeader]>,
    /// Responses say what is left, also those of requests that do not exceed the limit.
    pub quota_headers: bool,
    /// The answer has `retry-after`.
    pub retry_after: bool,
    /// The status of gRPC is RESOURCE_EXHAUSTED.
    pub resource_exhausted: bool,
}

/// A header of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerHeader {
    /// The name.
    pub name: HeaderName,
    /// The value.
    pub value: HeaderValue,
    /// Beside lines with this name, instead of in their place.
    pub append: bool,
}

/// Descriptors of the requests of some routes, which rules with their stage use.
#[derive(Debug)]
pub struct RouteDescriptors {
    /// The requests.
    pub side: Side,
    /// Any of these; empty: every request.
    pub matches: Box<[Condition]>,
    /// The descriptors.
    pub descriptors: Box<[DescriptorActions]>,
}

/// The rules of all policies that are in force, by side.
#[derive(Debug, Default)]
pub struct RateLimits([SideLimits; 3]);

/// The rules of one side, in order.
#[derive(Debug, Default)]
pub struct SideLimits {
    rules: Vec<Arc<Rule>>,
    route_descriptors: Vec<Arc<RouteDescriptors>>,
}

impl RateLimits {
    /// Returns the rules of policies, in their order.
    pub fn of<'a>(policies: impl IntoIterator<Item = (&'a [Arc<Rule>], &'a [Arc<RouteDescriptors>])>) -> Self {
        let mut limits = Self::default();
        for (rules, descriptors) in policies {
            for rule in rules {
                limits.0[rule.side as usize].rules.push(rule.clone());
            }
            for of in descriptors {
                limits.0[of.side as usize].route_descriptors.push(of.clone());
            }
        }
        limits
    }

    /// Returns the rules of a side, if it has any.
    #[inline]
    pub fn side(&self, side: Side) -> Option<&SideLimits> {
        let of = &self.0[side as usize];
        (!of.rules.is_empty()).then_some(of)
    }

    /// Returns all rules.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.0.iter().flat_map(|side| &side.rules)
    }
}

impl SideLimits {
    /// Returns the rules.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Returns the descriptors of a request for a rule.
    pub fn descriptors<'a>(&'a self, rule: &'a Rule, request: &RequestFacts<'a>) -> Vec<Descriptor<'a>> {
        let of_routes = self.route_descriptors.iter().filter(|of| is_met(&of.matches, request.facts));
        let of_stage = of_routes.flat_map(|of| &of.descriptors).filter(|of| rule.route_stage == Some(of.stage));
        rule.descriptors.iter().chain(of_stage).filter_map(|actions| actions.of(request)).collect()
    }
}

impl Rule {
    /// Returns whether the rule applies to a request.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        is_met(&self.matches, facts)
    }

    /// Returns whether both are alternatives of which one applies.
    pub fn is_alternative_to(&self, other: &Rule) -> bool {
        self.alternative != 0 && self.alternative == other.alternative && Arc::ptr_eq(&self.policy, &other.policy)
    }
}

/// What is not known, such as the cluster of a peer without an identity, does not match.
fn is_met(matches: &[Condition], facts: &Facts<'_>) -> bool {
    matches.is_empty() || matches.iter().any(|condition| condition.matches(facts, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_a_million() {
        let never = || unreachable!("no random number is needed");
        assert!(Share::ALL.has(never) && !Share(0).has(never));
        let share = Share(250_000);
        assert!(share.has(|| 249_999) && !share.has(|| 250_000) && share.has(|| 1_000_000));
    }
}
