//! Sends a body on an HTTP/2 stream as fast as the peer's flow control allows.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;
use tokio::task::JoinHandle;

use super::BoxError;

/// A body that can hold received frames while they cannot be sent on.
pub trait Source: Body<Data = Bytes, Error = BoxError> + Unpin {
    /// Holds received frames; see [`super::Incoming::hold`].
    fn hold(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError>;
}

/// Sends a body in full. Resolves to an error if that fails, and the stream is reset.
#[derive(Debug)]
pub struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Data that waits for flow-control credit, and whether it ends the stream.
    waiting: Option<(Bytes, bool)>,
    /// Counts the pumps of a session that wait for credit.
    counter: Option<Rc<Cell<u32>>>,
    blocked: Option<Blocked>,
}

/// A pump that waits for credit.
#[derive(Debug)]
struct Blocked(Rc<Cell<u32>>);

impl Blocked {
    fn new(counter: &Rc<Cell<u32>>) -> Self {
        counter.set(counter.get() + 1);
        Self(counter.clone())
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl<B: Source> Pump<B> {
    /// Creates a pump. It is counted in `counter` while it waits for flow-control credit.
    pub fn new(body: B, stream: SendStream<Bytes>, counter: Option<Rc<Cell<u32>>>) -> Self {
        Self { body, stream, waiting: None, counter, blocked: None }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            if let Some((data, end)) = self.waiting.take() {
                if self.stream.capacity() == 0
                    && let Poll::Pending = self.poll_credit(cx)?
                {
                    self.waiting = Some((data, end));
                    if self.blocked.is_none() {
                        self.blocked = self.counter.as_ref().map(Blocked::new);
                    }
                    if let Err(error) = self.body.hold(cx) {
                        self.stream.send_reset(reason_of(&error));
                        return Poll::Ready(Err(error));
                    }
                    return Poll::Pending;
                }
                self.blocked = None;
                self.stream.send_data(data, end)?;
                if end {
                    return Poll::Ready(Ok(()));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => {
                    self.stream.send_reset(reason_of(&error));
                    return Poll::Ready(Err(error));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let end = self.body.is_end_stream();
                        if !data.is_empty() {
                            // One byte is reserved, not all: credit that is reserved for a stream is not available to
                            // the others of its session. h2 raises the reservation to the data it is given.
                            self.stream.reserve_capacity(1);
                            self.waiting = Some((data, end));
                        } else if end {
                            self.stream.send_data(data, true)?;
                            return Poll::Ready(Ok(()));
                        }
                        // Empty frames that end nothing are dropped: h2 counts them over a connection's lifetime and ends
                        // it after a hundred.
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.stream.send_trailers(trailers)?;
                            return Poll::Ready(Ok(()));
                        }
                    }
                },
            }
        }
    }

    fn poll_credit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(granted) => drop(granted?),
                None => return Poll::Ready(Err("the stream is closed".into())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<B: Source> Future for Pump<B> {
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let sent = this.poll_send(cx);
        // A reset by the peer matters only while the pump waits.
        if sent.is_pending()
            && let Poll::Ready(reason) = this.stream.poll_reset(cx)
        {
            return Poll::Ready(Err(h2::Error::from(reason?).into()));
        }
        sent
    }
}

/// Returns the reset reason for a body that failed: the reason of the other side's reset, if it was one.
fn reason_of(error: &BoxError) -> Reason {
    let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
    reason.filter(|reason| *reason != Reason::NO_ERROR).unwrap_or(Reason::INTERNAL_ERROR)
}

/// A task that sends the rest of a request's body. Dropping it resets the stream if it has not ended.
#[derive(Debug)]
pub struct Upload(JoinHandle<()>);

impl Upload {
    /// Sends the rest of a body while the response is received.
    pub fn begin<B: Source + 'static>(pump: Pump<B>) -> Self {
        Self(tokio::task::spawn_local(async move {
            // The response tells what became of the request.
            let _ = pump.await;
        }))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}
