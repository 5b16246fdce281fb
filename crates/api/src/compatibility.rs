//! Objects and fields that API servers accept and that have no effect yet, or never had one.
//!
//! - [`kinds`]: the kinds without effect
//! - [`fields`]: the fields that users write although Istio's API does not have them
//!
//! [`warnings`] returns what the author of an object is told when it is applied. Admission warnings, Events, `isthmus status`
//! and docs/compatibility.md follow from the two tables, so a kind that gains its effect loses a line here and nothing else.

pub mod fields;
pub mod kinds;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use fields::{TOLERATED, ToleratedField};
pub use kinds::{KindWithoutEffect, WITHOUT_EFFECT};

use crate::gateway::Gateway;
use crate::{Warning, export};

/// The API groups of the mesh's configuration.
pub const GROUPS: &[&str] = &[
    export::GROUP,
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "install.istio.io",
    "linkerd.io",
    "split.smi-spec.io",
];

/// The number of warnings about fields of one object. kubectl prints each on a line.
const MAX_FIELDS: usize = 10;

/// Returns the warnings about an object of a kind: that it has no effect, and which of its fields have none. `name` is the
/// name by which the warnings call it.
pub fn warnings(group: &str, kind: &str, name: &str, object: &Value) -> Vec<String> {
    let mut warnings: Vec<String> = kinds::find(group, kind).map(|known| known.notice(name)).into_iter().collect();
    let mut of_fields = fields::warnings(kind, object);
    if group == "networking.istio.io" && kind == "Gateway" {
        // What cannot be parsed is refused by the schema.
        of_fields.extend(serde_json::from_value::<Gateway>(object.clone()).iter().flat_map(Gateway::warnings));
    }
    let rest = of_fields.len().saturating_sub(MAX_FIELDS);
    of_fields.truncate(MAX_FIELDS);
    let shown = |warning: Warning| format!("{kind} {name}: {warning}");
    warnings.extend(of_fields.into_iter().map(shown));
    if rest > 0 {
        warnings.push(format!("{kind} {name}: {rest} more fields have no effect"));
    }
    warnings
}
