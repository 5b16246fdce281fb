//! Istio's routing (`networking.istio.io`): [`VirtualService`] and [`DestinationRule`].
//!
//! - [`virtual_service`], [`http_route`]: which requests and connections go where.
//! - [`destination_rule`], [`traffic_policy`], [`load_balancer`]: subsets of a host, and the policies of connections to it.
//! - [`problem`]: what is wrong with an object.
//!
//! Objects are read by the rules of protobuf's JSON form, which Istio's API has: `null` is an unset field, a number may be
//! a string, a duration is a string. A typed object is always readable, so that one invalid object does not end a watch:
//! what could not be read is unset, and `validate` reports it beside everything else that is wrong.

pub mod destination_rule;
pub mod http_route;
mod json;
pub mod load_balancer;
pub mod problem;
#[cfg(test)]
mod tests;
pub mod traffic_policy;
pub mod virtual_service;

pub use destination_rule::{DestinationRule, DestinationRuleSpec};
pub use problem::{Problem, Severity};
pub use virtual_service::{VirtualService, VirtualServiceSpec};

/// The API group.
pub const GROUP: &str = "networking.istio.io";
