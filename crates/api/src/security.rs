//! Istio's security policies (`security.istio.io`): [`AuthorizationPolicy`], [`PeerAuthentication`] and
//! [`RequestAuthentication`].
//!
//! They are read as the kinds of [`crate::networking`] are: a typed object is always readable, and `validate` reports what
//! could not be read beside everything else that is wrong. A policy without a spec is an empty one: an AuthorizationPolicy
//! then allows nothing.

pub mod authorization_policy;
pub mod peer_authentication;
pub mod request_authentication;
mod validate;

pub(crate) use validate::values;

pub use authorization_policy::{AuthorizationPolicy, AuthorizationPolicySpec};
pub use peer_authentication::{PeerAuthentication, PeerAuthenticationSpec};
pub use request_authentication::{RequestAuthentication, RequestAuthenticationSpec};

use serde_json::Value;

use crate::networking::Problem;
use crate::networking::json::message;

/// The API group.
pub const GROUP: &str = "security.istio.io";

/// The annotation by which an AuthorizationPolicy only reports what it would decide.
pub const DRY_RUN: &str = "istio.io/dry-run";

message! {
    /// An object that a policy is attached to.
    TargetRef {
        /// The API group; empty: the core group.
        group: String = "group",
        /// The kind.
        kind: String = "kind",
        /// The name.
        name: String = "name",
        /// The namespace, which cannot be another one.
        namespace: String = "namespace",
    }
}

/// Returns what is wrong with an object of a kind, if it is one of these, as Kubernetes has it.
pub fn validate(group: &str, kind: &str, object: &Value) -> Vec<Problem> {
    match (group, kind) {
        (GROUP, "AuthorizationPolicy") => AuthorizationPolicy::from_value(object).validate(),
        (GROUP, "PeerAuthentication") => PeerAuthentication::from_value(object).validate(),
        (GROUP, "RequestAuthentication") => RequestAuthentication::from_value(object).validate(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
