//! The control thread: discovery, certificates, admin and signals run on it, so that workers only ever read.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::drain::{Drained, Signal};
use crate::readiness::Readiness;

/// How a process leaves.
#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    /// From failing readiness to accepting no more, so that load balancers can look elsewhere first.
    pub delay: Duration,
    /// For connections to finish. A second signal ends the wait.
    pub deadline: Duration,
}

impl Default for Leaving {
    fn default() -> Self {
        Self { delay: Duration::ZERO, deadline: Duration::from_secs(5) }
    }
}

/// Runs `main` on this thread with a runtime of its own.
pub fn run<T>(main: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    let result = runtime.block_on(main);
    // Lookups that hang on the blocking pool must not delay leaving.
    runtime.shutdown_background();
    Ok(result)
}

/// How often to look whether the process rests. After being ready it has done everything for the first time within one of
/// these: probes, scrapes, first answers.
const LOOK: Duration = Duration::from_secs(5);

/// To be called once, when the process is ready: from then on, whenever it rests, gives back the memory that only starting
/// or a burst of load took.
pub fn settle() {
    tokio::spawn(async {
        let mut rest = net::memory::Rest::new();
        loop {
            tokio::time::sleep(LOOK).await;
            match rest.look() {
                Ok(Some(bytes)) if bytes > 0 => tracing::debug!(kib = bytes >> 10, "memory given back"),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "memory kept"),
            }
        }
    });
}

/// Returns at SIGTERM or SIGINT.
pub async fn asked_to_stop() -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Waits until this process is asked to stop (by a signal, or by [`Signal::ask`] from the admin endpoint), then drains:
/// fail readiness, wait, accept no more, let connections finish. Says whether all finished in time.
pub async fn leave(readiness: &Readiness, signal: &Signal, mut drained: Drained, leaving: Leaving) -> io::Result<bool> {
    tokio::select! {
        asked = asked_to_stop() => asked?,
        () = signal.asked() => {}
    }
    tracing::info!(deadline_s = leaving.deadline.as_secs_f64(), "draining");
    readiness.leave();
    tokio::time::sleep(leaving.delay).await;
    signal.begin();
    let finished = tokio::select! {
        finished = drained.within(leaving.deadline) => finished,
        asked = asked_to_stop() => { asked?; false }
    };
    if !finished {
        tracing::warn!("stopping with connections still open");
    }
    Ok(finished)
}
