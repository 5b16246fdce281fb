//! Linkerd: [`ServiceProfile`] (`linkerd.io`), and the annotations of Services that set retries, time limits and the ejection
//! of failing endpoints.
//!
//! - [`service_profile`]: routes, response classes, retry budgets, overrides of the destination, opaque ports.
//! - [`condition`]: conditions on requests and responses, which contain others.
//! - [`annotations`]: the annotations of Services.

pub mod annotations;
pub mod condition;
pub mod service_profile;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use annotations::ServiceAnnotations;
pub use condition::{RequestMatch, ResponseMatch};
pub use service_profile::{ServiceProfile, ServiceProfileSpec};

use crate::networking::Problem;

/// The API group.
pub const GROUP: &str = "linkerd.io";

/// Returns what is wrong with an object of a kind, if it is a ServiceProfile, as Kubernetes has it.
pub fn validate(group: &str, kind: &str, object: &Value) -> Vec<Problem> {
    match (group, kind) {
        (GROUP, "ServiceProfile") => ServiceProfile::from_value(object).validate(),
        _ => Vec::new(),
    }
}
