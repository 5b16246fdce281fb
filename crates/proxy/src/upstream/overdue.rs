//! Wakes requests that have waited long for their response, so that they can look why.
//!
//! A timer for each request would cost it two system calls: tokio wakes its driver, by a write to a pipe of its own, for a
//! timer that ends before the others (8 → 6 at one connection, strace, November 2026). Here one timer per worker runs while
//! there are requests, and looks them over.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How often requests are looked over.
const TURN: Duration = Duration::from_millis(75);
/// A request that has seen so many turns is overdue, after 225 to 300 ms.
const TURNS: u32 = 4;

/// The requests of one worker that wait for responses. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Overdue(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    turn: u32,
    /// Some task looks them over.
    ticking: bool,
    /// A request came since the last turn.
    busy: bool,
    under_way: usize,
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Slot {
    since: u32,
    waker: Option<Waker>,
}

/// One request that waits.
#[derive(Debug)]
pub struct Waiting {
    all: Overdue,
    slot: usize,
    /// The last turn that it was told of.
    told: u32,
}

impl Overdue {
    /// Begins to count a request's turns. Must be called inside a local runtime.
    pub fn wait(&self) -> Waiting {
        let mut state = self.0.borrow_mut();
        let new = Slot { since: state.turn, waker: None };
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
        state.under_way += 1;
        state.busy = true;
        if !std::mem::replace(&mut state.ticking, true) {
            tokio::task::spawn_local(tick(Ticking(self.clone())));
        }
        let told = state.turn;
        drop(state);
        Waiting { all: self.clone(), slot, told }
    }

    /// One turn. Says whether there is anything left to look over.
    fn turn(&self) -> bool {
        let mut state = self.0.borrow_mut();
        state.turn = state.turn.wrapping_add(1);
        let turn = state.turn;
        for slot in &mut state.slots {
            if turn.wrapping_sub(slot.since) >= TURNS
                && let Some(waker) = slot.waker.take()
            {
                waker.wake();
            }
        }
        if state.under_way == 0 {
            // A burst's worth of room is not kept.
            state.slots = Vec::new();
            state.free = Vec::new();
        }
        std::mem::take(&mut state.busy) || state.under_way > 0
    }
}

/// Says that nobody ticks any more, also where the task is dropped with its runtime.
struct Ticking(Overdue);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.0.borrow_mut().ticking = false;
    }
}

async fn tick(ticking: Ticking) {
    loop {
        tokio::time::sleep(TURN).await;
        if !ticking.0.turn() {
            return;
        }
    }
}

impl Waiting {
    /// Ready once for each turn that the request is overdue.
    pub fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.all.0.borrow_mut();
        let turn = state.turn;
        let slot = &mut state.slots[self.slot];
        if turn.wrapping_sub(slot.since) >= TURNS && turn != self.told {
            self.told = turn;
            return Poll::Ready(());
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.all.0.borrow_mut();
        state.slots[self.slot].waker = None;
        state.free.push(self.slot);
        state.under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn wakes_what_is_overdue_each_turn_and_rests_when_nothing_waits() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let overdue = Overdue::default();
            let began = tokio::time::Instant::now();
            let mut waiting = overdue.wait();
            poll_fn(|cx| waiting.poll_turn(cx)).await;
            assert_eq!(began.elapsed().as_millis() / 75, 4);
            poll_fn(|cx| waiting.poll_turn(cx)).await;
            assert_eq!(began.elapsed().as_millis() / 75, 5);
            let other = overdue.wait();
            drop((waiting, other));
            tokio::time::sleep(TURN * 3).await;
            assert!(!overdue.0.borrow().ticking);
            assert!(overdue.0.borrow().slots.is_empty());
            drop(overdue.wait());
            assert!(overdue.0.borrow().ticking);
        });
    }
}
