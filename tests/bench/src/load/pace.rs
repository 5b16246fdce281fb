//! When requests of an open loop are due, and who takes them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

/// Requests that are due, and lanes that have nothing to do.
#[derive(Debug, Default)]
pub struct Queue {
    due: RefCell<VecDeque<Instant>>,
    idle: RefCell<VecDeque<Waker>>,
}

impl Queue {
    /// When the next one is, or was, due; waits for it. The lane that has been idle for longest is served first.
    pub async fn next(&self) -> Instant {
        poll_fn(|context| match self.due.borrow_mut().pop_front() {
            Some(due) => Poll::Ready(due),
            None => {
                self.idle.borrow_mut().push_back(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Takes out all that nobody began.
    pub fn drain(&self) -> VecDeque<Instant> {
        self.due.take()
    }

    fn push(&self, due: Instant) {
        self.due.borrow_mut().push_back(due);
        let idle = self.idle.borrow_mut().pop_front();
        if let Some(waker) = idle {
            waker.wake();
        }
    }

    /// Puts requests in at a steady rate, for ever. A timer of the kernel's, because the runtime's own has a resolution of
    /// a millisecond.
    pub async fn fill(&self, rate: f64) -> io::Result<()> {
        // Whole nanoseconds, as the timer has them: otherwise it would drift past the times that are computed here.
        let interval = Duration::from_nanos((1e9 / rate).round().max(1.0) as u64);
        let start = Instant::now();
        // A pipe as far as the runtime is concerned: a descriptor that becomes readable.
        let mut timer = Receiver::from_owned_fd_unchecked(every(interval)?)?;
        let mut due = start + interval;
        loop {
            // Longer than what is read, which tells the runtime that there is no more.
            let _expirations = timer.read(&mut [0; 16]).await?;
            let now = Instant::now();
            while due <= now {
                self.push(due);
                due += interval;
            }
        }
    }
}

fn every(interval: Duration) -> io::Result<OwnedFd> {
    let timer =
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK.union(TimerfdFlags::CLOEXEC))?;
    let interval = Timespec { tv_sec: interval.as_secs().cast_signed(), tv_nsec: interval.subsec_nanos().into() };
    let times = Itimerspec { it_interval: interval, it_value: interval };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    Ok(timer)
}
