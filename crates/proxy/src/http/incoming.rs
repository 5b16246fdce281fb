//! Bodies as peers send them: hyper's body for HTTP/1.1, the frames of an h2 stream for HTTP/2.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};

use super::BoxError;
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
    pub fn hold(&mut self, cx: &mut Context<'_>) {
        if let Self::Http2(frames) = self {
            frames.hold(cx);
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
            Self::Refused => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(frames) => frames.held.is_none() && frames.stream.is_end_stream(),
            Self::Refused => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(frames) => frames.length.map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Refused => SizeHint::default(),
        }
    }
}

/// The frames of an HTTP/2 stream.
#[derive(Debug)]
pub struct Http2Body {
    stream: RecvStream,
    /// The value of `content-length`, which h2 enforces.
    length: Option<u64>,
    held: Option<Box<HeldFrames>>,
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
}

impl Http2Body {
    /// Wraps the stream of a message with this `content-length`.
    pub fn new(stream: RecvStream, length: Option<u64>, upload: Option<Upload>) -> Self {
        let length = if stream.is_end_stream() { Some(0) } else { length };
        Self { stream, length, held: None, _upload: upload, wanted: None }
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
        if self.held.is_none() {
            let first = loop {
                match ready!(self.stream.poll_data(cx)) {
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
            let second = match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(second))) if !second.is_empty() => second,
                _ => return Poll::Ready(Some(Ok(self.pass(first)))),
            };
            let held = self.held.get_or_insert_default();
            held.put(first);
            held.put(second);
        }
        self.hold(cx);
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
        // Fails only if more is released than was received.
        let _ = self.stream.flow_control().release_capacity(data.len());
        Frame::data(data)
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => ended_early(error),
        })
    }

    fn hold(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(Ok(data))) = self.stream.poll_data(cx) {
            if !data.is_empty() {
                self.held.get_or_insert_default().put(data);
            }
        }
    }
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
        self.pieces.pop_front().or_else(|| (!self.small.is_empty()).then(|| self.small.split().freeze()))
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
