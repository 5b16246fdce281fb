//! Picking an endpoint and sending the request, again if that is safe ([`super::retry`]).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use balance::Outcome;
use http::Response;

use super::retry::{Attempts, Next, Retryable};
use super::{Destination, OutboundRequests};
use crate::exchange::{Exchange, is_idempotent};
use crate::failure::Failure;
use crate::http::{Incoming, RequestBody, headers};
use crate::mesh::{ClusterCounter, RetryPolicy};
use crate::upstream::{ConnectionInfo, LeasedConnection, OverdueRequests, SendError, SendErrorCause};

/// The number of retransmissions without acknowledgement after which a repeatable request is sent to another endpoint. By
/// the first retransmission the data was lost twice or more, which on a working network is rarer than a vanished pod.
const UNACKNOWLEDGED_REPEATABLE: u8 = 1;
/// The same for a request that is not repeatable: some 12 s.
const UNACKNOWLEDGED: u8 = 6;

/// An upstream's response, and the connection that it is received on.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) leased: LeasedConnection,
}

/// A failed attempt.
struct FailedAttempt {
    failure: Failure,
    retryable: Retryable,
    /// The response that reports that the request was not processed, if there is one.
    answer: Option<Box<Answer>>,
}

impl OutboundRequests {
    /// Sends a request until there is a response or no attempt is left.
    pub(super) async fn send(
        &self,
        exchange: &mut Exchange,
        destination: &Destination,
        policy: &RetryPolicy,
    ) -> Result<Answer, Failure> {
        let (mut attempts, mut tried) = (Attempts::default(), Vec::new());
        let mut now = exchange.report.started();
        let cluster = &destination.cluster;
        // Held until the end of the retry.
        let mut _place;
        loop {
            if let Some(log) = &mut exchange.report.log {
                log.attempts += 1;
            }
            let failed = match self.attempt(exchange, destination, attempts.retries(), now, &mut tried).await {
                Ok(answer) => {
                    if attempts.retries() > 0 {
                        cluster.shared().count(ClusterCounter::RetrySuccess);
                    }
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            let next = attempts.after(failed.retryable, &exchange.head.method, exchange.is_repeatable(), policy);
            let place = if let Next::Retry(_) = next { cluster.retry() } else { None };
            match next {
                Next::AtOnce => {}
                Next::Retry(number) if place.is_some() => {
                    _place = place;
                    tokio::time::sleep(policy.backoff(number, rand::random())).await;
                }
                Next::Retry(_) | Next::Fail => {
                    if attempts.retries() >= policy.retries && policy.retries > 0 {
                        cluster.shared().count(ClusterCounter::RetryLimitExceeded);
                    }
                    return match failed.answer {
                        Some(answer) => Ok(*answer),
                        None if attempts.retries() > 0 => Err(failed.failure.after_retries()),
                        None => Err(failed.failure),
                    };
                }
            }
            now = Instant::now();
        }
    }

    /// Picks an endpoint and sends the request once.
    async fn attempt(
        &self,
        exchange: &Exchange,
        destination: &Destination,
        retries: u32,
        now: Instant,
        tried: &mut Vec<Arc<str>>,
    ) -> Result<Answer, FailedAttempt> {
        let (worker, cluster, from) = (&self.worker, &destination.cluster, &self.downstream);
        let dial = || worker.dial_options(cluster).for_client(from.client, from.destination);
        let leasing = cluster.lease(exchange.version, tried, exchange.hash.hash, now, dial);
        let leased = RequestBody::hold_while(exchange.body.as_ref(), pin!(leasing)).await;
        let mut leased = leased.map_err(|failure| FailedAttempt::new(failure, Retryable::Always))?;
        let id = leased.pick.id.clone();
        let mut request = exchange.attempt();
        request.headers_mut().insert(headers::ATTEMPTS, headers::number(u64::from(retries) + 1));
        let repeatable = is_idempotent(&exchange.head.method) && exchange.is_repeatable();
        let retransmissions = if repeatable { UNACKNOWLEDGED_REPEATABLE } else { UNACKNOWLEDGED };
        let info = leased.lease.info.clone();
        let sent = acknowledged(
            pin!(leased.lease.send(request, exchange.upgrade.is_some())),
            &info,
            retransmissions,
            &worker.overdue,
        )
        .await;
        let attempt = match sent {
            Ok(response) => judge(Answer { response, leased }),
            Err(error) => Err(lost(exchange, &leased, &error)),
        };
        attempt.inspect_err(|_| tried.push(id))
    }
}

impl FailedAttempt {
    fn new(failure: Failure, retryable: Retryable) -> Self {
        Self { failure, retryable, answer: None }
    }
}

/// Reports the outcome of a response to the balancer, and decides whether it may be repeated.
fn judge(answer: Answer) -> Result<Answer, FailedAttempt> {
    let Answer { response, leased } = &answer;
    let target = &leased.pick.target;
    // Only a sidecar that proved its identity is believed; an application's own header does not pass its sidecar.
    let unprocessed = target.tls.is_some() && response.headers().contains_key(headers::UNPROCESSED);
    let unavailable = headers::is_grpc(response.headers()) && headers::grpc_status(response.headers()) == Some(14);
    leased.pick.report(
        match (unprocessed, unavailable) {
            // Behind a gateway it is one pod of many that is unavailable.
            (true, _) if !target.remote => Outcome::ConnectFailure,
            (true, _) | (false, true) => Outcome::GatewayError,
            (false, false) => Outcome::of_status(response.status().as_u16()),
        },
        Instant::now(),
    );
    if !unprocessed {
        return Ok(answer);
    }
    // A kept connection through a gateway leads to the same pod each time; a new one may lead to another.
    leased.pool.clear();
    let endpoint = target.address.to_string().into();
    let failure = Failure::Reset { endpoint, error: "its application was not reached".into(), retried: false };
    Err(FailedAttempt { failure, retryable: Retryable::Always, answer: Some(Box::new(answer)) })
}

/// Reports a lost connection to the balancer and the pool, and decides whether the request may be repeated.
fn lost(exchange: &Exchange, leased: &LeasedConnection, SendError { unprocessed, cause }: &SendError) -> FailedAttempt {
    let (pick, now, unprocessed) = (&leased.pick, Instant::now(), *unprocessed);
    let failure = exchange.lost(pick.target.address.to_string().into(), cause);
    let retryable = match failure {
        // The client's fault says nothing of the endpoint.
        Failure::Downstream(_) => return FailedAttempt::new(failure, Retryable::Never),
        Failure::UpstreamProtocol { .. } => Retryable::Never,
        _ if leased.lease.reused && unprocessed => Retryable::AtOnce,
        _ if unprocessed => Retryable::Always,
        _ => Retryable::IfIdempotent,
    };
    // The other connections most likely lead to the same end, and each would cost another request an attempt.
    leased.pool.clear();
    match cause {
        SendErrorCause::Unacknowledged => pick.report(Outcome::ConnectFailure, now),
        // An idle connection that the peer closed says nothing of the peer.
        _ if retryable == Retryable::AtOnce => {}
        _ => pick.report(Outcome::NoResponse, now),
    }
    FailedAttempt::new(failure, retryable)
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
