//! Objects and fields that API servers accept and that have no effect yet, or never had one.
//!
//! - [`kinds`]: the kinds without effect
//! - [`fields`]: the fields that users write although Istio's API does not have them
//!
//! [`warnings`] returns the warnings for an object when it is applied. Admission warnings, Events, `isthmus status`
//! and docs/compatibility.md follow from the two tables, so a kind that gains its effect loses a line here and nothing else.

pub mod fields;
pub mod kinds;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use fields::{TOLERATED, ToleratedField};
pub use kinds::{ENVOY_FILTER, KindWithoutEffect, WITHOUT_EFFECT};

use crate::export;

/// The API groups of the mesh's configuration.
pub const GROUPS: &[&str] = &[
    export::GROUP,
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "install.istio.io",
    "linkerd.io",
    "policy.linkerd.io",
    "split.smi-spec.io",
    "specs.smi-spec.io",
    "federation.isthmus.dev",
];

/// The number of warnings about fields of one object. kubectl prints each on a line.
const MAX_FIELDS: usize = 10;

/// Returns the warnings about an object of a kind: that it has no effect, and which of its fields have none. `name` is the
/// name by which the warnings call it.
pub fn warnings(group: &str, kind: &str, name: &str, object: &Value) -> Vec<String> {
    let mut warnings: Vec<String> = kinds::find(group, kind).map(|known| known.notice(name)).into_iter().collect();
    let of_fields = fields::warnings(kind, object);
    warnings.extend(of_fields.iter().take(MAX_FIELDS).map(|warning| format!("{kind} {name}: {warning}")));
    if of_fields.len() > MAX_FIELDS {
        warnings.push(format!("{kind} {name}: further fields have no effect"));
    }
    warnings
}
