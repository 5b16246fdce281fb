//! Limits on the rate of requests: a request is counted against the rules of its side, and answered if it exceeds one.
//!
//! [`Counting`] is what a phase uses. [`Counting::count`] needs no task and no allocation unless a rule takes values from the request;
//! if a service counts requests ([`global`]), [`Counting::ask`] does the rest.

use std::cell::RefCell;
use std::fmt::Display;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use policy::Facts;
use ratelimit::{
    Buckets, Descriptor, Limit, LocalLimit, Quota, RateLimits, RequestFacts, Rule, Side, SideLimits, Taken,
    quota_headers,
};

use super::authorize::with_facts;
use super::{Downstream, Exchange};
use crate::failure::Failure;
use crate::http::headers::{self, Direction};
use crate::report::RateLimitResult;
use crate::server::ResponseBody;
use crate::worker::Worker;

mod global;

/// How requests are counted: those of one connection on one side.
pub(super) struct Counting<'a> {
    pub(super) side: Side,
    pub(super) downstream: &'a Downstream,
    /// The original client; `None`: the last address in `x-forwarded-for`.
    pub(super) client: Option<IpAddr>,
    /// The buckets of the connection.
    pub(super) buckets: &'a ConnectionBuckets,
    /// The name of the upstream cluster.
    pub(super) cluster: &'a dyn Display,
    pub(super) worker: &'a Rc<Worker>,
}

/// What comes of counting a request.
pub(super) enum Counted {
    /// It is carried.
    Within,
    /// It is answered.
    Exceeded(Box<Exceeded>),
    /// A service counts it as well, for the rule at this place. [`Counting::ask`] asks it.
    Asks(usize),
}

/// Why a request is not carried, and its answer.
pub(super) struct Exceeded {
    failure: Failure,
    headers: Vec<Edit>,
    body: Bytes,
}

/// A header of a response: its name, its value, and whether it is beside lines with this name.
type Edit = (HeaderName, HeaderValue, bool);

/// The headers of the response to a request that is carried, among the extensions of the request.
#[derive(Debug, Clone)]
pub(super) struct OnWithin {
    headers: Vec<Edit>,
    /// What the headers say is left.
    remaining: u32,
}

impl OnWithin {
    /// Adds the headers to the response.
    pub(super) fn apply(self, headers: &mut HeaderMap) {
        edit(self.headers, headers);
    }
}

/// The buckets of a connection, for limits of which each connection has its own.
#[derive(Default)]
pub(super) struct ConnectionBuckets(RefCell<Vec<(Arc<Rule>, Rc<Buckets>)>>);

impl ConnectionBuckets {
    fn of(&self, rule: &Arc<Rule>, local: &LocalLimit, now: Instant) -> Rc<Buckets> {
        let mut known = self.0.borrow_mut();
        if let Some((_, buckets)) = known.iter().find(|(of, _)| Arc::ptr_eq(of, rule)) {
            return buckets.clone();
        }
        // Rules that are not in force any longer.
        known.retain(|(of, _)| Arc::strong_count(of) > 1);
        let buckets = Rc::new(local.connection(now));
        known.push((rule.clone(), buckets.clone()));
        buckets
    }
}

impl Exceeded {
    /// Returns the response to the request.
    pub(super) fn answer(self, exchange: Exchange) -> Response<ResponseBody> {
        let Exceeded { failure, headers, body } = self;
        tracing::debug!(%failure, "a request is not carried");
        let grpc = exchange.report.is_grpc();
        let mut response = exchange.answer_locally(&failure.local_reply(), |map| edit(headers, map));
        if !grpc && !body.is_empty() {
            response.headers_mut().entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
            response.body_mut().set_content(body);
        }
        response
    }
}

fn edit(edits: Vec<Edit>, headers: &mut HeaderMap) {
    for (name, value, append) in edits {
        if !headers::is_changeable(&name, Direction::Response) {
            continue;
        }
        match append {
            true => drop(headers.append(name, value)),
            false => drop(headers.insert(name, value)),
        }
    }
}

impl Counting<'_> {
    /// Counts a request against the limits that the proxy counts itself, until a service has to be asked.
    pub(super) fn count(&self, exchange: &mut Exchange, limits: &RateLimits) -> Counted {
        match limits.side(self.side) {
            None => Counted::Within,
            Some(side) => self.count_from(exchange, side, 0),
        }
    }

    /// Asks the service of the rule at a place, and counts the request against all rules that follow. Returns the answer if the
    /// request is not carried.
    pub(super) async fn ask(&self, exchange: &mut Exchange, limits: &RateLimits, at: usize) -> Option<Box<Exceeded>> {
        let side = limits.side(self.side)?;
        let mut at = at;
        while let Some(rule) = side.rules().get(at) {
            if let Limit::Global(global) = &rule.limit
                && let Some(exceeded) = self.ask_service(exchange, side, rule, global).await
            {
                return Some(exceeded);
            }
            match self.count_from(exchange, side, at + 1) {
                Counted::Within => return None,
                Counted::Exceeded(exceeded) => return Some(exceeded),
                Counted::Asks(next) => at = next,
            }
        }
        None
    }

    fn count_from(&self, exchange: &mut Exchange, side: &SideLimits, from: usize) -> Counted {
        // Alternatives follow each other, and the rule before was one that applied.
        let mut applied = from.checked_sub(1).and_then(|before| side.rules().get(before));
        for (place, rule) in side.rules().iter().enumerate().skip(from) {
            if applied.is_some_and(|other| rule.is_alternative_to(other)) {
                continue;
            }
            if !rule.matches.is_empty() && !self.with_facts(exchange, |facts| rule.matches(facts)) {
                continue;
            }
            applied = Some(rule);
            if !rule.enabled.has(rand::random) {
                continue;
            }
            match &rule.limit {
                Limit::Global(_) => return Counted::Asks(place),
                Limit::Local(local) => {
                    if let Some(exceeded) = self.take(exchange, side, rule, local) {
                        return Counted::Exceeded(exceeded);
                    }
                }
            }
        }
        Counted::Within
    }

    /// Takes a token for a request. Returns the answer if there is none.
    fn take(
        &self,
        exchange: &mut Exchange,
        side: &SideLimits,
        rule: &Arc<Rule>,
        local: &LocalLimit,
    ) -> Option<Box<Exceeded>> {
        // When the request arrived. That it is a little older than the clock grants nothing.
        let now = exchange.report.started();
        let of_connection = local.is_per_connection().then(|| self.buckets.of(rule, local, now));
        let take = |descriptors: &[Descriptor<'_>]| local.take(descriptors, of_connection.as_deref(), now);
        let taken = match local.uses_descriptors() {
            true => self.with_request(exchange, |request| take(&side.descriptors(rule, request))),
            false => take(&[]),
        };
        match taken {
            Taken::Unlimited => None,
            Taken::Granted(level) => {
                self.worker.telemetry.counted(&rule.policy, RateLimitResult::Ok);
                if rule.answer.quota_headers {
                    let quota = level.quota();
                    on_within(exchange, &quota, quota_edits(&quota, &[]));
                }
                None
            }
            Taken::Exceeded(level) => self.exceeded(rule, Some(level.quota()), false),
        }
    }

    /// Returns the answer to a request that exceeds the limit of a rule, if the rule is enforced.
    fn exceeded(&self, rule: &Rule, quota: Option<Quota>, global: bool) -> Option<Box<Exceeded>> {
        if !rule.enforced.has(rand::random) {
            self.worker.telemetry.counted(&rule.policy, RateLimitResult::Shadow);
            return None;
        }
        self.worker.telemetry.counted(&rule.policy, RateLimitResult::Limited);
        let answer = &rule.answer;
        let mut headers: Vec<Edit> =
            answer.headers.iter().map(|of| (of.name.clone(), of.value.clone(), of.append)).collect();
        if let Some(quota) = quota {
            if answer.quota_headers && !global {
                headers.extend(quota_edits(&quota, &[]));
            }
            if answer.retry_after {
                headers.push((header::RETRY_AFTER, seconds(&quota).into(), false));
            }
        }
        let failure = Failure::RateLimited {
            policy: rule.policy.clone(),
            global,
            status: answer.status,
            resource_exhausted: answer.resource_exhausted,
        };
        Some(Box::new(Exceeded { failure, headers, body: Bytes::new() }))
    }

    fn with_facts<T>(&self, exchange: &Exchange, evaluate: impl FnOnce(&Facts<'_>) -> T) -> T {
        with_facts(self.client, self.downstream, &exchange.head, None, evaluate)
    }

    /// Evaluates what the actions of descriptors see of a request.
    fn with_request<T>(&self, exchange: &Exchange, evaluate: impl FnOnce(&RequestFacts<'_>) -> T) -> T {
        let snapshot = self.worker.view.snapshot();
        let labels = snapshot.own.as_ref().map(|own| own.labels.clone()).unwrap_or_default();
        let source_cluster = format_args!("{}.{}", labels.app, labels.namespace).to_string();
        self.with_facts(exchange, |facts| {
            evaluate(&RequestFacts {
                facts,
                path_and_query: exchange.head.uri.path_and_query().map_or("/", |path| path.as_str()),
                headers: &exchange.head.headers,
                source_cluster: &source_cluster,
                destination_cluster: self.cluster,
            })
        })
    }
}

/// Returns the whole seconds after which there is something left, at least one.
fn seconds(quota: &Quota) -> u64 {
    (quota.reset.as_secs() + u64::from(quota.reset.subsec_nanos() > 0)).max(1)
}

fn quota_edits(quota: &Quota, windows: &[ratelimit::Window]) -> Vec<Edit> {
    quota_headers(quota, windows).into_iter().map(|(name, value)| (name, value, false)).collect()
}

/// Keeps the headers for the response, if no other limit has less left.
fn on_within(exchange: &mut Exchange, quota: &Quota, headers: Vec<Edit>) {
    let extensions = &mut exchange.head.extensions;
    match extensions.get_mut::<OnWithin>() {
        Some(known) if known.remaining <= quota.remaining => {}
        Some(known) => {
            known.headers.retain(|(name, ..)| headers.iter().all(|(of, ..)| of != name));
            known.headers.extend(headers);
            known.remaining = quota.remaining;
        }
        None => drop(extensions.insert(OnWithin { headers, remaining: quota.remaining })),
    }
}
