//! The mesh's own FederationPolicy, which is read in the controller's own cluster alone: no other cluster decides what it may
//! export, or who consumes it.

use api::federation::{self, FederationPolicySpec};

use super::{Kind, Rule, RuleSpec};

/// A FederationPolicy.
pub type FederationPolicy = Rule<FederationPolicySpec>;

impl RuleSpec for FederationPolicySpec {
    type Source = federation::FederationPolicy;
    const KIND: Kind = Kind::FederationPolicy;
    const NAME: &'static str = federation::KIND;
    const BY_NAMESPACE: bool = true;

    fn parts(&self) -> usize {
        self.parts()
    }
}
