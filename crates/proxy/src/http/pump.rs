//! Sends a body on an HTTP/2 stream, as fast as the peer gives credit for.

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

/// A body that takes in what arrives for it while it cannot be sent on.
pub trait Source: Body<Data = Bytes, Error = BoxError> + Unpin {
    /// See [`super::Incoming::hold`].
    fn hold(&mut self, cx: &mut Context<'_>);
}

/// Sends a body to its end. Says why, where that did not come about; the stream is reset then.
#[derive(Debug)]
pub struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Taken from the body, and waiting for credit; and whether it is the end.
    waiting: Option<(Bytes, bool)>,
    /// Counts those that wait for credit.
    counter: Option<Rc<Cell<u32>>>,
    counted: Option<Counted>,
}

/// One that waits for credit.
#[derive(Debug)]
struct Counted(Rc<Cell<u32>>);

impl Counted {
    fn new(counter: &Rc<Cell<u32>>) -> Self {
        counter.set(counter.get() + 1);
        Self(counter.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl<B: Source> Pump<B> {
    /// Begins to. While it waits for credit, it is counted in `counter`.
    pub fn new(body: B, stream: SendStream<Bytes>, counter: Option<Rc<Cell<u32>>>) -> Self {
        Self { body, stream, waiting: None, counter, counted: None }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            if let Some((data, end)) = self.waiting.take() {
                if self.stream.capacity() == 0
                    && let Poll::Pending = self.poll_credit(cx)?
                {
                    self.waiting = Some((data, end));
                    if self.counted.is_none() {
                        self.counted = self.counter.as_ref().map(Counted::new);
                    }
                    self.body.hold(cx);
                    return Poll::Pending;
                }
                self.counted = None;
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
                            // One byte is asked for, not all of it: credit that is reserved for a stream is taken from
                            // the others of its session. h2 raises it to what it is given to send.
                            self.stream.reserve_capacity(1);
                            self.waiting = Some((data, end));
                        } else if end {
                            self.stream.send_data(data, true)?;
                            return Poll::Ready(Ok(()));
                        }
                        // Empty frames that end nothing go no further: h2 counts them over a connection's whole life,
                        // and ends it over a hundred.
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
        // Only who waits needs to hear that nobody wants the rest.
        if sent.is_pending()
            && let Poll::Ready(reason) = this.stream.poll_reset(cx)
        {
            return Poll::Ready(Err(h2::Error::from(reason?).into()));
        }
        sent
    }
}

/// What a peer is told of a body that broke off: what h2 was told itself, if it was.
fn reason_of(error: &BoxError) -> Reason {
    let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
    reason.filter(|reason| *reason != Reason::NO_ERROR).unwrap_or(Reason::INTERNAL_ERROR)
}

/// A request's body that is sent by a task of its own. Dropped, the stream is reset if it has not ended.
#[derive(Debug)]
pub struct Upload(JoinHandle<()>);

impl Upload {
    /// Sends the rest of a body beside the response.
    pub fn begin<B: Source + 'static>(pump: Pump<B>) -> Self {
        Self(tokio::task::spawn_local(async move {
            // The response says what became of the request.
            let _ = pump.await;
        }))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}
