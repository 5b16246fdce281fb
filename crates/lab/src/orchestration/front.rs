//! The process at the terminal: claims the lab's name, makes its keys and listeners, starts the rest, and cleans up.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use install::components::GATEWAY_PORT;
use k8s_openapi::jiff::Timestamp;

use super::init::{FromFront, ToFront};
use super::keys::{Keys, KeysError, merged};
use super::state::{ClusterRecord, Directory, Record, StateError, start_of};
use super::{handover, init};
use crate::timestamp;
use crate::topology::{Cluster, Diagnostic, Topology};

/// How long namespaces and links may take to be made.
const MAKING: Duration = Duration::from_secs(20);
/// How often it is looked whether it is to stop, until they are.
const LOOK: Duration = Duration::from_millis(20);
/// How long the lab's processes may take to end in order.
const ENDING: Duration = Duration::from_secs(4);

/// A lab could not be started.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The topology is wrong.
    #[error(transparent)]
    Topology(#[from] Box<Diagnostic>),
    /// Its name or directory cannot be had.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its keys cannot be made.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A listener or process cannot be had.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It was told to stop meanwhile.
    #[error("interrupted")]
    Interrupted,
    /// The networks could not be made.
    #[error("the lab's networks cannot be made: {0}")]
    Networks(String),
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> FrontError {
    move |source| FrontError::Io { action, source }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The topology file.
    pub topology: PathBuf,
    /// Another name than the topology's.
    pub name: Option<String>,
}

/// A started lab. Dropping it ends the lab and removes its directory.
pub struct Running {
    /// What it was made from.
    pub topology: Topology,
    /// Its directory.
    pub directory: Directory,
    /// What is known about it.
    pub record: Record,
    /// Each cluster's kubeconfig, as this machine uses it, in the order of the topology.
    pub kubeconfigs: Vec<String>,
    /// Each cluster's authority, in the order of the topology.
    pub authorities: Vec<String>,
    /// Whether it runs without root.
    pub rootless: bool,
    /// When starting it began.
    pub begin: Instant,
    messages: Option<mpsc::Receiver<ToFront>>,
    socket: UnixStream,
    child: Child,
}

impl Running {
    /// Starts the lab's processes. Must be called on the main thread: the processes end when the calling thread does.
    ///
    /// # Errors
    /// When the topology is wrong, the name is taken, the machine does not allow namespaces, or `told_to_stop` says so.
    pub fn start(options: &Options, told_to_stop: &dyn Fn() -> bool) -> Result<Self, FrontError> {
        let begin = Instant::now();
        let mut topology = Topology::load(&options.topology)?;
        if let Some(name) = &options.name {
            topology.name.clone_from(name);
        }
        topology.path = std::fs::canonicalize(&topology.path).unwrap_or(topology.path);
        let directory = Directory::claim(&topology.name)?;
        // From here on the directory is ours to remove.
        let started = Self::start_in(&directory, topology, begin, told_to_stop);
        if started.is_err() {
            directory.remove()?;
        }
        started
    }

    fn start_in(
        directory: &Directory,
        topology: Topology,
        begin: Instant,
        told_to_stop: &dyn Fn() -> bool,
    ) -> Result<Self, FrontError> {
        let mut listeners = Vec::new();
        let mut kubeconfigs = Vec::new();
        let mut authorities = Vec::new();
        let mut clusters = Vec::new();
        for cluster in &topology.clusters {
            let listener = TcpListener::bind("127.0.0.1:0").map_err(failed("listen on 127.0.0.1"))?;
            let address = listener.local_addr().map_err(failed("listen on 127.0.0.1"))?;
            let keys = Keys::generate(&cluster.name, cluster.uplink())?;
            keys.write(directory, &cluster.name)?;
            let record = record_of(directory, cluster, address);
            let kubeconfig = keys.kubeconfig(&cluster.name, &record.api);
            directory.write(&format!("{}.kubeconfig", cluster.name), kubeconfig.as_bytes())?;
            kubeconfigs.push(kubeconfig);
            authorities.push(keys.authority);
            clusters.push(record);
            listeners.push(listener);
        }
        directory.write("kubeconfig", merged(&kubeconfigs).as_bytes())?;
        directory.write("topology.json", &serde_json::to_vec(&topology).unwrap_or_default())?;
        let pid = std::process::id();
        let record = Record {
            name: topology.name.clone(),
            pid,
            started_ticks: start_of(pid).unwrap_or_default(),
            started: timestamp::seconds(Timestamp::now()),
            topology: topology.path.clone(),
            ready: false,
            clusters,
        };
        directory.write_record(&record)?;

        let (mut socket, theirs) = UnixStream::pair().map_err(failed("make a socket"))?;
        let log = File::create(directory.path().join("init.log")).map_err(failed("write the lab's log"))?;
        let executable = std::env::current_exe().map_err(failed("find this program"))?;
        let child = init::spawn(&executable, &theirs, log).map_err(failed("start the lab's first process"))?;
        drop(theirs);
        let make = FromFront::Make { directory: directory.path().to_owned(), topology: Box::new(topology.clone()) };
        let make = serde_json::to_vec(&make).unwrap_or_default();
        let files: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
        handover::send(&mut socket, &make, &files).map_err(failed("instruct the lab's first process"))?;
        drop(files);
        let messages = listen(&socket).map_err(failed("hear from the lab's first process"))?;
        let mut running = Self {
            topology,
            directory: directory.clone(),
            record,
            kubeconfigs,
            authorities,
            rootless: false,
            begin,
            messages: Some(messages),
            socket,
            child,
        };
        running.rootless = running.started(told_to_stop)?;
        Ok(running)
    }

    fn started(&self, told_to_stop: &dyn Fn() -> bool) -> Result<bool, FrontError> {
        let Some(messages) = &self.messages else { return Ok(false) };
        let until = Instant::now() + MAKING;
        let first = loop {
            if told_to_stop() {
                return Err(FrontError::Interrupted);
            }
            match messages.recv_timeout(LOOK) {
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < until => {}
                first => break first,
            }
        };
        match first {
            Ok(ToFront::Started { rootless }) => Ok(rootless),
            Ok(ToFront::Failed(why)) => Err(FrontError::Networks(why)),
            _ => {
                let log = std::fs::read_to_string(self.directory.path().join("init.log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or("its first process ended without a word");
                Err(FrontError::Networks(last.to_owned()))
            }
        }
    }

    /// What the lab's first process tells from now on. Can be taken once.
    pub fn messages(&mut self) -> Option<mpsc::Receiver<ToFront>> {
        self.messages.take()
    }

    /// Whether the lab's first process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_of(self.child.id()).is_some()
    }

    /// Notes that everything was ready once.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn set_ready(&mut self) -> Result<(), StateError> {
        self.record.ready = true;
        self.directory.write_record(&self.record)
    }

    /// The variables that a program in the lab's surroundings is given.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            (super::state::LAB, PathBuf::from(&self.record.name)),
            ("KUBECONFIG", self.directory.path().join("kubeconfig")),
        ]
    }

    fn end(&mut self) {
        let stop = serde_json::to_vec(&FromFront::Stop).unwrap_or_default();
        // If it has ended already there is nobody to tell.
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

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        // The processes are gone, but one that was killed while writing may have made a file meanwhile.
        for _ in 0..20 {
            match self.directory.remove() {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "the lab's directory is not yet gone"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn record_of(directory: &Directory, cluster: &Cluster, api: SocketAddr) -> ClusterRecord {
    ClusterRecord {
        name: cluster.name.clone(),
        role: if cluster.is_primary() { "primary" } else { "remote" }.to_owned(),
        primary: cluster.primary().to_owned(),
        network: cluster.network.clone(),
        region: cluster.region.clone(),
        zones: cluster.zones.clone(),
        gateway: format!("{}:{}", cluster.gateway(), GATEWAY_PORT),
        api: format!("https://{api}"),
        kubeconfig: directory.path().join(format!("{}.kubeconfig", cluster.name)),
    }
}

/// Reads messages on a thread of its own, until the other side is gone.
fn listen(socket: &UnixStream) -> io::Result<mpsc::Receiver<ToFront>> {
    let mut ears = socket.try_clone()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("lab-init".into()).spawn(move || {
        while let Ok((message, _)) = handover::receive(&mut ears) {
            let Ok(message) = serde_json::from_slice(&message) else { continue };
            if sender.send(message).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}
