//! Wakes requests that have waited long for their response, so that they can check their connection.
//!
//! A timer per request would cost two system calls: tokio wakes its driver, by a write to a pipe, for a timer that ends before
//! the others (8 → 6 at one connection, strace, November 2026). Instead one timer per worker runs while there are requests.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The interval of the timer.
const TICK: Duration = Duration::from_millis(75);
/// The number of ticks after which a request is overdue: 225 to 300 ms.
const OVERDUE_TICKS: u32 = 4;

/// The requests of one worker that wait for responses. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct OverdueRequests(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    tick: u32,
    /// The timer runs.
    ticking: bool,
    /// A request began since the last tick.
    busy: bool,
    in_progress: usize,
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Slot {
    since: u32,
    waker: Option<Waker>,
}

/// A request that waits for its response.
#[derive(Debug)]
pub struct WaitingRequest {
    all: OverdueRequests,
    slot: usize,
    /// The last tick that was returned.
    seen: u32,
}

impl OverdueRequests {
    /// Adds a request. Must be called within a `LocalSet`.
    pub fn wait(&self) -> WaitingRequest {
        let mut state = self.0.borrow_mut();
        let new = Slot { since: state.tick, waker: None };
        let slot = match state.free.pop() {
            Some(slot) => {
                state.slots[slot] = new;
                slot
            }
            None => {
                state.slots.push(new);
                state.slots.len() - 1
            }
        };
        state.in_progress += 1;
        state.busy = true;
        if !std::mem::replace(&mut state.ticking, true) {
            tokio::task::spawn_local(run(Ticking(self.clone())));
        }
        let seen = state.tick;
        drop(state);
        WaitingRequest { all: self.clone(), slot, seen }
    }

    /// Wakes overdue requests. Returns whether the timer is still needed.
    fn tick(&self) -> bool {
        let mut state = self.0.borrow_mut();
        state.tick = state.tick.wrapping_add(1);
        let tick = state.tick;
        for slot in &mut state.slots {
            if tick.wrapping_sub(slot.since) >= OVERDUE_TICKS
                && let Some(waker) = slot.waker.take()
            {
                waker.wake();
            }
        }
        if state.in_progress == 0 {
            // The space of a burst is released.
            state.slots = Vec::new();
            state.free = Vec::new();
        }
        std::mem::take(&mut state.busy) || state.in_progress > 0
    }
}

/// Notes the end of the timer, also if its task is dropped with the runtime.
struct Ticking(OverdueRequests);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.0.borrow_mut().ticking = false;
    }
}

async fn run(ticking: Ticking) {
    loop {
        tokio::time::sleep(TICK).await;
        if !ticking.0.tick() {
            return;
        }
    }
}

impl WaitingRequest {
    /// Ready once per tick while the request is overdue.
    pub fn poll_tick(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.all.0.borrow_mut();
        let tick = state.tick;
        let slot = &mut state.slots[self.slot];
        if tick.wrapping_sub(slot.since) >= OVERDUE_TICKS && tick != self.seen {
            self.seen = tick;
            return Poll::Ready(());
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for WaitingRequest {
    fn drop(&mut self) {
        let mut state = self.all.0.borrow_mut();
        state.slots[self.slot].waker = None;
        state.free.push(self.slot);
        state.in_progress -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn wakes_overdue_requests_each_tick_and_stops_without_requests() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let overdue = OverdueRequests::default();
            let begun = tokio::time::Instant::now();
            let mut waiting = overdue.wait();
            poll_fn(|cx| waiting.poll_tick(cx)).await;
            assert_eq!(begun.elapsed().as_millis() / 75, 4);
            poll_fn(|cx| waiting.poll_tick(cx)).await;
            assert_eq!(begun.elapsed().as_millis() / 75, 5);
            let other = overdue.wait();
            drop((waiting, other));
            tokio::time::sleep(TICK * 3).await;
            assert!(!overdue.0.borrow().ticking);
            assert!(overdue.0.borrow().slots.is_empty());
            drop(overdue.wait());
            assert!(overdue.0.borrow().ticking);
        });
    }
}
