//! `Expect: 100-continue` (RFC 9110 §10.1.1), end to end: a request's body is held back until the upstream asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::header::{self, HeaderMap};

/// How long a body waits for an upstream that neither asks for it nor answers, because it ignores the expectation. Clients wait
/// for no more than a second either (curl).
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Opens when the upstream asks for the body. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ContinueGate(Arc<State>);

#[derive(Debug, Default)]
struct State {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl ContinueGate {
    /// Lets the body pass.
    pub fn open(&self) {
        self.0.open.store(true, Relaxed);
        self.0.waker.wake();
    }

    /// Returns whether the body may pass.
    pub fn is_open(&self) -> bool {
        self.0.open.load(Relaxed)
    }

    pub(super) fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_open() {
            return Poll::Ready(());
        }
        self.0.waker.register(cx.waker());
        if self.is_open() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Returns whether a request's body waits for `100 Continue`.
pub fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
