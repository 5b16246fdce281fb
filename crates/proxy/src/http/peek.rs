//! Bodies of which the beginning is read in advance: a server that is asked about a request may want to see it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use runtime::admission::{Admitted, Buffered};

use super::{BoxError, Incoming};

/// The beginning of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// At most as many bytes as were asked for.
    pub data: Bytes,
    /// There is nothing more.
    pub whole: bool,
}

/// A body of which the beginning was read in advance. It yields all of its frames.
#[derive(Debug)]
pub struct PeekedBody {
    frames: VecDeque<Frame<Bytes>>,
    /// The bytes of `frames`.
    bytes: usize,
    counted: Option<Buffered>,
    rest: Incoming,
    /// `rest` has ended.
    ended: bool,
}

impl PeekedBody {
    /// Begins to read in advance, for the connection `owner`.
    pub fn new(rest: Incoming, owner: &Rc<Admitted>) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, counted: owner.buffer(), rest, ended: false }
    }

    /// Reads until there are more than `max` bytes, or all.
    ///
    /// # Errors
    /// Returns an error if the body fails, or the proxy holds too much for the connection already.
    pub fn poll_fill(&mut self, max: usize, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        while self.bytes <= max && !self.ended && !self.rest.is_end_stream() {
            let Some(frame) = ready!(Pin::new(&mut self.rest).poll_frame(cx)) else {
                self.ended = true;
                break;
            };
            let frame = frame?;
            let length = frame.data_ref().map_or(0, Bytes::len);
            if length > 0 && !self.counted.as_mut().is_some_and(|counted| counted.grow(length)) {
                return Poll::Ready(Err("the proxy holds too much for the connection".into()));
            }
            self.bytes += length;
            self.frames.push_back(frame);
        }
        Poll::Ready(Ok(()))
    }

    /// Returns the beginning: at most `max` bytes.
    pub fn beginning(&self, max: usize) -> Beginning {
        let mut data = BytesMut::with_capacity(self.bytes.min(max));
        for piece in self.frames.iter().filter_map(Frame::data_ref) {
            data.extend_from_slice(&piece[..piece.len().min(max - data.len())]);
        }
        let whole = self.bytes <= max && (self.ended || self.rest.is_end_stream());
        Beginning { data: data.freeze(), whole }
    }

    pub(super) fn hold(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        self.rest.hold(cx)
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.frames.pop_front() {
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.bytes -= length;
            if let Some(counted) = &mut self.counted {
                counted.shrink(length);
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && (self.ended || self.rest.is_end_stream())
    }
}
