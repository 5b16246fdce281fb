//! Istio's routing (`networking.istio.io`): [`VirtualService`], [`DestinationRule`], [`ServiceEntry`],
//! [`WorkloadEntry`] and [`Sidecar`].
//!
//! - [`virtual_service`], [`http_route`], [`http_match`]: which requests and connections go where.
//! - [`destination_rule`], [`traffic_policy`], [`load_balancer`]: subsets of a host, and the policies of connections to it.
//! - [`service_entry`]: services and workloads outside of Kubernetes.
//! - [`sidecar`]: what of the mesh a workload's proxy sees. [`proxy_config`]: settings of injected proxies.
//! - [`problem`]: what is wrong with an object, which `validate` returns.
//! - [`re2`]: regular expressions as both have them.
//!
//! Objects are read by the rules of protobuf's JSON form, which Istio's API has: `null` is an unset field, a number may be
//! a string, a duration is a string. A typed object is always readable, so that one invalid object does not end a watch:
//! what could not be read is unset, and `validate` reports it beside everything else that is wrong.

pub mod destination_rule;
pub mod http_match;
pub mod http_route;
pub(crate) mod json;
pub mod load_balancer;
pub mod problem;
pub mod proxy_config;
pub mod re2;
pub mod service_entry;
pub mod sidecar;
#[cfg(test)]
mod tests;
pub mod traffic_policy;
pub(crate) mod validate;
pub mod virtual_service;

pub use destination_rule::{DestinationRule, DestinationRuleSpec};
pub use problem::{Problem, Severity};
pub use proxy_config::{ProxyConfig, ProxyConfigSpec};
pub use service_entry::{ServiceEntry, ServiceEntrySpec, WorkloadEntry, WorkloadEntrySpec};
pub use sidecar::{Sidecar, SidecarSpec};
pub use virtual_service::{VirtualService, VirtualServiceSpec};

use kube::core::ObjectMeta;
use serde_json::Value;
pub(crate) use validate::is_claim;

/// An object that may be invalid.
pub trait Validated {
    /// Its spec.
    type Spec;

    /// Returns the metadata, the spec, and what is wrong with the object: it is refused if one of the problems is an error.
    fn into_validated(self) -> (ObjectMeta, Self::Spec, Vec<Problem>);
}

/// The API group.
pub const GROUP: &str = "networking.istio.io";

/// Returns what is wrong with an object of a kind, if it is one of these, as Kubernetes has it.
pub fn validate(group: &str, kind: &str, object: &Value) -> Vec<Problem> {
    match (group, kind) {
        (GROUP, "VirtualService") => VirtualService::from_value(object).validate(),
        (GROUP, "DestinationRule") => DestinationRule::from_value(object).validate(),
        (GROUP, "ServiceEntry") => ServiceEntry::from_value(object).validate(),
        (GROUP, "WorkloadEntry") => WorkloadEntry::from_value(object).validate(),
        (GROUP, "ProxyConfig") => ProxyConfig::from_value(object).validate(),
        (GROUP, "Sidecar") => Sidecar::from_value(object).validate(),
        _ => Vec::new(),
    }
}
