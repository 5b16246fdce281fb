//! The first process of a lab's pid namespace: creates the networks, starts the clusters' processes, and ends them when
//! it ends.
//!
//! It is two processes. The outer one enters the namespaces; a pid namespace holds only a process's children, so the
//! inner one does the work. Both end with the launcher: by a signal when the launcher's thread ends, and because their
//! socket to the launcher is closed.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use install::client_error;
use net::firewall::Services;
use net::namespace::{Namespaces, NetNamespace};
use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::cluster::SAVED_OBJECTS;
use super::control::{self, CaptureSummary, ControlReply, ControlRequest, FrameFile};
use super::cuts::Cuts;
use super::host_listener::HostListener;
use super::state::LabDirectory;
use super::{handover, handshake, issuers, networks, outside};
use crate::console::print_stderr;
use crate::topology::Topology;

/// How long the node agents may take to end their pods gracefully.
const ORDERLY: Duration = Duration::from_millis(1500);
/// How long an API server may take to save its objects when it is killed.
const SAVING: Duration = Duration::from_secs(5);
const SELF: &str = "/proc/self/exe";

/// A message of the launcher: first the request to create the lab, with one listener per cluster attached, and later
/// the request to stop.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InitRequest {
    /// Create the lab.
    Make {
        /// Directory of the lab.
        directory: PathBuf,
        /// The topology.
        topology: Box<Topology>,
    },
    /// Stop the lab gracefully.
    Stop,
}

/// A message to the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InitReport {
    /// The networks exist and the processes have started.
    Started {
        /// Whether a user namespace was needed.
        rootless: bool,
    },
    /// The lab cannot be created, with the reason.
    Failed(String),
    /// A process of the lab has ended unexpectedly.
    Ended {
        /// The process, such as `apiserver of cluster west`.
        process: String,
        /// Path of its log.
        log: PathBuf,
        /// Exit code or signal.
        how: String,
    },
}

/// Runs the outer process.
pub fn outer() -> ExitCode {
    match enter() {
        Ok(code) => code,
        Err(error) => {
            if let Ok(mut launcher) = handover::from_parent() {
                report(&mut launcher, &InitReport::Failed(client_error::without_numbers(&error.to_string())));
            }
            ExitCode::FAILURE
        }
    }
}

fn enter() -> Result<ExitCode, Box<dyn std::error::Error>> {
    end_with_parent()?;
    let rootless = net::namespace::enter_user_namespace()?;
    net::namespace::unshare(Namespaces { net: true, mount: true, pid: true, ipc: true, uts: false })?;
    // Entering a user namespace changes the credentials, which clears the parent-death signal.
    end_with_parent()?;
    let mut inner = Command::new(SELF);
    inner.args(["lab-init", "--inner"]);
    if rootless {
        inner.arg("--rootless");
    }
    let status = inner.spawn()?.wait()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Asks the kernel to kill this process when its parent ends.
fn end_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

fn report(launcher: &mut UnixStream, message: &InitReport) {
    // If the launcher has ended, this process is about to end as well.
    let _ = handover::send(launcher, &serde_json::to_vec(message).unwrap_or_default(), &[]);
}

/// Runs the inner process, process 1 of its pid namespace.
pub fn inner(rootless: bool) -> ExitCode {
    let Ok(mut launcher) = handover::from_parent() else { return ExitCode::FAILURE };
    let lab = match make(&mut launcher) {
        Ok(lab) => Arc::new(lab),
        Err(error) => {
            report(&mut launcher, &InitReport::Failed(client_error::without_numbers(&error.to_string())));
            return ExitCode::FAILURE;
        }
    };
    report(&mut launcher, &InitReport::Started { rootless });
    let serving = lab.clone();
    std::thread::spawn(move || serve(&serving));
    let reader = launcher.try_clone();
    let stopping = lab.clone();
    std::thread::spawn(move || {
        let Ok(mut reader) = reader else { std::process::exit(1) };
        // A request to stop and a closed connection both end the lab.
        let orderly = handover::receive(&mut reader).is_ok();
        if orderly {
            stopping.stop();
        }
        std::process::exit(0);
    });
    lab.reap(&mut launcher)
}

struct LabInit {
    directory: LabDirectory,
    topology: Topology,
    networks: Vec<NetNamespace>,
    /// Sockets of the API servers on the host's loopback, in the order of the topology.
    listeners: Vec<HostListener>,
    processes: Mutex<BTreeMap<i32, ClusterProcess>>,
    changed: Condvar,
    /// The connections between clusters that are cut.
    cuts: Mutex<Cuts>,
}

struct ClusterProcess {
    /// Name of the cluster; empty for a process of the whole lab.
    cluster: String,
    kind: ProcessKind,
    /// Whether the end of the process was requested.
    expected: bool,
}

impl ClusterProcess {
    fn is_api_of(&self, cluster: &str) -> bool {
        self.kind == ProcessKind::Api && self.cluster == cluster
    }

    fn described(&self) -> String {
        match self.kind {
            ProcessKind::Issuers => "the server of issuers".to_owned(),
            ProcessKind::External => "the servers outside of the mesh".to_owned(),
            ProcessKind::Ports => "the process of the ports of ingress gateways".to_owned(),
            kind => format!("{} of cluster {}", kind.name(), self.cluster),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProcessKind {
    Api,
    Node,
    Issuers,
    External,
    Ports,
}

impl ProcessKind {
    fn name(self) -> &'static str {
        match self {
            Self::Api => "apiserver",
            Self::Node => "node",
            Self::Issuers => "issuers",
            Self::External => "external",
            Self::Ports => "ports",
        }
    }
}

fn make(launcher: &mut UnixStream) -> Result<LabInit, Box<dyn std::error::Error>> {
    end_with_parent()?;
    let (message, mut listeners) = handover::receive(launcher)?;
    let InitRequest::Make { directory, topology } = serde_json::from_slice(&message)? else {
        return Err("the launcher's first message is not a request to create a lab".into());
    };
    net::namespace::mount::make_private()?;
    net::namespace::mount::proc(Path::new("/proc"), Path::new("/proc"))?;
    let networks = networks::build(&topology)?;
    if let Some(network) = networks.first() {
        // Without packet rules no pod would become ready, and only the components' logs would show why.
        network.run_in(|| net::firewall::apply_services(&Services::default()))?.map_err(|error| {
            format!("{error}\n  the kernel needs nftables: modprobe -a nf_tables nft_chain_nat nft_redir nft_masq nft_reject_inet")
        })?;
    }
    let directory = LabDirectory::at(directory);
    let ports = listeners.split_off(topology.clusters.len().min(listeners.len()));
    let lab = LabInit {
        directory,
        topology: *topology,
        networks,
        listeners: listeners.into_iter().map(HostListener::new).collect(),
        processes: Mutex::default(),
        changed: Condvar::new(),
        cuts: Mutex::default(),
    };
    for (index, listener) in lab.listeners.iter().enumerate() {
        lab.start(index, ProcessKind::Api, Some(listener.handle()?))?;
        lab.start(index, ProcessKind::Node, None)?;
    }
    if !lab.topology.issuers.is_empty() {
        lab.start_on_bridge(ProcessKind::Issuers, Stdio::null())?;
    }
    if !lab.topology.external.is_empty() {
        lab.start_on_bridge(ProcessKind::External, Stdio::null())?;
    }
    if !ports.is_empty() {
        lab.start_ports(&ports)?;
    }
    Ok(lab)
}

impl LabInit {
    fn start(&self, index: usize, kind: ProcessKind, input: Option<OwnedFd>) -> Result<(), Box<dyn std::error::Error>> {
        let cluster = self.topology.clusters.get(index).ok_or("a listener without a cluster")?;
        let network = self.networks.get(index).ok_or("a cluster without a network")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.cluster(&cluster.name).join(format!("{}.log", kind.name())))?;
        let mut command = Command::new(SELF);
        command.arg(match kind {
            ProcessKind::Api => "lab-apiserver",
            _ => "lab-node",
        });
        command.arg("--directory").arg(self.directory.path()).arg("--cluster").arg(&cluster.name);
        command.stdin(input.map_or_else(Stdio::null, Stdio::from)).stdout(log.try_clone()?).stderr(log);
        // A child starts in the network namespace of the thread that starts it.
        let child = network.run_in(|| command.spawn())??;
        let pid = i32::try_from(child.id())?;
        let started = ClusterProcess { cluster: cluster.name.clone(), kind, expected: false };
        self.processes().insert(pid, started);
        Ok(())
    }

    /// Starts a process of the whole lab in the network of the bridge, which no cluster is in.
    fn start_on_bridge(&self, kind: ProcessKind, input: Stdio) -> Result<(), Box<dyn std::error::Error>> {
        let started = ClusterProcess { cluster: String::new(), kind, expected: false };
        let log = File::options().create(true).append(true).open(self.log_of(&started))?;
        let mut command = Command::new(SELF);
        command.arg(format!("lab-{}", kind.name())).arg("--directory").arg(self.directory.path());
        let child = command.stdin(input).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.processes().insert(i32::try_from(child.id())?, started);
        Ok(())
    }

    /// Starts the process that accepts connections for ingress gateways, with its listeners.
    fn start_ports(&self, listeners: &[OwnedFd]) -> Result<(), Box<dyn std::error::Error>> {
        let (mut ours, theirs) = UnixStream::pair()?;
        self.start_on_bridge(ProcessKind::Ports, Stdio::from(OwnedFd::from(theirs)))?;
        let files: Vec<_> = listeners.iter().map(OwnedFd::as_fd).collect();
        Ok(handover::send(&mut ours, b"", &files)?)
    }

    fn log_of(&self, process: &ClusterProcess) -> PathBuf {
        match process.kind {
            ProcessKind::Issuers => self.directory.path().join(issuers::LOG),
            ProcessKind::External => self.directory.path().join(outside::LOG),
            ProcessKind::Ports => self.directory.path().join("ports.log"),
            kind => self.directory.cluster(&process.cluster).join(format!("{}.log", kind.name())),
        }
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, ClusterProcess>> {
        self.processes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reaps every process that ends, as the first process of a pid namespace must.
    fn reap(&self, launcher: &mut UnixStream) -> ExitCode {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => {
                    let ended = self.forget(pid.as_raw_nonzero().get());
                    if let Some(started) = ended.filter(|started| !started.expected) {
                        let how = match (status.exit_status(), status.terminating_signal()) {
                            (Some(code), _) => format!("exit code {code}"),
                            (None, Some(signal)) => format!("signal {signal}"),
                            (None, None) => "unknown".to_owned(),
                        };
                        let (process, log) = (started.described(), self.log_of(&started));
                        report(launcher, &InitReport::Ended { process, log, how });
                    }
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                // No child is left, and none will be started. Another thread exits the process when the launcher
                // requests it or ends.
                Err(_) => std::thread::park(),
            }
        }
    }

    /// Removes a process that has ended. Nobody else accepts the connections of an API server, so they are refused.
    fn forget(&self, pid: i32) -> Option<ClusterProcess> {
        let mut processes = self.processes();
        let ended = processes.remove(&pid);
        if let Some(api) = ended.as_ref().filter(|ended| ended.kind == ProcessKind::Api) {
            let listener = self.topology.clusters.iter().position(|it| it.name == api.cluster);
            if let Some(Err(error)) = listener.and_then(|index| self.listeners.get(index)).map(HostListener::close) {
                print_stderr(&format!(
                    "the port of the API server of {} is lost: {}",
                    api.cluster,
                    client_error::system(&error)
                ));
            }
        }
        self.changed.notify_all();
        ended
    }

    /// Ends the node agents gracefully, then the other processes.
    fn stop(&self) {
        let until = Instant::now() + ORDERLY;
        let mut processes = self.processes();
        for (pid, started) in processes.iter_mut() {
            started.expected = true;
            if started.kind == ProcessKind::Node {
                signal(*pid, Signal::TERM);
            }
        }
        while processes.values().any(|started| started.kind == ProcessKind::Node) {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            let waited = self.changed.wait_timeout(processes, left);
            processes = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    fn answer(&self, request: &ControlRequest) -> ControlReply {
        let done = match request {
            ControlRequest::KillApi { cluster } => self.kill_api(cluster),
            ControlRequest::ReviveApi { cluster } => self.revive_api(cluster),
            ControlRequest::HoldApi { cluster, hold } => {
                self.signal_api(cluster, if *hold { Signal::STOP } else { Signal::CONT })
            }
            ControlRequest::KillNode { cluster, node } => self.node_fault(cluster, node, true),
            ControlRequest::ReviveNode { cluster, node } => self.node_fault(cluster, node, false),
            ControlRequest::Cut { from, to, only, cut } => {
                let mut cuts = self.cuts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                cuts.change(&self.topology, &self.networks, (from.as_str(), to.as_str(), *only), *cut)
            }
            ControlRequest::Reach { gateway, server_name } => {
                handshake::probe(*gateway, server_name).map_err(|error| client_error::system(&error))
            }
            ControlRequest::Capture { milliseconds, cluster, write } => {
                let patience = Duration::from_millis((*milliseconds).min(600_000));
                return match self.capture(patience, cluster.as_deref(), write.as_deref()) {
                    Ok(capture) => ControlReply::Captured(capture),
                    Err(error) => ControlReply::Failed(client_error::system(&error)),
                };
            }
        };
        done.map_or_else(ControlReply::Failed, |()| ControlReply::Done)
    }

    /// Sends a signal to the cluster's API server.
    fn signal_api(&self, cluster: &str, which: Signal) -> Result<(), String> {
        match self.processes().iter().find(|(_, started)| started.is_api_of(cluster)) {
            Some((pid, _)) => {
                signal(*pid, which);
                Ok(())
            }
            None => Err(format!(
                "the API server of \"{cluster}\" is not running\n  revive it: isthmus lab fault revive-api {cluster}"
            )),
        }
    }

    /// Kills the cluster's API server, which saves its objects first: those of a real one are in etcd.
    fn kill_api(&self, cluster: &str) -> Result<(), String> {
        self.signal_api(cluster, Signal::USR1)?;
        // It may be suspended.
        self.signal_api(cluster, Signal::CONT)?;
        let mut processes = self.processes();
        processes.values_mut().filter(|started| started.is_api_of(cluster)).for_each(|api| api.expected = true);
        let runs = |processes: &mut BTreeMap<i32, ClusterProcess>| processes.values().any(|it| it.is_api_of(cluster));
        let (processes, waited) =
            self.changed.wait_timeout_while(processes, SAVING, runs).unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(processes);
        if waited.timed_out() {
            // It may have ended by now.
            let _ = self.signal_api(cluster, Signal::KILL);
        }
        match self.saved_objects(cluster).is_file() {
            true => Ok(()),
            false => Err(format!(
                "the API server of \"{cluster}\" was killed before it could save its objects, and cannot be revived\n  \
                 see {}",
                self.directory.cluster(cluster).join("apiserver.log").display()
            )),
        }
    }

    /// Starts the cluster's API server again, with the objects of the one that was killed.
    fn revive_api(&self, cluster: &str) -> Result<(), String> {
        let unknown = || format!("no cluster \"{cluster}\"");
        let index = self.topology.clusters.iter().position(|it| it.name == cluster).ok_or_else(unknown)?;
        if self.processes().values().any(|started| started.is_api_of(cluster)) {
            return Err(format!(
                "the API server of \"{cluster}\" is running\n  resume it if it is suspended: isthmus lab fault release-api \
                 {cluster}"
            ));
        }
        if !self.saved_objects(cluster).is_file() {
            return Err(format!(
                "the API server of \"{cluster}\" has saved no objects, and cannot be revived\n  start the lab again: isthmus \
                 lab down, isthmus lab up"
            ));
        }
        let listener = self.listeners.get(index).ok_or_else(unknown)?;
        let opened = listener.open().and_then(|()| listener.handle());
        let handle = opened.map_err(|error| {
            format!("the API server's port on this machine cannot be used again: {}", client_error::system(&error))
        })?;
        self.start(index, ProcessKind::Api, Some(handle)).map_err(|error| {
            // Nothing accepts connections. If the port cannot be closed, clients wait until they give up.
            let _ = listener.close();
            format!(
                "the API server of \"{cluster}\" cannot be started: {}",
                client_error::without_numbers(&error.to_string())
            )
        })
    }

    fn saved_objects(&self, cluster: &str) -> PathBuf {
        self.directory.cluster(cluster).join(SAVED_OBJECTS)
    }

    /// Passes a fault to the cluster's node agent, which knows the processes of its pods.
    fn node_fault(&self, cluster: &str, node: &str, kill: bool) -> Result<(), String> {
        super::cluster::inject_node_fault(&self.directory.cluster(cluster), node, kill)
    }

    fn capture(&self, patience: Duration, cluster: Option<&str>, write: Option<&Path>) -> io::Result<CaptureSummary> {
        // A packet socket on a bridge receives only packets for the host; its ports receive everything that passes.
        let links: Vec<String> = match cluster {
            None => self.topology.clusters.iter().map(networks::port_of).collect(),
            Some(name) => match self.topology.cluster(name) {
                Some(cluster) => vec![networks::port_of(cluster)],
                None => return Err(io::Error::new(io::ErrorKind::NotFound, format!("no cluster \"{name}\""))),
            },
        };
        let sources: io::Result<Vec<_>> =
            links.iter().map(|link| net::capture::Capture::open(link, Duration::from_millis(20))).collect();
        let sources = sources?;
        // Every frame from here on is captured: a client may wait for the file before it sends traffic.
        let seen = CaptureState { file: write.map(FrameFile::create).transpose()?, ..CaptureState::default() };
        let seen = Arc::new(Mutex::new(seen));
        let until = Instant::now() + patience;
        let readers: Vec<_> = sources
            .into_iter()
            .map(|source| {
                let seen = seen.clone();
                std::thread::spawn(move || read_frames(source, until, &seen))
            })
            .collect();
        for reader in readers {
            reader.join().map_err(|_| io::Error::other("the reader panicked"))??;
        }
        let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(file) = &mut seen.file {
            file.finish()?;
        }
        Ok(std::mem::take(&mut seen.capture))
    }
}

/// The state that the readers of several links share.
#[derive(Default)]
struct CaptureState {
    capture: CaptureSummary,
    frames: HashSet<u64>,
    file: Option<FrameFile>,
}

/// Reads a link until `until`. Frames that another link has shown already are not counted again.
fn read_frames(mut source: net::capture::Capture, until: Instant, seen: &Mutex<CaptureState>) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    while Instant::now() < until {
        let Some(frame) = source.next_frame(&mut buffer)? else { continue };
        let mut hasher = DefaultHasher::new();
        frame.get(14..).hash(&mut hasher);
        let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.frames.insert(hasher.finish()) {
            seen.capture.take_in(frame, &[crate::topology::API_PORT]);
            if let Some(file) = &mut seen.file {
                file.add(frame)?;
            }
        }
    }
    Ok(())
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // The process may just have ended.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Serves control requests until the lab ends.
fn serve(lab: &Arc<LabInit>) {
    let Ok(listener) = UnixListener::bind(lab.directory.path().join(control::SOCKET)) else { return };
    for stream in listener.incoming().flatten() {
        let lab = lab.clone();
        std::thread::spawn(move || {
            // A client that disconnects gets no reply.
            let _ = serve_one(&lab, stream);
        });
    }
}

fn serve_one(lab: &LabInit, stream: UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut line = String::new();
    BufReader::new(io::Read::take(&stream, 1 << 16)).read_line(&mut line)?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => lab.answer(&request),
        Err(_) => {
            ControlReply::Failed("the request has another form: the lab and this command differ in version".to_owned())
        }
    };
    let mut answer = serde_json::to_vec(&reply)?;
    answer.push(b'\n');
    (&stream).write_all(&answer)
}

/// Starts the outer process, with `socket` as its standard input.
///
/// # Errors
/// Returns an error if the process cannot be started.
pub fn spawn(executable: &Path, socket: &UnixStream, log: File) -> io::Result<std::process::Child> {
    let mut command = Command::new(executable);
    command
        .arg("lab-init")
        .stdin(socket.as_fd().try_clone_to_owned()?)
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for the launcher, which then stops the lab.
        .process_group(0);
    command.spawn()
}
