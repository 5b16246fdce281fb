//! Stopping containers: after a failed probe, after the deletion of the pod, and when the pod is complete.

use std::time::Duration;

use net::process::Signal;
use tokio::time::Instant;

use super::PodWorker;
use super::slot::{ContainerRole, ContainerSlot, ContainerState};
use super::start::run_hook;

/// Least grace period of a sidecar after the other containers have ended.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);
/// Default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE: i64 = 30;

/// The state of a pod that is being stopped.
#[derive(Debug)]
pub(super) struct Stopping {
    /// When the remaining processes are killed.
    deadline: Instant,
    /// Whether the API server still has the pod and waits for its end.
    pub(super) known: bool,
    asked: Option<ContainerRole>,
}

pub(super) fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

impl PodWorker {
    /// Starts to stop the pod. A second call can only shorten the grace period.
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

    /// Returns the pod's grace period.
    pub(super) fn grace(&self) -> Duration {
        let spec = self.pod.spec.as_ref();
        let own = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE);
        seconds(self.pod.metadata.deletion_grace_period_seconds.unwrap_or(own))
    }

    /// Stops one container, which is then restarted by its policy.
    pub(super) fn kill(&mut self, index: usize, why: &str, grace: Option<Duration>) {
        let name = self.slots[index].container.name.clone();
        self.event("Normal", "Killing", why, Some(&name));
        let deadline = Instant::now() + grace.unwrap_or_else(|| self.grace());
        self.order_end(index, deadline);
    }

    /// Runs the preStop hook, sends SIGTERM, and sends SIGKILL at the deadline.
    fn order_end(&mut self, index: usize, deadline: Instant) {
        let address = self.address();
        let container = self.slots[index].container.clone();
        let live = self.handle.live(&container.name);
        let Some(running) = self.slots[index].running_mut() else { return };
        running.stopping = true;
        running.ready = false;
        // Results of probes no longer matter.
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

    /// Takes the next step of stopping. Returns true when every container has ended.
    pub(super) fn step_stop(&mut self) -> bool {
        let Some(Stopping { deadline, asked, .. }) = &mut self.stopping else { return false };
        let mut deadline = *deadline;
        let running = |slots: &[ContainerSlot], sidecar: bool| {
            slots.iter().any(|slot| slot.running().is_some() && (slot.role == ContainerRole::Sidecar) == sidecar)
        };
        let role = match (running(&self.slots, false), running(&self.slots, true)) {
            (true, _) => ContainerRole::Main,
            (false, true) => ContainerRole::Sidecar,
            (false, false) => return true,
        };
        if *asked == Some(role) {
            return false;
        }
        *asked = Some(role);
        if role == ContainerRole::Sidecar && deadline > Instant::now() {
            deadline = deadline.max(Instant::now() + SIDECAR_GRACE);
        }
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.running().is_some() && (slot.role == ContainerRole::Sidecar) == (role == ContainerRole::Sidecar) {
                let name = slot.container.name.clone();
                self.event("Normal", "Killing", &format!("Stopping container {name}"), Some(&name));
                self.order_end(index, deadline);
            }
        }
        false
    }

    /// Stops the sidecars of a pod whose other containers have ended for good. Returns true when no sidecar is running.
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
            // A sidecar that waits for its restart is not restarted.
            for slot in self.slots.iter_mut().filter(|slot| slot.role == ContainerRole::Sidecar) {
                if let (ContainerState::Waiting { .. }, Some(last)) = (&slot.state, slot.last.clone()) {
                    slot.state = ContainerState::Ended(last);
                }
            }
        }
        over
    }
}
