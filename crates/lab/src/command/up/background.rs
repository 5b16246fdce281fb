//! `lab up --detach`: a lab in a process of its own.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use super::{UpOptions, code_of, report_topology};
use crate::command::outcome::CommandError;
use crate::command::stop::StopSignal;
use crate::console::{TIMED_OUT, print_bytes, print_stderr_bytes};
use crate::orchestration::state::{LabDirectory, LabState};
use crate::topology::Topology;

/// Runs the lab in a process of its own, copies its output until it is ready, and leaves it running.
pub(super) fn start(up: &UpOptions) -> Result<ExitCode, CommandError> {
    let name = match &up.name {
        Some(name) => name.clone(),
        None => match Topology::load(&up.file) {
            Ok(topology) => topology.name.parse()?,
            Err(diagnostic) => return Ok(report_topology(&diagnostic)),
        },
    };
    // Anonymous files in memory: no log file is left when the lab ends.
    let (mut output, mut errors) = (HeldOutput::new()?, HeldOutput::new()?);
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["lab", "up", "--background", "--name", name.as_str()]).arg(&up.file);
    command.args(["--timeout", &up.timeout.to_string()]).args(up.keep.then_some("--keep"));
    command.stdin(Stdio::null()).stdout(output.file.try_clone()?).stderr(errors.file.try_clone()?).process_group(0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = StopSignal::listen(&runtime)?;
    let mut child = command.spawn()?;
    let directory = LabDirectory::of(&name);
    let mut passed_on = false;
    loop {
        if stop.is_received() && !passed_on {
            passed_on = true;
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                // If the process has just ended, the next iteration reports how.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let ended = child.try_wait()?;
        let record = directory.record().ok().filter(|record| record.pid == child.id());
        let left_running = record.and_then(|record| code_of_state(record.state)).filter(|_| !passed_on);
        print_stderr_bytes(&errors.unread()?);
        print_bytes(&output.unread()?)?;
        match (ended, left_running) {
            (Some(status), _) => return Ok(code_of(status)),
            (None, Some(code)) => return Ok(code),
            (None, None) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Returns the exit code of the command that leaves a lab in this state; `None` while the lab is starting.
fn code_of_state(state: LabState) -> Option<ExitCode> {
    match state {
        LabState::Starting => None,
        LabState::Ready => Some(ExitCode::SUCCESS),
        LabState::TimedOut => Some(ExitCode::from(TIMED_OUT)),
        LabState::Failed => Some(ExitCode::FAILURE),
    }
}

/// Output of another process, in memory.
struct HeldOutput {
    file: File,
    /// Number of bytes that have been read.
    read: u64,
}

impl HeldOutput {
    fn new() -> std::io::Result<Self> {
        let file = rustix::fs::memfd_create("isthmus-lab", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(Self { file: File::from(file), read: 0 })
    }

    /// Returns what was written since the last call.
    fn unread(&mut self) -> std::io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = std::os::unix::fs::FileExt::read_at(&self.file, &mut buffer, self.read)?;
            if length == 0 {
                return Ok(text);
            }
            text.extend_from_slice(&buffer[..length]);
            self.read += u64::try_from(length).unwrap_or(0);
        }
    }
}
