//! ServiceProfile: the routes of a service, and how requests of each are carried and counted.

use std::time::Duration;

use serde_json::Value;

use super::condition::{MAX_CONDITIONS, RequestMatch, ResponseMatch};
use crate::duration::parse_duration;
use crate::networking::Problem;
use crate::networking::json::{Field, Reader, message, object, shown};
use crate::networking::validate::{Check, names};
use crate::quantity::Quantity;

/// The number of routes of a profile.
pub const MAX_ROUTES: usize = 1_000;
/// The number of response classes of a route.
pub const MAX_CLASSES: usize = 64;
/// The number of overrides of a profile.
pub const MAX_OVERRIDES: usize = 256;
/// The number of opaque ports of a profile.
pub const MAX_PORTS: usize = 256;
/// The greatest share of requests that may be repeated, as Linkerd's proxy has it.
const MAX_RATIO: f64 = 1_000.0;
/// The longest time that a budget looks back. Its sums are kept in numbers of a fixed size.
const MAX_TTL: Duration = Duration::from_secs(3_600);
/// The greatest number of retries per second that a budget grants.
const MAX_PER_SECOND: u32 = 1_000_000;

object! {
    /// Linkerd's ServiceProfile resource.
    ServiceProfile: ServiceProfileSpec, "linkerd.io", "v1alpha2", "ServiceProfile", "serviceprofiles"
}

message! {
    /// The spec of a ServiceProfile.
    ServiceProfileSpec {
        /// The routes. The first one that a request matches is its route.
        routes: Vec<RouteSpec> = "routes",
        /// Limits the retries of all routes together.
        retry_budget: Option<RetryBudget> = "retryBudget",
        /// The services that receive the requests and connections instead, by weight.
        dst_overrides: Vec<WeightedDestination> = "dstOverrides",
        /// The ports on which nothing is read as HTTP.
        opaque_ports: Vec<OpaquePort> = "opaquePorts",
    }
}

message! {
    /// A route.
    RouteSpec {
        /// The name, a label of metrics.
        name: String = "name",
        /// The requests. Required.
        condition: Option<RequestMatch> = "condition",
        /// How responses are counted; the first that a response matches.
        response_classes: Vec<ResponseClass> = "responseClasses",
        /// Whether failed requests are repeated.
        is_retryable: bool = "isRetryable",
        /// The time limit of a request with all attempts, as Go writes durations.
        timeout: String = "timeout",
    }
}

message! {
    /// A class of responses.
    ResponseClass {
        /// The responses. Required.
        condition: Option<ResponseMatch> = "condition",
        /// Whether they are failures.
        is_failure: bool = "isFailure",
    }
}

message! {
    /// A limit on retries.
    RetryBudget {
        /// The retries for each request, on average.
        retry_ratio: f64 = "retryRatio",
        /// The retries per second that are allowed in any case.
        min_retries_per_second: u32 = "minRetriesPerSecond",
        /// How long a request counts, as Go writes durations. Required.
        ttl: String = "ttl",
    }
}

message! {
    /// A destination, and its share.
    WeightedDestination {
        /// The host, with or without a port.
        authority: String = "authority",
        /// The share, in proportion to the others.
        weight: Quantity = "weight",
    }
}

/// The number of a port, as a number or in a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpaquePort(pub u16);

impl Field for OpaquePort {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let number = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let port = number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0);
        OpaquePort(port.unwrap_or_else(|| {
            reader.unexpected(value, "the number of a port, from 1 to 65535");
            0
        }))
    }

    fn json(&self) -> Value {
        self.0.into()
    }

    fn is_unset(&self) -> bool {
        false
    }
}

/// The retries that a profile allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryLimit {
    /// The retries for each request, on average.
    pub ratio: f64,
    /// The retries per second that are allowed in any case.
    pub min_per_second: u32,
    /// How long a request counts.
    pub ttl: Duration,
}

impl Default for RetryLimit {
    /// Linkerd's default.
    fn default() -> Self {
        RetryLimit { ratio: 0.2, min_per_second: 10, ttl: Duration::from_secs(10) }
    }
}

impl ServiceProfileSpec {
    /// Returns the limit on retries.
    pub fn retry_limit(&self) -> RetryLimit {
        let limit = self.retry_budget.as_ref().and_then(|budget| {
            let ttl = parse_duration(&budget.ttl)?;
            Some(RetryLimit { ratio: budget.retry_ratio, min_per_second: budget.min_retries_per_second, ttl })
        });
        limit.unwrap_or_default()
    }

    /// Returns whether a port of the service is opaque.
    pub fn is_opaque(&self, port: u16) -> bool {
        self.opaque_ports.contains(&OpaquePort(port))
    }
}

impl RouteSpec {
    /// Returns the time limit of a request. A text that is no duration is none.
    pub fn timeout(&self) -> Option<Duration> {
        parse_duration(&self.timeout).filter(|timeout| *timeout >= Duration::from_millis(1))
    }

    /// Returns the class of responses with a status: whether they are failures; `None`: no class is about it.
    pub fn class_of(&self, status: u16) -> Option<bool> {
        let is_met = |class: &&ResponseClass| class.condition.as_ref().is_some_and(|of| of.is_met(status));
        self.response_classes.iter().find(is_met).map(|class| class.is_failure)
    }
}

impl WeightedDestination {
    /// Returns the host and the port.
    pub fn host_and_port(&self) -> Option<(&str, Option<u16>)> {
        match self.authority.rsplit_once(':') {
            None => Some((&self.authority, None)),
            Some((host, port)) => Some((host, Some(port.parse().ok().filter(|port| *port != 0)?))),
        }
    }
}

impl ServiceProfile {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        let (name, spec) = (self.metadata.name.as_deref().unwrap_or_default(), &self.spec);
        if !name.is_empty() && name.split('.').count() < 4 {
            let text =
                "is not the full name of a service, so that it has no effect; write <service>.<namespace>.svc.<domain>";
            check.warn_at("metadata.name", text);
        }
        for (field, count, most) in [
            ("routes", spec.routes.len(), MAX_ROUTES),
            ("dstOverrides", spec.dst_overrides.len(), MAX_OVERRIDES),
            ("opaquePorts", spec.opaque_ports.len(), MAX_PORTS),
        ] {
            if count > most {
                check.error_of(field, format!("has {count} items; a profile has at most {most}"));
            }
        }
        let (mut requests, mut responses) = (MAX_CONDITIONS, MAX_CONDITIONS);
        check.each("routes", &spec.routes, |route, check| route.check(&mut requests, &mut responses, check));
        check.some("retryBudget", &spec.retry_budget, |budget, check| budget.check(check));
        check.each("dstOverrides", &spec.dst_overrides, |of, check| {
            check.at(format_args!(".authority"), |check| match of.host_and_port() {
                Some((host, _)) => check.accept(names::host(host)),
                None => check.error(format!("is {:?}, but must be <host> or <host>:<port>", shown(&of.authority))),
            });
        });
        check.into_problems()
    }
}

impl RouteSpec {
    fn check(&self, requests: &mut usize, responses: &mut usize, check: &mut Check) {
        match &self.condition {
            None => check.error_of("condition", "is missing; write which requests the route is for"),
            Some(condition) => check.at(format_args!(".condition"), |check| condition.check(requests, check)),
        }
        if self.name.is_empty() {
            check.warn_of("name", "is empty; metrics name the route by it");
        }
        if self.response_classes.len() > MAX_CLASSES {
            let count = self.response_classes.len();
            check.error_of("responseClasses", format!("has {count} items; a route has at most {MAX_CLASSES}"));
        }
        check.each("responseClasses", &self.response_classes, |class, check| match &class.condition {
            None => check.error_of("condition", "is missing; write which responses the class is for"),
            Some(condition) => check.at(format_args!(".condition"), |check| condition.check(responses, check)),
        });
        if !self.timeout.is_empty() && self.timeout().is_none() {
            let text = format!(
                "is {:?}, which is no duration of at least 1ms: the route has no time limit; write one such as \"300ms\"",
                shown(&self.timeout)
            );
            check.warn_of("timeout", text);
        }
    }
}

impl RetryBudget {
    fn check(&self, check: &mut Check) {
        if !(0.0..=MAX_RATIO).contains(&self.retry_ratio) {
            check.error_of("retryRatio", format!("is {}, but must be from 0 to {MAX_RATIO}", self.retry_ratio));
        }
        if self.min_retries_per_second > MAX_PER_SECOND {
            check.error_of("minRetriesPerSecond", format!("is more than {MAX_PER_SECOND}; write less"));
        }
        let ttl = parse_duration(&self.ttl);
        if !ttl.is_some_and(|ttl| (Duration::from_millis(1)..=MAX_TTL).contains(&ttl)) {
            let text = format!("is {:?}, but must be a duration up to an hour, such as \"10s\"", shown(&self.ttl));
            check.error_of("ttl", text);
        }
    }
}
