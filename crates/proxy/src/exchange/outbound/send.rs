//! Picking an endpoint and sending the request, again if that is safe ([`super::retry`]).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use balance::Outcome;
use http::{HeaderName, Request, Response};
use route::Retries;
use telemetry::ResponseFlags;

use super::expiry::{Began, Limits};
use super::retry::{self, Attempts, Next};
use super::{Destination, OutboundRequests};
use crate::exchange::{Exchange, is_idempotent};
use crate::failure::{Expired, Failure};
use crate::http::{AttemptBody, Incoming, RequestBody, headers};
use crate::mesh::ClusterCounter;
use crate::upstream::{ConnectionInfo, LeasedConnection, OverdueRequests, SendError, SendErrorCause};

/// The number of retransmissions without acknowledgement after which a repeatable request is sent to another endpoint. By
/// the first retransmission the data was lost twice or more, which on a working network is rarer than a vanished pod.
const UNACKNOWLEDGED_REPEATABLE: u8 = 1;
/// The same for a request that is not repeatable: some 12 s.
const UNACKNOWLEDGED: u8 = 6;

/// Set by a rate limiter. Such a response is repeated only if a route's conditions name it.
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// An upstream's response, and the connection that it is received on.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) leased: LeasedConnection,
}

/// A failed attempt.
struct FailedAttempt {
    failure: Failure,
    outcome: retry::Outcome,
    /// The response, if there is one.
    answer: Option<Box<Answer>>,
}

/// One attempt.
struct Attempt<'a> {
    exchange: &'a Exchange,
    destination: &'a Destination,
    policy: &'a Retries,
    /// The number of retries before.
    retries: u32,
    began: Instant,
}

impl OutboundRequests {
    /// Sends a request until there is a response or no attempt is left.
    pub(super) async fn send(
        &self,
        exchange: &mut Exchange,
        destination: &Destination,
        policy: &Retries,
        limits: &mut Limits<'_>,
    ) -> Result<Answer, Failure> {
        let (mut attempts, mut tried) = (Attempts::default(), Vec::new());
        let mut began = exchange.report.started();
        let by_host = destination.for_host(&exchange.head, &self.worker);
        let destination = by_host.as_ref().unwrap_or(destination);
        let cluster = &destination.cluster;
        // The place of the present retry.
        let mut place = None;
        loop {
            if let Some(log) = &mut exchange.report.log {
                log.attempts += 1;
            }
            let attempt = Attempt { exchange, destination, policy, retries: attempts.retries(), began };
            let failed = match self.attempt(&attempt, limits, &mut tried).await {
                Ok(answer) => {
                    if attempts.retries() > 0 {
                        cluster.shared().count(ClusterCounter::RetrySuccess);
                    }
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            drop(place.take());
            if policy.same_hosts {
                tried.clear();
            } else if policy.remote_localities {
                cluster.add_neighbours(&mut tried);
            }
            let (method, repeatable) = (&exchange.head.method, exchange.is_repeatable());
            let next = attempts.after(failed.outcome, method, repeatable, policy);
            if let Next::Retry(_) = next {
                place = match &policy.tokens {
                    Some(tokens) if !tokens.withdraw(Instant::now()) => {
                        cluster.shared().count(ClusterCounter::RetryOverflow);
                        None
                    }
                    _ => cluster.retry(),
                };
            }
            match next {
                Next::AtOnce => {}
                Next::Retry(number) if place.is_some() => {
                    let _waiting = cluster.shared().waiting();
                    if let Some(answer) = failed.answer {
                        answer.discard();
                    }
                    let backoff = policy.backoff(number, rand::random());
                    let began = Began { request: limits.began, attempt: Instant::now(), retried: true };
                    let waiting = pin!(tokio::time::sleep(backoff));
                    limits.run(exchange.body.as_ref(), began, waiting).await.map_err(Failure::Timeout)?;
                }
                // Too many retries are in progress.
                Next::Retry(_) => {
                    exchange.report.flag(ResponseFlags::UPSTREAM_OVERFLOW);
                    return failed.answer.map_or(Err(failed.failure), |answer| Ok(*answer));
                }
                Next::Fail => {
                    let retried = attempts.retries() > 0;
                    if retried && failed.outcome.is_repeated(&exchange.head.method, policy) {
                        cluster.shared().count(ClusterCounter::RetryLimitExceeded);
                    }
                    return match failed.answer {
                        Some(answer) => {
                            // The last of several, which would be repeated if there were an attempt left.
                            if retried && failed.outcome.is_repeated(&exchange.head.method, policy) {
                                exchange.report.flag(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                            }
                            Ok(*answer)
                        }
                        None if retried => Err(failed.failure.after_retries()),
                        None => Err(failed.failure),
                    };
                }
            }
            began = Instant::now();
        }
    }

    /// Picks an endpoint and sends the request once.
    async fn attempt(
        &self,
        attempt: &Attempt<'_>,
        limits: &mut Limits<'_>,
        tried: &mut Vec<Arc<str>>,
    ) -> Result<Answer, FailedAttempt> {
        let &Attempt { exchange, destination, policy, retries, began } = attempt;
        let (worker, cluster, body) = (&self.worker, &destination.cluster, exchange.body.as_ref());
        let from = &self.downstream;
        let times = Began { request: limits.began, attempt: began, retried: retries > 0 };
        let dial = || worker.dial_options(cluster).for_client(from.client, from.destination);
        let leased = {
            let hash = exchange.hash.as_ref().and_then(|hash| hash.hash);
            let leasing = pin!(cluster.lease(exchange.version, tried, hash, began, dial));
            let leasing = pin!(RequestBody::hold_while(body, leasing));
            limits.run(body, times, leasing).await
        };
        let leased = leased.map_err(FailedAttempt::expired)?;
        let mut leased = leased.map_err(|failure| FailedAttempt::new(failure, retry::Outcome::NotConnected))?;
        let id = leased.pick.id.clone();
        let repeatable = is_idempotent(&exchange.head.method) && exchange.is_repeatable();
        let retransmissions = if repeatable { UNACKNOWLEDGED_REPEATABLE } else { UNACKNOWLEDGED };
        let info = leased.lease.info.clone();
        let sent = {
            let sending_request = pin!(leased.lease.send(numbered(exchange, retries), exchange.upgrade.is_some()));
            let acknowledged = pin!(acknowledged(sending_request, &info, retransmissions, &worker.overdue));
            limits.run(body, times, acknowledged).await
        };
        let attempt = match sent {
            Ok(Ok(response)) => judge(Answer { response, leased }, policy),
            Ok(Err(error)) => Err(lost(exchange, &leased, &error)),
            Err(expired) => {
                leased.pick.report(Outcome::NoResponse, Instant::now());
                Err(FailedAttempt::expired(expired))
            }
        };
        attempt.inspect_err(|_| tried.push(id))
    }
}

impl Answer {
    /// Drops a response that is not passed on, and keeps the connection if nothing follows on it.
    fn discard(self) {
        if http_body::Body::is_end_stream(self.response.body()) {
            self.leased.lease.release();
        }
    }
}

impl FailedAttempt {
    fn new(failure: Failure, outcome: retry::Outcome) -> Self {
        // A limit, a destination that does not exist: another attempt has the same end.
        let is_final =
            matches!(failure, Failure::UnknownDestination(_) | Failure::Unanswered(_) | Failure::Overflow(_));
        Self { failure, outcome: if is_final { retry::Outcome::Final } else { outcome }, answer: None }
    }

    fn expired(expired: Expired) -> Self {
        let outcome = match expired {
            Expired::Request => retry::Outcome::Final,
            Expired::Attempt { .. } => retry::Outcome::Expired,
        };
        Self { failure: Failure::Timeout(expired), outcome, answer: None }
    }
}

/// Returns the request for an attempt, with its number. A function, so that the caller's future has no space for it.
fn numbered(exchange: &Exchange, retries: u32) -> Request<AttemptBody> {
    let mut request = exchange.attempt();
    request.headers_mut().insert(headers::ATTEMPTS, headers::number(u64::from(retries) + 1));
    request
}

/// Reports the outcome of a response to the balancer, and decides whether it may be repeated.
fn judge(answer: Answer, retries: &Retries) -> Result<Answer, FailedAttempt> {
    let Answer { response, leased } = &answer;
    let target = &leased.pick.target;
    // Only a sidecar that proved its identity is believed; an application's own header does not pass its sidecar.
    let unprocessed = target.tls.is_some() && response.headers().contains_key(headers::UNPROCESSED);
    let status = response.status().as_u16();
    let grpc = headers::is_grpc(response.headers());
    let grpc_status = if grpc { headers::grpc_status(response.headers()) } else { None };
    let unavailable = grpc_status == Some(14);
    let now = Instant::now();
    target.succeeded(now);
    leased.pick.report(
        match (unprocessed, unavailable) {
            // Behind a gateway it is one pod of many that is unavailable.
            (true, _) if !target.remote => Outcome::ConnectFailure,
            (true, _) | (false, true) => Outcome::GatewayError,
            (false, false) => Outcome::of_status(response.status().as_u16()),
        },
        now,
    );
    if !unprocessed {
        let rate_limited = response.headers().contains_key(RATE_LIMITED);
        if !retries.on.on_response(status, grpc_status, rate_limited) {
            return Ok(answer);
        }
        let outcome = retry::Outcome::Response { status, grpc_status, rate_limited };
        let endpoint = target.address.to_string().into();
        let failure = Failure::Reset { endpoint, error: "its response is one that is repeated".into(), retried: false };
        return Err(FailedAttempt { failure, outcome, answer: Some(Box::new(answer)) });
    }
    // A kept connection through a gateway leads to the same pod each time; a new one may lead to another.
    leased.pool.clear();
    let endpoint = target.address.to_string().into();
    let failure = Failure::Reset { endpoint, error: "its application was not reached".into(), retried: false };
    Err(FailedAttempt { failure, outcome: retry::Outcome::Unprocessed, answer: Some(Box::new(answer)) })
}

/// Reports a lost connection to the balancer and the pool, and decides whether the request may be repeated.
fn lost(exchange: &Exchange, leased: &LeasedConnection, SendError { unprocessed, cause }: &SendError) -> FailedAttempt {
    let (pick, now, unprocessed) = (&leased.pick, Instant::now(), *unprocessed);
    let failure = exchange.lost(pick.target.address.to_string().into(), cause);
    let outcome = match failure {
        // The client's fault says nothing of the endpoint.
        Failure::Downstream(_) => return FailedAttempt::new(failure, retry::Outcome::Final),
        Failure::UpstreamProtocol { .. } => retry::Outcome::Final,
        _ if leased.lease.reused && unprocessed => retry::Outcome::Stale,
        _ if unprocessed => retry::Outcome::Unprocessed,
        _ => retry::Outcome::Lost,
    };
    // The other connections most likely lead to the same end, and each would cost another request an attempt.
    leased.pool.clear();
    match cause {
        SendErrorCause::Unacknowledged => {
            pick.report(Outcome::ConnectFailure, now);
            pick.target.failed(now);
        }
        // An idle connection that the peer closed says nothing of the peer.
        _ if outcome == retry::Outcome::Stale => {}
        _ => pick.report(Outcome::NoResponse, now),
    }
    FailedAttempt::new(failure, outcome)
}

/// Returns the result of sending a request, or gives up if the peer does not acknowledge it for too long.
async fn acknowledged<T>(
    mut sending: Pin<&mut impl Future<Output = Result<T, SendError>>>,
    info: &ConnectionInfo,
    retransmissions: u8,
    overdue: &OverdueRequests,
) -> Result<T, SendError> {
    let mut waiting = overdue.wait();
    poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(sent);
        }
        while waiting.poll_tick(cx).is_ready() {
            if info.is_unacknowledged(retransmissions) {
                return Poll::Ready(Err(SendError { unprocessed: false, cause: SendErrorCause::Unacknowledged }));
            }
        }
        Poll::Pending
    })
    .await
}
