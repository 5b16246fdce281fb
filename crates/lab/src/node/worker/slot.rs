//! One container of a pod over its runs.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use net::process::{Exit, Process};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::node::cluster::PodRef;
use crate::node::container::Waiting;

/// First pause before a restart; Kubernetes has 10 s. Doubled with every further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause before a restart, as in Kubernetes.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A run of this length makes the next failure the first again, as in Kubernetes.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Role {
    /// Runs to its end before those after it.
    Init,
    /// Is started before those after it and runs beside them.
    Sidecar,
    /// One of `containers`.
    Main,
}

/// A run that is over.
#[derive(Debug, Clone)]
pub(in crate::node) struct Ended {
    pub exit: Exit,
    pub reason: &'static str,
    pub message: Option<String>,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub id: String,
}

impl Ended {
    /// Whether the program itself says that all is well.
    pub(super) fn succeeded(&self) -> bool {
        self.exit == Exit::Code(0)
    }
}

/// A run in progress.
#[derive(Debug)]
pub(in crate::node) struct Running {
    pub process: Arc<Process>,
    pub id: String,
    pub started_at: Timestamp,
    pub since: Instant,
    /// The startup probe succeeded, or there is none.
    pub started: bool,
    /// The readiness probe succeeds, or there is none.
    pub ready: bool,
    /// Its end has been ordered; why.
    pub stopping: bool,
    /// Probes and hooks; they end with the run.
    pub tasks: JoinSet<()>,
}

/// Where a container stands.
#[derive(Debug)]
pub(in crate::node) enum State {
    /// Not running, to be started when `due`; the reason if it is not just its turn that it waits for.
    Waiting {
        why: Option<Waiting>,
        due: Instant,
    },
    Running(Box<Running>),
    /// Not running and not to be started again.
    Ended(Ended),
}

/// A container of a pod.
#[derive(Debug)]
pub(in crate::node) struct Slot {
    pub container: Container,
    pub role: Role,
    pub state: State,
    /// The run before.
    pub last: Option<Ended>,
    /// How often it was started.
    pub runs: u32,
    pub pause: Pause,
}

impl Slot {
    /// The containers of a pod in the order in which they start.
    pub(super) fn all(pod: &Pod) -> Vec<Self> {
        let Some(spec) = &pod.spec else { return Vec::new() };
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            (if sidecar { Role::Sidecar } else { Role::Init }, container)
        });
        let all = init.chain(spec.containers.iter().map(|container| (Role::Main, container)));
        let fresh = |(role, container): (Role, &Container)| Self {
            container: container.clone(),
            role,
            state: State::Waiting { why: None, due: Instant::now() },
            last: None,
            runs: 0,
            pause: Pause::default(),
        };
        all.map(fresh).collect()
    }

    pub(in crate::node) fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(super) fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(in crate::node) fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Whether the pod can go on past this container: an init container that is done, a sidecar that has started.
    pub(in crate::node) fn passed(&self) -> bool {
        match self.role {
            Role::Init => self.ended().is_some_and(Ended::succeeded),
            Role::Sidecar => self.running().is_some_and(|running| running.started),
            Role::Main => true,
        }
    }

    /// Notes the end of a run: gone for good, or to be started again after a pause.
    pub(super) fn end(&mut self, ended: Ended, restart: bool, pod: &PodRef) {
        if !restart {
            self.state = State::Ended(ended);
            return;
        }
        let ran = self.running().map_or(Duration::ZERO, |running| running.since.elapsed());
        let pause = self.pause.after(ran);
        let why = (!pause.is_zero()).then(|| Waiting {
            reason: "CrashLoopBackOff",
            message: format!(
                "back-off {pause:?} restarting failed container={} pod={}_{}({})",
                self.container.name, pod.name, pod.namespace, pod.uid
            ),
        });
        self.last = Some(ended);
        self.state = State::Waiting { why, due: Instant::now() + pause };
    }
}

/// Whether a container that ended is started again.
pub(super) fn restarts(policy: &str, role: Role, succeeded: bool) -> bool {
    match (role, policy) {
        (Role::Sidecar, _) | (Role::Main, "Always") => true,
        (Role::Init, "Never") | (Role::Main, "Never") => false,
        (Role::Init, _) | (Role::Main, _) => !succeeded,
    }
}

/// The pause before a restart: none the first time, then doubling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::node) struct Pause {
    next: Duration,
}

impl Pause {
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
    fn pauses_double_and_are_forgiven() {
        let mut pause = Pause::default();
        let mut next = |ran| pause.after(Duration::from_secs(ran)).as_secs();
        let told: Vec<_> = (0..12).map(|_| next(1)).collect();
        assert_eq!(told, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!((next(600), next(1)), (0, 1));
    }

    #[test]
    fn restart_policies() {
        for (policy, role, succeeded, expected) in [
            ("Always", Role::Main, true, true),
            ("OnFailure", Role::Main, true, false),
            ("OnFailure", Role::Main, false, true),
            ("Never", Role::Main, false, false),
            ("Always", Role::Init, true, false),
            ("Always", Role::Init, false, true),
            ("Never", Role::Init, false, false),
            ("Never", Role::Sidecar, true, true),
        ] {
            assert_eq!(restarts(policy, role, succeeded), expected, "{policy} {role:?} {succeeded}");
        }
    }
}
