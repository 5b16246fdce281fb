//! Objects with limits on the rate of requests: Istio's EnvoyFilter, Linkerd's HTTPLocalRateLimitPolicy with the Servers that it is
//! for, and the mesh's own RateLimit.

use std::collections::BTreeMap;

use api::envoy_filter::{self, EnvoyFilterSpec};
use api::linkerd::{self, HttpLocalRateLimitPolicySpec, ServerSpec};
use api::rate_limit::{self, RateLimitSpec};

use super::{Kind, Rule, RuleSpec};

/// An EnvoyFilter.
pub type EnvoyFilter = Rule<EnvoyFilterSpec>;

/// A Server: a port of pods.
pub type Server = Rule<ServerSpec>;

/// An HTTPLocalRateLimitPolicy.
pub type HttpLocalRateLimitPolicy = Rule<HttpLocalRateLimitPolicySpec>;

/// A RateLimit.
pub type RateLimit = Rule<RateLimitSpec>;

impl RuleSpec for EnvoyFilterSpec {
    type Source = envoy_filter::EnvoyFilter;
    const KIND: Kind = Kind::EnvoyFilter;
    const NAME: &'static str = "EnvoyFilter";
    const OWN_RESOURCE: bool = true;
    const LIMIT: usize = 10_000;

    fn parts(&self) -> usize {
        1 + 4 * self.config_patches.len()
    }

    /// One without effect selects no pod.
    fn selects(&self) -> Option<BTreeMap<String, String>> {
        let labels = || self.workload_selector.as_ref().map(|selector| selector.labels.clone()).unwrap_or_default();
        self.has_effect().then(labels)
    }
}

impl RuleSpec for RateLimitSpec {
    type Source = rate_limit::RateLimit;
    const KIND: Kind = Kind::RateLimit;
    const NAME: &'static str = "RateLimit";
    const OWN_RESOURCE: bool = true;
    const LIMIT: usize = 10_000;

    fn parts(&self) -> usize {
        1 + self.rules.iter().map(|rule| 1 + rule.matches.len() + rule.key.len()).sum::<usize>()
    }

    fn selects(&self) -> Option<BTreeMap<String, String>> {
        Some(self.selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default())
    }
}

impl RuleSpec for ServerSpec {
    type Source = linkerd::Server;
    const KIND: Kind = Kind::Server;
    const NAME: &'static str = "Server";

    fn parts(&self) -> usize {
        1
    }

    fn selects(&self) -> Option<BTreeMap<String, String>> {
        self.labels()
    }
}

impl RuleSpec for HttpLocalRateLimitPolicySpec {
    type Source = linkerd::HttpLocalRateLimitPolicy;
    const KIND: Kind = Kind::HttpLocalRateLimitPolicy;
    const NAME: &'static str = "HTTPLocalRateLimitPolicy";
    const BY_NAMESPACE: bool = true;
    const OWN_RESOURCE: bool = true;

    fn parts(&self) -> usize {
        1 + self.overrides.iter().map(|of| 1 + of.client_refs.len()).sum::<usize>()
    }
}
