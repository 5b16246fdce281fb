//! Limits that a service counts, which is asked by Envoy's protocol: `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`.
//!
//! The semantics are those of Envoy's `ratelimit` filter. Everything is bounded: the time, the questions in progress, and the bytes
//! of answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use balance::Outcome;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use ratelimit::{Descriptor, GlobalLimit, Quota, Rule, SideLimits, Window};
use wire::rate_limit_service as service;
use wire::rate_limit_service::rate_limit_response::rate_limit::Unit;
use wire::rate_limit_service::rate_limit_response::{Code, DescriptorStatus};

use super::{Counting, Edit, Exceeded, OnWithin, on_within, quota_edits};
use crate::exchange::Exchange;
use crate::exchange::external::call::{self, AskedEndpoint, NoAnswer};
use crate::exchange::external::grpc;
use crate::failure::Failure;
use crate::http::RequestBody;
use crate::http::headers::{self, Direction};
use crate::report::RateLimitResult;

const PATH: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Whether a request exceeds a limit of a service.
const MARKER: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// What a service answered.
#[derive(Debug, PartialEq)]
struct Verdict {
    exceeded: bool,
    /// What is left of the limit that has the least left, and the limits.
    quota: Option<(Quota, Vec<Window>)>,
    response_headers: Vec<Edit>,
    request_headers: Vec<Edit>,
    body: Bytes,
}

impl Counting<'_> {
    /// Asks the service of a rule about a request. Returns the answer if the request is not carried.
    pub(super) async fn ask_service(
        &self,
        exchange: &mut Exchange,
        side: &SideLimits,
        rule: &Arc<Rule>,
        global: &GlobalLimit,
    ) -> Option<Box<Exceeded>> {
        let question = self.with_request(exchange, |request| question(global, &side.descriptors(rule, request)))?;
        let asked = AskedEndpoint::default();
        let host = &global.hostname;
        let asking = call::ask(host, global.port, grpc::question(host, PATH, &question), &asked, self.worker);
        let answered =
            RequestBody::hold_while(exchange.body.as_ref(), tokio::time::timeout(global.timeout, asking)).await;
        let reason = match answered {
            Ok(Ok(answer)) => match grpc::message(answer).and_then(verdict) {
                Ok(verdict) => return self.apply(exchange, rule, global, verdict),
                Err(reason) => reason,
            },
            Ok(Err(NoAnswer::NoService)) => "its service does not exist".to_owned(),
            Ok(Err(NoAnswer::Failed(reason))) => reason,
            Err(_) => {
                if let Some(pick) = asked.take() {
                    pick.report(Outcome::NoResponse, Instant::now());
                }
                "it did not answer in time".to_owned()
            }
        };
        tracing::debug!(%host, reason, policy = %rule.policy, "a service that counts requests cannot be asked");
        let Some(status) = global.status_on_error else {
            self.worker.telemetry.counted(&rule.policy, RateLimitResult::Ignored);
            return None;
        };
        self.worker.telemetry.counted(&rule.policy, RateLimitResult::Error);
        let failure = Failure::RateLimitUnknown { host: host.clone(), reason: reason.into(), status };
        Some(Box::new(Exceeded { failure, headers: Vec::new(), body: Bytes::new() }))
    }

    fn apply(
        &self,
        exchange: &mut Exchange,
        rule: &Rule,
        global: &GlobalLimit,
        verdict: Verdict,
    ) -> Option<Box<Exceeded>> {
        let Verdict { exceeded, quota, mut response_headers, request_headers, body } = verdict;
        if let Some((quota, windows)) = quota.as_ref().filter(|_| rule.answer.quota_headers) {
            response_headers.extend(quota_edits(quota, windows));
        }
        let least = quota.map(|(quota, _)| quota);
        if exceeded && let Some(mut answer) = self.exceeded(rule, least, true) {
            if global.marked {
                response_headers.push((MARKER, HeaderValue::from_static("true"), false));
            }
            answer.headers.extend(response_headers);
            answer.body = body;
            return Some(answer);
        }
        if !exceeded {
            self.worker.telemetry.counted(&rule.policy, RateLimitResult::Ok);
        }
        for (name, value, append) in request_headers {
            if headers::is_changeable(&name, Direction::Request) {
                let headers = &mut exchange.head.headers;
                match append {
                    true => drop(headers.append(name, value)),
                    false => drop(headers.insert(name, value)),
                }
            }
        }
        match least {
            Some(least) => on_within(exchange, &least, response_headers),
            None if response_headers.is_empty() => {}
            None => match exchange.head.extensions.get_mut::<OnWithin>() {
                Some(known) => known.headers.extend(response_headers),
                None => {
                    let headers = OnWithin { headers: response_headers, remaining: u32::MAX };
                    exchange.head.extensions.insert(headers);
                }
            },
        }
        None
    }
}

/// Returns the question about a request; `None`: nothing is to be counted.
fn question(global: &GlobalLimit, descriptors: &[Descriptor<'_>]) -> Option<service::RateLimitRequest> {
    let entry = |entry: &ratelimit::Entry<'_>| service::rate_limit_descriptor::Entry {
        key: entry.key.to_owned(),
        value: entry.value.clone().into_owned(),
    };
    let descriptor =
        |entries: &Descriptor<'_>| service::RateLimitDescriptor { entries: entries.iter().map(entry).collect() };
    (!descriptors.is_empty()).then(|| service::RateLimitRequest {
        domain: global.domain.to_string(),
        descriptors: descriptors.iter().map(descriptor).collect(),
        hits_addend: 0,
    })
}

/// Returns what an answer means.
///
/// # Errors
/// Returns the reason why it says nothing.
fn verdict(response: service::RateLimitResponse) -> Result<Verdict, String> {
    let exceeded = match response.overall_code() {
        Code::Ok => false,
        Code::OverLimit => true,
        Code::Unknown => return Err("its answer has no code".to_owned()),
    };
    let quotas: Vec<(Quota, Window)> = response.statuses.iter().filter_map(quota).collect();
    let least = quotas.iter().map(|(quota, _)| *quota).min_by_key(|quota| quota.remaining);
    let windows = quotas.into_iter().map(|(_, window)| window).collect();
    Ok(Verdict {
        exceeded,
        quota: least.map(|quota| (quota, windows)),
        response_headers: edits(response.response_headers_to_add, true)?,
        request_headers: edits(response.request_headers_to_add, true)?,
        body: response.raw_body,
    })
}

fn quota(status: &DescriptorStatus) -> Option<(Quota, Window)> {
    let limit = status.current_limit.as_ref()?;
    let seconds = match limit.unit() {
        Unit::Unknown => return None,
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3600,
        Unit::Day => 24 * 3600,
        Unit::Week => 7 * 24 * 3600,
        Unit::Month => 30 * 24 * 3600,
        Unit::Year => 365 * 24 * 3600,
    };
    let reset = status.duration_until_reset.unwrap_or_default();
    let (whole, nanos) =
        (u64::try_from(reset.seconds).unwrap_or_default(), u32::try_from(reset.nanos).unwrap_or_default());
    let reset = Duration::from_secs(whole).saturating_add(Duration::from_nanos(nanos.into()));
    let (requests, name) = (limit.requests_per_unit, limit.name.clone());
    Some((Quota { limit: requests, remaining: status.limit_remaining, reset }, Window { requests, seconds, name }))
}

fn edits(headers: Vec<service::HeaderValue>, append: bool) -> Result<Vec<Edit>, String> {
    let edit = |of: service::HeaderValue| {
        let bytes = if of.value.is_empty() { &of.raw_value[..] } else { of.value.as_bytes() };
        match (of.key.parse::<HeaderName>(), HeaderValue::from_bytes(bytes)) {
            (Ok(name), Ok(value)) => Ok((name, value, append)),
            _ => Err(format!("its answer has an invalid header {:?}", of.key.chars().take(80).collect::<String>())),
        }
    };
    headers.into_iter().map(edit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(requests_per_unit: u32, unit: Unit, limit_remaining: u32) -> DescriptorStatus {
        let limit = service::rate_limit_response::RateLimit { requests_per_unit, unit: unit.into(), name: "n".into() };
        let until = service::Duration { seconds: 5, nanos: 1 };
        DescriptorStatus {
            current_limit: Some(limit),
            limit_remaining,
            duration_until_reset: Some(until),
            ..Default::default()
        }
    }

    #[test]
    fn an_answer_has_a_code_and_the_least_that_is_left() {
        let mut response = service::RateLimitResponse {
            overall_code: Code::OverLimit.into(),
            statuses: vec![
                status(10, Unit::Minute, 7),
                status(100, Unit::Hour, 3),
                status(1, Unit::Unknown, 0),
                DescriptorStatus::default(),
            ],
            ..Default::default()
        };
        let verdict_of = verdict(response.clone()).unwrap();
        let (quota, windows) = verdict_of.quota.unwrap();
        assert!(verdict_of.exceeded);
        assert_eq!((quota.limit, quota.remaining, quota.reset), (100, 3, Duration::new(5, 1)));
        assert_eq!(windows.iter().map(|of| (of.requests, of.seconds)).collect::<Vec<_>>(), [(10, 60), (100, 3600)]);
        response.overall_code = Code::Unknown.into();
        assert_eq!(verdict(response.clone()).unwrap_err(), "its answer has no code");
        response.overall_code = 77;
        assert!(verdict(response.clone()).is_err());
        response.overall_code = Code::Ok.into();
        response.response_headers_to_add =
            vec![service::HeaderValue { key: "a b".into(), value: "c".into(), raw_value: Bytes::new() }];
        assert!(verdict(response).unwrap_err().contains("invalid header"));
    }
}
