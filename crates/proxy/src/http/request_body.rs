//! The bodies of requests on their way upstream, and their copies for retries.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use runtime::admission::{Admitted, Buffered};
use tokio::time::Sleep;

use super::body_copy::Copy;
use super::continue_gate::{ContinueGate, PATIENCE, expects_continue};
use super::pump::Source;
use super::unsent::Unsent;
use super::{Beginning, BoxError, Incoming, PeekedBody, headers};

/// The maximum size of a request body that is kept for retries until the response begins. Envoy's default is 1 MiB per
/// request, which a sidecar of 12 MiB cannot spend on many requests at once.
const MAX_KEPT: u64 = 64 * 1024;
/// How long the rest of a request is read after its response.
const DRAIN: Duration = Duration::from_secs(5);
/// The size up to which a body is not counted among the bytes that are held for its connection: most bodies are small, and the
/// number of requests is limited as well.
const UNCOUNTED: u64 = 4 * 1024;
/// The size from which a piece of a body is counted by itself. Smaller ones count as long as they are kept for retries;
/// queues to an upstream take few of them.
const PIECE: usize = 1024;

/// A request's body as the downstream sends it, shared by all attempts.
#[derive(Debug)]
pub struct RequestBody {
    incoming: RefCell<Incoming>,
    /// Frames read so far, for another attempt; `None` if they exceed [`MAX_KEPT`] or are no longer needed.
    kept: RefCell<Option<Vec<KeptFrame>>>,
    /// Counts the small pieces that are kept.
    counted: RefCell<Option<Buffered>>,
    /// Counts the others.
    unsent: Unsent,
    owner: Rc<Admitted>,
    bytes: Cell<u64>,
    complete: Cell<bool>,
    /// When the body was noticed to be complete.
    completed: Cell<Option<Instant>>,
    /// The downstream did not send the body in full.
    failed: Cell<bool>,
    /// The number of the current attempt; earlier ones fail.
    attempt: Cell<u32>,
    /// Holds the body back until the upstream asks for it; `None` if the downstream does not wait for that.
    gate: Option<ContinueGate>,
    patience: RefCell<Option<Pin<Box<Sleep>>>>,
    size: SizeHint,
    /// What mirrors read.
    copies: RefCell<Vec<Rc<Copy>>>,
}

#[derive(Debug, Clone)]
enum KeptFrame {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl RequestBody {
    /// Wraps the body of a request with these headers, of the connection `owner`; returns `None` if it is empty.
    pub fn new(incoming: Incoming, headers: &HeaderMap, owner: &Rc<Admitted>) -> Option<Rc<Self>> {
        if incoming.is_end_stream() {
            return None;
        }
        let size = incoming.size_hint();
        let gate = expects_continue(headers).then(ContinueGate::default);
        Some(Rc::new(Self {
            incoming: RefCell::new(incoming),
            kept: RefCell::new(Some(Vec::new())),
            counted: RefCell::default(),
            unsent: Unsent::default(),
            owner: owner.clone(),
            bytes: Cell::new(0),
            complete: Cell::new(false),
            completed: Cell::new(None),
            failed: Cell::new(false),
            attempt: Cell::new(0),
            gate,
            patience: RefCell::default(),
            size,
            copies: RefCell::default(),
        }))
    }

    /// Returns the body for a new attempt, from its beginning. Bodies of earlier attempts fail.
    pub fn attempt(self: &Rc<Self>) -> AttemptBody {
        self.attempt.set(self.attempt.get() + 1);
        AttemptBody(Content::Playback(Playback { body: self.clone(), attempt: self.attempt.get(), position: 0 }))
    }

    /// Returns a copy of the body as it is read from the downstream, for a mirror. To be called before the first attempt. The
    /// copy fails if it is not read in time: it never delays the body.
    pub fn copy(self: &Rc<Self>) -> AttemptBody {
        let copy = Rc::new(Copy::of_size(self.size));
        self.copies.borrow_mut().push(copy.clone());
        AttemptBody(Content::Copy(copy))
    }

    /// Reads the beginning of the body, `max` bytes, before the first attempt, which sends it in full.
    ///
    /// # Errors
    /// Returns an error if the body fails, or the proxy holds too much for the connection already.
    pub async fn peek(&self, max: usize) -> Result<Beginning, BoxError> {
        if let Some(gate) = &self.gate {
            gate.open();
        }
        let beginning = poll_fn(|cx| {
            let mut incoming = self.incoming.borrow_mut();
            if !matches!(&*incoming, Incoming::Peeked(_)) {
                let rest = std::mem::replace(&mut *incoming, Incoming::Refused);
                *incoming = Incoming::Peeked(Box::new(PeekedBody::new(rest, &self.owner)));
            }
            let Incoming::Peeked(peeked) = &mut *incoming else { return Poll::Pending };
            ready!(peeked.poll_fill(max, cx))?;
            Poll::Ready(Ok(peeked.beginning(max)))
        });
        beginning.await.inspect_err(|_| self.failed.set(true))
    }

    /// Returns the length of the body, if the downstream has announced it.
    pub fn announced(&self) -> Option<u64> {
        self.size.exact()
    }

    /// Returns whether another attempt can send the body in full.
    pub fn is_repeatable(&self) -> bool {
        self.kept.borrow().is_some()
    }

    /// Returns whether the body was read from the downstream in full.
    pub fn is_complete(&self) -> bool {
        self.complete.get() || self.incoming.borrow().is_end_stream()
    }

    /// Returns when the body was complete, or `None` if it is not. Of a body without an end of its own, that is noticed with
    /// the first call after it.
    pub fn completed(&self) -> Option<Instant> {
        if self.completed.get().is_none() && self.is_complete() {
            self.completed.set(Some(Instant::now()));
        }
        self.completed.get()
    }

    /// Returns whether the downstream failed to send the body in full.
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Returns the number of bytes read from the downstream.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Gives up a body that the downstream holds back and nobody has asked for. Returns whether it was one. The downstream's
    /// connection cannot be used again: whether a body follows is not known.
    pub fn refuse(&self) -> bool {
        let refused = self.gate.as_ref().is_some_and(|gate| !gate.is_open());
        if refused {
            *self.incoming.borrow_mut() = Incoming::Refused;
        }
        refused
    }

    /// Reads and drops what the downstream still sends, for a while. Closing a connection with unread data would reset it,
    /// and the response could be lost (RFC 9112 §9.6).
    pub async fn drain(&self) {
        if self.refuse() || self.failed.get() {
            return;
        }
        self.discard_copy();
        let rest = poll_fn(|cx| {
            while !self.is_complete() && !self.failed.get() {
                let _ = ready!(self.poll_next(cx));
            }
            Poll::Ready(())
        });
        let _ = tokio::time::timeout(DRAIN, rest).await;
    }

    /// Drops the copy for retries. To be called when the response begins.
    pub fn discard_copy(&self) {
        self.kept.borrow_mut().take();
        self.counted.borrow_mut().take();
    }

    /// Counts a piece of the body, unless it is small. Returns whether it may be kept.
    fn count(&self, data: Bytes) -> (Bytes, bool) {
        if self.bytes.get() > UNCOUNTED && data.len() >= PIECE {
            let (data, fits) = self.unsent.count(data, &self.owner);
            return (data, fits && self.bytes.get() <= MAX_KEPT);
        }
        let fits = self.kept.borrow().is_some() && self.may_keep(data.len());
        (data, fits)
    }

    /// Counts a small piece that is about to be kept. Returns whether it may be.
    fn may_keep(&self, length: usize) -> bool {
        let kept = self.bytes.get();
        if kept > MAX_KEPT {
            return false;
        }
        if kept <= UNCOUNTED {
            return true;
        }
        let mut counted = self.counted.borrow_mut();
        let more = if counted.is_some() { length } else { kept as usize };
        if counted.is_none() {
            *counted = self.owner.buffer();
        }
        counted.as_mut().is_some_and(|counted| counted.grow(more))
    }

    /// Runs a future that does not read the body, such as connecting, and holds the frames that arrive in the meantime
    /// ([`Incoming::hold`]).
    pub async fn hold_while<F: Future>(body: Option<&Rc<Self>>, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| {
            let output = future.as_mut().poll(cx);
            if let (Poll::Pending, Some(body)) = (&output, body) {
                // Whoever reads the body next receives the error.
                let _ = body.incoming.borrow_mut().hold(cx);
            }
            output
        })
        .await
    }

    fn poll_gate(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(gate) = &self.gate else { return Poll::Ready(()) };
        if gate.poll_open(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut patience = self.patience.borrow_mut();
        ready!(patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE))).as_mut().poll(cx));
        if matches!(*self.incoming.borrow(), Incoming::Refused) {
            return Poll::Pending;
        }
        gate.open();
        Poll::Ready(())
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.unsent.poll_room(cx).is_pending() {
            self.incoming.borrow_mut().hold(cx).inspect_err(|_| self.failed.set(true))?;
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx));
        let Some(frame) = frame else {
            self.complete.set(true);
            self.completed.set(Some(Instant::now()));
            self.copies.take().iter().for_each(|copy| copy.end());
            return Poll::Ready(None);
        };
        let frame = frame.inspect_err(|_| self.failed.set(true))?;
        self.copies.borrow().iter().for_each(|copy| copy.push(&frame));
        // A body of known length is not polled for its end.
        if self.incoming.borrow().is_end_stream() {
            self.copies.take().iter().for_each(|copy| copy.end());
        }
        let frame = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return Poll::Ready(Some(Ok(self.trailers(frame)))),
        };
        self.bytes.set(self.bytes.get() + frame.len() as u64);
        let (data, may_keep) = self.count(frame);
        match &mut *self.kept.borrow_mut() {
            Some(kept) if may_keep => kept.push(KeptFrame::Data(data.clone())),
            kept => {
                kept.take();
                self.counted.borrow_mut().take();
            }
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    /// Returns the trailers of the body for the next hop.
    fn trailers(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let mut trailers = frame.into_trailers().unwrap_or_default();
        headers::end_hop_of_trailers(&mut trailers);
        if let Some(kept) = &mut *self.kept.borrow_mut() {
            kept.push(KeptFrame::Trailers(trailers.clone()));
        }
        Frame::trailers(trailers)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.copies.take().iter().for_each(|copy| copy.abandon());
    }
}

/// A request's body as one attempt sends it.
#[derive(Debug)]
pub struct AttemptBody(Content);

#[derive(Debug)]
enum Content {
    Empty,
    Playback(Playback),
    Copy(Rc<Copy>),
    /// The proxy's own.
    Own(Box<Option<Bytes>>),
}

#[derive(Debug)]
struct Playback {
    body: Rc<RequestBody>,
    attempt: u32,
    position: usize,
}

impl AttemptBody {
    /// Returns an empty body.
    pub fn empty() -> Self {
        Self(Content::Empty)
    }

    /// Returns a body of the proxy's own.
    pub fn of(content: Bytes) -> Self {
        Self(if content.is_empty() { Content::Empty } else { Content::Own(Box::new(Some(content))) })
    }

    /// Returns what holds the body back, if anything does.
    pub fn gate(&self) -> Option<&ContinueGate> {
        match &self.0 {
            Content::Playback(playback) => playback.body.gate.as_ref(),
            Content::Empty | Content::Copy(_) | Content::Own(_) => None,
        }
    }
}

impl Playback {
    fn next_kept(&mut self) -> Option<Frame<Bytes>> {
        let kept = self.body.kept.borrow();
        let frame = kept.as_ref()?.get(self.position)?.clone();
        self.position += 1;
        Some(match frame {
            KeptFrame::Data(data) => Frame::data(data),
            KeptFrame::Trailers(trailers) => Frame::trailers(trailers),
        })
    }
}

impl Body for AttemptBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let playback = match &mut self.0 {
            Content::Empty => return Poll::Ready(None),
            Content::Copy(copy) => return copy.poll_frame(cx),
            Content::Own(content) => return Poll::Ready(content.take().map(|content| Ok(Frame::data(content)))),
            Content::Playback(playback) => playback,
        };
        if playback.attempt != playback.body.attempt.get() {
            return Poll::Ready(Some(Err("the attempt was abandoned".into())));
        }
        if let Some(frame) = playback.next_kept() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let body = playback.body.clone();
        ready!(body.poll_gate(cx));
        let frame = ready!(body.poll_next(cx));
        playback.position += 1;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Empty => true,
            Content::Copy(copy) => copy.is_end_stream(),
            Content::Own(content) => content.is_none(),
            Content::Playback(playback) => {
                let kept = playback.body.kept.borrow();
                let replaying = kept.as_ref().is_some_and(|kept| playback.position < kept.len());
                !replaying && playback.body.is_complete()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Empty => SizeHint::with_exact(0),
            Content::Copy(copy) => copy.size_hint(),
            Content::Own(content) => {
                SizeHint::with_exact(content.as_ref().as_ref().map_or(0, |content| content.len() as u64))
            }
            Content::Playback(playback) if playback.position == 0 => playback.body.size,
            Content::Playback(_) => SizeHint::default(),
        }
    }
}

impl Source for AttemptBody {
    fn hold(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        if let Content::Playback(playback) = &self.0
            && playback.attempt == playback.body.attempt.get()
        {
            return playback.body.incoming.borrow_mut().hold(cx);
        }
        Ok(())
    }
}
