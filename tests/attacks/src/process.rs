//! The processes of a lab, and what the operating system says of their memory and descriptors.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The process that an attack is directed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The controller.
    Controller,
    /// The gateway of a cluster.
    Gateway(&'static str),
    /// The sidecar of a workload's pod in `west`.
    Sidecar(&'static str),
}

/// A reading of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The resident memory in bytes, without pages of files: those of the program come and go with the page cache.
    pub memory: u64,
    /// The number of open descriptors.
    pub files: usize,
}

impl Reading {
    /// The larger value of each.
    pub fn max(self, other: Self) -> Self {
        Self { memory: self.memory.max(other.memory), files: self.files.max(other.files) }
    }
}

/// A running process.
#[derive(Clone, Debug)]
pub struct Process {
    directory: PathBuf,
}

impl Process {
    /// Finds the process of a victim among those that run the program file `binary`.
    pub fn find(victim: Victim, binary: &Path) -> Result<Self> {
        let file = fs::metadata(binary)?;
        let is_ours = |directory: &Path| {
            // By number, because the path of a file differs in another mount namespace.
            fs::metadata(directory.join("exe")).is_ok_and(|exe| (exe.dev(), exe.ino()) == (file.dev(), file.ino()))
        };
        let all = fs::read_dir("/proc")?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut found = all.filter(|directory| is_ours(directory) && victim.is_of(directory));
        let directory = found.next().with_context(|| format!("{victim:?} does not run"))?;
        Ok(Self { directory })
    }

    /// Reads memory and descriptors.
    ///
    /// # Errors
    /// Returns an error if the process has ended.
    pub fn read(&self) -> Result<Reading> {
        let ended = || format!("the process {} has ended", self.directory.display());
        let status = fs::read_to_string(self.directory.join("status")).with_context(ended)?;
        let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kibibytes: u64 =
            resident.and_then(|line| line.split_whitespace().next()?.parse().ok()).with_context(ended)?;
        let files = fs::read_dir(self.directory.join("fd")).with_context(ended)?.count();
        Ok(Reading { memory: kibibytes * 1024, files })
    }
}

impl Victim {
    fn is_of(self, directory: &Path) -> bool {
        let read = |name: &str| fs::read(directory.join(name)).unwrap_or_default();
        let (arguments, environment) = (read("cmdline"), read("environ"));
        let words = |bytes: &[u8]| -> Vec<String> {
            bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        let (arguments, environment) = (words(&arguments), words(&environment));
        let runs = |command: &str| arguments.get(1).is_some_and(|word| word == command);
        let has = |variable: String| environment.contains(&variable);
        match self {
            Victim::Controller => runs("federation-controller"),
            Victim::Gateway(cluster) => runs("eastwest-gateway") && has(format!("ISTIO_META_CLUSTER_ID={cluster}")),
            Victim::Sidecar(workload) => {
                let of_workload = format!("ISTIO_META_WORKLOAD_NAME={workload}");
                runs("sidecar")
                    && arguments.get(2).is_none_or(|word| word != "init")
                    && has("ISTIO_META_CLUSTER_ID=west".to_owned())
                    && has(of_workload)
            }
        }
    }
}

impl std::fmt::Display for Victim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Victim::Controller => f.write_str("controller"),
            Victim::Gateway(cluster) => write!(f, "gateway of {cluster}"),
            Victim::Sidecar(workload) => write!(f, "sidecar of {workload}"),
        }
    }
}
