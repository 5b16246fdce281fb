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

use serde::Deserialize as _;
use serde_json::Value;

pub use fields::{TOLERATED, ToleratedField};
pub use kinds::{ENVOY_FILTER, KindWithoutEffect, WITHOUT_EFFECT};

use crate::gateway::{Gateway, GatewaySpec, Server};
use crate::{Warning, export};

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
/// The number of servers of a Gateway that are looked at.
const MAX_SERVERS: usize = 100;

/// Returns the warnings about an object of a kind: that it has no effect, and which of its fields have none. `name` is the
/// name by which the warnings call it.
pub fn warnings(group: &str, kind: &str, name: &str, object: &Value) -> Vec<String> {
    let mut warnings: Vec<String> = kinds::find(group, kind).map(|known| known.notice(name)).into_iter().collect();
    let mut of_fields = fields::warnings(kind, object);
    if group == "networking.istio.io" && kind == "Gateway" {
        of_fields.extend(of_servers(object));
    }
    warnings.extend(of_fields.iter().take(MAX_FIELDS).map(|warning| format!("{kind} {name}: {warning}")));
    if of_fields.len() > MAX_FIELDS {
        warnings.push(format!("{kind} {name}: further fields have no effect"));
    }
    warnings
}

/// Returns the warnings about the servers of a Gateway.
fn of_servers(object: &Value) -> Vec<Warning> {
    let servers = object["spec"]["servers"].as_array().into_iter().flatten().take(MAX_SERVERS);
    // What cannot be parsed is refused by the schema.
    let servers = servers.map(Server::deserialize).collect::<Result<_, _>>().unwrap_or_default();
    Gateway { spec: GatewaySpec { servers, ..GatewaySpec::default() }, ..Gateway::default() }.warnings()
}
