//! Limits on the rate of requests, as messages for proxies.

use api::networking::re2;
use api::rate_limit::{
    Action, ActionValue, Bucket, Condition, Descriptor, DescriptorLimit, Global, HeaderCondition, HeaderPattern, Limit,
    LimitRule, Limits, RouteDescriptors, Side,
};
use wire::discovery as message;
use wire::discovery::rate_limit_action::Value;
use wire::discovery::rate_limit_rule::Limit as WireLimit;
use wire::discovery::string_match::Pattern;

use crate::objects::{Key, Kind};

/// Compiles the limits of an object. Returns `None` if it has none.
pub(super) fn compile(kind: Kind, key: &Key, limits: &Limits) -> Option<message::RateLimit> {
    let Limits { rules, route_descriptors } = limits;
    (!rules.is_empty() || !route_descriptors.is_empty()).then(|| message::RateLimit {
        name: format!("{}/{key}", kind.as_str()),
        rules: rules.iter().map(rule).collect(),
        route_descriptors: route_descriptors.iter().map(of_routes).collect(),
    })
}

fn side(side: Side) -> i32 {
    match side {
        Side::Inbound => message::RateLimitSide::Inbound.into(),
        Side::Gateway => message::RateLimitSide::Gateway.into(),
    }
}

fn rule(of: &LimitRule) -> message::RateLimitRule {
    let header = |(name, value, append): &(String, String, bool)| message::RateLimitHeader {
        name: name.clone(),
        value: value.clone(),
        append: *append,
    };
    message::RateLimitRule {
        side: side(of.side),
        matches: matches(&of.matches),
        alternative: of.alternative,
        enabled_ppm: of.enabled,
        enforced_ppm: of.enforced,
        descriptors: of.descriptors.iter().map(descriptor).collect(),
        uses_route_descriptors: of.uses_route_descriptors,
        stage: of.stage,
        status: of.status.into(),
        response_headers: of.response_headers.iter().map(header).collect(),
        quota_headers: of.quota_headers,
        retry_after: of.retry_after,
        resource_exhausted: of.resource_exhausted,
        limit: Some(limit(&of.limit)),
    }
}

fn of_routes(of: &RouteDescriptors) -> message::RouteDescriptors {
    message::RouteDescriptors {
        side: side(of.side),
        matches: matches(&of.matches),
        descriptors: of.descriptors.iter().map(descriptor).collect(),
    }
}

fn matches(of: &[Vec<Condition>]) -> Vec<message::RateLimitMatch> {
    let condition = |of: &Condition| message::RateLimitCondition {
        attribute: of.attribute.clone(),
        any_of: of.any_of.clone(),
        none_of: of.none_of.clone(),
    };
    of.iter().map(|of| message::RateLimitMatch { conditions: of.iter().map(condition).collect() }).collect()
}

fn descriptor(of: &Descriptor) -> message::RateLimitDescriptor {
    message::RateLimitDescriptor { actions: of.actions.iter().map(action).collect(), stage: of.stage }
}

fn action(of: &Action) -> message::RateLimitAction {
    let value = match &of.value {
        ActionValue::Constant(value) => Value::Constant(value.clone()),
        ActionValue::Header(name) => Value::Header(name.clone()),
        ActionValue::Query(name) => Value::QueryParameter(name.clone()),
        &ActionValue::RemoteAddress(v4_bits, v6_bits) => {
            Value::RemoteAddress(message::RateLimitAddress { v4_bits, v6_bits })
        }
        ActionValue::HeaderMatch { value, headers, invert } => Value::HeaderValueMatch(message::HeaderValueMatch {
            value: value.clone(),
            headers: headers.iter().map(header).collect(),
            invert: *invert,
        }),
        ActionValue::Path => Value::Path(true),
        ActionValue::Identity => Value::SourceIdentity(true),
        ActionValue::SourceCluster => Value::SourceCluster(true),
        ActionValue::DestinationCluster => Value::DestinationCluster(true),
    };
    message::RateLimitAction { key: of.key.clone(), skip_if_absent: of.skip_if_absent, value: Some(value) }
}

fn header(of: &HeaderCondition) -> message::FieldMatch {
    let pattern = match &of.pattern {
        HeaderPattern::Exact(text) => Pattern::Exact(text.clone()),
        HeaderPattern::Prefix(text) => Pattern::Prefix(text.clone()),
        HeaderPattern::Regex(text) => Pattern::Regex(re2::translate(text)),
        HeaderPattern::Present => Pattern::Present(true),
    };
    let value = message::StringMatch { pattern: Some(pattern), ignore_case: of.ignore_case };
    message::FieldMatch { name: of.name.clone(), value: Some(value), invert: of.invert }
}

fn bucket(of: &Bucket) -> message::TokenBucket {
    let Bucket { max_tokens, tokens_per_fill, fill_interval } = *of;
    let fill_interval_us = u64::try_from(fill_interval.as_micros()).unwrap_or(u64::MAX);
    message::TokenBucket { max_tokens, tokens_per_fill, fill_interval_us }
}

fn limit(of: &Limit) -> WireLimit {
    match of {
        Limit::Local { bucket: all, descriptors, bucket_of_others, per_connection } => {
            WireLimit::Local(message::LocalLimit {
                bucket: all.as_ref().map(bucket),
                descriptors: descriptors.iter().map(of_descriptor).collect(),
                bucket_of_others: *bucket_of_others,
                per_connection: *per_connection,
            })
        }
        Limit::Global(of) => WireLimit::Global(global(of)),
    }
}

fn of_descriptor(of: &DescriptorLimit) -> message::DescriptorLimit {
    let entry =
        |(key, value): &(String, Option<String>)| message::DescriptorEntry { key: key.clone(), value: value.clone() };
    message::DescriptorLimit { entries: of.entries.iter().map(entry).collect(), bucket: Some(bucket(&of.bucket)) }
}

fn global(of: &Global) -> message::GlobalLimit {
    message::GlobalLimit {
        hostname: of.hostname.clone(),
        port: of.port.into(),
        domain: of.domain.clone(),
        // At most a minute, which fits.
        timeout_ms: u32::try_from(of.timeout.as_millis()).unwrap_or(u32::MAX),
        fail_closed: of.fail_closed,
        status_on_error: of.status_on_error.into(),
        without_marker: of.without_marker,
    }
}
