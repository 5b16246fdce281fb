//! Bodies of requests and responses on their way through.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::pump::Source;
use super::{BoxError, Incoming};
use crate::upstream::Lease;

/// A request body up to this size is kept until the response begins, so that the request can be sent again. Envoy's
/// default for retries is 1 MiB per request, which a sidecar of 12 MiB cannot give to many at once.
const KEPT: usize = 64 * 1024;

/// A request's body as the client sends it, shared by the attempts to send it on.
#[derive(Debug)]
pub struct Uploaded {
    incoming: RefCell<Incoming>,
    /// What was read, for another attempt; `None` once it was too much.
    kept: RefCell<Option<Vec<Kept>>>,
    kept_bytes: Cell<usize>,
    bytes: Cell<u64>,
    complete: Cell<bool>,
    /// The attempt that reads; earlier ones get nothing more.
    attempt: Cell<u32>,
    size: SizeHint,
}

#[derive(Debug, Clone)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Uploaded {
    /// The body of a request; `None` where it has none.
    pub fn new(incoming: Incoming) -> Option<Rc<Self>> {
        if incoming.is_end_stream() {
            return None;
        }
        let size = incoming.size_hint();
        Some(Rc::new(Self {
            incoming: RefCell::new(incoming),
            kept: RefCell::new(Some(Vec::new())),
            kept_bytes: Cell::new(0),
            bytes: Cell::new(0),
            complete: Cell::new(false),
            attempt: Cell::new(0),
            size,
        }))
    }

    /// The body for one attempt, from its beginning. Ends the body of the attempt before.
    pub fn attempt(self: &Rc<Self>) -> Outgoing {
        self.attempt.set(self.attempt.get() + 1);
        Outgoing(Some(Playback { uploaded: self.clone(), attempt: self.attempt.get(), position: 0 }))
    }

    /// Whether another attempt would send all of it.
    pub fn can_repeat(&self) -> bool {
        self.kept.borrow().is_some()
    }

    /// Whether all of it was read from the client.
    pub fn is_complete(&self) -> bool {
        self.complete.get() || self.incoming.borrow().is_end_stream()
    }

    /// Bytes read from the client.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// The response has begun: nothing will be sent again.
    pub fn forget(&self) {
        self.kept.borrow_mut().take();
    }

    /// Does something for the request that does not read its body yet, such as connecting, and holds what the client sends
    /// of it meanwhile.
    pub async fn meanwhile<F: Future>(uploaded: Option<&Rc<Self>>, doing: F) -> F::Output {
        let mut doing = std::pin::pin!(doing);
        std::future::poll_fn(|cx| {
            let done = doing.as_mut().poll(cx);
            if let (Poll::Pending, Some(uploaded)) = (&done, uploaded) {
                uploaded.incoming.borrow_mut().hold(cx);
            }
            done
        })
        .await
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx));
        let Some(frame) = frame else {
            self.complete.set(true);
            return Poll::Ready(None);
        };
        let frame = frame?;
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.bytes.set(self.bytes.get() + length as u64);
        self.kept_bytes.set(self.kept_bytes.get() + length);
        let mut kept = self.kept.borrow_mut();
        if self.kept_bytes.get() > KEPT {
            kept.take();
        }
        if let Some(kept) = kept.as_mut() {
            if let Some(data) = frame.data_ref() {
                kept.push(Kept::Data(data.clone()));
            } else if let Some(trailers) = frame.trailers_ref() {
                kept.push(Kept::Trailers(trailers.clone()));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

/// A request's body as it is sent upstream.
#[derive(Debug)]
pub struct Outgoing(Option<Playback>);

#[derive(Debug)]
struct Playback {
    uploaded: Rc<Uploaded>,
    attempt: u32,
    position: usize,
}

impl Outgoing {
    /// No body.
    pub fn empty() -> Self {
        Self(None)
    }
}

impl Playback {
    fn repeated(&mut self) -> Option<Frame<Bytes>> {
        let kept = self.uploaded.kept.borrow();
        let frame = kept.as_ref()?.get(self.position)?.clone();
        self.position += 1;
        Some(match frame {
            Kept::Data(data) => Frame::data(data),
            Kept::Trailers(trailers) => Frame::trailers(trailers),
        })
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(playback) = &mut self.0 else { return Poll::Ready(None) };
        if playback.attempt != playback.uploaded.attempt.get() {
            return Poll::Ready(Some(Err("this attempt was given up".into())));
        }
        if let Some(frame) = playback.repeated() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let uploaded = playback.uploaded.clone();
        let frame = ready!(uploaded.poll_next(cx));
        playback.position += 1;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|playback| {
            let kept = playback.uploaded.kept.borrow();
            let repeating = kept.as_ref().is_some_and(|kept| playback.position < kept.len());
            !repeating && playback.uploaded.is_complete()
        })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(playback) if playback.position == 0 => playback.uploaded.size,
            Some(_) => SizeHint::default(),
        }
    }
}

impl Source for Outgoing {
    fn hold(&mut self, cx: &mut Context<'_>) {
        if let Some(playback) = &self.0
            && playback.attempt == playback.uploaded.attempt.get()
        {
            playback.uploaded.incoming.borrow_mut().hold(cx);
        }
    }
}

/// Hears how a response ended. Dropped without having heard, the client went away first.
pub trait Ending {
    /// The response's body is whole. `grpc_status` is that of its trailers, if it has any.
    fn complete(&mut self, bytes: u64, grpc_status: Option<u16>);
    /// The upstream ended it too early.
    fn broken(&mut self, bytes: u64);
    /// Nobody wants the rest.
    fn abandoned(&mut self, bytes: u64);
}

/// A response's body on its way to the client.
pub struct Reply {
    source: Content,
    bytes: u64,
    grpc_status: Option<u16>,
    ending: Option<Box<dyn Ending>>,
}

enum Content {
    Local(Option<Bytes>),
    Upstream { incoming: Incoming, lease: Option<Lease>, uploaded: Option<Rc<Uploaded>> },
}

impl Reply {
    /// What this proxy says itself.
    pub fn local(body: impl Into<Bytes>, ending: Option<Box<dyn Ending>>) -> Self {
        let body = Some(body.into()).filter(|body| !body.is_empty());
        Self { source: Content::Local(body), bytes: 0, grpc_status: None, ending }
    }

    /// What comes from upstream over `lease`, which goes back to its pool at the end if `uploaded` was sent whole.
    pub fn upstream(
        incoming: Incoming,
        lease: Option<Lease>,
        uploaded: Option<Rc<Uploaded>>,
        ending: Box<dyn Ending>,
    ) -> Self {
        let mut lease = lease;
        if uploaded.as_ref().is_some_and(|uploaded| !uploaded.is_complete())
            && let Some(lease) = &mut lease
        {
            lease.set_free();
        }
        let source = Content::Upstream { incoming, lease, uploaded };
        Self { source, bytes: 0, grpc_status: None, ending: Some(ending) }
    }

    fn complete(&mut self) {
        if let Content::Upstream { lease, uploaded, .. } = &mut self.source
            && uploaded.as_ref().is_none_or(|uploaded| uploaded.is_complete())
            && let Some(lease) = lease.take()
        {
            lease.release();
        }
        if let Some(mut ending) = self.ending.take() {
            ending.complete(self.bytes, self.grpc_status);
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Content::Local(body) => body.take().map(|body| Ok(Frame::data(body))),
            Content::Upstream { incoming, lease: Some(lease), .. } => ready!(lease.poll_body(incoming, cx)),
            Content::Upstream { incoming, lease: None, .. } => ready!(Pin::new(incoming).poll_frame(cx)),
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
                    this.grpc_status = super::headers::grpc_status(trailers);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Content::Local(body) => body.is_none(),
            Content::Upstream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Content::Local(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Content::Upstream { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Source for Reply {
    fn hold(&mut self, cx: &mut Context<'_>) {
        if let Content::Upstream { incoming, .. } = &mut self.source {
            incoming.hold(cx);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // hyper does not ask again for the end of a body whose length it knows.
        if self.is_end_stream() {
            self.complete();
        } else if let Some(mut ending) = self.ending.take() {
            ending.abandoned(self.bytes);
        }
    }
}
