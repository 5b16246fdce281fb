//! Bytes of a request's body on their way upstream, counted for the downstream's connection for as long as anything holds
//! them: the copy for retries, or a queue of the connection to the upstream.
//!
//! While the connection's source holds its share, one piece of each body at a time is on its way, and the downstream waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use runtime::admission::{Admitted, Buffered};

/// What is on its way of one body.
#[derive(Debug, Default)]
pub(super) struct Unsent(Arc<Excess>);

/// Pieces for which there was no room. Atomic because [`Bytes`] can change threads.
#[derive(Debug, Default)]
struct Excess {
    pieces: AtomicUsize,
    waiting: AtomicWaker,
}

/// A piece of a body.
struct Piece {
    data: Bytes,
    /// `None` if there was no room.
    _counted: Option<Buffered>,
    excess: Option<Arc<Excess>>,
}

impl Unsent {
    /// Waits until nothing is on its way for which there was no room.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let within = || self.0.pieces.load(SeqCst) == 0;
        if within() {
            return Poll::Ready(());
        }
        self.0.waiting.register(cx.waker());
        if within() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Counts a piece of the body until all its clones are dropped. Returns whether there was room.
    pub(super) fn count(&self, data: Bytes, owner: &Admitted) -> (Bytes, bool) {
        let counted = owner.buffer().and_then(|mut buffered| buffered.grow(data.len()).then_some(buffered));
        let fits = counted.is_some();
        let excess = (!fits).then(|| {
            self.0.pieces.fetch_add(1, SeqCst);
            self.0.clone()
        });
        (Bytes::from_owner(Piece { data, _counted: counted, excess }), fits)
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(excess) = &self.excess {
            excess.pieces.fetch_sub(1, SeqCst);
            excess.waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::task::Waker;

    use super::*;
    use runtime::admission::{Admission, Limits};

    fn admitted(buffered: u64) -> Admitted {
        let admission = Admission::new(Limits { buffered, ..Limits::default() });
        let mut admitted = None;
        admission.admit(Ipv4Addr::LOCALHOST.into(), |admission| {
            admitted = Some(admission);
            tokio::spawn(async {}).abort_handle()
        });
        admitted.unwrap()
    }

    #[tokio::test]
    async fn beyond_the_share_of_a_source_one_piece_at_a_time_is_on_its_way() {
        let (owner, cx) = (admitted(8_000), &mut Context::from_waker(Waker::noop()));
        let (first, second) = (Unsent::default(), Unsent::default());
        let piece = || Bytes::from(vec![1; 5_000]);
        let (counted, fits) = first.count(piece(), &owner);
        assert!(fits && counted == piece());
        let copy = counted.clone();
        let (excess, fits) = second.count(piece(), &owner);
        assert!(!fits && excess == piece(), "the limit has no room for both");
        assert!(first.poll_room(cx).is_ready(), "a body that is within the share does not wait");
        assert!(second.poll_room(cx).is_pending());
        drop(counted);
        let (more, fits) = second.count(piece(), &owner);
        assert!(!fits, "the copy still counts");
        drop((excess, more));
        assert!(second.poll_room(cx).is_ready());
        drop(copy);
        assert!(second.count(piece(), &owner).1);
    }
}
