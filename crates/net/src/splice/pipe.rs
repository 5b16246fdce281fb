//! A pool of pipes for `splice(2)`. Only empty pipes are reused.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// The capacities of pipes, in order of preference. A splice moves at most the capacity of a pipe.
///
/// The first is the largest that an unprivileged user may have (`/proc/sys/fs/pipe-max-size`). A bare loop on one core
/// of two took, in CPU seconds per GiB over 1, 16 and 256 loopback connections, 0.35, 0.27 and 0.21 with 256 KiB; 0.30,
/// 0.23 and 0.18 with 512 KiB; 0.25, 0.13 and 0.14 with 1 MiB, since both sockets are woken and acknowledged less
/// often; with 64 KiB it took 0.32 over 16 connections, copying 0.47 (November 2026, Linux 6.18). Pipes of 1 MiB with
/// splices of 512 KiB took as long as 512 KiB. A receiver that does not keep up occupies one pipe.
///
/// The smaller ones are for a user whose pipes have reached their limit (`/proc/sys/fs/pipe-user-pages-soft`): the
/// kernel then refuses to enlarge a pipe, and new pipes hold two pages, with which copying is cheaper.
const CAPACITIES: [usize; 3] = [1 << 20, 256 << 10, 64 << 10];
/// The maximum number of idle pipes per worker. An empty pipe takes 10 KiB of kernel memory. Only connections that move
/// data at the moment occupy a pipe.
const KEPT: usize = 32;

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    holds: usize,
}

/// The pipes of one worker.
#[derive(Debug, Default)]
pub struct Pipes {
    idle: RefCell<Vec<Pipe>>,
}

impl Pipes {
    /// Takes an empty pipe from the pool, or creates one.
    ///
    /// # Errors
    /// Returns an error if the process has no file descriptors left or the user's pipes have reached their limit. The
    /// caller copies then.
    pub fn take(&self) -> io::Result<PooledPipe<'_>> {
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
        Ok(PooledPipe { pipe: Some(pipe), pool: self })
    }

    /// Returns the number of idle pipes.
    pub fn idle(&self) -> usize {
        self.idle.borrow().len()
    }
}

/// A pipe in use. When it is dropped, it returns to its pool if it is empty. Otherwise it is closed, so that bytes of
/// one connection never reach another.
#[derive(Debug)]
pub struct PooledPipe<'a> {
    pipe: Option<Pipe>,
    pool: &'a Pipes,
}

impl PooledPipe<'_> {
    /// Returns the number of bytes in the pipe.
    pub fn holds(&self) -> usize {
        self.pipe.as_ref().map_or(0, |pipe| pipe.holds)
    }

    /// Moves bytes from a socket into the pipe without blocking. Returns the number of bytes; 0 at the end of the stream.
    ///
    /// # Errors
    /// Returns an error if the socket has no bytes (`WouldBlock`) or fails.
    pub fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let pipe = self.pipe();
        let room = pipe.capacity - pipe.holds;
        let moved = splice(from, None, &pipe.write, None, room, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        pipe.holds += moved;
        Ok(moved)
    }

    /// Moves bytes from the pipe to a socket without blocking. Returns the number of bytes.
    ///
    /// # Errors
    /// Returns an error if the socket accepts no bytes (`WouldBlock`) or fails.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let pipe = self.pipe();
        let moved = splice(&pipe.read, None, to, None, pipe.holds, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        pipe.holds -= moved;
        Ok(moved)
    }

    fn pipe(&mut self) -> &mut Pipe {
        self.pipe.as_mut().expect("only drop takes the pipe")
    }
}

impl Drop for PooledPipe<'_> {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take().filter(|pipe| pipe.holds == 0) {
            let mut idle = self.pool.idle.borrow_mut();
            if idle.len() < KEPT {
                idle.push(pipe);
            }
        }
    }
}
