//! The control thread. It runs discovery, certificates, the admin server and signal handling; workers only read what it
//! publishes.
//!
//! A program calls [`run`] with its main future. That future calls [`reclaim_when_idle`] once the process is ready, and [`drain_on_shutdown`]
//! waits for the shutdown and drains.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::drain::{Drained, Signal};
use crate::readiness::Readiness;

/// The time for connections to end when an application's end, or the wait for it, has taken all of the deadline.
const LAST: Duration = Duration::from_millis(250);

/// The times of a shutdown.
#[derive(Clone, Copy, Debug)]
pub struct DrainTimes {
    /// The time between failing readiness and closing listeners, in which load balancers stop sending traffic.
    pub delay: Duration,
    /// The time in which open connections may finish. A second signal ends it early.
    pub deadline: Duration,
}

impl Default for DrainTimes {
    fn default() -> Self {
        Self { delay: Duration::ZERO, deadline: Duration::from_secs(5) }
    }
}

/// Runs a future on this thread, with a single-threaded runtime.
///
/// # Errors
/// Returns an error if the runtime cannot be created.
pub fn run<T>(main: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    let result = runtime.block_on(main);
    // Blocking tasks that hang, such as lookups, must not delay the exit.
    runtime.shutdown_background();
    Ok(result)
}

/// How often the process checks whether it is idle. Within one interval after it became ready, probes, scrapes and
/// first requests have each happened once.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// Starts a task that returns free memory to the kernel whenever the process is idle: memory that only the start or a
/// burst of load needed. To be called once, when the process is ready.
pub fn reclaim_when_idle() {
    tokio::spawn(async {
        let mut reclaimer = net::memory::Reclaimer::new();
        loop {
            tokio::time::sleep(IDLE_CHECK).await;
            match reclaimer.reclaim_if_idle() {
                Ok(Some(bytes)) if bytes > 0 => tracing::debug!(kib = bytes >> 10, "returned free memory"),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "cannot return free memory"),
            }
        }
    });
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// Returns an error if the signal handlers cannot be installed.
pub async fn shutdown_signal() -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Waits for a shutdown request (a signal, or [`Signal::request`] from the admin server), then drains in three steps: fail
/// readiness and wait, close the listeners, wait for open connections to finish. The first wait takes
/// [`DrainTimes::delay`]; after a signal, which all containers of a pod receive, an application's proxy serves until
/// `application_ended` instead, or until the deadline. Returns whether all connections finished before
/// [`DrainTimes::deadline`].
///
/// # Errors
/// Returns an error if the signal handlers cannot be installed.
pub async fn drain_on_shutdown(
    readiness: &Readiness,
    signal: &Signal,
    mut drained: Drained,
    times: DrainTimes,
    application_ended: Option<impl Future<Output = ()>>,
) -> io::Result<bool> {
    let terminating = tokio::select! {
        stop = shutdown_signal() => stop.map(|()| true)?,
        () = signal.requested() => false,
    };
    tracing::info!(deadline_s = times.deadline.as_secs_f64(), "draining");
    readiness.leave();
    let mut left = times.deadline;
    match application_ended {
        Some(ended) if terminating => {
            let begun = Instant::now();
            tokio::select! {
                () = ended => {}
                () = tokio::time::sleep(times.deadline) => {}
                stop = shutdown_signal() => stop?,
            }
            left = left.saturating_sub(begun.elapsed()).max(LAST);
        }
        _ => tokio::time::sleep(times.delay).await,
    }
    signal.begin();
    let finished = tokio::select! {
        finished = drained.within(left) => finished,
        stop = shutdown_signal() => { stop?; false }
    };
    if !finished {
        tracing::warn!("exiting with open connections");
    }
    Ok(finished)
}
