//! Leaving without breaking anything: stop accepting, let connections finish, and after a deadline stop all the same.
//!
//! [`channel`] gives a [`Signal`] to whoever decides and a [`Watch`] to whoever serves. A connection holds a [`Guard`];
//! draining is complete when no guard is left.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Begins draining and waits for its end. Clones begin the same drain.
#[derive(Clone, Debug)]
pub struct Signal {
    stage: watch::Sender<bool>,
}

/// Sees the drain begin. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    stage: watch::Receiver<bool>,
    held: mpsc::Sender<Infallible>,
}

/// Something that drain waits for.
#[derive(Clone, Debug)]
pub struct Guard(#[expect(dead_code, reason = "held, never used")] mpsc::Sender<Infallible>);

/// Waits for the guards.
#[derive(Debug)]
pub struct Drained {
    guards: mpsc::Receiver<Infallible>,
}

/// A drain that has not begun.
pub fn channel() -> (Signal, Watch, Drained) {
    let (stage, watching) = watch::channel(false);
    let (held, guards) = mpsc::channel(1);
    (Signal { stage }, Watch { stage: watching, held }, Drained { guards })
}

impl Signal {
    /// Begins to drain. Doing so again changes nothing.
    pub fn begin(&self) {
        self.stage.send_replace(true);
    }

    /// Whether drain has begun.
    pub fn has_begun(&self) -> bool {
        *self.stage.borrow()
    }

    /// Returns when drain has begun.
    pub async fn begun(&self) {
        wait(&mut self.stage.subscribe()).await;
    }
}

impl Watch {
    /// Returns when drain begins, at once if it has begun. Cancel-safe. Never returns if the [`Signal`] is gone without
    /// having begun.
    pub async fn begun(&mut self) {
        wait(&mut self.stage).await;
    }

    /// Whether drain has begun.
    pub fn has_begun(&self) -> bool {
        *self.stage.borrow()
    }

    /// Makes drain wait for as long as the guard lives.
    pub fn guard(&self) -> Guard {
        Guard(self.held.clone())
    }
}

impl Drained {
    /// Waits until no [`Guard`] and no [`Watch`] is left, or for `deadline`. Says whether all were gone in time.
    pub async fn within(&mut self, deadline: Duration) -> bool {
        tokio::time::timeout_at(Instant::now() + deadline, self.guards.recv()).await.is_ok()
    }
}

async fn wait(stage: &mut watch::Receiver<bool>) {
    if stage.wait_for(|begun| *begun).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_guards_and_then_no_longer() {
        let (signal, watch, mut drained) = channel();
        let guard = watch.guard();
        let mut seen = watch.clone();
        let connection = tokio::spawn(async move {
            seen.begun().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(guard);
        });
        drop(watch);
        assert!(!signal.has_begun());
        signal.begin();
        signal.begun().await;
        assert!(!drained.within(Duration::from_secs(1)).await);
        assert!(drained.within(Duration::from_secs(3)).await);
        connection.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_signal_is_no_drain() {
        let (signal, mut watch, _drained) = channel();
        drop(signal);
        assert!(tokio::time::timeout(Duration::from_secs(60), watch.begun()).await.is_err());
        assert!(!watch.has_begun());
    }
}
