//! Pipes to splice through, kept for use again as long as they are empty.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe should hold: larger ones gave no more throughput on two cores, smaller ones more calls. An unprivileged
/// user's pipes get less once their sum passes `/proc/sys/fs/pipe-user-pages-soft`.
const CAPACITY: usize = 256 * 1024;
/// The kernel's own default, used where the larger size is refused.
const DEFAULT_CAPACITY: usize = 64 * 1024;
/// Pipes kept per worker. Only connections that move data at this moment hold one.
const KEPT: usize = 32;

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    holds: usize,
}

/// One worker's pipes.
#[derive(Debug, Default)]
pub struct Pipes {
    idle: RefCell<Vec<Pipe>>,
}

impl Pipes {
    /// An empty pipe.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub fn take(&self) -> io::Result<Lent<'_>> {
        let kept = self.idle.borrow_mut().pop();
        let pipe = match kept {
            Some(pipe) => pipe,
            None => {
                let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
                let capacity = fcntl_setpipe_size(&write, CAPACITY).unwrap_or(DEFAULT_CAPACITY);
                Pipe { read, write, capacity, holds: 0 }
            }
        };
        Ok(Lent { pipe: Some(pipe), home: self })
    }

    /// How many wait for use.
    pub fn idle(&self) -> usize {
        self.idle.borrow().len()
    }
}

/// A pipe in use. Dropped, it goes back to its pool if it is empty, and is closed if it is not: what one connection left
/// in it must never reach another.
#[derive(Debug)]
pub struct Lent<'a> {
    pipe: Option<Pipe>,
    home: &'a Pipes,
}

impl Lent<'_> {
    /// Bytes in it.
    pub fn holds(&self) -> usize {
        self.pipe.as_ref().map_or(0, |pipe| pipe.holds)
    }

    /// Moves what can be read from `from` into it, without waiting. 0: `from` is at its end.
    pub fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let pipe = self.pipe();
        let room = pipe.capacity - pipe.holds;
        let moved = splice(from, None, &pipe.write, None, room, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        pipe.holds += moved;
        Ok(moved)
    }

    /// Moves what it holds to `to`, as much as `to` takes without waiting.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let pipe = self.pipe();
        let moved = splice(&pipe.read, None, to, None, pipe.holds, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        pipe.holds -= moved;
        Ok(moved)
    }

    fn pipe(&mut self) -> &mut Pipe {
        self.pipe.as_mut().expect("taken only by drop")
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take().filter(|pipe| pipe.holds == 0) {
            let mut idle = self.home.idle.borrow_mut();
            if idle.len() < KEPT {
                idle.push(pipe);
            }
        }
    }
}
