//! What is wrong with rules of routing in their context, found when the rules of a host are compiled.

use super::Inventory;
use crate::objects::{Key, Kind, Text};

/// Something that is wrong with a rule of routing, or that has no effect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RuleNotice {
    /// The kind of the object.
    pub kind: Kind,
    /// The object.
    pub object: Key,
    /// The code, as `istioctl analyze` prints it.
    pub code: &'static str,
    /// What is wrong, where, and what to do.
    pub text: String,
}

impl Inventory {
    /// Replaces the notices about the rules of a host.
    pub fn set_rule_notices(&mut self, hostname: &Text, notices: Vec<RuleNotice>) {
        match notices.is_empty() {
            true => drop(self.rule_notices.remove(hostname)),
            false => drop(self.rule_notices.insert(hostname.clone(), notices.into())),
        }
    }

    /// Returns the notices about the rules of all hosts, in no order. A rule of several hosts may have one several times.
    pub fn rule_notices(&self) -> impl Iterator<Item = &RuleNotice> {
        self.rule_notices.values().flatten()
    }
}
