//! Which DestinationRules of one host and namespace are merged, as Istio's `mergeDestinationRule` decides.

use std::collections::{BTreeMap, BTreeSet};

use api::networking::DestinationRuleSpec;

use super::visibility::Visibility;
use crate::inventory::rules::Specificity;
use crate::objects::{DestinationRule, Key, Record as _};

/// A DestinationRule for the host.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) specificity: Specificity,
    pub(super) rule: &'a DestinationRule,
    pub(super) spec: &'a DestinationRuleSpec,
    pub(super) visibility: &'a Visibility,
}

/// Rules that have effect as one.
pub(super) struct Merged<'a> {
    /// `exportTo` of the first one, as it is written.
    exports: BTreeSet<&'a str>,
    /// The rules; there is a first one.
    pub(super) rules: Vec<Candidate<'a>>,
}

impl<'a> Candidate<'a> {
    /// Returns whether the rule is for clients of its own namespace alone.
    pub(super) fn is_private(&self) -> bool {
        match self.visibility {
            Visibility::Public => false,
            Visibility::Namespaces(namespaces) => namespaces.iter().all(|namespace| *namespace == self.rule.namespace),
        }
    }

    /// Returns the labels of the workloads that the rule is for; `None`: all.
    pub(super) fn selector(&self) -> Option<&'a BTreeMap<String, String>> {
        self.spec.workload_selector.as_ref().map(|of| &of.match_labels)
    }

    fn exports(&self) -> BTreeSet<&'a str> {
        match self.selector() {
            Some(_) => BTreeSet::from(["."]),
            None => self.spec.export_to.iter().map(String::as_str).collect(),
        }
    }
}

impl<'a> Merged<'a> {
    /// Returns the labels of the workloads that the rules are for; `None`: all.
    pub(super) fn selector(&self) -> Option<&'a BTreeMap<String, String>> {
        self.rules[0].selector()
    }

    /// Returns to whom the rules are visible.
    pub(super) fn visibility(&self) -> &'a Visibility {
        self.rules[0].visibility
    }

    /// Returns the names of the rules.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.rules.iter().map(|of| of.rule.key()).collect()
    }
}

/// Merges rules of one host and namespace, those for some workloads first, and then by age. A rule is merged into each
/// earlier one with the same exports or with some of them, unless they are for different workloads.
pub(super) fn merge<'a>(rules: &[Candidate<'a>]) -> Vec<Merged<'a>> {
    let mut merged: Vec<Merged<'a>> = Vec::new();
    for rule in rules {
        let exports = rule.exports();
        let mut is_separate = true;
        for earlier in &mut merged {
            is_separate = earlier.exports != exports;
            let has_more = !earlier.exports.is_empty() && exports.is_superset(&earlier.exports);
            if is_separate && !has_more {
                continue;
            }
            match (earlier.selector(), rule.selector()) {
                (Some(these), Some(those)) if these != those => {
                    is_separate = true;
                    continue;
                }
                (Some(_), Some(_)) | (None, None) => is_separate = false,
                // Private rules for all workloads are merged into those for some, and vanish.
                (Some(_), None) | (None, Some(_)) => {}
            }
            earlier.rules.push(*rule);
        }
        if is_separate {
            merged.push(Merged { exports, rules: vec![*rule] });
        }
    }
    merged
}
