//! Bodies as peers send them: hyper's body for HTTP/1.1, the frames of an h2 stream for HTTP/2.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};
use runtime::admission::{Admitted, Buffered};

use super::BoxError;
use super::peek::PeekedBody;
use super::pump::Upload;

/// DATA frames of at least this size are passed on as they are. Smaller frames that are available at the same time are
/// merged: each frame costs every hop some 300 ns and 250 bytes, and copying a kilobyte some 20 ns.
const WHOLE: usize = 1024;
/// The maximum size of merged frames: the payload of one DATA frame.
const MAX_MERGED: usize = 16 * 1024;

/// A message's body as the peer sends it.
#[derive(Debug)]
pub enum Incoming {
    /// The body of an HTTP/1.1 message.
    Http1(hyper::body::Incoming),
    /// The body of an HTTP/2 message.
    Http2(Http2Body),
    /// A body of which the beginning was read in advance.
    Peeked(Box<PeekedBody>),
    /// A body that is not read: nobody asked for it.
    Refused,
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self::Http1(body)
    }
}

impl Incoming {
    /// Takes received frames out of h2's queue without giving the peer flow-control credit, while they cannot be sent on.
    /// h2 counts the small frames in its queue (`data_frame_budget`) and ends the connection if there are too many; held
    /// frames cost no more than their bytes, which the stream's window bounds.
    ///
    /// # Errors
    /// Returns an error if the proxy holds too much for the client already; the body fails with it.
    pub fn hold(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        match self {
            Self::Http1(_) | Self::Refused => Ok(()),
            Self::Http2(frames) => Ok(frames.hold(cx)?),
            Self::Peeked(body) => body.hold(cx),
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Self::Http2(frames) => frames.poll_frame(cx).map_err(BoxError::from),
            Self::Peeked(body) => body.poll_frame(cx),
            Self::Refused => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(frames) => {
                frames.held.is_none() && frames.stream.as_ref().is_some_and(RecvStream::is_end_stream)
            }
            Self::Peeked(body) => body.is_end_stream(),
            Self::Refused => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(frames) => frames.length.map_or_else(SizeHint::default, SizeHint::with_exact),
            // The body's size is asked for before anything is read.
            Self::Peeked(_) => SizeHint::default(),
            Self::Refused => SizeHint::default(),
        }
    }
}

/// The frames of an HTTP/2 stream.
#[derive(Debug)]
pub struct Http2Body {
    /// `None` if more was to be held than may be.
    stream: Option<RecvStream>,
    /// The value of `content-length`, which h2 enforces.
    length: Option<u64>,
    held: Option<Box<HeldFrames>>,
    /// The connection that sends the frames, which those that are held count for; `None` for an upstream's.
    owner: Option<Rc<Admitted>>,
    /// The rest of the request's body, while the response is already being received.
    _upload: Option<Upload>,
    /// Set when the body is read, for a peer that waits to be asked for it.
    wanted: Option<Rc<Cell<bool>>>,
}

/// Frames that were taken from h2 and not passed on yet.
#[derive(Debug, Default)]
struct HeldFrames {
    pieces: VecDeque<Bytes>,
    small: BytesMut,
    counted: Option<Buffered>,
}

impl Http2Body {
    /// Wraps the stream of a message with this `content-length`.
    pub fn new(stream: RecvStream, length: Option<u64>, upload: Option<Upload>, owner: Option<Rc<Admitted>>) -> Self {
        let length = if stream.is_end_stream() { Some(0) } else { length };
        Self { stream: Some(stream), length, held: None, owner, _upload: upload, wanted: None }
    }

    /// Returns the body with a flag that is set when the body is read.
    pub fn noting_use(mut self, wanted: Rc<Cell<bool>>) -> Self {
        self.wanted = Some(wanted);
        self
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(wanted) = &self.wanted {
            wanted.set(true);
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(Some(Err(overflow()))) };
        if self.held.is_none() {
            let first = loop {
                match ready!(stream.poll_data(cx)) {
                    // The end of a stream without trailers.
                    Some(Ok(data)) if data.is_empty() => {}
                    Some(Ok(data)) => break data,
                    Some(Err(error)) => return Poll::Ready(ended_early(error)),
                    None => return self.poll_trailers(cx),
                }
            };
            if first.len() >= WHOLE {
                return Poll::Ready(Some(Ok(self.pass(first))));
            }
            // An error is returned again by the next poll.
            let second = match stream.poll_data(cx) {
                Poll::Ready(Some(Ok(second))) if !second.is_empty() => second,
                _ => return Poll::Ready(Some(Ok(self.pass(first)))),
            };
            let held = self.held.get_or_insert_default();
            held.put(first);
            held.put(second);
        }
        if let Err(error) = self.hold(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        match self.held.as_mut().and_then(|held| held.take()) {
            Some(piece) => {
                self.held.take_if(|held| held.is_empty());
                Poll::Ready(Some(Ok(self.pass(piece))))
            }
            None => Poll::Pending,
        }
    }

    /// Passes data on and gives the peer credit for as much.
    fn pass(&mut self, data: Bytes) -> Frame<Bytes> {
        if let Some(stream) = &mut self.stream {
            // Fails only if more is released than was received.
            let _ = stream.flow_control().release_capacity(data.len());
        }
        Frame::data(data)
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Some(Err(overflow()))) };
        Poll::Ready(match ready!(stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => ended_early(error),
        })
    }

    fn hold(&mut self, cx: &mut Context<'_>) -> Result<(), h2::Error> {
        let Some(stream) = &mut self.stream else { return Err(overflow()) };
        let mut more = 0;
        while let Poll::Ready(Some(Ok(data))) = stream.poll_data(cx) {
            if !data.is_empty() {
                more += data.len();
                self.held.get_or_insert_default().put(data);
            }
        }
        if more > 0
            && let (Some(held), Some(owner)) = (&mut self.held, &self.owner)
            && !held.count(more, owner)
        {
            // Dropping the stream frees what h2 has received, and what it is yet to receive.
            (self.stream, self.held) = (None, None);
            return Err(overflow());
        }
        Ok(())
    }
}

/// Returns the error of a stream whose client makes the proxy hold too much.
fn overflow() -> h2::Error {
    Reason::ENHANCE_YOUR_CALM.into()
}

/// Returns the result of a stream that was reset. `NO_ERROR` means that the rest is not needed (RFC 9113 §8.1), which is a
/// regular end.
fn ended_early(error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
    (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
}

impl HeldFrames {
    fn put(&mut self, data: Bytes) {
        if data.len() >= WHOLE {
            self.close();
            self.pieces.push_back(data);
            return;
        }
        if self.small.len() + data.len() > MAX_MERGED {
            self.close();
        }
        self.small.extend_from_slice(&data);
    }

    fn close(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let piece =
            self.pieces.pop_front().or_else(|| (!self.small.is_empty()).then(|| self.small.split().freeze()))?;
        if let Some(counted) = &mut self.counted {
            counted.shrink(piece.len());
        }
        Some(piece)
    }

    /// Counts bytes as held for a connection. Returns whether they may be.
    fn count(&mut self, bytes: usize, owner: &Admitted) -> bool {
        if self.counted.is_none() {
            self.counted = owner.buffer();
        }
        self.counted.as_mut().is_some_and(|counted| counted.grow(bytes))
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.small.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_are_merged_and_large_frames_are_not_copied() {
        let mut held = HeldFrames::default();
        for _ in 0..500 {
            held.put(Bytes::from_static(&[1; 64]));
        }
        let large = Bytes::from(vec![2; 5000]);
        held.put(large.clone());
        held.put(Bytes::from_static(&[3; 10]));
        let mut pieces = Vec::new();
        while let Some(piece) = held.take() {
            pieces.push(piece);
        }
        assert!(held.is_empty());
        let sizes: Vec<usize> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [16384, 500 * 64 - 16384, 5000, 10]);
        assert_eq!(pieces[2].as_ptr(), large.as_ptr(), "a large frame is not copied");
        let all: Vec<u8> = pieces.concat();
        assert!(all[..32000].iter().all(|byte| *byte == 1) && all[37000..].iter().all(|byte| *byte == 3));
    }
}
