//! Leaving without breaking anything: stop accepting, let connections finish, and after a deadline stop all the same.
//!
//! [`channel`] gives a [`Signal`] to whoever decides and a [`Watch`] to whoever serves. A connection holds a [`Guard`], and
//! so does what accepts them until it has stopped; draining is complete when no guard is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Asks for the drain and begins it. Clones begin the same drain.
#[derive(Clone, Debug)]
pub struct Signal {
    stage: watch::Sender<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// To leave, which begins with others hearing of it.
    Asked,
    Draining,
}

/// Sees the drain begin. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    stage: watch::Receiver<Stage>,
    guards: Arc<Guards>,
}

/// Something that drain waits for.
#[derive(Debug)]
pub struct Guard(Arc<Guards>);

/// Waits for the guards.
#[derive(Debug)]
pub struct Drained {
    guards: Arc<Guards>,
}

#[derive(Debug, Default)]
struct Guards {
    held: AtomicUsize,
    none: Notify,
}

/// A drain that has not begun.
pub fn channel() -> (Signal, Watch, Drained) {
    let (stage, watching) = watch::channel(Stage::Serving);
    let guards = Arc::<Guards>::default();
    (Signal { stage }, Watch { stage: watching, guards: Arc::clone(&guards) }, Drained { guards })
}

impl Signal {
    /// Asks whoever runs the process to leave: see [`crate::control::leave`].
    pub fn ask(&self) {
        self.advance(Stage::Asked);
    }

    /// Whether somebody asked, or drain has begun.
    pub fn has_been_asked(&self) -> bool {
        *self.stage.borrow() >= Stage::Asked
    }

    /// Returns when somebody asks.
    pub async fn asked(&self) {
        wait(&mut self.stage.subscribe(), Stage::Asked).await;
    }

    /// Begins to drain. Doing so again changes nothing.
    pub fn begin(&self) {
        self.advance(Stage::Draining);
    }

    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let later = to > *stage;
            if later {
                *stage = to;
            }
            later
        });
    }

    /// Whether drain has begun.
    pub fn has_begun(&self) -> bool {
        *self.stage.borrow() == Stage::Draining
    }

    /// Returns when drain has begun.
    pub async fn begun(&self) {
        wait(&mut self.stage.subscribe(), Stage::Draining).await;
    }
}

impl Watch {
    /// Returns when drain begins, at once if it has begun. Cancel-safe. Never returns if the [`Signal`] is gone without
    /// having begun.
    pub async fn begun(&mut self) {
        wait(&mut self.stage, Stage::Draining).await;
    }

    /// Whether drain has begun.
    pub fn has_begun(&self) -> bool {
        *self.stage.borrow() == Stage::Draining
    }

    /// Makes drain wait for as long as the guard lives.
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
    /// Waits until no [`Guard`] is left, or for `deadline`. Says whether all were gone in time.
    pub async fn within(&mut self, deadline: Duration) -> bool {
        let none_left = async {
            loop {
                // Listening begins before looking, so that a guard dropped between the two is not missed.
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

async fn wait(stage: &mut watch::Receiver<Stage>, least: Stage) {
    if stage.wait_for(|stage| *stage >= least).await.is_err() {
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
        signal.ask();
        signal.asked().await;
        assert!(signal.has_been_asked() && !signal.has_begun() && !watch.has_begun());
        signal.begin();
        signal.ask();
        signal.begun().await;
        assert!(!drained.within(Duration::from_secs(1)).await);
        assert!(drained.within(Duration::from_secs(3)).await);
        drop(watch.guard());
        assert!(drained.within(Duration::ZERO).await);
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
