//! Time limits of requests and of their attempts.
//!
//! As in Envoy, time begins when the request has been received in full, and at the earliest with the attempt: a slow upload is
//! not the destination's fault.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::failure::Expired;
use crate::http::RequestBody;

/// The time limits of a request.
#[derive(Debug)]
pub(super) struct Limits<'a> {
    /// When the request began: was received, or delayed for the last time.
    pub(super) began: Instant,
    /// Of the request, with all attempts and the response's body.
    pub(super) request: Option<Duration>,
    /// Of one attempt, up to the response's head.
    pub(super) attempt: Option<Duration>,
    /// The timer of all of them. It is the caller's, because the futures of requests without limits have no space for one.
    pub(super) timer: Option<Pin<&'a mut Sleep>>,
}

/// When a request and one of its attempts began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began {
    /// The request.
    pub(super) request: Instant,
    /// The attempt.
    pub(super) attempt: Instant,
    /// Other attempts preceded this one.
    pub(super) retried: bool,
}

impl Limits<'_> {
    /// Returns when the limit of a request passes; `None` if there is none, or the request has not been received in full.
    pub(super) fn deadline(&self, body: Option<&Rc<RequestBody>>) -> Option<Instant> {
        let complete = body.map_or(Some(self.began), |body| body.completed())?;
        self.request.map(|limit| complete.max(self.began) + limit)
    }

    /// Runs a part of an attempt, at most until a limit passes. Not an async function, whose future would hold the arguments
    /// twice.
    pub(super) fn run<F: Future>(
        &mut self,
        body: Option<&Rc<RequestBody>>,
        began: Began,
        mut future: Pin<&mut F>,
    ) -> impl Future<Output = Result<F::Output, Expired>> {
        // What the end of the timer means; `None`: the timer is not set.
        let mut set = None;
        poll_fn(move |cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let (request, attempt) = (self.request, self.attempt);
            let Some(timer) = self.timer.as_mut().filter(|_| request.or(attempt).is_some()) else {
                return Poll::Pending;
            };
            loop {
                let expired = match set {
                    Some(expired) => expired,
                    None => {
                        let (at, expired) = next(request, attempt, body, began);
                        timer.as_mut().reset(at.into());
                        *set.insert(expired)
                    }
                };
                ready!(timer.as_mut().poll(cx));
                if let Some(expired) = expired {
                    return Poll::Ready(Err(expired));
                }
                set = None;
            }
        })
    }
}

/// Returns when to look next, and the limit that has passed then. While the request is being received, none has.
fn next(
    request: Option<Duration>,
    attempt: Option<Duration>,
    body: Option<&Rc<RequestBody>>,
    began: Began,
) -> (Instant, Option<Expired>) {
    let shortest = request.into_iter().chain(attempt).min().unwrap_or_default();
    let Some(complete) = body.map_or(Some(began.request), |body| body.completed()) else {
        return (Instant::now() + shortest, None);
    };
    let request = request.map(|limit| (complete.max(began.request) + limit, Expired::Request));
    let of_attempt = Expired::Attempt { retried: began.retried };
    let attempt = attempt.map(|limit| (complete.max(began.attempt) + limit, of_attempt));
    // Of equal limits, the request's counts: nothing is left for another attempt.
    let first = request.into_iter().chain(attempt).min_by_key(|(at, _)| *at);
    first.map_or((Instant::now(), Some(Expired::Request)), |(at, expired)| (at, Some(expired)))
}
