//! The keys of the issuers of tokens, as they were fetched, by the place that RequestAuthentications name.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Group, Inventory};
use crate::objects::{Key, KeySource, Keys, Kind, Record as _, RequestAuthentication, Text};

/// The time within which keys have to be fetched, if a rule does not say it, as in Istio.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time that a rule may say. Until the first attempt ends, new pods wait for it.
const LONGEST: Duration = Duration::from_secs(30);

impl Inventory {
    /// Returns the places of keys that policies name, each with the time for an attempt.
    pub fn key_sources(&self) -> BTreeMap<KeySource, Duration> {
        let policies = self.clusters.values().flat_map(|cluster| cluster.request_authentications().values());
        let rules = policies.filter_map(|policy| policy.spec.as_ref()).flat_map(|spec| &spec.jwt_rules);
        let mut sources = BTreeMap::new();
        for (source, rule) in rules.filter_map(|rule| Some((KeySource::of(rule)?, rule))) {
            let timeout = rule.timeout.unwrap_or(TIMEOUT).min(LONGEST);
            let known = sources.entry(source).or_insert(timeout);
            *known = timeout.max(*known);
        }
        sources
    }

    /// Returns what is known of the keys at a place; `None` until the first attempt has ended.
    pub fn keys(&self, source: &KeySource) -> Option<&Keys> {
        self.keys.get(source)
    }

    /// Returns the keys of all places, for the snapshot.
    pub fn all_keys(&self) -> &BTreeMap<KeySource, Keys> {
        &self.keys
    }

    /// Takes the keys of the snapshot.
    pub fn restore_keys(&mut self, keys: BTreeMap<KeySource, Keys>) {
        self.keys = keys;
    }

    /// Takes the outcome of an attempt. A failure leaves the last keys in force.
    pub(super) fn change_keys(&mut self, source: KeySource, fetched: Result<Text, Text>) {
        let tried = self.keys.contains_key(&source);
        let known = self.keys.entry(source.clone()).or_default();
        let before = known.set.clone();
        match fetched {
            Ok(set) => *known = Keys { set: Some(set), failure: None },
            Err(why) => known.failure = Some(why),
        }
        if !tried || known.set != before {
            self.note_key_users(&source);
        }
        let used = self.key_sources();
        self.keys.retain(|source, _| used.contains_key(source));
    }

    fn note_key_users(&mut self, source: &KeySource) {
        let uses = |policy: &&RequestAuthentication| {
            let rules = policy.spec.iter().flat_map(|spec| &spec.jwt_rules);
            rules.filter_map(KeySource::of).any(|of| of == *source)
        };
        for (name, cluster) in &self.clusters {
            let users = cluster.request_authentications().values().filter(uses);
            let groups = users.map(|of| Group::Policy(Kind::RequestAuthentication, name.clone(), of.key()));
            self.pending.groups(&Text::default(), groups);
        }
    }

    /// Returns what is wrong with the keys of a policy.
    pub(super) fn key_failures<'a>(
        &'a self,
        policy: &'a RequestAuthentication,
    ) -> impl Iterator<Item = (Key, String)> + use<'a> {
        let rules = policy.spec.iter().flat_map(|spec| spec.jwt_rules.iter().enumerate());
        rules.filter_map(move |(index, rule)| {
            let known = self.keys.get(&KeySource::of(rule)?)?;
            let why = known.failure.as_ref()?;
            let instead = match known.set {
                Some(_) => "the keys that were fetched before stay in use",
                None => "every token of the issuer is refused",
            };
            Some((policy.key(), format!("spec.jwtRules[{index}]: the keys cannot be fetched, and {instead}: {why}")))
        })
    }
}
