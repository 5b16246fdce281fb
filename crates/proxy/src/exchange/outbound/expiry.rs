//! Time limits of requests and of their attempts.
//!
//! As in Envoy, time begins when the request has been received in full, and at the earliest with the attempt: a slow upload is
//! not the destination's fault.

use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::failure::Expired;
use crate::http::RequestBody;

/// The time limits of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// Of the request, with all attempts and the response's body.
    pub(super) request: Option<Duration>,
    /// Of one attempt, up to the response's head.
    pub(super) attempt: Option<Duration>,
}

impl Limits {
    /// Returns when the limit of a request passes; `None` if there is none, or the request has not been received in full.
    pub(super) fn deadline(&self, body: Option<&Rc<RequestBody>>, began: Instant) -> Option<Instant> {
        let complete = body.map_or(Some(began), |body| body.completed())?;
        self.request.map(|limit| complete.max(began) + limit)
    }

    /// Runs a part of an attempt, at most until a limit passes.
    pub(super) async fn run<F: Future>(
        &self,
        body: Option<&Rc<RequestBody>>,
        (began, attempt_began): (Instant, Instant),
        retried: bool,
        future: F,
    ) -> Result<F::Output, Expired> {
        if self.request.is_none() && self.attempt.is_none() {
            return Ok(future.await);
        }
        tokio::select! {
            biased;
            output = future => Ok(output),
            expired = self.expire(body, began, attempt_began, retried) => Err(expired),
        }
    }

    async fn expire(
        &self,
        body: Option<&Rc<RequestBody>>,
        began: Instant,
        attempt_began: Instant,
        retried: bool,
    ) -> Expired {
        loop {
            let shortest = self.request.into_iter().chain(self.attempt).min().unwrap_or(Duration::MAX);
            let Some(complete) = body.map_or(Some(began), |body| body.completed()) else {
                tokio::time::sleep(shortest).await;
                continue;
            };
            let request = self.request.map(|limit| (complete.max(began) + limit, Expired::Request));
            let attempt = self.attempt.map(|limit| (complete.max(attempt_began) + limit, Expired::Attempt { retried }));
            // Of equal limits, the request's counts: nothing is left for another attempt.
            let next = request.into_iter().chain(attempt).min_by_key(|(at, _)| *at);
            let Some((at, expired)) = next else { return std::future::pending().await };
            tokio::time::sleep_until(at.into()).await;
            return expired;
        }
    }
}
