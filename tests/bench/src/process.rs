//! The processes that are measured, and what the operating system says that they cost.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A process that is killed when dropped.
#[derive(Debug)]
pub struct Process {
    /// What people call it.
    pub name: String,
    child: Child,
}

/// What a process has used up, or used up between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// On a processor, in user space and the kernel.
    pub cpu: Duration,
    /// Times that one of its threads left a processor, waiting or not.
    pub switches: u64,
    /// Of these, the times that it had nothing to do: the others are due to processes that share the processors.
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
    /// Starts it. What it prints goes to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let errors = output.try_clone()?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let program = command.get_program().to_owned();
        let child = command.spawn().with_context(|| format!("starting {name} ({})", Path::new(&program).display()))?;
        Ok(Self { name: name.into(), child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it accepts connections.
    pub fn listens_at(&mut self, address: SocketAddr, log: &Path) -> Result<()> {
        const WITHIN: Duration = Duration::from_secs(30);
        let start = Instant::now();
        loop {
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            self.lives(log)?;
            ensure!(
                start.elapsed() < WITHIN,
                "{} did not listen at {address} within {WITHIN:?}; its log: {}",
                self.name,
                log.display()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Fails if it has ended, with the end of what it said.
    pub fn lives(&mut self, log: &Path) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let said = fs::read_to_string(log).unwrap_or_default();
        let mut last: Vec<&str> = said.lines().rev().take(10).collect();
        last.reverse();
        bail!("{} ended ({status}):\n{}", self.name, last.join("\n"))
    }

    /// What it has used so far: of all threads that it has now, in nanoseconds by the scheduler's own clock. A thread that
    /// ended is no longer counted; none of the systems here ends threads under load.
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

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        self.field("VmRSS:").map(|kibibytes| kibibytes * 1024)
    }

    /// Resident memory that belongs to no file, in bytes: without the program's own pages.
    pub fn resident_own(&self) -> Result<u64> {
        self.field("RssAnon:").map(|kibibytes| kibibytes * 1024)
    }

    fn field(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("{} of {} ({})", name, self.name, self.pid()))
    }

    /// Open files.
    pub fn files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// Counts its system calls by name while `work` runs, with strace, which slows it down: never measure time meanwhile.
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

    /// Tells it to stop in an orderly way.
    pub fn terminate(&self) -> Result<()> {
        let id = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(id, rustix::process::Signal::TERM)?)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
