//! Limits on rates from the wire. A policy that cannot be read is rejected, and the last good one stays in force.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, StatusCode};
use policy::authorization::{Condition, Operation, Rule as Requests};
use ratelimit::{
    Action, Answer, AnswerHeader, DescriptorActions, DescriptorLimit, EntryPattern, GlobalLimit, HeaderCondition,
    HeaderOf, Limit, LocalLimit, Rate, RouteDescriptors, Rule, Share, Side, Source,
};
use wire::discovery as message;

use super::{Result, policies, port_number, routes};

/// The longest wait for a service that counts requests.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// A policy with limits on rates.
#[derive(Debug)]
pub(in crate::mesh) struct RateLimitPolicy {
    message: message::RateLimit,
    rules: Box<[Arc<Rule>]>,
    route_descriptors: Box<[Arc<RouteDescriptors>]>,
    hosts: Box<[Arc<str>]>,
}

/// The rules of a policy, and its descriptors of routes.
type Parts<'a> = (&'a [Arc<Rule>], &'a [Arc<RouteDescriptors>]);

impl RateLimitPolicy {
    /// Reads a policy. A rule that `before` has as well stays the same one, with its buckets.
    pub(in crate::mesh) fn read(message: message::RateLimit, before: Option<&Self>, now: Instant) -> Result<Self> {
        let read = || {
            let name: Arc<str> = match before.filter(|before| before.message.name == message.name) {
                Some(Self { rules, .. }) if !rules.is_empty() => rules[0].policy.clone(),
                _ => message.name.as_str().into(),
            };
            let known = |of: &message::RateLimitRule| {
                let before = before.filter(|before| before.message.name == message.name)?;
                let index = before.message.rules.iter().position(|rule| rule == of)?;
                before.rules.get(index).cloned()
            };
            let rule = |of| known(of).map_or_else(|| rule(of, &name, now).map(Arc::new), Ok);
            let rules: Box<[Arc<Rule>]> = message.rules.iter().map(rule).collect::<Result<_>>()?;
            let of_routes = message.route_descriptors.iter().map(|of| route_descriptors(of).map(Arc::new));
            Ok((rules, of_routes.collect::<Result<_>>()?))
        };
        let (rules, route_descriptors) = read().map_err(|reason: String| format!("{}: {reason}", message.name))?;
        let hosts = rules.iter().filter_map(|rule| match &rule.limit {
            Limit::Global(global) => Some(global.hostname.clone()),
            Limit::Local(_) => None,
        });
        Ok(Self { hosts: hosts.collect(), message, rules, route_descriptors })
    }

    /// Returns the hostnames of the services that are asked.
    pub(in crate::mesh) fn asks(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hosts.iter()
    }

    /// Returns the rules, and the descriptors of routes.
    pub(in crate::mesh) fn parts(&self) -> Parts<'_> {
        (&self.rules, &self.route_descriptors)
    }
}

fn rule(message: &message::RateLimitRule, policy: &Arc<str>, now: Instant) -> Result<Rule> {
    let limit = match &message.limit {
        Some(message::rate_limit_rule::Limit::Local(of)) => Limit::Local(local(of, now)?),
        Some(message::rate_limit_rule::Limit::Global(of)) => Limit::Global(global(of)?),
        None => return Err("a rule has no limit".to_owned()),
    };
    let headers = message.response_headers.iter().map(|of| {
        let (name, value) = (of.name.parse::<HeaderName>(), HeaderValue::from_str(&of.value));
        match (name, value) {
            (Ok(name), Ok(value)) => Ok(AnswerHeader { name, value, append: of.append }),
            _ => Err(format!("{:?} is no header", of.name)),
        }
    });
    Ok(Rule {
        policy: policy.clone(),
        side: side(message.side)?,
        matches: message.matches.iter().map(requests).collect::<Result<_>>()?,
        alternative: message.alternative,
        enabled: Share(message.enabled_ppm),
        enforced: Share(message.enforced_ppm),
        descriptors: message.descriptors.iter().map(descriptor).collect::<Result<_>>()?,
        route_stage: message.uses_route_descriptors.then_some(message.stage),
        limit,
        answer: Answer {
            status: status(message.status, StatusCode::TOO_MANY_REQUESTS)?,
            headers: headers.collect::<Result<_>>()?,
            quota_headers: message.quota_headers,
            retry_after: message.retry_after,
            resource_exhausted: message.resource_exhausted,
        },
    })
}

fn side(side: i32) -> Result<Side> {
    match message::RateLimitSide::try_from(side) {
        Ok(message::RateLimitSide::Inbound) => Ok(Side::Inbound),
        Ok(message::RateLimitSide::Outbound) => Ok(Side::Outbound),
        Ok(message::RateLimitSide::Gateway) => Ok(Side::Gateway),
        Err(_) => Err(format!("{side} is no side")),
    }
}

fn status(code: u32, default: StatusCode) -> Result<StatusCode> {
    let status = u16::try_from(code).ok().filter(|code| (200..600).contains(code));
    match code {
        0 => Ok(default),
        code => status.and_then(|code| StatusCode::from_u16(code).ok()).ok_or_else(|| format!("{code} is no status")),
    }
}

fn route_descriptors(message: &message::RouteDescriptors) -> Result<RouteDescriptors> {
    Ok(RouteDescriptors {
        side: side(message.side)?,
        matches: message.matches.iter().map(requests).collect::<Result<_>>()?,
        descriptors: message.descriptors.iter().map(descriptor).collect::<Result<_>>()?,
    })
}

/// Reads conditions on requests, in the form of those of authorization policies.
fn requests(message: &message::RateLimitMatch) -> Result<Requests> {
    let (mut to, mut when) = (Operation::default(), Vec::new());
    let mut has_operation = false;
    for message::RateLimitCondition { attribute, any_of, none_of } in &message.conditions {
        let value = message::Values { any_of: any_of.clone(), none_of: none_of.clone() };
        let header = attribute.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
        if let Some(name) = header {
            let condition = message::HeaderCondition { name: name.to_ascii_lowercase(), value: Some(value) };
            when.push(policies::header(&condition)?);
            continue;
        }
        let mut operation = message::AuthorizationOperation::default();
        match attribute.as_str() {
            "request.path" => operation.paths = Some(value),
            "request.method" => operation.methods = Some(value),
            "request.host" => operation.hosts = Some(value),
            _ => {
                let condition = message::Condition { key: attribute.clone(), value: Some(value) };
                when.push(attributes(policies::condition(&condition)?)?);
                continue;
            }
        }
        has_operation = true;
        let operation = policies::operation(&operation)?;
        match attribute.as_str() {
            "request.path" => to.paths = operation.paths,
            "request.method" => to.methods = operation.methods,
            _ => to.hosts = operation.hosts,
        }
    }
    Ok(Requests { from: Vec::new(), to: has_operation.then_some(to).into_iter().collect(), when })
}

/// Returns a condition, if it is not about a token: limits are decided without one.
fn attributes(condition: Condition) -> Result<Condition> {
    let of_token = match &condition {
        Condition::Claim(..) => true,
        Condition::Source(source) => {
            !source.request_principals.any_of.is_empty() || !source.request_principals.none_of.is_empty()
        }
        _ => false,
    };
    if of_token { Err("limits have no conditions on tokens".to_owned()) } else { Ok(condition) }
}

fn descriptor(message: &message::RateLimitDescriptor) -> Result<DescriptorActions> {
    let actions = message.actions.iter().map(action).collect::<Result<_>>()?;
    Ok(DescriptorActions { actions, stage: message.stage })
}

fn action(message: &message::RateLimitAction) -> Result<Action> {
    use message::rate_limit_action::Value;
    let header = |name: &str| HeaderOf::parse(name).ok_or_else(|| format!("{name:?} is no header"));
    let (key, source) = match message.value.as_ref().ok_or("an action has no value")? {
        Value::Constant(value) => ("generic_key", Source::Constant(value.as_str().into())),
        Value::Header(name) => (name.as_str(), Source::Header(header(name)?)),
        Value::QueryParameter(name) => (name.as_str(), Source::Query(name.as_str().into())),
        Value::RemoteAddress(of) => {
            let bits =
                |bits: u32, all: u8| u8::try_from(bits).ok().filter(|bits| (1..=all).contains(bits)).unwrap_or(all);
            let source = Source::RemoteAddress { v4_bits: bits(of.v4_bits, 32), v6_bits: bits(of.v6_bits, 128) };
            ("remote_address", source)
        }
        Value::HeaderValueMatch(of) => {
            let condition = |of: &message::FieldMatch| {
                let value = of.value.as_ref().ok_or("a condition on a header has no pattern")?;
                Ok(HeaderCondition { header: header(&of.name)?, value: routes::string(value)?, invert: of.invert })
            };
            let conditions = of.headers.iter().map(condition).collect::<Result<_>>()?;
            let source = Source::HeaderMatch { value: of.value.as_str().into(), conditions, invert: of.invert };
            ("header_match", source)
        }
        Value::Path(_) => ("path", Source::Path),
        Value::SourceIdentity(_) => ("source_identity", Source::Identity),
        Value::SourceCluster(_) => ("source_cluster", Source::SourceCluster),
        Value::DestinationCluster(_) => ("destination_cluster", Source::DestinationCluster),
    };
    let key = if message.key.is_empty() { key } else { &message.key };
    Ok(Action { key: key.into(), skip_if_absent: message.skip_if_absent, source })
}

fn rate(message: &message::TokenBucket) -> Result<Rate> {
    let interval = Duration::from_micros(message.fill_interval_us);
    Rate::new(message.max_tokens, message.tokens_per_fill, interval).map_err(|error| error.to_string())
}

fn local(message: &message::LocalLimit, now: Instant) -> Result<LocalLimit> {
    let of_descriptor = |of: &message::DescriptorLimit| {
        let entry = |of: &message::DescriptorEntry| EntryPattern {
            key: of.key.as_str().into(),
            value: of.value.as_deref().map(Into::into),
        };
        let rate = rate(of.bucket.as_ref().ok_or("a limit has no bucket")?)?;
        Ok(DescriptorLimit { entries: of.entries.iter().map(entry).collect(), rate })
    };
    let all = message.bucket.as_ref().map(rate).transpose()?;
    let descriptors = message.descriptors.iter().map(of_descriptor).collect::<Result<_>>()?;
    Ok(LocalLimit::new(all, descriptors, message.bucket_of_others, message.per_connection, now))
}

fn global(message: &message::GlobalLimit) -> Result<GlobalLimit> {
    if message.hostname.is_empty() || message.timeout_ms == 0 {
        return Err("a service that counts requests has no hostname or no timeout".to_owned());
    }
    let on_error = status(message.status_on_error, StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(GlobalLimit {
        hostname: message.hostname.as_str().into(),
        port: port_number(message.port)?,
        domain: message.domain.as_str().into(),
        timeout: Duration::from_millis(message.timeout_ms.into()).min(MAX_TIMEOUT),
        status_on_error: message.fail_closed.then_some(on_error),
        marked: !message.without_marker,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(tokens: u32) -> Option<message::TokenBucket> {
        Some(message::TokenBucket { max_tokens: tokens, tokens_per_fill: tokens, fill_interval_us: 1_000_000 })
    }

    fn limit(tokens: u32) -> message::RateLimitRule {
        let local = message::LocalLimit { bucket: bucket(tokens), ..Default::default() };
        message::RateLimitRule { limit: Some(message::rate_limit_rule::Limit::Local(local)), ..Default::default() }
    }

    fn policy(rules: Vec<message::RateLimitRule>) -> message::RateLimit {
        message::RateLimit { name: "RateLimit/shop/api".into(), rules, ..Default::default() }
    }

    #[test]
    fn a_rule_that_stays_keeps_its_buckets() {
        let now = Instant::now();
        let first = RateLimitPolicy::read(policy(vec![limit(1), limit(2)]), None, now).unwrap();
        let second = RateLimitPolicy::read(policy(vec![limit(3), limit(2)]), Some(&first), now).unwrap();
        assert!(Arc::ptr_eq(&first.rules[1], &second.rules[1]));
        assert!(!Arc::ptr_eq(&first.rules[0], &second.rules[0]));
        assert!(Arc::ptr_eq(&first.rules[0].policy, &second.rules[0].policy), "counters are found by the name");
    }

    #[test]
    fn what_cannot_be_read_is_rejected() {
        let now = Instant::now();
        let with = |change: fn(&mut message::RateLimitRule)| {
            let mut rule = limit(1);
            change(&mut rule);
            RateLimitPolicy::read(policy(vec![rule]), None, now).map(|_| ()).unwrap_err()
        };
        let condition = |attribute: &str| message::RateLimitMatch {
            conditions: vec![message::RateLimitCondition {
                attribute: attribute.into(),
                any_of: vec!["x".into()],
                none_of: vec![],
            }],
        };
        assert!(with(|rule| rule.limit = None).contains("no limit"));
        assert!(with(|rule| rule.side = 9).contains("no side"));
        assert!(with(|rule| rule.status = 42).contains("no status"));
        let tokens =
            policy(vec![message::RateLimitRule { matches: vec![condition("request.auth.claims[sub]")], ..limit(1) }]);
        assert!(RateLimitPolicy::read(tokens, None, now).unwrap_err().contains("tokens"));
        let paths = policy(vec![message::RateLimitRule { matches: vec![condition("request.path")], ..limit(1) }]);
        assert!(RateLimitPolicy::read(paths, None, now).is_ok());
        assert!(RateLimitPolicy::read(policy(vec![limit(0)]), None, now).unwrap_err().contains("token bucket"));
    }
}
