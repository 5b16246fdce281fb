//! The policies that the own workload refers to.
//!
//! Policies are resources of their own, shared by all workloads that they select; a workload names those in force. They take
//! effect together, once all of them have arrived. Until then the previous ones stay in force, and a proxy that never held a
//! complete set accepts nothing. A policy that is removed stays in force until the workload no longer names it.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy::authorization::Policy;
use policy::{Authorization, PeerAuthentication, PeerAuthenticationLayer, jwt};
use wire::Kind;
use wire::client::Subscriber;
use wire::discovery::Workload;

/// The policies that the workload refers to, and those of them that have arrived.
#[derive(Debug, Default)]
pub(super) struct Policies {
    references: Option<References>,
    peer_authentications: BTreeMap<String, PeerAuthenticationLayer>,
    request_authentications: BTreeMap<String, Arc<[Arc<jwt::TokenRule>]>>,
    authorization: BTreeMap<String, Policy>,
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
}

/// The rules of each request authentication.
type RuleLists = Vec<Arc<[Arc<jwt::TokenRule>]>>;

/// A complete set of policies.
pub(super) struct Resolved {
    pub(super) authentication: Arc<PeerAuthentication>,
    /// `None`: tokens are not read.
    pub(super) tokens: Option<Arc<jwt::TokenRules>>,
    pub(super) authorization: Arc<Authorization>,
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
        Some(Resolved { authentication: Arc::new(authentication), tokens, authorization })
    }
}

impl References {
    fn names(&self) -> Vec<(Kind, &str)> {
        let policies = self.authorization.iter().map(|name| (Kind::AuthorizationPolicy, name.as_str()));
        let tokens = self.request_authentications.iter().map(|name| (Kind::RequestAuthentication, name.as_str()));
        let modes = self.peer_authentications.iter().map(|name| (Kind::PeerAuthentication, name.as_str()));
        policies.chain(tokens).chain(modes).collect()
    }
}
