//! The Service Mesh Interface: [`TrafficSplit`] (`split.smi-spec.io`) and [`HttpRouteGroup`] (`specs.smi-spec.io`).
//!
//! All versions from v1alpha1 to v1alpha4 are read. They differ in the form of weights (quantities, then whole numbers), in
//! the place of a group's matches (beside the metadata, then in `spec`), and in the form of header conditions (a list of
//! maps, then a map). Each form is read in any version, so that the version in which an object is stored has no meaning.

pub mod http_route_group;
#[cfg(test)]
mod tests;
pub mod traffic_split;

use serde_json::Value;

pub use http_route_group::{HttpRouteGroup, HttpRouteGroupSpec};
pub use traffic_split::{TrafficSplit, TrafficSplitSpec};

use crate::networking::Problem;

/// The API group of TrafficSplits.
pub const SPLIT_GROUP: &str = "split.smi-spec.io";

/// The API group of HTTPRouteGroups.
pub const SPECS_GROUP: &str = "specs.smi-spec.io";

/// Returns what is wrong with an object of a kind, if it is one of these two, as Kubernetes has it.
pub fn validate(group: &str, kind: &str, object: &Value) -> Vec<Problem> {
    match (group, kind) {
        (SPLIT_GROUP, "TrafficSplit") => TrafficSplit::from_value(object).validate(),
        (SPECS_GROUP, "HTTPRouteGroup") => HttpRouteGroup::from_value(object).validate(),
        _ => Vec::new(),
    }
}

/// Returns the name and namespace of a service that an object names: by its name alone, or with its namespace, or in full.
/// Without a namespace, it is in that of the object. `domain` is that of the clusters.
pub fn service_of<'a>(name: &'a str, namespace: &'a str, domain: &str) -> Option<(&'a str, &'a str)> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let Some((service, rest)) = name.split_once('.') else { return Some((name, namespace)) };
    let (namespace, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let is_service = rest.is_empty() || rest == "svc" || rest.strip_prefix("svc.") == Some(domain);
    is_service.then_some((service, namespace))
}
