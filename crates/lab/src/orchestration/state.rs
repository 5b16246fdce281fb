//! The state of labs on disk: one directory for each, with `lab.json`.
//!
//! A directory holds credentials, so only its owner can read it. A lab's process is identified by its number *and*
//! start time, so that another process with the same number later is not mistaken for it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Environment variable with the directory of all labs' state.
pub const RUNTIME_DIR: &str = "ISTHMUS_RUNTIME_DIR";
/// Environment variable with the name of the lab that commands act on.
pub const LAB: &str = "ISTHMUS_LAB";

/// Least free space for a lab: what one writes in about an hour.
const LEAST_SPACE: u64 = 16 << 20;

/// A lab's state cannot be used, or there is no such lab.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or directory cannot be used.
    #[error("{path}: {source}", path = .path.display())]
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
    /// A lab of the name is running.
    #[error(
        "lab \"{name}\" is already running (process {pid}, {topology})\n  stop it: isthmus lab down {name}, or \
         choose another name: --name NAME"
    )]
    Running {
        /// Name of the lab.
        name: String,
        /// Process number of the lab.
        pid: u32,
        /// Topology file of the lab.
        topology: String,
    },
    /// Another process is starting a lab of the name.
    #[error("lab \"{0}\" is being started by another process\n  wait for it, or choose another name: --name NAME")]
    Starting(String),
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
        name: String,
        /// What to use instead.
        known: String,
    },
    /// The lab has no such cluster.
    #[error("lab \"{lab}\" has no cluster \"{cluster}\"\n  {known}")]
    UnknownCluster {
        /// Name of the lab.
        lab: String,
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
    pub name: String,
    /// Process number of the launcher.
    pub pid: u32,
    /// Start time of the launcher, in clock ticks since boot.
    pub started_ticks: u64,
    /// Start time of the lab, RFC 3339.
    pub started: String,
    /// Absolute path of the topology file.
    pub topology: PathBuf,
    /// Whether the lab has become ready.
    pub ready: bool,
    /// Clusters of the lab.
    pub clusters: Vec<ClusterRecord>,
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
}

/// The directory of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabDirectory(PathBuf);

impl LabDirectory {
    /// Returns the directory of lab `name`, which need not exist.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(labs().join(name))
    }

    /// Returns an existing directory by its path, for the lab's own processes.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Creates the directory of a new lab, and removes what a killed lab of the name left.
    ///
    /// # Errors
    /// Returns [`StateError::Running`] if a lab of the name is running.
    pub fn claim(name: &str) -> Result<Self, StateError> {
        Self::claim_in(&labs(), name)
    }

    fn claim_in(parent: &Path, name: &str) -> Result<Self, StateError> {
        let directory = Self(parent.join(name));
        let parent = parent.to_owned();
        make_private(&parent)
            .and_then(|()| has_space(&parent))
            .map_err(|error| StateError::NoPlace { path: parent.clone(), why: error.to_string() })?;
        // One process at a time: another could claim the name between the check of a killed lab's directory and its
        // removal.
        let _turn = fs::File::open(&parent)
            .and_then(|folder| folder.lock().map(|()| folder))
            .map_err(|error| StateError::NoPlace { path: parent, why: error.to_string() })?;
        for _ in 0..3 {
            match fs::DirBuilder::new().mode(0o700).create(&directory.0) {
                Ok(()) => return Ok(directory),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match directory.record() {
                    Ok(record) if record.is_alive() => {
                        let topology = record.topology.display().to_string();
                        return Err(StateError::Running { name: record.name, pid: record.pid, topology });
                    }
                    // A directory without a record was created a moment ago, or by a lab that was killed at that
                    // moment.
                    Err(_) if directory.is_fresh() => {
                        return Err(StateError::Starting(name.to_owned()));
                    }
                    _ => directory.remove()?,
                },
                Err(error) => return Err(StateError::NoPlace { path: directory.0, why: error.to_string() }),
            }
        }
        let source = io::Error::other("another process keeps creating the directory");
        Err(StateError::Io { path: directory.0, source })
    }

    fn is_fresh(&self) -> bool {
        let age = fs::metadata(&self.0).and_then(|meta| meta.modified()).map(|time| time.elapsed().unwrap_or_default());
        age.is_ok_and(|age| age < Duration::from_secs(2))
    }

    /// Reads `lab.json`.
    ///
    /// # Errors
    /// Returns an error if the file does not exist.
    pub fn record(&self) -> Result<LabRecord, StateError> {
        let path = self.0.join("lab.json");
        let failed = |source| StateError::Io { path: path.clone(), source };
        let text = fs::read(&path).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
    }

    /// Writes `lab.json`.
    ///
    /// # Errors
    /// Returns an error if the directory does not exist or the disk is full.
    pub fn write_record(&self, record: &LabRecord) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(record).unwrap_or_default();
        self.write("lab.json", &text)
    }

    /// Writes a file that only its owner can read, atomically.
    ///
    /// # Errors
    /// Returns an error if the directory does not exist or the disk is full.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.0.join(name);
        let beside = path.with_extension("new");
        let written = (|| {
            if let Some(folder) = path.parent() {
                make_private(folder)?;
            }
            let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            io::Write::write_all(&mut file, content)?;
            fs::rename(&beside, &path)
        })();
        written.map_err(|source| StateError::Io { path, source })
    }

    /// Returns the path of a cluster's directory.
    #[must_use]
    pub fn cluster(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Removes the directory.
    ///
    /// # Errors
    /// Returns an error if a file in it cannot be removed.
    pub fn remove(&self) -> Result<(), StateError> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| StateError::Io { path: self.0.clone(), source }),
        }
    }
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
    /// Returns an error if the directory cannot be removed.
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

/// Checks the free space. A lab writes logs and its pods' files; without space it would start and fail later.
fn has_space(path: &Path) -> io::Result<()> {
    let state = rustix::fs::statvfs(path)?;
    let free = state.f_bavail.saturating_mul(state.f_frsize);
    if free < LEAST_SPACE {
        return Err(io::Error::other(format!(
            "{} KiB are free, but a lab needs {} KiB",
            free >> 10,
            LEAST_SPACE >> 10
        )));
    }
    Ok(())
}

fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let owner = rustix::fs::stat(path)?.st_uid;
    if owner != rustix::process::geteuid().as_raw() && !rustix::process::geteuid().is_root() {
        // Another user could have created the directory in /tmp to read the credentials in it.
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the directory belongs to another user"));
    }
    Ok(())
}

/// Returns every lab with a record, running or not, by name.
#[must_use]
pub fn all() -> Vec<LabRecord> {
    let entries = fs::read_dir(labs()).into_iter().flatten().flatten();
    let mut records: Vec<LabRecord> = entries.filter_map(|entry| LabDirectory(entry.path()).record().ok()).collect();
    records.sort_by(|a, b| a.name.cmp(&b.name));
    records
}

/// Returns the named lab, or the only one that is running.
///
/// # Errors
/// Returns an error if there is none, or if several are running and none is named.
pub fn choose(name: Option<&str>) -> Result<LabRecord, StateError> {
    choose_of(all().into_iter().filter(LabRecord::is_alive).collect(), name)
}

fn choose_of(running: Vec<LabRecord>, name: Option<&str>) -> Result<LabRecord, StateError> {
    let names: Vec<String> = running.iter().map(|record| record.name.clone()).collect();
    match name {
        Some(name) => running.into_iter().find(|record| record.name == name).ok_or_else(|| StateError::Unknown {
            name: name.to_owned(),
            known: match names.as_slice() {
                [] => "start one: isthmus lab up topologies/primary-remote.yaml".to_owned(),
                names => format!("running: {}", names.join(", ")),
            },
        }),
        None => {
            let mut running = running.into_iter();
            match (running.next(), running.next()) {
                (Some(one), None) => Ok(one),
                (None, _) => Err(StateError::NoneRunning),
                (Some(_), Some(_)) => Err(StateError::Several(names.join(", "))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> LabRecord {
        LabRecord {
            name: name.into(),
            pid: std::process::id(),
            started_ticks: start_of(std::process::id()).expect("this process runs"),
            started: "2026-01-01T00:00:00Z".into(),
            topology: "/mesh.yaml".into(),
            ready: false,
            clusters: Vec::new(),
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
    fn one_claim_replaces_a_killed_lab() {
        let folder = tempfile::tempdir().expect("a directory");
        let labs = folder.path().join("labs");
        for _ in 0..20 {
            let stale = LabDirectory::at(labs.join("a"));
            fs::create_dir_all(stale.path()).expect("made");
            stale.write_record(&LabRecord { pid: u32::MAX, ..record("a") }).expect("written");
            let claims: Vec<_> = std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(|| LabDirectory::claim_in(&labs, "a")));
                threads.map(|thread| thread.join().expect("no panic")).into()
            });
            assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1, "{claims:?}");
            stale.remove().expect("removed");
        }
    }

    #[test]
    fn the_named_or_only_lab_is_chosen() {
        let choose = |names: &[&str], wanted: Option<&str>| {
            choose_of(names.iter().map(|name| record(name)).collect(), wanted)
                .map(|record| record.name)
                .map_err(|error| error.to_string())
        };
        assert_eq!(choose(&["a"], None).as_deref(), Ok("a"));
        assert_eq!(choose(&["a", "b"], Some("b")).as_deref(), Ok("b"));
        assert!(choose(&[], None).is_err_and(|error| error.contains("isthmus lab up")));
        assert!(choose(&["a", "b"], None).is_err_and(|error| error.contains("a, b") && error.contains("--lab")));
        assert!(choose(&["a"], Some("b")).is_err_and(|error| error.contains("running: a")));
    }
}
