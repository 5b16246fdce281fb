//! The task of one pod: a state machine that compares the pod's state with its spec and takes the next step.
//!
//! Every change arrives as a [`PodMessage`]. After each, [`PodWorker::step`] goes through the pod in order (sandbox,
//! volumes, init containers, containers), does what is due, and returns when to run again; then a changed status is
//! published. Another task sends the status to the API server, which may be unavailable.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use net::process::{Exit, Signal};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::cluster::PodRef;
use super::exec::PodHandle;
use super::fields::DownwardAddresses;
use super::host::Host;
use super::ignored::IgnoredFields;
use super::probe::{ProbeFinding, ProbeKind};
use super::sandbox::Sandbox;
use super::volumes::{VolumeContext, Volumes};
use crate::timestamp;

mod slot;
mod start;
mod status;
mod stop;

use slot::{ContainerRole, ContainerSlot, ContainerState, Termination};

/// Delay before a failed sandbox or volume is tried again. A change of the pod is tried at once.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// An event of a pod.
#[derive(Debug)]
pub(super) enum PodMessage {
    /// The current state of the pod on the API server.
    Pod(Box<Pod>),
    /// The pod was removed from the API server.
    Removed,
    /// The pause process ended.
    SandboxEnded { pause: u32 },
    /// A container's program ended.
    Exited { slot: usize, run: u32, exit: Exit, at: Timestamp },
    /// A probe has a result.
    Found { slot: usize, run: u32, kind: ProbeKind, finding: ProbeFinding },
    /// A container's postStart hook failed.
    HookFailed { slot: usize, run: u32, message: String },
}

/// The task of one pod.
pub(super) struct PodWorker {
    host: Arc<Host>,
    pod: Pod,
    name: PodRef,
    directory: PathBuf,
    handle: Arc<PodHandle>,
    sandbox: Option<Sandbox>,
    volumes: Volumes,
    /// Whether the volumes have been mounted once.
    mounted: bool,
    /// Whether all init containers have passed in this sandbox.
    initialized: bool,
    slots: Vec<ContainerSlot>,
    stopping: Option<stop::Stopping>,
    /// Whether the pod's node is killed. Then nothing is reported or started.
    dead: watch::Receiver<bool>,
    inbox: mpsc::UnboundedReceiver<PodMessage>,
    outbox: mpsc::UnboundedSender<PodMessage>,
    status: watch::Sender<Option<Value>>,
    since: status::ConditionTimes,
    started_at: String,
    /// The last error that was reported as an event, so that it is reported once.
    trouble: Option<String>,
    /// The ignored fields that have been reported.
    reported: IgnoredFields,
}

impl PodWorker {
    /// Starts the task of a pod and returns the sender of its messages. The task ends with the pod.
    pub(super) fn spawn(host: Arc<Host>, pod: Pod) -> (mpsc::UnboundedSender<PodMessage>, tokio::task::JoinHandle<()>) {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let name = PodRef::of(&pod);
        let directory = host.settings.directory.join("pods").join(&name.uid);
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let dead = host.nodes.follow(&node);
        let handle = Arc::new(PodHandle::new(name.clone(), node, directory.clone()));
        host.pods.insert(handle.clone());
        let (status, published) = watch::channel(None);
        tokio::spawn(report(host.clone(), name.clone(), published));
        let worker = Self {
            slots: ContainerSlot::all(&pod),
            host,
            pod,
            name,
            directory,
            handle,
            sandbox: None,
            volumes: Volumes::default(),
            mounted: false,
            initialized: false,
            stopping: None,
            dead,
            inbox,
            outbox: outbox.clone(),
            status,
            since: status::ConditionTimes::new(),
            started_at: timestamp::seconds(Timestamp::now()),
            trouble: None,
            reported: IgnoredFields::default(),
        };
        (outbox, tokio::spawn(worker.run()))
    }

    async fn run(mut self) {
        if self.pod.metadata.deletion_timestamp.is_some() {
            self.stop(Duration::ZERO, true);
        }
        let mut objects = self.host.objects.changes();
        loop {
            objects.mark_unchanged();
            let again = if self.is_dead() { self.step_dead() } else { self.step().await };
            if !self.is_dead() && self.stopping.is_some() && self.slots.iter().all(|slot| slot.running().is_none()) {
                break;
            }
            self.publish();
            let timer = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.note(message),
                    None => break,
                },
                _ = self.dead.changed() => {}
                _ = objects.changed() => self.recheck_configuration(),
                () = timer => {}
            }
            // Messages that arrived together are handled together.
            while let Ok(message) = self.inbox.try_recv() {
                self.note(message);
            }
        }
        self.finish().await;
    }

    /// Reports whether the pod's node is killed. A pod that the cluster has removed ends all the same.
    fn is_dead(&self) -> bool {
        *self.dead.borrow() && self.stopping.as_ref().is_none_or(|stopping| stopping.known)
    }

    /// The step of a pod whose node is killed: its processes end, and nothing is reported.
    fn step_dead(&mut self) -> Option<Instant> {
        if let Some(sandbox) = &self.sandbox {
            let _ = sandbox.pause.kill(Signal::KILL);
        }
        None
    }

    fn note(&mut self, message: PodMessage) {
        match message {
            PodMessage::Pod(pod) => {
                self.pod = *pod;
                if self.pod.metadata.deletion_timestamp.is_some() {
                    self.stop(self.grace(), true);
                } else if self.sandbox.is_some() {
                    self.report_ignored();
                }
            }
            PodMessage::Removed => self.stop(Duration::ZERO, false),
            PodMessage::SandboxEnded { pause } => {
                if self.sandbox.as_ref().is_some_and(|sandbox| sandbox.pause.pid() == pause) {
                    self.sandbox_ended();
                }
            }
            PodMessage::Exited { slot, run, exit, at } => self.exited(slot, run, exit, at),
            PodMessage::Found { slot, run, kind, finding } => self.found(slot, run, kind, finding),
            PodMessage::HookFailed { slot, run, message } => {
                if self.slots[slot].runs == run + 1 {
                    let name = self.slots[slot].container.name.clone();
                    self.event(
                        "Warning",
                        "FailedPostStartHook",
                        &format!("PostStartHook failed: {message}"),
                        Some(&name),
                    );
                    self.kill(slot, &format!("FailedPostStartHook of container {name}"), None);
                }
            }
        }
    }

    /// Takes every step that is due. Returns when to run again.
    async fn step(&mut self) -> Option<Instant> {
        if self.stopping.is_some() {
            self.step_stop();
            return None;
        }
        if self.over() {
            if self.end_sidecars() {
                self.drop_sandbox().await;
            }
            return None;
        }
        if self.sandbox.is_none() {
            match Sandbox::create(&self.host, &self.pod, &self.directory).await {
                Ok(sandbox) => {
                    self.use_sandbox(sandbox);
                    self.report_ignored();
                }
                Err(error) => {
                    self.trouble("FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {error}"));
                    return Some(Instant::now() + TRY_AGAIN);
                }
            }
        }
        let pod_addresses = self.sandbox.as_ref().map(|sandbox| sandbox.addresses.clone()).unwrap_or_default();
        let addresses = DownwardAddresses { pod: &pod_addresses, host: &self.host.settings.host_addresses };
        let origin = VolumeContext { host: &self.host, pod: &self.pod, addresses, directory: &self.directory };
        let mut again = match self.volumes.prepare(origin).await {
            Ok(again) => {
                self.mounted = true;
                again
            }
            Err(error) => {
                self.trouble("FailedMount", &error);
                Some(Instant::now() + TRY_AGAIN)
            }
        };
        if !self.mounted {
            return again;
        }
        for index in 0..self.slots.len() {
            if self.slots[index].role == ContainerRole::Main && !self.initialized {
                self.initialized = true;
            }
            if let ContainerState::Waiting { due, .. } = self.slots[index].state {
                if due <= Instant::now() {
                    self.start(index).await;
                }
                if self.sandbox.is_none() {
                    return Some(Instant::now());
                }
                if let ContainerState::Waiting { due, .. } = self.slots[index].state {
                    again = Some(again.map_or(due, |at: Instant| at.min(due)));
                }
            }
            if !self.initialized && !self.slots[index].passed() {
                return again;
            }
        }
        again
    }

    /// A Secret or ConfigMap has changed: containers that wait for their configuration may start now.
    fn recheck_configuration(&mut self) {
        for slot in &mut self.slots {
            if let ContainerState::Waiting { why: Some(why), due } = &mut slot.state
                && why.is_config()
            {
                *due = Instant::now();
            }
        }
    }

    /// Reports whether no container will be started again.
    fn over(&self) -> bool {
        let main_over =
            self.slots.iter().filter(|slot| slot.role == ContainerRole::Main).all(|slot| slot.ended().is_some());
        main_over || self.failed_init().is_some()
    }

    fn failed_init(&self) -> Option<&ContainerSlot> {
        self.slots
            .iter()
            .find(|slot| slot.role == ContainerRole::Init && slot.ended().is_some_and(|ended| !ended.succeeded()))
    }

    /// Reports fields without effect in an event, once. Ephemeral containers may be added later.
    fn report_ignored(&mut self) {
        let ignored = IgnoredFields::of(&self.pod);
        if !ignored.without_effect.is_empty() && ignored.without_effect != self.reported.without_effect {
            let message = format!("No effect in a lab: {}", ignored.without_effect.join(", "));
            self.event("Warning", "NoEffectInLab", &message, None);
        }
        if !ignored.not_enforced.is_empty() && ignored.not_enforced != self.reported.not_enforced {
            let message = format!("Reported but not enforced in a lab: {}", ignored.not_enforced.join(", "));
            self.event("Normal", "NotEnforcedInLab", &message, None);
        }
        self.reported = ignored;
    }

    fn use_sandbox(&mut self, sandbox: Sandbox) {
        let (pause, outbox) = (sandbox.pause.clone(), self.outbox.clone());
        self.handle.set_sandbox(&sandbox.addresses, sandbox.handle().ok());
        tokio::spawn(async move {
            let _ = pause.wait().await;
            let _ = outbox.send(PodMessage::SandboxEnded { pause: pause.pid() });
        });
        self.sandbox = Some(sandbox);
        self.initialized = false;
    }

    /// The sandbox was killed from outside: the pod starts again, with another address.
    fn sandbox_ended(&mut self) {
        let Some(sandbox) = self.sandbox.take() else { return };
        self.handle.set_sandbox(&self.host.settings.host_addresses, None);
        let host = self.host.clone();
        tokio::spawn(async move { sandbox.destroy(&host).await });
        if self.stopping.is_none() && !self.over() {
            self.event("Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.", None);
            for slot in self.slots.iter_mut().filter(|slot| slot.role == ContainerRole::Init) {
                if let ContainerState::Ended(ended) = &slot.state {
                    slot.last = Some(ended.clone());
                    slot.state = ContainerState::Waiting { why: None, due: Instant::now() };
                }
            }
        }
    }

    fn exited(&mut self, index: usize, run: u32, exit: Exit, at: Timestamp) {
        if self.slots[index].runs != run + 1 {
            return;
        }
        let Some(running) = self.slots[index].running() else { return };
        let reason = if exit == Exit::Code(0) { "Completed" } else { "Error" };
        let ended = Termination {
            exit,
            reason,
            message: None,
            started_at: running.started_at,
            finished_at: at,
            id: running.id.clone(),
        };
        self.end(index, ended);
    }

    /// Records the end of a run and schedules the next one.
    fn end(&mut self, index: usize, ended: Termination) {
        let policy = self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.clone());
        let slot = &mut self.slots[index];
        let again = slot::restarts(policy.as_deref().unwrap_or("Always"), slot.role, ended.succeeded());
        slot.end(ended, again && self.stopping.is_none(), &self.name);
        self.handle.unset_live(&slot.container.name);
        if let ContainerState::Waiting { why: Some(why), .. } = &slot.state {
            let (name, message) = (slot.container.name.clone(), why.message.clone());
            let text = message.replacen("back-off", "Back-off", 1);
            self.event("Warning", "BackOff", &text, Some(&name));
        }
    }

    async fn drop_sandbox(&mut self) {
        if let Some(sandbox) = self.sandbox.take() {
            self.handle.set_sandbox(&sandbox.addresses, None);
            sandbox.destroy(&self.host).await;
        }
    }

    /// The pod has ended after its deletion: all its resources are released.
    async fn finish(mut self) {
        self.publish();
        self.drop_sandbox().await;
        self.host.pods.remove(&self.handle);
        let directory = self.directory.clone();
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(directory)).await;
        if !self.stopping.as_ref().is_some_and(|stopping| stopping.known) {
            return;
        }
        let mut pause = Duration::from_millis(200);
        while let Err(error) = self.host.cluster.finish(&self.name).await {
            if error.gone {
                return;
            }
            tracing::debug!(pod = %self.name.name, %error, "cannot remove the pod from the API server yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    fn publish(&mut self) {
        if self.is_dead() {
            return;
        }
        let failure = self.failed_init().filter(|_| self.slots.iter().all(|slot| slot.running().is_none()));
        let failure =
            failure.map(|slot| ("InitContainerFailed", format!("init container {} failed", slot.container.name)));
        let addresses = match &self.sandbox {
            Some(sandbox) => sandbox.addresses.clone(),
            None => self.handle.last_addresses(),
        };
        let facts = status::PodFacts {
            pod: &self.pod,
            slots: &self.slots,
            addresses: &addresses,
            host: &self.host.settings.host_addresses,
            started_at: &self.started_at,
            failure,
        };
        let status = status::status(&facts, &mut self.since);
        self.status.send_if_modified(|published| {
            let changed = published.as_ref() != Some(&status);
            *published = Some(status);
            changed
        });
    }

    fn addresses(&self) -> DownwardAddresses<'_> {
        let pod = self.sandbox.as_ref().map(|sandbox| &*sandbox.addresses).unwrap_or_default();
        DownwardAddresses { pod, host: &self.host.settings.host_addresses }
    }

    /// Returns the pod's first address, for probes and hooks; the node's before the pod has one.
    fn address(&self) -> IpAddr {
        let addresses = self.addresses();
        addresses.pod.first().or(addresses.host.first()).copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    fn event(&self, kind: &'static str, reason: &'static str, message: &str, container: Option<&str>) {
        if self.is_dead() {
            return;
        }
        self.host.events.record(&self.pod, kind, reason, message, container);
    }

    /// Reports an error in an event, once until another error occurs.
    fn trouble(&mut self, reason: &'static str, message: &str) {
        if self.trouble.as_deref() != Some(message) {
            self.event("Warning", reason, message, None);
            self.trouble = Some(message.to_owned());
        }
    }
}

/// Sends the latest status to the API server, and repeats until it succeeds.
async fn report(host: Arc<Host>, name: PodRef, mut status: watch::Receiver<Option<Value>>) {
    let mut pause = Duration::from_millis(100);
    while status.changed().await.is_ok() {
        loop {
            let Some(latest) = status.borrow_and_update().clone() else { break };
            match host.cluster.report(&name, &latest).await {
                Ok(()) => {
                    pause = Duration::from_millis(100);
                    break;
                }
                Err(error) if error.gone => return,
                Err(error) => {
                    tracing::debug!(pod = %name.name, %error, "cannot report the pod's status yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }
}
