//! A container of a pod and its runs.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use net::process::{Exit, Process};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::node::cluster::PodRef;
use crate::node::container::WaitingReason;

/// First restart backoff; Kubernetes' is 10 s. It doubles with every restart.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest restart backoff, as in Kubernetes.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Length of a run after which the backoff starts again, as in Kubernetes.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// The role of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum ContainerRole {
    /// An init container: runs to its end before the next container starts.
    Init,
    /// A sidecar: starts before the next container and runs beside it.
    Sidecar,
    /// One of `containers`.
    Main,
}

/// The end of a run.
#[derive(Debug, Clone)]
pub(in crate::node) struct Termination {
    pub exit: Exit,
    pub reason: &'static str,
    pub message: Option<String>,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub id: String,
}

impl Termination {
    /// Reports whether the program exited with code 0.
    pub(super) fn succeeded(&self) -> bool {
        self.exit == Exit::Code(0)
    }
}

/// A run in progress.
#[derive(Debug)]
pub(in crate::node) struct ContainerRun {
    pub process: Arc<Process>,
    pub id: String,
    pub started_at: Timestamp,
    pub since: Instant,
    /// Whether the startup probe has succeeded, or there is none.
    pub started: bool,
    /// Whether the readiness probe succeeds, or there is none.
    pub ready: bool,
    /// Whether the container is being stopped.
    pub stopping: bool,
    /// The tasks of probes and hooks; they end with the run.
    pub tasks: JoinSet<()>,
}

/// The state of a container.
#[derive(Debug)]
pub(in crate::node) enum ContainerState {
    /// The container starts when `due`. `why` is set if it waits for more than its turn.
    Waiting {
        why: Option<WaitingReason>,
        due: Instant,
    },
    Running(Box<ContainerRun>),
    /// The container has ended and will not be started again.
    Ended(Termination),
}

/// A container of a pod.
#[derive(Debug)]
pub(in crate::node) struct ContainerSlot {
    pub container: Container,
    pub role: ContainerRole,
    pub state: ContainerState,
    /// The end of the previous run.
    pub last: Option<Termination>,
    /// Number of starts.
    pub runs: u32,
    pub pause: RestartBackoff,
}

impl ContainerSlot {
    /// Returns the containers of a pod in the order in which they start.
    pub(super) fn all(pod: &Pod) -> Vec<Self> {
        let Some(spec) = &pod.spec else { return Vec::new() };
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            (if sidecar { ContainerRole::Sidecar } else { ContainerRole::Init }, container)
        });
        let all = init.chain(spec.containers.iter().map(|container| (ContainerRole::Main, container)));
        let fresh = |(role, container): (ContainerRole, &Container)| Self {
            container: container.clone(),
            role,
            state: ContainerState::Waiting { why: None, due: Instant::now() },
            last: None,
            runs: 0,
            pause: RestartBackoff::default(),
        };
        all.map(fresh).collect()
    }

    pub(in crate::node) fn running(&self) -> Option<&ContainerRun> {
        match &self.state {
            ContainerState::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(super) fn running_mut(&mut self) -> Option<&mut ContainerRun> {
        match &mut self.state {
            ContainerState::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(in crate::node) fn ended(&self) -> Option<&Termination> {
        match &self.state {
            ContainerState::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Reports whether the next container may start: an init container has succeeded, or a sidecar has started.
    pub(in crate::node) fn passed(&self) -> bool {
        match self.role {
            ContainerRole::Init => self.ended().is_some_and(Termination::succeeded),
            ContainerRole::Sidecar => self.running().is_some_and(|running| running.started),
            ContainerRole::Main => true,
        }
    }

    /// Records the end of a run, and schedules a restart after the backoff if `restart`.
    pub(super) fn end(&mut self, ended: Termination, restart: bool, pod: &PodRef) {
        if !restart {
            self.state = ContainerState::Ended(ended);
            return;
        }
        let ran = self.running().map_or(Duration::ZERO, |running| running.since.elapsed());
        let pause = self.pause.after(ran);
        let why = (!pause.is_zero()).then(|| WaitingReason {
            reason: "CrashLoopBackOff",
            message: format!(
                "back-off {pause:?} restarting failed container={} pod={}_{}({})",
                self.container.name, pod.name, pod.namespace, pod.uid
            ),
        });
        self.last = Some(ended);
        self.state = ContainerState::Waiting { why, due: Instant::now() + pause };
    }
}

/// Reports whether a container that has ended is started again.
pub(super) fn restarts(policy: &str, role: ContainerRole, succeeded: bool) -> bool {
    match (role, policy) {
        (ContainerRole::Sidecar, _) | (ContainerRole::Main, "Always") => true,
        (ContainerRole::Init, "Never") | (ContainerRole::Main, "Never") => false,
        (ContainerRole::Init, _) | (ContainerRole::Main, _) => !succeeded,
    }
}

/// The restart backoff: none the first time, then doubling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::node) struct RestartBackoff {
    next: Duration,
}

impl RestartBackoff {
    fn after(&mut self, ran: Duration) -> Duration {
        if ran >= FORGIVEN_AFTER {
            self.next = Duration::ZERO;
        }
        let pause = self.next;
        self.next = if pause.is_zero() { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_and_is_reset() {
        let mut pause = RestartBackoff::default();
        let mut next = |ran| pause.after(Duration::from_secs(ran)).as_secs();
        let backoffs: Vec<_> = (0..12).map(|_| next(1)).collect();
        assert_eq!(backoffs, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!((next(600), next(1)), (0, 1));
    }

    #[test]
    fn restart_policies() {
        for (policy, role, succeeded, expected) in [
            ("Always", ContainerRole::Main, true, true),
            ("OnFailure", ContainerRole::Main, true, false),
            ("OnFailure", ContainerRole::Main, false, true),
            ("Never", ContainerRole::Main, false, false),
            ("Always", ContainerRole::Init, true, false),
            ("Always", ContainerRole::Init, false, true),
            ("Never", ContainerRole::Init, false, false),
            ("Never", ContainerRole::Sidecar, true, true),
        ] {
            assert_eq!(restarts(policy, role, succeeded), expected, "{policy} {role:?} {succeeded}");
        }
    }
}
