//! Whether a failed attempt is repeated. Pure functions.
//!
//! | outcome of the attempt | repeated |
//! | --- | --- |
//! | an idle connection was closed before the request was sent on it | always, at once |
//! | no connection was established | by `connect-failure`, which is a default: nothing was sent. Several endpoints are tried at once ([`crate::upstream::connect`]) |
//! | the stream was refused, or GOAWAY preceded the request; or the destination's sidecar reports that it did not reach its application | by `refused-stream`, which is a default: the peer reports that it did not process the request |
//! | the connection ended before a response, or the peer acknowledges nothing | by `reset`, `5xx` and the like; without conditions of a route, if the method is idempotent |
//! | a response | by the route's conditions on statuses |
//! | no response within the timeout of an attempt | by the route's conditions |
//!
//! A request is repeated only while its body is kept in full (64 KiB).

use http::Method;
use route::Retries;

use crate::exchange::is_idempotent;

/// The maximum number of attempts on idle connections that turn out to be closed; beyond it, they count as retries.
const MAX_STALE: u32 = 4;

/// The outcome of a failed attempt, as far as another one depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An idle connection was closed.
    Stale,
    /// No connection was established.
    NotConnected,
    /// The peer reports that it did not process the request.
    Unprocessed,
    /// The connection ended without a response.
    Lost,
    /// The limit of the attempt passed.
    Expired,
    /// A response.
    Response {
        /// Its status.
        status: u16,
        /// The status of gRPC, in a response without messages.
        grpc_status: Option<u16>,
        /// It has the header `x-envoy-ratelimited`.
        rate_limited: bool,
    },
    /// The request's own fault, or that of a limit.
    Final,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another attempt, at once.
    AtOnce,
    /// Another attempt after the backoff of this retry, numbered from 0.
    Retry(u32),
    /// None: the request fails.
    Fail,
}

/// The attempts of one request.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    retries: u32,
    stale: u32,
}

impl Outcome {
    /// Returns whether the policy repeats a request after this outcome.
    pub(super) fn is_repeated(self, method: &Method, policy: &Retries) -> bool {
        match self {
            Outcome::Stale => true,
            Outcome::NotConnected => policy.on.on_connect_failure(),
            Outcome::Unprocessed => policy.on.on_refused_stream() || policy.on.on_connect_failure(),
            Outcome::Lost => policy.on.on_reset(false) || (policy.idempotent && is_idempotent(method)),
            Outcome::Expired => policy.on.on_timeout(),
            Outcome::Response { status, grpc_status, rate_limited } => {
                policy.on.on_response(status, grpc_status, rate_limited)
            }
            Outcome::Final => false,
        }
    }
}

impl Attempts {
    /// Returns the number of retries so far.
    pub(super) fn retries(&self) -> u32 {
        self.retries
    }

    /// Decides what follows a failed attempt, and counts it. `repeatable` is whether the request can be sent again in full.
    pub(super) fn after(&mut self, outcome: Outcome, method: &Method, repeatable: bool, policy: &Retries) -> Next {
        if !repeatable || !outcome.is_repeated(method, policy) {
            return Next::Fail;
        }
        if outcome == Outcome::Stale && self.stale < MAX_STALE {
            self.stale += 1;
            return Next::AtOnce;
        }
        if self.retries >= policy.attempts {
            return Next::Fail;
        }
        self.retries += 1;
        Next::Retry(self.retries - 1)
    }
}

#[cfg(test)]
mod tests {
    use route::RetryOn;

    use super::*;

    const TEAPOT: Outcome = Outcome::Response { status: 418, grpc_status: None, rate_limited: false };
    const UNAVAILABLE: Outcome = Outcome::Response { status: 200, grpc_status: Some(14), rate_limited: false };

    #[test]
    fn without_conditions_a_retry_depends_on_the_failure_the_method_and_the_body() {
        use Outcome::{Expired, Final, Lost, NotConnected, Stale, Unprocessed};
        let policy = Retries::default();
        for (outcome, method, repeatable, expected) in [
            (Stale, Method::POST, true, Next::AtOnce),
            (Stale, Method::POST, false, Next::Fail),
            (NotConnected, Method::POST, true, Next::Retry(0)),
            (Unprocessed, Method::POST, true, Next::Retry(0)),
            (NotConnected, Method::GET, false, Next::Fail),
            (Lost, Method::GET, true, Next::Retry(0)),
            (Lost, Method::PUT, true, Next::Retry(0)),
            (Lost, Method::POST, true, Next::Fail),
            (Lost, Method::PATCH, true, Next::Fail),
            (Lost, Method::CONNECT, true, Next::Fail),
            (Expired, Method::GET, true, Next::Fail),
            (TEAPOT, Method::GET, true, Next::Fail),
            (UNAVAILABLE, Method::POST, true, Next::Retry(0)),
            (Final, Method::GET, true, Next::Fail),
        ] {
            let next = Attempts::default().after(outcome, &method, repeatable, &policy);
            assert_eq!(next, expected, "{outcome:?} {method} repeatable: {repeatable}");
        }
    }

    #[test]
    fn conditions_of_a_route_are_kept_to() {
        use Outcome::{Expired, Lost, NotConnected};
        for (on, outcome, expected) in [
            ("418", TEAPOT, true),
            ("418", NotConnected, false),
            ("418", Lost, false),
            ("5xx", Lost, true),
            ("5xx", Expired, true),
            ("connect-failure", NotConnected, true),
            ("connect-failure", Lost, false),
        ] {
            let policy = Retries { on: RetryOn::parse([on]).unwrap(), idempotent: false, ..Retries::default() };
            let next = Attempts::default().after(outcome, &Method::GET, true, &policy);
            assert_eq!(next == Next::Retry(0), expected, "{on} {outcome:?}");
        }
    }

    #[test]
    fn retries_and_stale_connections_are_limited_separately() {
        let policy = Retries { attempts: 2, ..Retries::default() };
        let mut attempts = Attempts::default();
        let mut after = |outcome| attempts.after(outcome, &Method::GET, true, &policy);
        let stale: Vec<Next> = (0..MAX_STALE).map(|_| after(Outcome::Stale)).collect();
        assert!(stale.iter().all(|next| *next == Next::AtOnce));
        assert_eq!(after(Outcome::Stale), Next::Retry(0));
        assert_eq!(after(Outcome::NotConnected), Next::Retry(1));
        assert_eq!(after(Outcome::NotConnected), Next::Fail);
    }
}
