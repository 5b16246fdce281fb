//! What is known on disk about running labs: one directory each, with `lab.json`.
//!
//! The directory belongs to whoever made it and holds credentials, so it is readable by its owner alone. A lab's process is named by
//! its number *and* start time, so that a number that was given to another process since is not mistaken for it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Names the directory that holds all labs' state.
pub const RUNTIME_DIR: &str = "ISTHMUS_RUNTIME_DIR";
/// Names the lab that commands mean.
pub const LAB: &str = "ISTHMUS_LAB";

/// Free space without which no lab is started: what one writes in an hour or so.
const LEAST_SPACE: u64 = 16 << 20;

/// Something is wrong with a lab's state, or there is no such lab.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be used.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no place for labs' state.
    #[error("{path}: {why}\n  choose another directory for labs: ISTHMUS_RUNTIME_DIR", path = .path.display())]
    NoPlace {
        /// Where it was tried.
        path: PathBuf,
        /// Why not there.
        why: String,
    },
    /// The name is taken.
    #[error(
        "lab \"{name}\" is already running (process {pid}, {topology})\n  stop it: isthmus lab down {name}, or \
         choose another name: --name"
    )]
    Running {
        /// The lab.
        name: String,
        /// Its process.
        pid: u32,
        /// Its topology.
        topology: String,
    },
    /// Another process is just starting a lab of this name.
    #[error("lab \"{0}\" is being started by another process\n  wait for it, or choose another name: --name")]
    Starting(String),
    /// There is none to choose.
    #[error("no lab is running\n  start one: isthmus lab up topologies/primary-remote.yaml")]
    NoneRunning,
    /// There are several to choose from.
    #[error("several labs are running: {0}\n  say which one: --lab NAME, or set ISTHMUS_LAB")]
    Several(String),
    /// The one asked for is not running.
    #[error("no lab \"{name}\" is running\n  {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The others.
        known: String,
    },
    /// The cluster asked for is not in the lab.
    #[error("lab \"{lab}\" has no cluster \"{cluster}\"\n  {known}")]
    UnknownCluster {
        /// The lab.
        lab: String,
        /// The cluster.
        cluster: String,
        /// The others.
        known: String,
    },
}

/// What `lab.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The lab's name.
    pub name: String,
    /// The front's process number.
    pub pid: u32,
    /// The front's start, in clock ticks since boot.
    pub started_ticks: u64,
    /// When it was started, RFC 3339.
    pub started: String,
    /// The topology file, absolute.
    pub topology: PathBuf,
    /// Whether everything was ready once.
    pub ready: bool,
    /// Its clusters.
    pub clusters: Vec<ClusterRecord>,
}

/// A cluster of a running lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRecord {
    /// Its name.
    pub name: String,
    /// `primary` or `remote`.
    pub role: String,
    /// The primary that serves its proxies.
    pub primary: String,
    /// Its network.
    pub network: String,
    /// Its region.
    pub region: String,
    /// Its zones.
    pub zones: Vec<String>,
    /// Its east-west gateway as other clusters reach it.
    pub gateway: String,
    /// Its API server as this machine reaches it.
    pub api: String,
    /// Its kubeconfig.
    pub kubeconfig: PathBuf,
}

/// A lab's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory(PathBuf);

impl Directory {
    /// The directory of lab `name`, which need not exist.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(labs().join(name))
    }

    /// An existing directory by its path, for the lab's own processes.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory for a new lab.
    ///
    /// # Errors
    /// [`StateError::Running`] if a lab of the name runs; what a dead one left is removed.
    pub fn claim(name: &str) -> Result<Self, StateError> {
        Self::claim_in(&labs(), name)
    }

    fn claim_in(parent: &Path, name: &str) -> Result<Self, StateError> {
        let directory = Self(parent.join(name));
        let parent = parent.to_owned();
        make_private(&parent)
            .and_then(|()| has_space(&parent))
            .map_err(|error| StateError::NoPlace { path: parent.clone(), why: error.to_string() })?;
        // One at a time: between the look at what a dead lab left and its removal, another may have claimed the name.
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
                    // A directory without a record was made a moment ago, or by one that was killed then.
                    Err(_) if directory.is_fresh() => {
                        return Err(StateError::Starting(name.to_owned()));
                    }
                    _ => directory.remove()?,
                },
                Err(error) => return Err(StateError::NoPlace { path: directory.0, why: error.to_string() }),
            }
        }
        let source = io::Error::other("another process keeps making it");
        Err(StateError::Io { path: directory.0, source })
    }

    fn is_fresh(&self) -> bool {
        let age = fs::metadata(&self.0).and_then(|meta| meta.modified()).map(|time| time.elapsed().unwrap_or_default());
        age.is_ok_and(|age| age < Duration::from_secs(2))
    }

    /// Reads `lab.json`.
    ///
    /// # Errors
    /// When there is none.
    pub fn record(&self) -> Result<Record, StateError> {
        let path = self.0.join("lab.json");
        let failed = |source| StateError::Io { path: path.clone(), source };
        let text = fs::read(&path).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
    }

    /// Writes `lab.json`.
    ///
    /// # Errors
    /// When the directory is gone or the disk is full.
    pub fn write_record(&self, record: &Record) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(record).unwrap_or_default();
        self.write("lab.json", &text)
    }

    /// Writes a file that only its owner can read, in one step.
    ///
    /// # Errors
    /// When the directory is gone or the disk is full.
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

    /// The path of a cluster's own directory.
    #[must_use]
    pub fn cluster(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Removes everything.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove(&self) -> Result<(), StateError> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| StateError::Io { path: self.0.clone(), source }),
        }
    }
}

impl Record {
    /// Whether the lab's process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_of(self.pid) == Some(self.started_ticks)
    }

    /// The cluster of that name.
    ///
    /// # Errors
    /// [`StateError::UnknownCluster`], with what there is.
    pub fn cluster(&self, name: &str) -> Result<&ClusterRecord, StateError> {
        self.clusters.iter().find(|cluster| cluster.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
            let known = format!("clusters: {}", names.join(", "));
            StateError::UnknownCluster { lab: self.name.clone(), cluster: name.to_owned(), known }
        })
    }

    /// Ends the lab: asks it to stop, and kills it after `patience`. Its directory is removed.
    ///
    /// # Errors
    /// When the directory cannot be removed.
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
        Directory::of(&self.name).remove()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may end between the look and the signal, which is as good.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// When a process was started, in clock ticks since boot; None if it does not run.
#[must_use]
pub fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything, also spaces and parentheses.
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

/// Where all state is: `$ISTHMUS_RUNTIME_DIR`, or below the user's runtime directory, or in /tmp.
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

/// A lab writes logs and its pods' files: without space it would start and then fail in odd places.
fn has_space(path: &Path) -> io::Result<()> {
    let state = rustix::fs::statvfs(path)?;
    let free = state.f_bavail.saturating_mul(state.f_frsize);
    if free < LEAST_SPACE {
        return Err(io::Error::other(format!("only {} KiB are free, {} are needed", free >> 10, LEAST_SPACE >> 10)));
    }
    Ok(())
}

fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let owner = rustix::fs::stat(path)?.st_uid;
    if owner != rustix::process::geteuid().as_raw() && !rustix::process::geteuid().is_root() {
        // Somebody else could have made the directory in /tmp first, to read the credentials in it.
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    Ok(())
}

/// Every lab with a record, running or not, by name.
#[must_use]
pub fn all() -> Vec<Record> {
    let entries = fs::read_dir(labs()).into_iter().flatten().flatten();
    let mut records: Vec<Record> = entries.filter_map(|entry| Directory(entry.path()).record().ok()).collect();
    records.sort_by(|a, b| a.name.cmp(&b.name));
    records
}

/// The lab that is meant: the one named, or the only one that runs.
///
/// # Errors
/// When there is none, or more than one and none is named.
pub fn choose(name: Option<&str>) -> Result<Record, StateError> {
    choose_of(all().into_iter().filter(Record::is_alive).collect(), name)
}

fn choose_of(running: Vec<Record>, name: Option<&str>) -> Result<Record, StateError> {
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

    fn record(name: &str) -> Record {
        Record {
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
    fn a_process_is_known_by_number_and_start() {
        let own = record("a");
        assert!(own.is_alive());
        assert!(!Record { started_ticks: own.started_ticks + 1, ..own.clone() }.is_alive());
        assert!(!Record { pid: u32::MAX, ..own }.is_alive());
    }

    #[test]
    fn a_dead_lab_gives_way_to_one_alone() {
        let folder = tempfile::tempdir().expect("a directory");
        let labs = folder.path().join("labs");
        for _ in 0..20 {
            let stale = Directory::at(labs.join("a"));
            fs::create_dir_all(stale.path()).expect("made");
            stale.write_record(&Record { pid: u32::MAX, ..record("a") }).expect("written");
            let claims: Vec<_> = std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(|| Directory::claim_in(&labs, "a")));
                threads.map(|thread| thread.join().expect("no panic")).into()
            });
            assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1, "{claims:?}");
            stale.remove().expect("removed");
        }
    }

    #[test]
    fn choosing() {
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
