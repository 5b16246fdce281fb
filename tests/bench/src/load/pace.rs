//! The queue of an open loop: requests that are due, and callers that wait for one.

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

/// Due requests and idle callers.
#[derive(Debug, Default)]
pub struct Queue {
    due: RefCell<VecDeque<Instant>>,
    idle: RefCell<VecDeque<Waker>>,
}

impl Queue {
    /// Waits for the next request and returns when it was due. The caller that waits for longest is served first.
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

    /// Removes and returns the due times of requests that no caller has begun.
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

    /// Adds requests at a steady rate without end. The timer is the kernel's, because the runtime's has a resolution of a
    /// millisecond.
    pub async fn fill(&self, rate: f64) -> io::Result<()> {
        // Whole nanoseconds, as in the timer: else the timer would drift from the computed times.
        let interval = Duration::from_nanos((1e9 / rate).round().max(1.0) as u64);
        let start = Instant::now();
        // The runtime treats the descriptor as a pipe that becomes readable.
        let mut timer = Receiver::from_owned_fd_unchecked(every(interval)?)?;
        let mut due = start + interval;
        loop {
            // The buffer is longer than the data, so the runtime knows that there is no more.
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
