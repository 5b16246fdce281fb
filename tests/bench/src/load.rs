//! The load generator: sends requests, and counts and times the responses.
//!
//! A generator is one thread with a single-threaded runtime. It shares the machine with the measured systems, so it does
//! little: requests are prepared, of a response only status and length are checked, and large bodies are discarded in the
//! kernel.
//!
//! - A **closed loop** ([`closed_loop`]) always has one request in flight on each connection: throughput.
//! - An **open loop** ([`open_loop`]) has requests due at fixed times, regardless of earlier ones, and counts latency from
//!   the time when each was due, so a stall delays all requests that were due meanwhile (no coordinated omission).
//!
//! Both open and use their connections before the measured window begins. At both edges of the window they call back on the
//! calling thread, which is otherwise idle, to read what processes have used.

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

/// The durations of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The time before the window, after the first response on all connections.
    pub warm_up: Duration,
    /// The length of the window.
    pub duration: Duration,
}

/// An edge of the measured window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The window begins.
    Begin,
    /// The window has ended.
    End,
}

/// Sends as many requests as possible, always one in flight on each connection. Requests in flight at the end do not count.
///
/// # Errors
///
/// Returns an error if a connection cannot be opened or has no correct response before the window. The outcome has later
/// failures.
pub fn closed_loop(
    target: SocketAddr,
    authority: &str,
    shape: Shape,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    drive::drive(|| shape.callers(target, authority), drive::Pace::Closed, timing, edge)
}

/// Sends `rate` requests per second. A request waits while all connections are busy, and the wait counts. A request without
/// response at the end counts with its wait until then ([`Outcome::unanswered`]).
///
/// # Errors
///
/// Returns an error as [`closed_loop`] does.
pub fn open_loop(
    target: SocketAddr,
    authority: &str,
    shape: Shape,
    rate: f64,
    timing: Timing,
    edge: &mut dyn FnMut(Edge),
) -> Result<Outcome> {
    ensure!(rate > 0.0 && rate.is_finite(), "{rate} is not a rate: expected a positive number");
    drive::drive(|| shape.callers(target, authority), drive::Pace::Open(rate), timing, edge)
}

#[cfg(test)]
mod tests;
