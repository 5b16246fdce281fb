//! The bodies of responses on their way downstream.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::heads::Served;
use crate::http::{BoxError, Incoming, RequestBody, Source, headers};
use crate::upstream::Lease;

/// Learns how a response ended. If it is dropped without a call, the downstream closed its connection first.
pub trait Ending {
    /// The response's body is complete. `grpc_status` is that of its trailers, if they have one.
    fn complete(&mut self, bytes: u64, grpc_status: Option<u16>);
    /// The upstream ended the body early.
    fn broken(&mut self, bytes: u64);
    /// The upstream did not end the body in time.
    fn timed_out(&mut self, bytes: u64) {
        self.broken(bytes);
    }
    /// The downstream does not read the rest.
    fn abandoned(&mut self, bytes: u64);
}

/// A response's body on its way downstream.
pub struct ResponseBody {
    source: BodySource,
    bytes: u64,
    grpc_status: Option<u16>,
    ending: Option<Box<dyn Ending>>,
    /// When the body has to be complete.
    deadline: Deadline,
    /// The request is in progress until the response has been sent.
    pub(super) served: Option<Served>,
}

enum Deadline {
    None,
    At(Instant),
    /// Once there is something to wait for.
    Timer(Pin<Box<Sleep>>),
}

enum BodySource {
    Local(Option<Bytes>),
    Upstream { incoming: Incoming, lease: Option<Lease>, request: Option<Rc<RequestBody>> },
}

impl ResponseBody {
    /// Creates the body of a response of the proxy itself.
    pub fn local(body: impl Into<Bytes>, ending: Option<Box<dyn Ending>>) -> Self {
        let body = Some(body.into()).filter(|body| !body.is_empty());
        Self {
            source: BodySource::Local(body),
            bytes: 0,
            grpc_status: None,
            ending,
            deadline: Deadline::None,
            served: None,
        }
    }

    /// Replaces the content of a body of the proxy itself.
    pub fn set_content(&mut self, content: Bytes) {
        if let BodySource::Local(body) = &mut self.source {
            *body = Some(content).filter(|content| !content.is_empty());
        }
    }

    /// Creates the body of an upstream's response. At its end, `lease` returns to its pool if the request's body was sent
    /// in full.
    pub fn upstream(
        incoming: Incoming,
        mut lease: Lease,
        request: Option<Rc<RequestBody>>,
        ending: Box<dyn Ending>,
    ) -> Self {
        if let Some(request) = request.as_ref().filter(|request| !request.is_complete()) {
            lease.detach(request);
        }
        let source = BodySource::Upstream { incoming, lease: Some(lease), request };
        Self { source, bytes: 0, grpc_status: None, ending: Some(ending), deadline: Deadline::None, served: None }
    }

    /// Sets when the body has to be complete. If it is not, it fails.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = Deadline::At(deadline);
    }

    /// Returns whether the deadline has passed, and waits for it otherwise.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Deadline::At(deadline) = self.deadline {
            self.deadline = Deadline::Timer(Box::pin(tokio::time::sleep_until(deadline.into())));
        }
        match &mut self.deadline {
            Deadline::Timer(timer) => timer.as_mut().poll(cx),
            Deadline::None | Deadline::At(_) => Poll::Pending,
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.source {
            BodySource::Local(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            BodySource::Upstream { incoming, lease: Some(lease), .. } => lease.poll_body(incoming, cx),
            BodySource::Upstream { incoming, lease: None, .. } => Pin::new(incoming).poll_frame(cx),
        }
    }

    fn complete(&mut self) {
        if let BodySource::Upstream { lease, request, .. } = &mut self.source
            && request.as_ref().is_none_or(|request| request.is_complete())
            && let Some(lease) = lease.take()
        {
            lease.release();
        }
        if let Some(mut ending) = self.ending.take() {
            ending.complete(self.bytes, self.grpc_status);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = this.poll_source(cx) else {
            ready!(this.poll_overdue(cx));
            if let Some(mut ending) = this.ending.take() {
                ending.timed_out(this.bytes);
            }
            return Poll::Ready(Some(Err("the response was not complete within the route's timeout".into())));
        };
        match &frame {
            None => this.complete(),
            Some(Err(_)) => {
                if let Some(mut ending) = this.ending.take() {
                    ending.broken(this.bytes);
                }
            }
            Some(Ok(frame)) => {
                this.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(trailers) = frame.trailers_ref() {
                    this.grpc_status = headers::grpc_status(trailers);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Local(body) => body.is_none(),
            BodySource::Upstream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Local(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            BodySource::Upstream { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Source for ResponseBody {
    fn hold(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        match &mut self.source {
            BodySource::Local(_) => Ok(()),
            BodySource::Upstream { incoming, .. } => incoming.hold(cx),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper does not poll for the end of a body whose length it knows.
        if self.is_end_stream() {
            self.complete();
        } else if let Some(mut ending) = self.ending.take() {
            ending.abandoned(self.bytes);
        }
    }
}
