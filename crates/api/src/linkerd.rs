//! Linkerd: [`ServiceProfile`] (`linkerd.io`), [`HttpLocalRateLimitPolicy`] and its [`Server`] (`policy.linkerd.io`), and the annotations of Services that set retries, time limits and the ejection
//! of failing endpoints.
//!
//! - [`service_profile`]: routes, response classes, retry budgets, overrides of the destination, opaque ports.
//! - [`condition`]: conditions on requests and responses, which contain others.
//! - [`rate_limit`]: limits on the rate of requests to a port of pods.
//! - [`annotations`]: the annotations of Services.

pub mod annotations;
pub mod condition;
pub mod rate_limit;
pub mod service_profile;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use annotations::ServiceAnnotations;
pub use condition::{RequestMatch, ResponseMatch};
pub use rate_limit::{HttpLocalRateLimitPolicy, HttpLocalRateLimitPolicySpec, Server, ServerSpec};
pub use service_profile::{ServiceProfile, ServiceProfileSpec};

use crate::networking::Problem;

/// The API group.
pub const GROUP: &str = "linkerd.io";

/// The API group of policies.
pub const POLICY_GROUP: &str = "policy.linkerd.io";

/// Returns what is wrong with an object of a kind, if it is one of these, as Kubernetes has it.
pub fn validate(group: &str, kind: &str, object: &Value) -> Vec<Problem> {
    match (group, kind) {
        (GROUP, "ServiceProfile") => ServiceProfile::from_value(object).validate(),
        (POLICY_GROUP, "Server") => Server::from_value(object).validate(),
        (POLICY_GROUP, "HTTPLocalRateLimitPolicy") => HttpLocalRateLimitPolicy::from_value(object).validate(),
        _ => Vec::new(),
    }
}
