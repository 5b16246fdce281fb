//! Copies of request bodies, for mirrors.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::{BoxError, headers};

/// The maximum number of bytes that a copy holds until they are sent.
const MAX_HELD: usize = 64 * 1024;

/// A copy of a body: the reader of the body adds frames, and a mirror takes them.
#[derive(Debug, Default)]
pub(super) struct Copy {
    frames: RefCell<VecDeque<Copied>>,
    held: Cell<usize>,
    /// The body is complete.
    ended: Cell<bool>,
    /// The mirror did not keep up.
    overflowed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    size: SizeHint,
}

#[derive(Debug)]
enum Copied {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Copy {
    /// Creates a copy of a body of this size.
    pub(super) fn of_size(size: SizeHint) -> Self {
        Self { size, ..Self::default() }
    }

    /// Adds a frame. The data is copied: that of the body counts as held for its connection until it is dropped.
    pub(super) fn push(&self, frame: &Frame<Bytes>) {
        if self.overflowed.get() {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.held.set(self.held.get() + data.len());
            if self.held.get() > MAX_HELD {
                self.overflowed.set(true);
                self.frames.borrow_mut().clear();
            } else {
                self.frames.borrow_mut().push_back(Copied::Data(Bytes::copy_from_slice(data)));
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            let mut trailers = trailers.clone();
            headers::end_hop_of_trailers(&mut trailers);
            self.frames.borrow_mut().push_back(Copied::Trailers(trailers));
        }
        self.wake();
    }

    /// Notes that the body is complete.
    pub(super) fn end(&self) {
        self.ended.set(true);
        self.wake();
    }

    /// Notes that the body is not read any longer. An incomplete copy fails.
    pub(super) fn abandon(&self) {
        if !self.ended.get() {
            self.overflowed.set(true);
            self.wake();
        }
    }

    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.frames.borrow_mut().pop_front() {
            return Poll::Ready(Some(Ok(match frame {
                Copied::Data(data) => {
                    self.held.set(self.held.get() - data.len());
                    Frame::data(data)
                }
                Copied::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if self.overflowed.get() {
            return Poll::Ready(Some(Err("the mirror does not receive the whole body".into())));
        }
        if self.ended.get() {
            return Poll::Ready(None);
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended.get() && self.frames.borrow().is_empty()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.size
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(copy: &Copy) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        copy.poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn frame(bytes: usize) -> Frame<Bytes> {
        Frame::data(Bytes::from(vec![0; bytes]))
    }

    #[test]
    fn frames_arrive_in_order_and_then_the_end() {
        let copy = Copy::default();
        assert!(poll(&copy).is_pending());
        copy.push(&frame(1));
        copy.push(&frame(2));
        copy.end();
        for length in [1, 2] {
            let Poll::Ready(Some(Ok(frame))) = poll(&copy) else { panic!("a frame") };
            assert_eq!(frame.data_ref().unwrap().len(), length);
        }
        assert!(matches!(poll(&copy), Poll::Ready(None)) && copy.is_end_stream());
    }

    #[test]
    fn a_copy_that_is_not_read_fails_and_holds_nothing() {
        let copy = Copy::default();
        for _ in 0..3 {
            copy.push(&frame(MAX_HELD / 2));
        }
        assert!(copy.frames.borrow().is_empty());
        assert!(matches!(poll(&copy), Poll::Ready(Some(Err(_)))));
        let abandoned = Copy::default();
        abandoned.push(&frame(1));
        abandoned.abandon();
        assert!(matches!(poll(&abandoned), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(poll(&abandoned), Poll::Ready(Some(Err(_)))));
    }
}
