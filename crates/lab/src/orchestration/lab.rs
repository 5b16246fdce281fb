//! A lab for tests: brought up by the real command, used through it, and taken down with the value.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::control::{self, Capture, ControlError, Reply, Request};
use super::state::{Directory, LAB, RUNTIME_DIR, Record};

/// How to bring a lab up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `isthmus` program.
    pub isthmus: PathBuf,
    /// The lab's name; labs of one machine differ in it.
    pub name: String,
    /// Where its state is kept, if not where the user's is.
    pub runtime_dir: Option<PathBuf>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Options {
    /// Options with a name that no other process of this machine uses.
    #[must_use]
    pub fn new(isthmus: impl Into<PathBuf>, name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        Self { isthmus: isthmus.into(), name, runtime_dir: None, timeout: Duration::from_secs(60) }
    }
}

/// A lab did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program could not be run.
    #[error("cannot run {program}: {source}", program = .program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It did not come up.
    #[error("the lab did not come up ({status})\n{said}")]
    NotUp {
        /// How the command ended, or that it did not in time.
        status: String,
        /// What it said.
        said: String,
    },
    /// A command failed.
    #[error("{command} failed with {status}: {error}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote to standard error.
        error: String,
    },
    /// The lab refused or does not answer.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// A running lab. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    options: Options,
    directory: Directory,
    record: Record,
    child: Child,
    said: Arc<Mutex<String>>,
    took: Duration,
}

impl Lab {
    /// Brings up the lab that the file describes and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up; the error holds what the command said.
    pub fn up(topology: &Path, options: Options) -> Result<Self, LabError> {
        let begin = Instant::now();
        let mut command = Command::new(&options.isthmus);
        command.args(["lab", "up", "--name", &options.name]).arg(topology);
        if let Some(directory) = &options.runtime_dir {
            command.env(RUNTIME_DIR, directory);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.spawn();
        let mut child = spawned.map_err(|source| LabError::Run { program: options.isthmus.clone(), source })?;
        let said = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take(), &said);
        collect(child.stderr.take(), &said);
        let labs = options.runtime_dir.clone().unwrap_or_else(super::state::runtime_dir).join("labs");
        let directory = Directory::at(labs.join(&options.name));
        loop {
            let status = match child.try_wait() {
                Ok(Some(status)) => Some(status.to_string()),
                _ if begin.elapsed() > options.timeout => Some(format!("not ready after {:?}", options.timeout)),
                _ => None,
            };
            if let Some(status) = status {
                stop(&mut child);
                // What was said last may still be on its way through the pipe.
                std::thread::sleep(Duration::from_millis(50));
                let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(LabError::NotUp { status, said });
            }
            if let Ok(record) = directory.record()
                && record.ready
            {
                let took = begin.elapsed();
                return Ok(Self { options, directory, record, child, said, took });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How long it took to come up.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.took
    }

    /// What is on record about it.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What `isthmus lab up` has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `isthmus ARGS` with this lab chosen, ready to be run.
    pub fn isthmus<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.options.isthmus);
        command.args(args).env(LAB, &self.options.name).stdin(Stdio::null());
        command.env("KUBECONFIG", self.directory.path().join("kubeconfig"));
        if let Some(directory) = &self.options.runtime_dir {
            command.env(RUNTIME_DIR, directory);
        }
        command
    }

    /// Runs a command in a container; `target` is `CLUSTER/NAMESPACE/POD-or-deployment[/CONTAINER]`.
    ///
    /// # Errors
    /// When it cannot be run. What the command itself makes of it is in the output.
    pub fn exec(&self, target: &str, command: &[&str]) -> Result<Output, LabError> {
        let mut args = vec!["lab", "exec", target, "--"];
        args.extend(command);
        self.output(self.isthmus(args))
    }

    /// Runs `kubectl` with a cluster's kubeconfig and gives its standard output.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn kubectl(&self, cluster: &str, args: &[&str]) -> Result<String, LabError> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.cluster(cluster).kubeconfig).args(args).stdin(Stdio::null());
        self.checked(command)
    }

    /// Kills every process of a workload's pods at once, `target` as for [`Self::exec`].
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_workload(&self, target: &str) -> Result<(), LabError> {
        self.checked(self.isthmus(["lab", "fault", "kill-workload", target])).map(drop)
    }

    /// Kills a zone: every process of its pods, and its node agent's tongue.
    ///
    /// # Errors
    /// When there is no such zone.
    pub fn kill_zone(&self, cluster: &str, zone: &str) -> Result<(), LabError> {
        let node = format!("{cluster}-{zone}");
        self.ask(&Request::KillNode { cluster: cluster.to_owned(), node }).map(drop)
    }

    /// Brings a killed zone back.
    ///
    /// # Errors
    /// When there is no such zone.
    pub fn revive_zone(&self, cluster: &str, zone: &str) -> Result<(), LabError> {
        let node = format!("{cluster}-{zone}");
        self.ask(&Request::ReviveNode { cluster: cluster.to_owned(), node }).map(drop)
    }

    /// Kills a cluster's API server. Its pods go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_api(&self, cluster: &str) -> Result<(), LabError> {
        self.ask(&Request::KillApi { cluster: cluster.to_owned() }).map(drop)
    }

    /// Reads what passes between clusters for a while.
    ///
    /// # Errors
    /// When the link cannot be read.
    pub fn capture(&self, time: Duration) -> Result<Capture, LabError> {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match self.ask(&Request::Capture { milliseconds, cluster: None, write: None })? {
            Reply::Captured(capture) => Ok(capture),
            _ => Ok(Capture::default()),
        }
    }

    /// Asks the lab for something else.
    ///
    /// # Errors
    /// When it refuses.
    pub fn ask(&self, request: &Request) -> Result<Reply, LabError> {
        Ok(control::ask(self.directory.path(), request)?)
    }

    /// Kills the command by SIGKILL, as a crash would, and waits until it is gone.
    pub fn crash(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn cluster(&self, name: &str) -> super::state::ClusterRecord {
        self.record.cluster(name).cloned().unwrap_or_else(|error| panic!("{error}"))
    }

    fn output(&self, mut command: Command) -> Result<Output, LabError> {
        command.output().map_err(|source| LabError::Run { program: command.get_program().into(), source })
    }

    fn checked(&self, command: Command) -> Result<String, LabError> {
        let line = format!("{command:?}");
        let output = self.output(command)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(LabError::Failed {
            command: line,
            status: output.status.to_string(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        stop(&mut self.child);
        // After a crash nobody else removes it.
        let _ = self.directory.remove();
    }
}

/// Asks the command to end, and kills it if it does not.
fn stop(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let (Some(pid), Ok(None)) = (pid, child.try_wait()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    for _ in 0..500 {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            _ => return,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn collect(pipe: Option<impl std::io::Read + Send + 'static>, into: &Arc<Mutex<String>>) {
    let Some(pipe) = pipe else { return };
    let into = into.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut said = into.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_str(&line);
            said.push('\n');
        }
    });
}
