//! The state of labs on disk: one directory for each, with `lab.json`.
//!
//! A directory holds credentials, so only its owner can read it. A lab's process is identified by its number *and*
//! start time, so that another process with the same number later is not mistaken for it.

mod directory;
mod name;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use install::client_error;
use serde::{Deserialize, Serialize};

pub use directory::{LabDirectory, write_private};
pub use name::{LabChoice, LabName};

/// Environment variable with the directory of all labs' state.
pub const RUNTIME_DIR: &str = "ISTHMUS_RUNTIME_DIR";
/// Environment variable with the name of the lab that commands act on.
pub const LAB: &str = "ISTHMUS_LAB";

/// A lab's state cannot be used, or there is no such lab.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or directory cannot be used.
    #[error("{path}: {}", client_error::system(.source), path = .path.display())]
    Io {
        /// Path of the file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The directory of all labs' state cannot be used.
    #[error("{path} cannot hold the state of labs: {why}\n  set ISTHMUS_RUNTIME_DIR to another directory", path = .path.display())]
    NoPlace {
        /// Path of the directory.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The name of a lab has another form.
    #[error("{0}")]
    Name(String),
    /// Something that is not provably a lab's directory would have to be removed.
    #[error("{path} is not the directory of a lab of this user: {why}\n  nothing is removed; move it elsewhere", path = .path.display())]
    NotALab {
        /// Path of the directory.
        path: PathBuf,
        /// How it differs from a lab's.
        why: &'static str,
    },
    /// A lab's process does not end.
    #[error(
        "lab \"{name}\" does not end: process {pid} is still running\n  see what it waits for: cat /proc/{pid}/wchan"
    )]
    Unstoppable {
        /// Name of the lab.
        name: LabName,
        /// Process number of the lab.
        pid: u32,
    },
    /// A lab of the name is running.
    #[error(
        "lab \"{name}\" is already running (process {pid}, {topology})\n  stop it: isthmus lab down {name}, or \
         choose another name: --name NAME"
    )]
    Running {
        /// Name of the lab.
        name: LabName,
        /// Process number of the lab.
        pid: u32,
        /// Topology file of the lab.
        topology: String,
    },
    /// Another process is starting a lab of the name.
    #[error("lab \"{0}\" is being started by another process\n  wait for it, or choose another name: --name NAME")]
    Starting(LabName),
    /// No lab is running.
    #[error("no lab is running\n  start one: isthmus lab up topologies/primary-remote.yaml")]
    NoneRunning,
    /// Several labs are running.
    #[error("several labs are running: {0}\n  name one: --lab NAME, or set ISTHMUS_LAB")]
    Several(String),
    /// The named lab is not running.
    #[error("no lab \"{name}\" is running\n  {known}")]
    Unknown {
        /// Name of the lab.
        name: LabName,
        /// What to use instead.
        known: String,
    },
    /// The lab has no such cluster.
    #[error("lab \"{lab}\" has no cluster \"{cluster}\"\n  {known}")]
    UnknownCluster {
        /// Name of the lab.
        lab: LabName,
        /// Name of the cluster.
        cluster: String,
        /// What to use instead.
        known: String,
    },
}

/// The content of `lab.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabRecord {
    /// Name of the lab.
    pub name: LabName,
    /// Process number of the launcher.
    pub pid: u32,
    /// Start time of the launcher, in clock ticks since boot.
    pub started_ticks: u64,
    /// Start time of the lab, RFC 3339.
    pub started: String,
    /// Absolute path of the topology file.
    pub topology: PathBuf,
    /// How far the lab has come.
    pub state: LabState,
    /// Clusters of the lab.
    pub clusters: Vec<ClusterRecord>,
}

/// How far a lab has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabState {
    /// The lab has not become ready yet.
    Starting,
    /// The lab has become ready.
    Ready,
    /// The lab did not become ready in time and is kept for inspection.
    TimedOut,
    /// The lab failed to become ready and is kept for inspection.
    Failed,
}

impl LabState {
    /// Returns the word for listings, which is that of `lab.json`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::TimedOut => "timed-out",
            Self::Failed => "failed",
        }
    }
}

/// A cluster of a running lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRecord {
    /// Name of the cluster.
    pub name: String,
    /// `primary` or `remote`.
    pub role: String,
    /// Primary that serves the cluster's proxies.
    pub primary: String,
    /// Network of the cluster.
    pub network: String,
    /// Region of the cluster.
    pub region: String,
    /// Zones of the cluster.
    pub zones: Vec<String>,
    /// Address of the east-west gateway for other clusters.
    pub gateway: String,
    /// URL of the API server for other clusters of the lab.
    pub server: String,
    /// URL of the API server for this machine.
    pub api: String,
    /// Path of the kubeconfig.
    pub kubeconfig: PathBuf,
    /// Ports of the ingress gateway.
    #[serde(default)]
    pub ports: Vec<PortRecord>,
}

/// A port of a cluster's ingress gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRecord {
    /// Namespace and name of the gateway.
    pub gateway: String,
    /// Name of the port.
    pub name: String,
    /// Port of the Service.
    pub port: u16,
    /// LoadBalancer address and port, for other clusters of the lab.
    pub address: String,
    /// Address and port on this machine.
    pub host: String,
}

impl LabRecord {
    /// Reports whether the launcher is running.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_of(self.pid) == Some(self.started_ticks)
    }

    /// Returns the cluster of a name.
    ///
    /// # Errors
    /// Returns [`StateError::UnknownCluster`] with the names of the clusters.
    pub fn cluster(&self, name: &str) -> Result<&ClusterRecord, StateError> {
        self.clusters.iter().find(|cluster| cluster.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
            let known = format!("clusters: {}", names.join(", "));
            StateError::UnknownCluster { lab: self.name.clone(), cluster: name.to_owned(), known }
        })
    }

    /// Stops the lab with SIGTERM, and with SIGKILL after `patience`, and removes its directory.
    ///
    /// # Errors
    /// Returns an error if the lab does not end, or its directory cannot be removed.
    pub fn stop(&self, patience: Duration) -> Result<(), StateError> {
        let asked = Instant::now();
        for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
            let until = asked + if signal == rustix::process::Signal::TERM { patience } else { patience * 2 };
            if self.is_alive() {
                self.signal(signal);
            }
            while self.is_alive() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if self.is_alive() {
            return Err(StateError::Unstoppable { name: self.name.clone(), pid: self.pid });
        }
        LabDirectory::of(&self.name).remove()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // The process may end before the signal.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Returns the start time of a process, in clock ticks since boot; `None` if it does not run.
#[must_use]
pub fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may contain any character, including spaces and parentheses.
    let after = &stat[stat.rfind(')')? + 2..];
    let mut fields = after.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn labs() -> PathBuf {
    runtime_dir().join("labs")
}

/// Returns the directory of all state: `$ISTHMUS_RUNTIME_DIR`, or below the user's runtime directory, or in /tmp.
#[must_use]
pub fn runtime_dir() -> PathBuf {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = named(RUNTIME_DIR) {
        return directory;
    }
    match named("XDG_RUNTIME_DIR").filter(|directory| directory.is_dir()) {
        Some(directory) => directory.join("isthmus"),
        None => PathBuf::from(format!("/tmp/isthmus-{}", rustix::process::getuid().as_raw())),
    }
}

/// Returns every lab with a record, running or not, by name. A link in the directory of labs is no lab.
#[must_use]
pub fn all() -> Vec<LabRecord> {
    let entries = fs::read_dir(labs()).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let records = directories.filter_map(|entry| {
        let record = LabDirectory::at(entry.path()).record().ok()?;
        (entry.file_name() == record.name.as_str()).then_some(record)
    });
    let mut records: Vec<LabRecord> = records.collect();
    records.sort_by(|a, b| a.name.cmp(&b.name));
    records
}

/// Returns the labs that are running, by name.
#[must_use]
pub fn running() -> Vec<LabRecord> {
    all().into_iter().filter(LabRecord::is_alive).collect()
}

/// Returns the named lab, or the only one that is running.
///
/// # Errors
/// Returns an error if there is none, or if several are running and none is named.
pub fn choose(name: Option<&LabName>) -> Result<LabRecord, StateError> {
    choose_of(running(), name)
}

fn choose_of(running: Vec<LabRecord>, name: Option<&LabName>) -> Result<LabRecord, StateError> {
    match name {
        Some(name) => match running.iter().position(|record| record.name == *name) {
            Some(index) => Ok(running.into_iter().nth(index).expect("an index of the list")),
            None => Err(StateError::Unknown { name: name.clone(), known: instead_of(name, &running) }),
        },
        None => {
            let names = names_of(&running);
            let mut running = running.into_iter();
            match (running.next(), running.next()) {
                (Some(one), None) => Ok(one),
                (None, _) => Err(StateError::NoneRunning),
                (Some(_), Some(_)) => Err(StateError::Several(names)),
            }
        }
    }
}

/// Describes what can be named instead of a lab that is not running.
fn instead_of(name: &LabName, running: &[LabRecord]) -> String {
    if running.is_empty() {
        return "start one: isthmus lab up topologies/primary-remote.yaml".to_owned();
    }
    let known = format!("running: {}", names_of(running));
    match running.iter().find(|lab| lab.cluster(name.as_str()).is_ok()) {
        Some(lab) => format!("{known}\n  \"{name}\" is a cluster of lab \"{}\": give --lab {0}", lab.name),
        None => known,
    }
}

fn names_of(labs: &[LabRecord]) -> String {
    let names: Vec<&str> = labs.iter().map(|lab| lab.name.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn record(name: &str) -> LabRecord {
        LabRecord {
            name: name.parse().expect("a name"),
            pid: std::process::id(),
            started_ticks: start_of(std::process::id()).expect("this process runs"),
            started: "2026-01-01T00:00:00Z".into(),
            topology: "/mesh.yaml".into(),
            state: LabState::Starting,
            clusters: Vec::new(),
        }
    }

    fn cluster(name: &str) -> ClusterRecord {
        ClusterRecord {
            name: name.into(),
            role: "primary".into(),
            primary: name.into(),
            network: format!("net-{name}"),
            region: name.into(),
            zones: Vec::new(),
            gateway: "203.0.113.10:15443".into(),
            server: "https://203.0.113.1:6443".into(),
            api: "https://127.0.0.1:1".into(),
            kubeconfig: "/kubeconfig".into(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn a_process_is_identified_by_number_and_start_time() {
        let own = record("a");
        assert!(own.is_alive());
        assert!(!LabRecord { started_ticks: own.started_ticks + 1, ..own.clone() }.is_alive());
        assert!(!LabRecord { pid: u32::MAX, ..own }.is_alive());
    }

    #[test]
    fn the_named_or_only_lab_is_chosen() {
        let choose = |names: &[&str], wanted: Option<&str>| {
            let wanted = wanted.map(|name| name.parse().expect("a name"));
            choose_of(names.iter().map(|name| record(name)).collect(), wanted.as_ref())
                .map(|record| record.name.to_string())
                .map_err(|error| error.to_string())
        };
        assert_eq!(choose(&["a"], None).as_deref(), Ok("a"));
        assert_eq!(choose(&["a", "b"], Some("b")).as_deref(), Ok("b"));
        assert!(choose(&[], None).is_err_and(|error| error.contains("isthmus lab up")));
        assert!(choose(&["a", "b"], None).is_err_and(|error| error.contains("a, b") && error.contains("--lab")));
        assert!(choose(&["a"], Some("b")).is_err_and(|error| error.contains("running: a")));
    }

    #[test]
    fn a_cluster_that_is_named_instead_of_a_lab_is_recognised() {
        let lab = LabRecord { clusters: vec![cluster("east")], ..record("mesh") };
        let east = "east".parse().expect("a name");
        let error = choose_of(vec![lab], Some(&east)).expect_err("not a lab").to_string();
        assert!(error.contains("\"east\" is a cluster of lab \"mesh\": give --lab mesh"), "{error}");
    }

    #[test]
    fn the_name_of_a_record_is_a_valid_name() {
        let mut text = serde_json::to_value(record("a")).expect("JSON");
        assert_eq!(text["state"], LabState::Starting.word());
        assert!(serde_json::from_value::<LabRecord>(text.clone()).is_ok());
        text["name"] = "../precious".into();
        assert!(serde_json::from_value::<LabRecord>(text).is_err());
        assert_eq!("".parse::<LabChoice>(), Ok(LabChoice::default()));
        assert!("Bad Name".parse::<LabChoice>().is_err());
    }
}
