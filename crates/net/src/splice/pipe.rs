//! Pipes to splice through, kept for use again as long as they are empty.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe should hold, which is also how much one turn moves: the largest that an unprivileged user may have
/// (`/proc/sys/fs/pipe-max-size`). A bare loop over one core of two cost, in CPU seconds per GiB over 1, 16 and 256 loopback
/// connections, 0.35, 0.27 and 0.21 with 256 KiB; 0.30, 0.23 and 0.18 with 512 KiB; 0.25, 0.13 and 0.14 with 1 MiB, since both
/// sockets are woken and acknowledged less often; with 64 KiB it was 0.32 over 16 connections, copying 0.47 (November 2026,
/// Linux 6.18). Pipes of 1 MiB with 512 KiB asked for at a time gave the figures of 512 KiB. A receiver that does not keep up
/// holds one pipe.
///
/// The smaller ones are for a user whose pipes hold as much as they may (`/proc/sys/fs/pipe-user-pages-soft`): growing one is
/// refused then, and new ones hold two pages, with which copying costs less.
const CAPACITIES: [usize; 3] = [1 << 20, 256 << 10, 64 << 10];
/// Pipes kept per worker, empty; that takes 10 KiB each of the kernel's memory. Only connections that move data at this
/// moment hold one.
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
    /// Where the process has no descriptors left, or the user's pipes hold as much as they may: then copy.
    pub fn take(&self) -> io::Result<Lent<'_>> {
        let kept = self.idle.borrow_mut().pop();
        let pipe = match kept {
            Some(pipe) => pipe,
            None => {
                let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
                let capacity = CAPACITIES.iter().find_map(|capacity| fcntl_setpipe_size(&write, *capacity).ok());
                let capacity = capacity.ok_or(io::ErrorKind::QuotaExceeded)?;
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
