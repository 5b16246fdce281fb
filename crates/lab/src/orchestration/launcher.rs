//! The launcher: claims the lab's name, generates its keys, opens its listeners, starts its processes, and cleans up.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use install::client_error;
use install::components::GATEWAY_PORT;
use install::gateways::GatewayKind;
use k8s_openapi::jiff::Timestamp;

use super::cluster::NODE_SOCKET;
use super::host_ports::{self, HostPortError};
use super::init::{InitReport, InitRequest};
use super::issuers::{self, IssuersError};
use super::keys::{ClusterKeys, KeysError, merged};
use super::outside::{self, OutsideError};
use super::state::{ClusterRecord, LabDirectory, LabName, LabRecord, LabState, PortRecord, StateError, start_of};
use super::{control, handover, init};
use crate::timestamp;
use crate::topology::{Cluster, Diagnostic, Topology};

/// How long creating namespaces and links may take.
const MAKING: Duration = Duration::from_secs(20);
/// Interval between two checks for an interruption.
const INTERVAL: Duration = Duration::from_millis(20);
/// Longest path of a socket (`unix(7)`), without the byte that ends it.
const MAX_SOCKET_PATH: usize = 107;
/// How long the lab's processes may take to end gracefully.
const ENDING: Duration = Duration::from_secs(4);

/// A lab could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The topology file is wrong.
    #[error(transparent)]
    Topology(#[from] Box<Diagnostic>),
    /// The lab's name or directory is not available.
    #[error(transparent)]
    State(#[from] StateError),
    /// The keys of a cluster cannot be generated.
    #[error(transparent)]
    ClusterKeys(#[from] KeysError),
    /// The keys of the issuers cannot be generated.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// The certificates of the mesh's edges cannot be made.
    #[error(transparent)]
    Outside(#[from] OutsideError),
    /// A port of this machine is not available.
    #[error(transparent)]
    HostPort(#[from] HostPortError),
    /// A system call failed.
    #[error("cannot {action}: {}", client_error::system(.source))]
    Io {
        /// What failed.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A socket of the lab has too long a path.
    #[error(
        "{path} is too long for a socket: {length} characters, at most {most}\n  choose a shorter name: \
         --name NAME, or set ISTHMUS_RUNTIME_DIR to a directory with a shorter path", path = .path.display(), most = MAX_SOCKET_PATH
    )]
    SocketPath {
        /// Path of the socket.
        path: PathBuf,
        /// Length of the path in bytes.
        length: usize,
    },
    /// A signal arrived.
    #[error("interrupted")]
    Interrupted,
    /// The networks cannot be created.
    #[error("the lab's networks cannot be created: {0}")]
    Networks(String),
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> LauncherError {
    move |source| LauncherError::Io { action, source }
}

/// Options of a lab.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Path of the topology file.
    pub topology: PathBuf,
    /// Name of the lab; `None` is the topology's name.
    pub name: Option<LabName>,
}

/// A running lab. Dropping it stops the lab and removes its directory.
pub struct RunningLab {
    /// Topology of the lab.
    pub topology: Topology,
    /// Directory of the lab.
    pub directory: LabDirectory,
    /// Record of the lab on disk.
    pub record: LabRecord,
    /// Kubeconfigs for this machine, in the order of the topology.
    pub kubeconfigs: Vec<String>,
    /// Certificate authorities of the API servers, PEM, in the order of the topology.
    pub authorities: Vec<String>,
    /// Certificate authority of the issuers of tokens, PEM, if the topology has any.
    pub issuers_authority: Option<String>,
    /// Whether the lab runs without root.
    pub rootless: bool,
    /// When the lab was started.
    pub begin: Instant,
    messages: Option<mpsc::Receiver<InitReport>>,
    socket: UnixStream,
    child: Child,
}

impl RunningLab {
    /// Starts the lab's processes. To be called on the main thread: the processes end with the calling thread.
    ///
    /// # Errors
    /// Returns an error if the topology is wrong, the name is taken, the system does not permit namespaces, or
    /// `told_to_stop` returns true.
    pub fn start(options: &LabOptions, is_interrupted: &dyn Fn() -> bool) -> Result<Self, LauncherError> {
        let begin = Instant::now();
        let mut topology = Topology::load(&options.topology)?;
        let name = match &options.name {
            Some(name) => name.clone(),
            None => topology.name.parse().map_err(StateError::Name)?,
        };
        topology.name = name.to_string();
        topology.path = std::fs::canonicalize(&topology.path).unwrap_or(topology.path);
        let directory = LabDirectory::claim(&name)?;
        // From here on the directory belongs to this lab and is removed with it.
        let started = Self::start_in(&directory, name, topology, begin, is_interrupted);
        if started.is_err() {
            directory.remove()?;
        }
        started
    }

    fn start_in(
        directory: &LabDirectory,
        name: LabName,
        topology: Topology,
        begin: Instant,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Self, LauncherError> {
        check_sockets(directory, &topology)?;
        let mut listeners = Vec::new();
        let mut kubeconfigs = Vec::new();
        let mut authorities = Vec::new();
        let mut clusters = Vec::new();
        for cluster in &topology.clusters {
            let listener = TcpListener::bind("127.0.0.1:0").map_err(failed("listen on 127.0.0.1"))?;
            let address = listener.local_addr().map_err(failed("listen on 127.0.0.1"))?;
            let keys = ClusterKeys::generate(cluster)?;
            keys.write(directory, cluster)?;
            let record = record_of(directory, cluster, address);
            let kubeconfig = keys.kubeconfig(&cluster.name, &record.api);
            directory.write(&format!("{}.kubeconfig", cluster.name), kubeconfig.as_bytes())?;
            kubeconfigs.push(kubeconfig);
            authorities.push(keys.authority);
            clusters.push(record);
            listeners.push(listener);
        }
        listeners.extend(ingress_ports(&topology, &mut clusters)?);
        let issuers_authority = issuers::create(directory, &topology.issuers)?;
        outside::create(directory, &topology)?;
        directory.write("kubeconfig", merged(&kubeconfigs).as_bytes())?;
        directory.write("topology.json", &serde_json::to_vec(&topology).unwrap_or_default())?;
        let pid = std::process::id();
        let record = LabRecord {
            name,
            pid,
            started_ticks: start_of(pid).unwrap_or_default(),
            started: timestamp::seconds(Timestamp::now()),
            topology: topology.path.clone(),
            state: LabState::Starting,
            clusters,
        };
        directory.write_record(&record)?;

        let (mut socket, theirs) = UnixStream::pair().map_err(failed("create a socket"))?;
        let log = File::create(directory.path().join("init.log")).map_err(failed("write the lab's log"))?;
        let executable = std::env::current_exe().map_err(failed("find this program"))?;
        let child = init::spawn(&executable, &theirs, log).map_err(failed("start the lab's first process"))?;
        drop(theirs);
        let make = InitRequest::Make { directory: directory.path().to_owned(), topology: Box::new(topology.clone()) };
        let make = serde_json::to_vec(&make).unwrap_or_default();
        let files: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
        handover::send(&mut socket, &make, &files).map_err(failed("write to the lab's first process"))?;
        drop(files);
        let messages = listen(&socket).map_err(failed("read from the lab's first process"))?;
        let mut running = Self {
            topology,
            directory: directory.clone(),
            record,
            kubeconfigs,
            authorities,
            issuers_authority,
            rootless: false,
            begin,
            messages: Some(messages),
            socket,
            child,
        };
        running.rootless = running.started(is_interrupted)?;
        Ok(running)
    }

    fn started(&self, is_interrupted: &dyn Fn() -> bool) -> Result<bool, LauncherError> {
        let Some(messages) = &self.messages else { return Ok(false) };
        let until = Instant::now() + MAKING;
        let first = loop {
            if is_interrupted() {
                return Err(LauncherError::Interrupted);
            }
            match messages.recv_timeout(INTERVAL) {
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < until => {}
                first => break first,
            }
        };
        match first {
            Ok(InitReport::Started { rootless }) => Ok(rootless),
            Ok(InitReport::Failed(why)) => Err(LauncherError::Networks(why)),
            _ => {
                let log = std::fs::read_to_string(self.directory.path().join("init.log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or("the lab's first process ended without a message");
                Err(LauncherError::Networks(last.to_owned()))
            }
        }
    }

    /// Returns the messages of the lab's first process. They can be taken once.
    pub fn messages(&mut self) -> Option<mpsc::Receiver<InitReport>> {
        self.messages.take()
    }

    /// Reports whether the lab's first process is running.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_of(self.child.id()).is_some()
    }

    /// Records how far the lab has come.
    ///
    /// # Errors
    /// Returns an error if the record cannot be written.
    pub fn set_state(&mut self, state: LabState) -> Result<(), StateError> {
        self.record.state = state;
        self.directory.write_record(&self.record)
    }

    /// Returns the environment variables of programs that `lab run` starts.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            (super::state::LAB, PathBuf::from(self.record.name.as_str())),
            ("KUBECONFIG", self.directory.path().join("kubeconfig")),
        ]
    }

    fn end(&mut self) {
        let stop = serde_json::to_vec(&InitRequest::Stop).unwrap_or_default();
        // The process may have ended already.
        let _ = handover::send(&mut self.socket, &stop, &[]);
        let until = Instant::now() + ENDING;
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for RunningLab {
    fn drop(&mut self) {
        self.end();
        // A process that was killed while it wrote may have created a file during the removal.
        for _ in 0..20 {
            match self.directory.remove() {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "the lab's directory is not removed yet"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Checks that every socket of the lab can be bound. Otherwise the lab would start, and faults and `exec` fail.
fn check_sockets(directory: &LabDirectory, topology: &Topology) -> Result<(), LauncherError> {
    let of_clusters = topology.clusters.iter().map(|cluster| directory.cluster(&cluster.name).join(NODE_SOCKET));
    let mut sockets = std::iter::once(directory.path().join(control::SOCKET)).chain(of_clusters);
    let length = |path: &PathBuf| path.as_os_str().len();
    match sockets.find(|path| length(path) > MAX_SOCKET_PATH) {
        Some(path) => Err(LauncherError::SocketPath { length: length(&path), path }),
        None => Ok(()),
    }
}

fn record_of(directory: &LabDirectory, cluster: &Cluster, api: SocketAddr) -> ClusterRecord {
    ClusterRecord {
        name: cluster.name.clone(),
        role: if cluster.is_primary() { "primary" } else { "remote" }.to_owned(),
        primary: cluster.primary().to_owned(),
        network: cluster.network.clone(),
        region: cluster.region.clone(),
        zones: cluster.zones.clone(),
        gateway: SocketAddr::new(cluster.gateway(), GATEWAY_PORT).to_string(),
        server: cluster.server(),
        api: format!("https://{api}"),
        kubeconfig: directory.path().join(format!("{}.kubeconfig", cluster.name)),
        ports: Vec::new(),
    }
}

/// Opens the listeners of all ports of ingress gateways, in the order of the topology, and records them.
fn ingress_ports(topology: &Topology, clusters: &mut [ClusterRecord]) -> Result<Vec<TcpListener>, HostPortError> {
    let mut listeners = Vec::new();
    for port in topology.ingress_ports() {
        let (listener, host) = host_ports::listen(&port)?;
        listeners.push(listener);
        clusters[usize::from(port.cluster.index)].ports.push(PortRecord {
            gateway: format!("{}/{}", port.namespace, GatewayKind::Ingress.name()),
            name: port.port.name.clone(),
            port: port.port.port,
            address: port.address.to_string(),
            host: host.to_string(),
        });
    }
    Ok(listeners)
}

/// Reads messages on a thread of its own, until the peer closes the socket.
fn listen(socket: &UnixStream) -> io::Result<mpsc::Receiver<InitReport>> {
    let mut reader = socket.try_clone()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("lab-init".into()).spawn(move || {
        while let Ok((message, _)) = handover::receive(&mut reader) {
            let Ok(message) = serde_json::from_slice(&message) else { continue };
            if sender.send(message).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_refused_before_anything_starts() {
        let text =
            "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  clusters: [{name: west, role: primary}]\n";
        let topology = Topology::parse(std::path::Path::new("t.yaml"), text).expect("a topology");
        let check = |length: usize| {
            let directory = format!("/{}", "d".repeat(length - 1));
            check_sockets(&LabDirectory::at(directory.into()), &topology).map_err(|error| error.to_string())
        };
        let rest = "/west/node.sock".len();
        assert_eq!(check(MAX_SOCKET_PATH - rest), Ok(()));
        let error = check(MAX_SOCKET_PATH - rest + 1).expect_err("too long");
        assert!(error.contains("108 characters, at most 107") && error.contains("ISTHMUS_RUNTIME_DIR"), "{error}");
    }
}
