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

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

pub mod http2;
pub mod message;
pub mod passthrough;
pub mod tls;

pub mod by_hand;
mod drive;
mod failure;
mod http1;
pub mod idle;
mod outcome;
mod pace;
mod shape;
mod socket;
mod tcp;

pub use drive::runtime;
pub use failure::Failure;
pub use idle::{idle, idle_passthrough};
pub use outcome::Outcome;
pub use shape::{Protocol, Shape};
pub use socket::{Scratch, read_with, scratch};

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

#[cfg(test)]
mod tests;
