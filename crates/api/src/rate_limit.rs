//! Limits on the rate of requests: what EnvoyFilters, Linkerd's policies and RateLimits say, in one form.
//!
//! - [`RateLimit`] (`federation.isthmus.dev`): the mesh's own resource ([`resource`]).
//! - [`Limits`]: the rules of an object, as proxies enforce them. [`crate::envoy_filter`], [`crate::linkerd`] and [`resource`] compile
//!   their objects into them.

use std::time::Duration;

pub mod resource;
#[cfg(test)]
mod tests;

pub use resource::{RateLimit, RateLimitSpec};

use serde_json::Value;

use crate::networking::Problem;

/// The API group of the mesh's own resources.
pub const GROUP: &str = "federation.isthmus.dev";

/// The share of all requests, in millionths.
pub const ALL: u32 = 1_000_000;

/// Returns what is wrong with an object of a kind, if it is a RateLimit, as Kubernetes has it.
pub fn validate(group: &str, kind: &str, object: &Value) -> Vec<Problem> {
    match (group, kind) {
        (GROUP, "RateLimit") => RateLimit::from_value(object).validate(),
        _ => Vec::new(),
    }
}

/// The limits of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// The rules, in order.
    pub rules: Vec<LimitRule>,
    /// Descriptors of the requests of some routes, for rules of any object that use them.
    pub route_descriptors: Vec<RouteDescriptors>,
}

/// The requests that a rule is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Side {
    /// To the application.
    #[default]
    Inbound,
    /// Of clients of a gateway.
    Gateway,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitRule {
    /// The requests that it is about.
    pub side: Side,
    /// Any of these lists, of which all conditions have to be met; empty: every request.
    pub matches: Vec<Vec<Condition>>,
    /// Of the rules with the same number other than 0, the first one that a request matches applies.
    pub alternative: u32,
    /// The share of requests that are counted, in millionths.
    pub enabled: u32,
    /// The share of those that exceed the limit which are answered.
    pub enforced: u32,
    /// What requests are counted by.
    pub descriptors: Vec<Descriptor>,
    /// Whether the descriptors of routes with the stage are used as well.
    pub uses_route_descriptors: bool,
    /// The stage.
    pub stage: u32,
    /// The limit.
    pub limit: Limit,
    /// The status of the answer; 0: 429.
    pub status: u16,
    /// Headers of the answer: the name, the value, and whether it is added to lines with the name.
    pub response_headers: Vec<(String, String, bool)>,
    /// Whether responses say what is left.
    pub quota_headers: bool,
    /// Whether the answer has `retry-after`.
    pub retry_after: bool,
    /// Whether the status of gRPC is RESOURCE_EXHAUSTED.
    pub resource_exhausted: bool,
}

impl LimitRule {
    /// Returns a rule for all requests to the application.
    pub fn of(limit: Limit) -> Self {
        LimitRule {
            side: Side::Inbound,
            matches: Vec::new(),
            alternative: 0,
            enabled: ALL,
            enforced: ALL,
            descriptors: Vec::new(),
            uses_route_descriptors: false,
            stage: 0,
            limit,
            status: 0,
            response_headers: Vec::new(),
            quota_headers: false,
            retry_after: false,
            resource_exhausted: false,
        }
    }
}

/// A condition on an attribute, as AuthorizationPolicies name and match it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// The attribute.
    pub attribute: String,
    /// Patterns of which one has to match; empty: any.
    pub any_of: Vec<String>,
    /// Patterns of which none may match.
    pub none_of: Vec<String>,
}

impl Condition {
    /// Returns a condition that one of some patterns matches.
    pub fn any(attribute: impl Into<String>, any_of: Vec<String>) -> Self {
        Condition { attribute: attribute.into(), any_of, none_of: Vec::new() }
    }
}

/// Descriptors of the requests of some routes.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteDescriptors {
    /// The requests.
    pub side: Side,
    /// As [`LimitRule::matches`].
    pub matches: Vec<Vec<Condition>>,
    /// The descriptors.
    pub descriptors: Vec<Descriptor>,
}

/// What a request is counted by.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Descriptor {
    /// The actions that make its entries.
    pub actions: Vec<Action>,
    /// The stage.
    pub stage: u32,
}

/// An action, which makes an entry of a descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// The key; empty: that of the kind of action.
    pub key: String,
    /// Whether the descriptor is made without the entry if the request has no value.
    pub skip_if_absent: bool,
    /// Where the value is.
    pub value: ActionValue,
}

/// Where the value of an entry is.
#[derive(Debug, Clone, PartialEq)]
pub enum ActionValue {
    /// The same for all requests.
    Constant(String),
    /// In a header, or in `:path`, `:method` or `:authority`.
    Header(String),
    /// In a parameter of the query.
    Query(String),
    /// The original client's address: its leading bits of IPv4 and of IPv6; 0: all.
    RemoteAddress(u32, u32),
    /// A text, if headers match.
    HeaderMatch {
        /// The text.
        value: String,
        /// The conditions.
        headers: Vec<HeaderCondition>,
        /// Whether it is the value if they do not match.
        invert: bool,
    },
    /// The path without the query.
    Path,
    /// The peer's SPIFFE ID.
    Identity,
    /// The proxy's own application and namespace.
    SourceCluster,
    /// The upstream cluster.
    DestinationCluster,
}

/// A condition on a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    /// The name.
    pub name: String,
    /// The pattern of the value.
    pub pattern: HeaderPattern,
    /// Whether the case is ignored.
    pub ignore_case: bool,
    /// Whether the condition is met if the header is absent or does not match.
    pub invert: bool,
}

/// A pattern of a header's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderPattern {
    /// The whole value.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// A regular expression of RE2 for the whole value.
    Regex(String),
    /// Any value.
    Present,
}

/// A limit.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// The proxy counts it.
    Local {
        /// Of all requests.
        bucket: Option<Bucket>,
        /// Of requests with descriptors.
        descriptors: Vec<DescriptorLimit>,
        /// Whether requests with descriptors do not count against `bucket`.
        bucket_of_others: bool,
        /// Whether each connection is limited by itself.
        per_connection: bool,
    },
    /// A service counts it.
    Global(Global),
}

/// The limit of requests with a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The keys and values; without a value, each has a bucket of its own.
    pub entries: Vec<(String, Option<String>)>,
    /// The limit.
    pub bucket: Bucket,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// The most tokens.
    pub max_tokens: u32,
    /// The tokens that are added in each interval.
    pub tokens_per_fill: u32,
    /// The interval.
    pub fill_interval: Duration,
}

/// The longest time in which a bucket may fill.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// The greatest number of tokens that may be added in a second.
const FASTEST: u128 = 10_000_000;

impl Bucket {
    /// Checks whether proxies can count it.
    ///
    /// # Errors
    /// Returns what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let Bucket { max_tokens, tokens_per_fill, fill_interval } = *self;
        if max_tokens == 0 || tokens_per_fill == 0 || fill_interval < Duration::from_micros(1) {
            return Err("needs a number of tokens above 0, and an interval".to_owned());
        }
        let (tokens, micros) = (u128::from(tokens_per_fill), fill_interval.as_micros());
        if tokens * 1_000_000 > FASTEST * micros {
            return Err(format!("adds more than {FASTEST} tokens in a second; write less"));
        }
        if micros * u128::from(max_tokens) > LONGEST.as_micros() * tokens {
            return Err("takes more than a year to fill; write fewer tokens, or a shorter interval".to_owned());
        }
        Ok(())
    }
}

/// A service that counts requests, by Envoy's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// The hostname.
    pub hostname: String,
    /// The port.
    pub port: u16,
    /// The domain of the limits.
    pub domain: String,
    /// The time within which it has to answer.
    pub timeout: Duration,
    /// Whether requests about which it cannot be asked are refused.
    pub fail_closed: bool,
    /// The status of these; 0: 500.
    pub status_on_error: u16,
    /// Whether answers do not have `x-envoy-ratelimited`.
    pub without_marker: bool,
}
