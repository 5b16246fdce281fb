//! Starting a container: environment, program, log, probes and hooks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use k8s_openapi::jiff::Timestamp;
use net::process::{Exit, LaunchError, MountNamespace, Process, Streams};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::slot::{ContainerRun, ContainerState, Termination};
use super::{PodMessage, PodWorker};
use crate::node::container::{ContainerSources, WaitingReason, plan};
use crate::node::environment::{self, EnvironmentSource};
use crate::node::exec::{self, ContainerInput, RunningContainer};
use crate::node::logs;
use crate::node::probe::{self, ProbeExec, ProbeFinding, ProbeKind};
use crate::node::sandbox::Sandbox;

/// Delay before the configuration of a waiting container is checked again. A change of a Secret or ConfigMap checks at
/// once.
const RECHECK: Duration = Duration::from_secs(2);
/// How long to wait for the last output of a container after its end.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// Exit code of a container runtime if the program cannot be started.
const START_ERROR: i32 = 128;

impl PodWorker {
    /// Starts a container. If it cannot start, the reason becomes its state.
    pub(super) async fn start(&mut self, index: usize) {
        match self.try_start(index).await {
            Ok(()) => {}
            Err(why) => {
                let name = self.slots[index].container.name.clone();
                let changed =
                    !matches!(&self.slots[index].state, ContainerState::Waiting { why: Some(old), .. } if *old == why);
                if changed {
                    self.event("Warning", "Failed", &format!("Error: {}", why.message), Some(&name));
                }
                self.slots[index].state = ContainerState::Waiting { why: Some(why), due: Instant::now() + RECHECK };
            }
        }
    }

    async fn try_start(&mut self, index: usize) -> Result<(), WaitingReason> {
        let container = self.slots[index].container.clone();
        let run = self.slots[index].runs;
        let source = EnvironmentSource {
            pod: &self.pod,
            addresses: self.addresses(),
            objects: &self.host.objects,
            api: self.host.settings.api,
        };
        let environment = environment::resolve(source, &container).map_err(WaitingReason::config)?;
        let provision = ContainerSources {
            pod: &self.pod,
            directory: &self.directory,
            volumes: &self.volumes.directories,
            executable: &self.host.executable,
        };
        let launch = plan(&provision, &container, environment)?;
        let sandbox = self.sandbox.as_ref().ok_or_else(|| WaitingReason::config("the pod has no sandbox"))?;
        let system = |error: std::io::Error| WaitingReason { reason: "RunContainerError", message: error.to_string() };
        let (output, output_reader) = logs::pipe().map_err(system)?;
        let (error, error_reader) = logs::pipe().map_err(system)?;
        let mut streams = Streams::none().map_err(system)?;
        streams.of = Some(sandbox.handle().map_err(system)?);
        (streams.output, streams.error) = (output, error);
        let mut input = None;
        if container.stdin == Some(true) {
            let (ours, theirs) = ContainerInput::open(container.stdin_once == Some(true)).map_err(system)?;
            (input, streams.input) = (Some(ours), theirs);
        }

        let progress = watch::Sender::new(logs::LogProgress::default());
        let seen = progress.subscribe();
        let file = logs::path(&self.directory, &container.name, run);
        logs::forget_old(&self.directory, &container.name, run).await;
        tokio::spawn(logs::keep(file, output_reader, error_reader, progress));
        self.slots[index].runs = run + 1;

        let id = format!("{}-{}-{run}", self.name.uid, container.name);
        let launched = net::process::launch(launch.clone(), streams).await;
        let process = match launched {
            Ok(process) => Arc::new(process),
            Err(LaunchError::Refused(_)) if self.sandbox.as_ref().is_some_and(Sandbox::has_ended) => {
                // The sandbox's end ended the previous run, and is reported after it.
                self.slots[index].runs = run;
                self.sandbox_ended();
                return Ok(());
            }
            Err(LaunchError::Refused(message)) => {
                self.event("Warning", "Failed", &format!("Error: {message}"), Some(&container.name));
                let now = Timestamp::now();
                let exit = Exit::Code(START_ERROR);
                let ended = Termination {
                    exit,
                    reason: "StartError",
                    message: Some(message),
                    started_at: now,
                    finished_at: now,
                    id,
                };
                self.end(index, ended);
                return Ok(());
            }
            Err(error) => return Err(WaitingReason { reason: "RunContainerError", message: error.to_string() }),
        };
        let live = Arc::new(RunningContainer {
            process: process.clone(),
            environment: launch.environment,
            directory: launch.directory,
            user: launch.user,
            log: seen.clone(),
            input,
        });
        self.handle.set_live(&container.name, run, live.clone());
        tokio::spawn(wait(process.clone(), seen, self.outbox.clone(), index, run));
        let has_startup = container.startup_probe.is_some();
        let mut running = ContainerRun {
            process,
            id,
            started_at: Timestamp::now(),
            since: Instant::now(),
            started: !has_startup,
            ready: container.readiness_probe.is_none(),
            stopping: false,
            tasks: JoinSet::new(),
        };
        self.start_hook_and_probes(&mut running, &container, index, run, live);
        self.slots[index].state = ContainerState::Running(Box::new(running));
        self.event("Normal", "Started", &format!("Started container {}", container.name), Some(&container.name));
        Ok(())
    }

    /// Starts the postStart hook and the first probes of a run.
    fn start_hook_and_probes(
        &self,
        running: &mut ContainerRun,
        container: &Container,
        index: usize,
        run: u32,
        live: Arc<RunningContainer>,
    ) {
        if let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone()) {
            let (outbox, container, address) = (self.outbox.clone(), container.clone(), self.address());
            let live = live.clone();
            running.tasks.spawn(async move {
                if let Err(message) = run_hook(&hook, &container, address, &live).await {
                    let _ = outbox.send(PodMessage::HookFailed { slot: index, run, message });
                }
            });
        }
        if container.startup_probe.is_some() {
            self.spawn_probe(running, ProbeKind::Startup, container, index, run, live);
        } else {
            self.spawn_lasting_probes(running, container, index, run, live);
        }
    }

    /// Starts the probes that run once the container has started.
    pub(super) fn spawn_lasting_probes(
        &self,
        running: &mut ContainerRun,
        container: &Container,
        index: usize,
        run: u32,
        live: Arc<RunningContainer>,
    ) {
        for kind in [ProbeKind::Readiness, ProbeKind::Liveness] {
            self.spawn_probe(running, kind, container, index, run, live.clone());
        }
    }

    fn spawn_probe(
        &self,
        running: &mut ContainerRun,
        kind: ProbeKind,
        container: &Container,
        index: usize,
        run: u32,
        live: Arc<RunningContainer>,
    ) {
        let wanted = match kind {
            ProbeKind::Startup => &container.startup_probe,
            ProbeKind::Readiness => &container.readiness_probe,
            ProbeKind::Liveness => &container.liveness_probe,
        };
        let Some(probe) = wanted.clone() else { return };
        let exec: ProbeExec = Arc::new(move |command| {
            let live = live.clone();
            Box::pin(async move { exec::to_end(&live, command).await })
        });
        let target = probe::ProbeTarget { address: self.address(), container: container.clone(), exec };
        let (sender, mut findings) = mpsc::channel(4);
        let outbox = self.outbox.clone();
        running.tasks.spawn(probe::watch(kind, probe, target, sender));
        running.tasks.spawn(async move {
            while let Some(finding) = findings.recv().await {
                if outbox.send(PodMessage::Found { slot: index, run, kind, finding }).is_err() {
                    return;
                }
            }
        });
    }

    /// Applies a probe's result.
    pub(super) fn found(&mut self, index: usize, run: u32, kind: ProbeKind, finding: ProbeFinding) {
        let container = self.slots[index].container.clone();
        if self.slots[index].runs != run + 1 || self.slots[index].running().is_none_or(|running| running.stopping) {
            return;
        }
        match finding {
            ProbeFinding::Failed(message) => {
                let text = format!("{} probe failed: {message}", kind.name());
                self.event("Warning", "Unhealthy", &text, Some(&container.name));
            }
            ProbeFinding::Now(state) => {
                let live = self.handle.live(&container.name);
                let ContainerState::Running(mut running) = std::mem::replace(
                    &mut self.slots[index].state,
                    ContainerState::Waiting { why: None, due: Instant::now() },
                ) else {
                    return;
                };
                match (kind, state) {
                    (ProbeKind::Readiness, ready) => running.ready = ready,
                    (ProbeKind::Startup, true) => {
                        running.started = true;
                        if let Some(live) = live {
                            self.spawn_lasting_probes(&mut running, &container, index, run, live);
                        }
                    }
                    (ProbeKind::Startup | ProbeKind::Liveness, _) => {}
                }
                self.slots[index].state = ContainerState::Running(running);
                if !state && kind != ProbeKind::Readiness {
                    let probe =
                        if kind == ProbeKind::Startup { &container.startup_probe } else { &container.liveness_probe };
                    let own = probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
                    let reason = format!(
                        "Container {} failed {} probe, will be restarted",
                        container.name,
                        kind.name().to_lowercase()
                    );
                    self.kill(index, &reason, own.map(super::stop::seconds));
                }
            }
        }
    }
}

/// Waits for the end of a run, kills the processes that it left, and reports the end.
async fn wait(
    process: Arc<Process>,
    mut log: watch::Receiver<logs::LogProgress>,
    outbox: mpsc::UnboundedSender<PodMessage>,
    slot: usize,
    run: u32,
) {
    let mount_namespace = MountNamespace::of(process.pid());
    let exit = process.wait().await.unwrap_or(Exit::Code(START_ERROR));
    let at = Timestamp::now();
    if let Ok(mount_namespace) = mount_namespace {
        let _ = tokio::task::spawn_blocking(move || mount_namespace.kill_all()).await;
    }
    let _ = outbox.send(PodMessage::Exited { slot, run, exit, at });
    let _ = tokio::time::timeout(LAST_OUTPUT, log.wait_for(|progress| progress.ended)).await;
}

/// Runs a lifecycle hook.
pub(super) async fn run_hook(
    hook: &LifecycleHandler,
    container: &Container,
    address: std::net::IpAddr,
    live: &RunningContainer,
) -> Result<(), String> {
    if let Some(wanted) = &hook.exec {
        return exec::to_end(live, wanted.command.clone().unwrap_or_default()).await;
    }
    if let Some(wanted) = &hook.http_get {
        return probe::get(wanted, container, address).await;
    }
    if let Some(wanted) = &hook.sleep {
        tokio::time::sleep(super::stop::seconds(wanted.seconds)).await;
        return Ok(());
    }
    if let Some(wanted) = &hook.tcp_socket {
        let target = SocketAddr::new(address, probe::port(&wanted.port, container)?);
        return tokio::net::TcpStream::connect(target).await.map(drop).map_err(|error| error.to_string());
    }
    Err("the hook has no exec, httpGet, tcpSocket or sleep".into())
}
