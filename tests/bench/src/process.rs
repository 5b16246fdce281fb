//! The measured processes, and their costs as the operating system accounts them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A child process. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    /// The name, for messages and log files.
    pub name: String,
    child: Child,
}

/// Resources that a process used until now, or between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// The CPU time, in user space and the kernel.
    pub cpu: Duration,
    /// Context switches, voluntary and involuntary.
    pub switches: u64,
    /// Voluntary context switches: a thread had nothing to do. Processes that share the processors cause the others.
    pub waits: u64,
}

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            switches: self.switches.saturating_sub(before.switches),
            waits: self.waits.saturating_sub(before.waits),
        }
    }
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, switches: self.switches + other.switches, waits: self.waits + other.waits }
    }
}

impl Process {
    /// Starts a process. Its output goes to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let errors = output.try_clone()?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let program = command.get_program().to_owned();
        let child = command.spawn().with_context(|| format!("starting {name} ({})", Path::new(&program).display()))?;
        Ok(Self { name: name.into(), child })
    }

    /// The process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process accepts connections at `address`.
    pub fn listens_at(&mut self, address: SocketAddr, log: &Path) -> Result<()> {
        const WITHIN: Duration = Duration::from_secs(30);
        let start = Instant::now();
        loop {
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            self.ensure_running(log)?;
            ensure!(
                start.elapsed() < WITHIN,
                "{} did not listen at {address} within {WITHIN:?}; its log: {}",
                self.name,
                log.display()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns an error with the end of the log if the process has ended.
    pub fn ensure_running(&mut self, log: &Path) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let text = fs::read_to_string(log).unwrap_or_default();
        let mut last: Vec<&str> = text.lines().rev().take(10).collect();
        last.reverse();
        bail!("{} ended ({status}):\n{}", self.name, last.join("\n"))
    }

    /// The resources used so far by all present threads, in nanoseconds of the scheduler's clock. Ended threads do not count;
    /// none of the systems here ends threads under load.
    pub fn usage(&self) -> Result<Usage> {
        let mut total = Usage::default();
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let path = task?.path();
            // A thread may end between listing and reading.
            let Ok(clock) = fs::read_to_string(path.join("schedstat")) else { continue };
            let nanoseconds = clock.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
            total.cpu += Duration::from_nanos(nanoseconds);
            let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
            for line in status.lines().filter(|line| line.contains("ctxt_switches:")) {
                let count = line.rsplit_once(char::is_whitespace).and_then(|(_, count)| count.parse::<u64>().ok());
                total.switches += count.unwrap_or(0);
                if line.starts_with("voluntary") {
                    total.waits += count.unwrap_or(0);
                }
            }
        }
        Ok(total)
    }

    /// The resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        self.field("VmRSS:").map(|kibibytes| kibibytes * 1024)
    }

    /// The resident memory that is not backed by a file, in bytes: without pages of the program's file.
    pub fn resident_own(&self) -> Result<u64> {
        self.field("RssAnon:").map(|kibibytes| kibibytes * 1024)
    }

    fn field(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("{} of {} ({})", name, self.name, self.pid()))
    }

    /// The number of open files.
    pub fn files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// Counts the system calls by name while `work` runs. strace slows the process down, so time must not be measured
    /// meanwhile.
    pub fn system_calls<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, BTreeMap<String, u64>)> {
        let counts = tempfile::NamedTempFile::new()?;
        let mut tracer = Command::new("strace")
            .args(["-c", "-f", "-qq", "-U", "calls,name", "-o"])
            .arg(counts.path())
            .args(["-p", &self.pid().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting strace (`isthmus-bench setup` installs it)")?;
        let attached = self.await_tracer(&mut tracer);
        let done = attached.and_then(|()| work());
        let tracer_id = rustix::process::Pid::from_child(&tracer);
        rustix::process::kill_process(tracer_id, rustix::process::Signal::INT)?;
        tracer.wait()?;
        let table = fs::read_to_string(counts.path())?;
        let calls = table
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let count = words.next()?.parse().ok()?;
                Some((words.next()?.to_owned(), count)).filter(|(name, _)| name != "total")
            })
            .collect();
        Ok((done?, calls))
    }

    fn await_tracer(&self, tracer: &mut Child) -> Result<()> {
        let start = Instant::now();
        let traced = |path: &Path| {
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
        };
        loop {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()))?;
            if tasks.filter_map(Result::ok).all(|task| traced(&task.path())) {
                return Ok(());
            }
            if let Some(status) = tracer.try_wait()? {
                bail!("strace could not attach to {} ({status})", self.name);
            }
            ensure!(start.elapsed() < Duration::from_secs(5), "strace did not attach to {}", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        let id = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(id, rustix::process::Signal::TERM)?)
    }

    /// Waits until the process ends.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
