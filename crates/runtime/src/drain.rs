//! Drain: listeners close, open connections finish, and after a deadline the process exits.
//!
//! [`channel`] returns a [`Signal`], which starts the drain, a [`Watch`] for the tasks that serve, and [`Drained`],
//! which waits for them. Each open connection holds a [`Guard`], and so does each accept loop until it has stopped. The
//! drain is complete when all guards are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Requests and starts a drain. Clones control the same drain.
#[derive(Clone, Debug)]
pub struct Signal {
    stage: watch::Sender<DrainStage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DrainStage {
    Serving,
    /// A shutdown is requested; the process still serves.
    Requested,
    Draining,
}

/// Observes the drain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    stage: watch::Receiver<DrainStage>,
    guards: Arc<Guards>,
}

/// Delays the end of the drain until it is dropped.
#[derive(Debug)]
pub struct Guard(Arc<Guards>);

/// Waits until all guards are dropped.
#[derive(Debug)]
pub struct Drained {
    guards: Arc<Guards>,
}

#[derive(Debug, Default)]
struct Guards {
    held: AtomicUsize,
    none: Notify,
}

/// Creates a drain that has not started.
pub fn channel() -> (Signal, Watch, Drained) {
    let (stage, watching) = watch::channel(DrainStage::Serving);
    let guards = Arc::<Guards>::default();
    (Signal { stage }, Watch { stage: watching, guards: Arc::clone(&guards) }, Drained { guards })
}

impl Signal {
    /// Requests a shutdown. [`crate::control::drain_on_shutdown`] then drains the process.
    pub fn request(&self) {
        self.advance(DrainStage::Requested);
    }

    /// Returns whether a shutdown is requested or the drain has started.
    pub fn is_requested(&self) -> bool {
        *self.stage.borrow() >= DrainStage::Requested
    }

    /// Waits for a shutdown request.
    pub async fn requested(&self) {
        wait(&mut self.stage.subscribe(), DrainStage::Requested).await;
    }

    /// Starts the drain. Further calls have no effect.
    pub fn begin(&self) {
        self.advance(DrainStage::Draining);
    }

    fn advance(&self, to: DrainStage) {
        self.stage.send_if_modified(|stage| {
            let later = to > *stage;
            if later {
                *stage = to;
            }
            later
        });
    }

    /// Returns whether the drain has started.
    pub fn has_begun(&self) -> bool {
        *self.stage.borrow() == DrainStage::Draining
    }

    /// Waits for the start of the drain.
    pub async fn begun(&self) {
        wait(&mut self.stage.subscribe(), DrainStage::Draining).await;
    }
}

impl Watch {
    /// Waits for the start of the drain; returns at once if it has started. Cancel-safe. Never returns if the
    /// [`Signal`] is dropped before the drain starts.
    pub async fn begun(&mut self) {
        wait(&mut self.stage, DrainStage::Draining).await;
    }

    /// Returns whether the drain has started.
    pub fn has_begun(&self) -> bool {
        *self.stage.borrow() == DrainStage::Draining
    }

    /// Returns a guard that delays the end of the drain.
    pub fn guard(&self) -> Guard {
        self.guards.held.fetch_add(1, SeqCst);
        Guard(Arc::clone(&self.guards))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.held.fetch_sub(1, SeqCst) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

impl Drained {
    /// Waits until all [`Guard`]s are dropped, at most for `deadline`. Returns whether they were dropped in time.
    pub async fn within(&mut self, deadline: Duration) -> bool {
        let none_left = async {
            loop {
                // The notification is enabled before the check, so that a guard dropped in between is not missed.
                let mut none = std::pin::pin!(self.guards.none.notified());
                none.as_mut().enable();
                if self.guards.held.load(SeqCst) == 0 {
                    return;
                }
                none.await;
            }
        };
        tokio::time::timeout(deadline, none_left).await.is_ok()
    }
}

async fn wait(stage: &mut watch::Receiver<DrainStage>, least: DrainStage) {
    if stage.wait_for(|stage| *stage >= least).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_drain_waits_for_guards_until_the_deadline() {
        let (signal, watch, mut drained) = channel();
        let guard = watch.guard();
        let mut seen = watch.clone();
        let connection = tokio::spawn(async move {
            seen.begun().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(guard);
        });
        signal.request();
        signal.requested().await;
        assert!(signal.is_requested() && !signal.has_begun() && !watch.has_begun());
        signal.begin();
        signal.request();
        signal.begun().await;
        assert!(!drained.within(Duration::from_secs(1)).await);
        assert!(drained.within(Duration::from_secs(3)).await);
        drop(watch.guard());
        assert!(drained.within(Duration::ZERO).await);
        connection.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_signal_starts_no_drain() {
        let (signal, mut watch, _drained) = channel();
        drop(signal);
        assert!(tokio::time::timeout(Duration::from_secs(60), watch.begun()).await.is_err());
        assert!(!watch.has_begun());
    }
}
