//! Puts load on what is measured, and counts and times what comes back.
//!
//! A generator is one thread with a single-threaded runtime. It shares the machine with what it measures, so it does
//! little: requests are prepared, answers are looked at no further than their status and length, and large bodies are
//! discarded in the kernel.
//!
//! - A **closed loop** ([`closed_loop`]) always has one request under way on each connection: throughput.
//! - An **open loop** ([`open_loop`]) has requests due at fixed times, whatever becomes of those before them, and counts
//!   latency from when each was due: a stall is felt by all that were due meanwhile (coordinated omission corrected).
//!
//! Both open and use their connections before the window that is measured begins, and call back at the window's edges on
//! the calling thread, which does nothing else meanwhile: the place to read what processes have used.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};

pub mod message;

mod drive;
mod failure;
mod http1;
mod outcome;
mod pace;
mod socket;

pub use drive::runtime;
pub use failure::Failure;
pub use outcome::Outcome;
pub use socket::{Scratch, read_with, scratch};

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 on connections that stay.
    Http1,
    /// HTTP/1.1 with a new connection for each request.
    NewConnection,
}

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What is spoken.
    pub protocol: Protocol,
    /// The length of a response's body.
    pub body: usize,
    /// How many requests are under way at most.
    pub connections: usize,
}

/// How long to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Before the window begins, after all connections have had an answer.
    pub warm_up: Duration,
    /// The window.
    pub duration: Duration,
}

/// One end of the window that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Counting begins now.
    Begin,
    /// Counting has ended.
    End,
}

/// As many requests as can be, always one under way on each connection. Those under way at the end are not counted.
///
/// # Errors
/// A connection could not be opened or had no right answer before the window. Later failures are in the outcome.
pub fn closed_loop(
    target: SocketAddr,
    authority: &str,
    shape: Shape,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    drive::drive(|| shape.lanes(target, authority), drive::Pace::Closed, timing, edge)
}

/// Requests at `rate` per second. One that finds all connections busy waits, and its waiting counts; one that has no
/// answer at the end counts with its waiting until then ([`Outcome::unanswered`]).
///
/// # Errors
/// As [`closed_loop`].
pub fn open_loop(
    target: SocketAddr,
    authority: &str,
    shape: Shape,
    rate: f64,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    ensure!(rate > 0.0 && rate.is_finite(), "a rate of {rate}/s");
    drive::drive(|| shape.lanes(target, authority), drive::Pace::Open(rate), timing, edge)
}

impl Shape {
    fn lanes(&self, target: SocketAddr, authority: &str) -> Result<Vec<http1::Lane>> {
        let scratch = socket::scratch();
        let keep = self.protocol == Protocol::Http1;
        let request: Rc<[u8]> = http1::request(authority, self.body, keep);
        Ok((0..self.connections).map(|_| http1::Lane::new(target, &request, self.body, keep, &scratch)).collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, body, connections } = *self;
        let (name, what) = match protocol {
            Protocol::Http1 => ("HTTP/1.1 keep-alive", "connection"),
            Protocol::NewConnection => ("HTTP/1.1, a connection per request", "request"),
        };
        write!(f, "{name}, {}, {}", Size(body), Count(connections, what))
    }
}

/// A number of bytes, as people write it.
struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(usize, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.iter().find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} B", self.0),
        }
    }
}

struct Count<'a>(usize, &'a str);

impl fmt::Display for Count<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests;
