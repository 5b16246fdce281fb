//! The rules of several policies of one action, found by what a request has.
//!
//! A workload may have a thousand rules, of which most name the callers that they are for. A rule is kept by one kind of key
//! that all of its sources or operations have: exact principals, exact namespaces, or exact paths. Those without are looked
//! at for every request.

use std::collections::HashMap;

use identity::SpiffeId;

use super::{Matched, Policy, Rule};
use crate::pattern::{PathPattern, Pattern};
use crate::{Facts, principal_of};

/// The number of rules up to which looking at each is quicker than looking for keys.
const FEW: usize = 8;

/// Policies of one action.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    policies: Vec<Policy>,
    /// The policy and the rule of each position.
    positions: Vec<(u32, u32)>,
    by_principal: Positions,
    by_namespace: Positions,
    by_path: Positions,
    /// The positions of rules without a key.
    others: Vec<u32>,
}

/// Positions of rules by a key, in order.
type Positions = HashMap<Box<str>, Vec<u32>>;

impl Rules {
    pub(super) fn new(policies: Vec<Policy>) -> Self {
        let mut rules = Rules { policies, ..Rules::default() };
        for (policy, of) in (0..).zip(&rules.policies) {
            for (index, rule) in (0..).zip(&of.rules) {
                let position = rules.positions.len() as u32;
                rules.positions.push((policy, index));
                let (map, keys) = match keys(rule) {
                    Some(Keys::Principals(keys)) => (&mut rules.by_principal, keys),
                    Some(Keys::Namespaces(keys)) => (&mut rules.by_namespace, keys),
                    Some(Keys::Paths(keys)) => (&mut rules.by_path, keys),
                    None => {
                        rules.others.push(position);
                        continue;
                    }
                };
                for key in keys {
                    let positions = map.entry(key.into()).or_default();
                    if positions.last() != Some(&position) {
                        positions.push(position);
                    }
                }
            }
        }
        rules
    }

    pub(super) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter()
    }

    /// Returns the first rule that matches. `strict`: an unknown property does not match.
    pub(super) fn first(&self, facts: &Facts<'_>, strict: bool) -> Option<Matched> {
        let (policy, rule) = self.positions[self.position(facts, strict)? as usize];
        Some(Matched { policy: self.policies[policy as usize].name.clone(), rule: rule as usize })
    }

    /// Returns whether a rule matches.
    pub(super) fn any(&self, facts: &Facts<'_>, strict: bool) -> bool {
        self.position(facts, strict).is_some()
    }

    fn position(&self, facts: &Facts<'_>, strict: bool) -> Option<u32> {
        // Without a request, rules on paths match by their other fields.
        let Some(request) = facts.request.as_ref().filter(|_| self.positions.len() > FEW) else {
            return (0..self.positions.len() as u32).find(|position| self.matches(*position, facts, strict));
        };
        let of = |map: &'_ Positions, key: Option<&str>| {
            let positions = key.filter(|_| !map.is_empty()).and_then(|key| map.get(key))?;
            positions.iter().copied().find(|position| self.matches(*position, facts, strict))
        };
        let found = [
            of(&self.by_principal, facts.principal.map(principal_of)),
            of(&self.by_namespace, facts.principal.map(SpiffeId::namespace)),
            of(&self.by_path, Some(request.path)),
            self.others.iter().copied().find(|position| self.matches(*position, facts, strict)),
        ];
        found.into_iter().flatten().min()
    }

    fn matches(&self, position: u32, facts: &Facts<'_>, strict: bool) -> bool {
        let (policy, rule) = self.positions[position as usize];
        self.policies[policy as usize].rules[rule as usize].matches(facts, strict)
    }
}

/// Keys of which a request has one if the rule matches.
enum Keys<'a> {
    Principals(Vec<&'a str>),
    Namespaces(Vec<&'a str>),
    Paths(Vec<&'a str>),
}

fn keys(rule: &Rule) -> Option<Keys<'_>> {
    let of_sources = |values: fn(&super::Source) -> &[Pattern]| exact(rule.from.iter().map(values), exact_text);
    of_sources(|source| &source.principals.any_of)
        .map(Keys::Principals)
        .or_else(|| of_sources(|source| &source.namespaces.any_of).map(Keys::Namespaces))
        .or_else(|| exact(rule.to.iter().map(|operation| &*operation.paths.any_of), exact_path).map(Keys::Paths))
}

fn exact_text(pattern: &Pattern) -> Option<&str> {
    match pattern {
        Pattern::Exact(text) => Some(text),
        _ => None,
    }
}

fn exact_path(pattern: &PathPattern) -> Option<&str> {
    match pattern {
        PathPattern::Plain(Pattern::Exact(text)) => Some(text),
        _ => None,
    }
}

/// Returns the texts of all patterns, if there is at least one list, none is empty, and all patterns are exact.
fn exact<'a, T: 'a>(
    mut lists: impl ExactSizeIterator<Item = &'a [T]>,
    text: impl Fn(&'a T) -> Option<&'a str>,
) -> Option<Vec<&'a str>> {
    if lists.len() == 0 {
        return None;
    }
    lists.try_fold(Vec::new(), |mut texts, list| {
        texts.extend(list.iter().map(&text).collect::<Option<Vec<_>>>()?);
        (!list.is_empty()).then_some(texts)
    })
}
