//! Ending containers: one that fails its probe, a pod that is deleted, a pod that is done.

use std::time::Duration;

use net::process::Signal;
use tokio::time::Instant;

use super::Worker;
use super::slot::{Role, Slot, State};
use super::start::run_hook;

/// Least time that a sidecar has to end after the containers it serves.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);
/// `terminationGracePeriodSeconds` when the pod does not say.
const DEFAULT_GRACE: i64 = 30;

/// A pod on its way out.
#[derive(Debug)]
pub(super) struct Stopping {
    /// When patience ends.
    deadline: Instant,
    /// The API server still has the pod and waits to be told of its end.
    pub(super) known: bool,
    asked: Option<Role>,
}

pub(super) fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

impl Worker {
    /// Starts to end the pod; called again it can only shorten the time.
    pub(super) fn stop(&mut self, grace: Duration, known: bool) {
        let deadline = Instant::now() + grace;
        match &mut self.stopping {
            Some(stopping) => {
                stopping.known &= known;
                if deadline < stopping.deadline {
                    stopping.deadline = deadline;
                    stopping.asked = None;
                }
            }
            None => self.stopping = Some(Stopping { deadline, known, asked: None }),
        }
    }

    /// The time that the pod's containers have to end.
    pub(super) fn grace(&self) -> Duration {
        let spec = self.pod.spec.as_ref();
        let own = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE);
        seconds(self.pod.metadata.deletion_grace_period_seconds.unwrap_or(own))
    }

    /// Ends one container, which is then restarted as its policy says.
    pub(super) fn kill(&mut self, index: usize, why: &str, grace: Option<Duration>) {
        let name = self.slots[index].container.name.clone();
        self.event("Normal", "Killing", why, Some(&name));
        let deadline = Instant::now() + grace.unwrap_or_else(|| self.grace());
        self.order_end(index, deadline);
    }

    /// Runs the hook, asks the program to end, and at the deadline ends it.
    fn order_end(&mut self, index: usize, deadline: Instant) {
        let address = self.address();
        let container = self.slots[index].container.clone();
        let live = self.handle.live(&container.name);
        let Some(running) = self.slots[index].running_mut() else { return };
        running.stopping = true;
        running.ready = false;
        // Probes have nothing more to say.
        running.tasks.abort_all();
        let process = running.process.clone();
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
        tokio::spawn(async move {
            if let (Some(hook), Some(live)) = (hook, live) {
                let _ = tokio::time::timeout_at(deadline, run_hook(&hook, &container, address, &live)).await;
            }
            let _ = process.kill(Signal::TERM);
            tokio::time::sleep_until(deadline).await;
            let _ = process.kill(Signal::KILL);
        });
    }

    /// One step towards the end. True when everything has ended.
    pub(super) fn step_stop(&mut self) -> bool {
        let Some(Stopping { deadline, asked, .. }) = &mut self.stopping else { return false };
        let mut deadline = *deadline;
        let running = |slots: &[Slot], sidecar: bool| {
            slots.iter().any(|slot| slot.running().is_some() && (slot.role == Role::Sidecar) == sidecar)
        };
        let role = match (running(&self.slots, false), running(&self.slots, true)) {
            (true, _) => Role::Main,
            (false, true) => Role::Sidecar,
            (false, false) => return true,
        };
        if *asked == Some(role) {
            return false;
        }
        *asked = Some(role);
        if role == Role::Sidecar && deadline > Instant::now() {
            deadline = deadline.max(Instant::now() + SIDECAR_GRACE);
        }
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.running().is_some() && (slot.role == Role::Sidecar) == (role == Role::Sidecar) {
                let name = slot.container.name.clone();
                self.event("Normal", "Killing", &format!("Stopping container {name}"), Some(&name));
                self.order_end(index, deadline);
            }
        }
        false
    }

    /// Ends the sidecars of a pod whose other containers are done for good. True when none runs any more.
    pub(super) fn end_sidecars(&mut self) -> bool {
        let mut over = true;
        for index in 0..self.slots.len() {
            match self.slots[index].running() {
                None => {}
                Some(running) => {
                    over = false;
                    if !running.stopping {
                        let deadline = Instant::now() + self.grace();
                        self.order_end(index, deadline);
                    }
                }
            }
        }
        if over {
            // A sidecar that waits for its restart is not restarted any more.
            for slot in self.slots.iter_mut().filter(|slot| slot.role == Role::Sidecar) {
                if let (State::Waiting { .. }, Some(last)) = (&slot.state, slot.last.clone()) {
                    slot.state = State::Ended(last);
                }
            }
        }
        over
    }
}
