//! The policies that the own workload refers to.
//!
//! Policies are resources of their own, shared by all workloads that they select; a workload names those in force. They take
//! effect together, once all of them have arrived. Until then the previous ones stay in force, and a proxy that never held a
//! complete set accepts nothing. A policy that is removed stays in force until the workload no longer names it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use policy::authorization::Policy;
use policy::{Authorization, PeerAuthentication, PeerAuthenticationLayer, jwt};
use ratelimit::RateLimits;
use wire::Kind;
use wire::client::Subscriber;
use wire::discovery::{RateLimit, Workload};

use super::convert::RateLimitPolicy;

/// The policies that the workload refers to, and those of them that have arrived.
#[derive(Debug, Default)]
pub(super) struct Policies {
    references: Option<References>,
    peer_authentications: BTreeMap<String, PeerAuthenticationLayer>,
    request_authentications: BTreeMap<String, Arc<[Arc<jwt::TokenRule>]>>,
    authorization: BTreeMap<String, Policy>,
    rate_limits: BTreeMap<String, RateLimitPolicy>,
    /// The rules in force, and those that they were compiled from: what is known of tokens that were verified is lost with
    /// them, so they are kept while nothing changes.
    compiled: Option<(RuleLists, Option<Arc<jwt::TokenRules>>)>,
}

/// Names of the policies in force.
#[derive(Debug, Default, PartialEq)]
struct References {
    /// In the order of their precedence.
    peer_authentications: Vec<String>,
    request_authentications: Vec<String>,
    authorization: Vec<String>,
    /// In their order.
    rate_limits: Vec<String>,
}

/// The rules of each request authentication.
type RuleLists = Vec<Arc<[Arc<jwt::TokenRule>]>>;

/// A complete set of policies.
pub(super) struct Resolved {
    pub(super) authentication: Arc<PeerAuthentication>,
    /// `None`: tokens are not read.
    pub(super) tokens: Option<Arc<jwt::TokenRules>>,
    pub(super) authorization: Arc<Authorization>,
    /// `None`: there are none.
    pub(super) rate_limits: Option<Arc<RateLimits>>,
}

impl Policies {
    /// Replaces the references, and subscribes to what they name.
    ///
    /// # Errors
    /// Returns an error if the workload names no peer authentication.
    pub(super) fn refer(&mut self, workload: &Workload, subscriber: Option<&Subscriber>) -> Result<(), String> {
        if workload.peer_authentication.is_empty() {
            return Err("the workload names no PeerAuthentication".to_owned());
        }
        let overrides = workload.peer_authentication_overrides.iter();
        let references = References {
            peer_authentications: overrides.chain([&workload.peer_authentication]).cloned().collect(),
            request_authentications: workload.request_authentications.clone(),
            authorization: workload.authorization_policies.clone(),
            rate_limits: workload.rate_limits.clone(),
        };
        let before = self.references.take().unwrap_or_default();
        if let Some(subscriber) = subscriber {
            let (old, new) = (before.names(), references.names());
            for (kind, name) in new.iter().filter(|name| !old.contains(name)) {
                subscriber.subscribe(*kind, *name);
            }
            for (kind, name) in old.iter().filter(|name| !new.contains(name)) {
                subscriber.unsubscribe(*kind, *name);
            }
        }
        self.peer_authentications.retain(|name, _| references.peer_authentications.contains(name));
        self.request_authentications.retain(|name, _| references.request_authentications.contains(name));
        self.authorization.retain(|name, _| references.authorization.contains(name));
        self.rate_limits.retain(|name, _| references.rate_limits.contains(name));
        self.references = Some(references);
        Ok(())
    }

    /// Takes a peer authentication.
    pub(super) fn put_peer_authentication(&mut self, name: &str, authentication: PeerAuthenticationLayer) {
        self.peer_authentications.insert(name.to_owned(), authentication);
    }

    /// Takes the rules of a request authentication.
    pub(super) fn put_request_authentication(&mut self, name: &str, rules: Arc<[Arc<jwt::TokenRule>]>) {
        self.request_authentications.insert(name.to_owned(), rules);
    }

    /// Takes an authorization policy.
    pub(super) fn put_authorization(&mut self, name: &str, policy: Policy) {
        self.authorization.insert(name.to_owned(), policy);
    }

    /// Takes a policy with limits on rates. Limits that are the same as before keep their counts.
    ///
    /// # Errors
    /// Returns what is wrong with it; then the last good one stays in force.
    pub(super) fn put_rate_limit(
        &mut self,
        name: &str,
        message: RateLimit,
        now: Instant,
    ) -> Result<&RateLimitPolicy, String> {
        let policy = RateLimitPolicy::read(message, self.rate_limits.get(name), now)?;
        Ok(self.rate_limits.entry(name.to_owned()).insert_entry(policy).into_mut())
    }

    /// Returns the policies in force, or `None` while some that the workload names have not arrived.
    pub(super) fn resolve(&mut self) -> Option<Resolved> {
        let references = self.references.as_ref()?;
        let layers = references.peer_authentications.iter().map(|name| self.peer_authentications.get(name));
        let authentication = PeerAuthentication::layered(layers.collect::<Option<Vec<_>>>()?);
        let policies = references.authorization.iter().map(|name| self.authorization.get(name).cloned());
        let authorization = Arc::new(Authorization::compile(policies.collect::<Option<Vec<_>>>()?));
        let rules =
            references.request_authentications.iter().map(|name| self.request_authentications.get(name).cloned());
        let rules = rules.collect::<Option<RuleLists>>()?;
        let is_same = |old: &RuleLists| {
            old.len() == rules.len() && old.iter().zip(&rules).all(|(old, new)| Arc::ptr_eq(old, new))
        };
        let tokens = match &self.compiled {
            Some((from, tokens)) if is_same(from) => tokens.clone(),
            _ => {
                let tokens = jwt::TokenRules::compile(rules.iter().flat_map(|rules| rules.iter().cloned()));
                self.compiled = Some((rules, tokens.clone()));
                tokens
            }
        };
        let limits = references.rate_limits.iter().map(|name| self.rate_limits.get(name));
        let limits = RateLimits::of(limits.collect::<Option<Vec<_>>>()?.into_iter().map(RateLimitPolicy::parts));
        let is_limited = limits.rules().next().is_some();
        let rate_limits = is_limited.then(|| Arc::new(limits));
        Some(Resolved { authentication: Arc::new(authentication), tokens, authorization, rate_limits })
    }
}

impl References {
    fn names(&self) -> Vec<(Kind, &str)> {
        let policies = self.authorization.iter().map(|name| (Kind::AuthorizationPolicy, name.as_str()));
        let tokens = self.request_authentications.iter().map(|name| (Kind::RequestAuthentication, name.as_str()));
        let modes = self.peer_authentications.iter().map(|name| (Kind::PeerAuthentication, name.as_str()));
        let limits = self.rate_limits.iter().map(|name| (Kind::RateLimit, name.as_str()));
        policies.chain(tokens).chain(modes).chain(limits).collect()
    }
}
