//! Whether a failed attempt is repeated. Pure functions.
//!
//! | outcome of the attempt | repeated |
//! | --- | --- |
//! | no connection was established | always: nothing was sent. Several endpoints are tried at once ([`crate::upstream::connect`]) |
//! | an idle connection was closed before the request was sent on it | always, at once |
//! | the stream was refused, or GOAWAY preceded the request | always: the peer reports that it did not process the request |
//! | the destination's sidecar reports that it did not reach its application | always: the request ended there |
//! | the connection ended before a response, or the peer acknowledges nothing | if the method is idempotent |
//!
//! A request is repeated only while its body is kept in full (64 KiB).

use http::Method;

use crate::exchange::is_idempotent;
use crate::mesh::RetryPolicy;

/// The maximum number of attempts on idle connections that turn out to be closed; beyond it, they count as retries.
const MAX_STALE: u32 = 4;

/// When the outcome of an attempt allows another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retryable {
    /// For any request, at once and without counting.
    AtOnce,
    /// For any request.
    Always,
    /// If the method is idempotent.
    IfIdempotent,
    /// Never.
    Never,
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

impl Attempts {
    /// Returns the number of retries so far.
    pub(super) fn retries(&self) -> u32 {
        self.retries
    }

    /// Decides what follows a failed attempt, and counts it. `repeatable` is whether the request can be sent again in full.
    pub(super) fn after(
        &mut self,
        retryable: Retryable,
        method: &Method,
        repeatable: bool,
        policy: &RetryPolicy,
    ) -> Next {
        let allowed = match retryable {
            Retryable::AtOnce | Retryable::Always => true,
            Retryable::IfIdempotent => is_idempotent(method),
            Retryable::Never => false,
        };
        if !allowed || !repeatable {
            return Next::Fail;
        }
        if retryable == Retryable::AtOnce && self.stale < MAX_STALE {
            self.stale += 1;
            return Next::AtOnce;
        }
        if self.retries >= policy.retries {
            return Next::Fail;
        }
        self.retries += 1;
        Next::Retry(self.retries - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_depends_on_the_failure_the_method_and_the_body() {
        use Retryable::{Always, AtOnce, IfIdempotent, Never};
        let policy = RetryPolicy::default();
        for (retryable, method, repeatable, expected) in [
            (AtOnce, Method::POST, true, Next::AtOnce),
            (AtOnce, Method::POST, false, Next::Fail),
            (Always, Method::POST, true, Next::Retry(0)),
            (Always, Method::GET, false, Next::Fail),
            (IfIdempotent, Method::GET, true, Next::Retry(0)),
            (IfIdempotent, Method::PUT, true, Next::Retry(0)),
            (IfIdempotent, Method::POST, true, Next::Fail),
            (IfIdempotent, Method::PATCH, true, Next::Fail),
            (IfIdempotent, Method::CONNECT, true, Next::Fail),
            (Never, Method::GET, true, Next::Fail),
        ] {
            let next = Attempts::default().after(retryable, &method, repeatable, &policy);
            assert_eq!(next, expected, "{retryable:?} {method} repeatable: {repeatable}");
        }
    }

    #[test]
    fn retries_and_stale_connections_are_limited_separately() {
        let policy = RetryPolicy { retries: 2, ..RetryPolicy::default() };
        let mut attempts = Attempts::default();
        let mut after = |retryable| attempts.after(retryable, &Method::GET, true, &policy);
        let stale: Vec<Next> = (0..MAX_STALE).map(|_| after(Retryable::AtOnce)).collect();
        assert!(stale.iter().all(|next| *next == Next::AtOnce));
        assert_eq!(after(Retryable::AtOnce), Next::Retry(0));
        assert_eq!(after(Retryable::Always), Next::Retry(1));
        assert_eq!(after(Retryable::Always), Next::Fail);
    }
}
