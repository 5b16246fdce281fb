//! The running pods, and further commands in their containers.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};

use net::namespace::Namespaces;
use net::process::{Exit, Launch, LaunchError, Process, Program, Streams, User};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::cluster::PodRef;
use super::environment::Environment;
use super::logs::LogProgress;

/// Bytes of a command's output that its error message may contain.
const KEPT: u64 = 10 << 10;

/// A running container, as other tasks than its pod's own use it.
#[derive(Debug)]
pub(super) struct RunningContainer {
    pub process: Arc<Process>,
    pub environment: Environment,
    pub directory: Option<PathBuf>,
    pub user: Option<User>,
    pub log: watch::Receiver<LogProgress>,
    /// The standard input, if the container has `stdin: true`.
    pub input: Option<ContainerInput>,
}

/// The standard input of a container, which stays open while no client is attached.
#[derive(Debug)]
pub(super) struct ContainerInput {
    pipe: tokio::sync::Mutex<Option<pipe::Sender>>,
    /// Whether the input ends with the first client (`stdinOnce`).
    once: bool,
}

impl ContainerInput {
    /// Returns the input, and the end of the pipe for the container.
    pub(super) fn open(once: bool) -> io::Result<(Self, OwnedFd)> {
        let (theirs, ours) = io::pipe()?;
        let pipe = pipe::Sender::from_owned_fd(ours.into())?;
        Ok((Self { pipe: tokio::sync::Mutex::new(Some(pipe)), once }, theirs.into()))
    }

    /// Writes the input of a client. Returns an error if the container reads no more.
    pub(super) async fn write(&self, data: &[u8]) -> io::Result<()> {
        match &mut *self.pipe.lock().await {
            Some(pipe) => pipe.write_all(data).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends the input if it is for one client.
    pub(super) async fn detached(&self) {
        if self.once {
            self.pipe.lock().await.take();
        }
    }
}

/// A running pod, as other tasks than its own use it.
#[derive(Debug)]
pub(super) struct PodHandle {
    pub name: PodRef,
    /// Name of the pod's node.
    pub node: String,
    /// Directory of the pod.
    pub directory: PathBuf,
    state: Mutex<PodState>,
}

#[derive(Debug, Default)]
struct PodState {
    addresses: Vec<IpAddr>,
    sandbox: Option<Arc<OwnedFd>>,
    live: HashMap<String, Arc<RunningContainer>>,
    /// Number of the latest run by container, and the progress of its log.
    runs: HashMap<String, (u32, watch::Receiver<LogProgress>)>,
}

impl PodHandle {
    pub(super) fn new(name: PodRef, node: String, directory: PathBuf) -> Self {
        Self { name, node, directory, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, PodState> {
        self.state.lock().expect("no holder of the lock panics")
    }

    pub(super) fn set_live(&self, container: &str, run: u32, live: Arc<RunningContainer>) {
        let mut state = self.state();
        state.runs.insert(container.to_owned(), (run, live.log.clone()));
        state.live.insert(container.to_owned(), live);
    }

    pub(super) fn unset_live(&self, container: &str) {
        self.state().live.remove(container);
    }

    pub(super) fn live(&self, container: &str) -> Option<Arc<RunningContainer>> {
        self.state().live.get(container).cloned()
    }

    /// Returns the running containers by name.
    pub(super) fn all_live(&self) -> Vec<(String, Arc<RunningContainer>)> {
        self.state().live.iter().map(|(name, live)| (name.clone(), live.clone())).collect()
    }

    /// Returns the latest run of a container and the progress of its log.
    pub(super) fn run(&self, container: &str) -> Option<(u32, watch::Receiver<LogProgress>)> {
        self.state().runs.get(container).cloned()
    }

    pub(super) fn set_sandbox(&self, addresses: &[IpAddr], sandbox: Option<OwnedFd>) {
        let mut state = self.state();
        state.addresses = addresses.to_vec();
        state.sandbox = sandbox.map(Arc::new);
    }

    /// Returns the pause process, for joining the pod's namespaces.
    pub(super) fn sandbox(&self) -> Option<Arc<OwnedFd>> {
        self.state().sandbox.clone()
    }

    pub(super) fn last_addresses(&self) -> Vec<IpAddr> {
        self.state().addresses.clone()
    }
}

/// The running pods by namespace and name.
#[derive(Debug, Default)]
pub(super) struct PodRegistry {
    held: RwLock<HashMap<(String, String), Arc<PodHandle>>>,
}

impl PodRegistry {
    pub(super) fn insert(&self, pod: Arc<PodHandle>) {
        let key = (pod.name.namespace.clone(), pod.name.name.clone());
        self.held.write().expect("no holder of the lock panics").insert(key, pod);
    }

    /// Removes a pod, unless another pod has its name by now.
    pub(super) fn remove(&self, pod: &PodHandle) {
        let key = (pod.name.namespace.clone(), pod.name.name.clone());
        let mut held = self.held.write().expect("no holder of the lock panics");
        if held.get(&key).is_some_and(|found| found.name.uid == pod.name.uid) {
            held.remove(&key);
        }
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<PodHandle>> {
        let held = self.held.read().expect("no holder of the lock panics");
        held.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<PodHandle>> {
        self.held.read().expect("no holder of the lock panics").values().cloned().collect()
    }
}

/// Starts a command in a container, beside its program.
pub(super) async fn start(
    live: &RunningContainer,
    command: Vec<String>,
    mut streams: Streams,
    terminal: bool,
) -> Result<Process, LaunchError> {
    let mut words = command.into_iter();
    let program = words.next().ok_or_else(|| LaunchError::Refused("no command is given".into()))?;
    let mut launch = Launch::new(Program::Named(program));
    launch.arguments = words.collect();
    launch.environment = live.environment.clone();
    if terminal && !launch.environment.iter().any(|(name, _)| name == "TERM") {
        launch.environment.push(("TERM".into(), "xterm".into()));
    }
    launch.directory = live.directory.clone();
    launch.join = Namespaces::ALL;
    launch.user = live.user.clone();
    launch.terminal = terminal;
    streams.of = Some(live.process.handle().map_err(|error| LaunchError::Refused(error.to_string()))?);
    net::process::launch(launch, streams).await
}

/// Runs a command and waits for its end. An error is the command's output. Dropping the future kills the command.
pub(super) async fn to_end(live: &RunningContainer, command: Vec<String>) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let (mut output, writer) = io::pipe().map_err(text)?;
    let mut streams = Streams::none().map_err(text)?;
    streams.output = writer.try_clone().map_err(text)?.into();
    streams.error = writer.into();
    let process = start(live, command, streams, false).await.map_err(|error| error.to_string())?;
    let guard = EndOnDrop(process);
    let reading = tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        let _ = (&mut output).take(KEPT).read_to_end(&mut said);
        let _ = io::copy(&mut output, &mut io::sink());
        String::from_utf8_lossy(&said).trim().to_owned()
    });
    match guard.0.wait().await.map_err(text)? {
        Exit::Code(0) => Ok(()),
        exit => {
            let patience = std::time::Duration::from_millis(200);
            let said = tokio::time::timeout(patience, reading).await;
            let said = said.ok().and_then(Result::ok).unwrap_or_default();
            Err(if said.is_empty() { format!("command exited with {}", exit.code()) } else { said })
        }
    }
}

/// Kills a command when it is dropped.
pub(super) struct EndOnDrop(pub Process);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill(net::process::Signal::KILL);
        // A task reaps the process.
        if let (Ok(handle), Ok(runtime)) = (self.0.handle(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || net::process::take_exit(&handle));
        }
    }
}
