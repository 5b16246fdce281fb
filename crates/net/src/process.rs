//! Starting processes in other namespaces.
//!
//! A process with several threads must not fork and continue in the child, since a lock that another thread holds stays
//! locked there. So [`launch`] starts this executable again with the argument [`ENTER`]. This start helper
//! (`process/enter.rs`) has a single thread. It joins or creates namespaces, forks once (only children enter a pid
//! namespace), builds the file tree, drops privileges and executes the program. It receives its instructions and the
//! standard streams over a socket on its standard input and reports failures over it; when the socket closes, the
//! program runs. The fork has the *launching* process as parent (`CLONE_PARENT`), so the helper does not stay in
//! between.
//!
//! A program that uses [`launch`] calls [`enter`] (and [`pause`] for [`PAUSE`]) at the beginning of `main`.

use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::namespace::view::View;
use crate::namespace::{NamespaceError, Namespaces, process_handle};

mod enter;
mod pause;
mod terminal;

pub use enter::enter;
pub use pause::pause;
pub use rustix::process::Signal;
pub use terminal::Terminal;

/// The hidden argument that makes this executable a start helper.
pub const ENTER: &str = "lab-enter";
/// The hidden argument that makes this executable the pause process of a pod.
pub const PAUSE: &str = "lab-pause";

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The request is invalid; the message names the reason, such as a program or directory that does not exist.
    #[error("{0}")]
    Refused(String),
    /// A system call of the launcher failed.
    #[error("cannot {action}: {source}")]
    System {
        /// The failed step.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::System { action, source }
}

/// The program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// This executable.
    Own,
    /// A path, or a name that is looked up in the `PATH` of the program's environment.
    Named(String),
}

/// The user that a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities that a user other than root keeps, as in a pod's security context (`NET_ADMIN`).
    pub capabilities: Vec<String>,
}

/// A process to start, without its open files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The program.
    pub program: Program,
    /// The arguments, without the program name.
    pub arguments: Vec<String>,
    /// The complete environment.
    pub environment: Vec<(String, String)>,
    /// The working directory in the process's file tree, which is created if it does not exist. `None`: the root.
    pub directory: Option<PathBuf>,
    /// The namespaces of [`Streams::of`] to join.
    pub join: Namespaces,
    /// The namespaces to create.
    pub make: Namespaces,
    /// The file tree; requires a new mount namespace.
    pub view: Option<View>,
    /// The host name; requires a new UTS namespace.
    pub host_name: Option<String>,
    /// The user; `None`: the caller's user.
    pub user: Option<User>,
    /// The limit of open files, which is raised as far as permitted.
    pub open_files: Option<u64>,
    /// Whether standard input is a terminal that becomes the controlling terminal.
    pub terminal: bool,
}

impl Launch {
    /// Creates a process in the caller's namespaces, with an empty environment.
    pub fn new(program: Program) -> Self {
        Self {
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            join: Namespaces::default(),
            make: Namespaces::default(),
            view: None,
            host_name: None,
            user: None,
            open_files: None,
            terminal: false,
        }
    }
}

/// The open files of a process to start.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub input: OwnedFd,
    /// Standard output.
    pub output: OwnedFd,
    /// Standard error.
    pub error: OwnedFd,
    /// The process (see [`process_handle`]) whose namespaces are joined.
    pub of: Option<OwnedFd>,
}

impl Streams {
    /// Returns standard streams that are all `/dev/null`.
    ///
    /// # Errors
    /// Returns an error if `/dev/null` cannot be opened.
    pub fn none() -> io::Result<Self> {
        let null: OwnedFd = std::fs::File::options().read(true).write(true).open("/dev/null")?.into();
        Ok(Self { input: null.try_clone()?, output: null.try_clone()?, error: null, of: None })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal killed it.
    Signal(i32),
}

impl Exit {
    /// Returns the exit code as a shell or a kubelet reports it: 128 + signal for a killed process.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A running process. Dropping this value does not end the process. Its exit status must be taken with
/// [`Process::wait`], otherwise it remains a zombie.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    handle: AsyncFd<OwnedFd>,
}

impl Process {
    /// Returns the process id in the caller's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns a handle for joining the namespaces of the process.
    ///
    /// # Errors
    /// Returns an error if no file descriptors are left.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        self.handle.get_ref().try_clone()
    }

    /// Sends a signal. No error if the process has ended.
    ///
    /// # Errors
    /// Returns an error if the process may not be signalled.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        signal_process(self.handle.get_ref().as_fd(), signal)
    }

    /// Waits for the end of the process. Cancel-safe, but returns the exit status only once.
    ///
    /// # Errors
    /// Returns an error if the exit status is already taken.
    pub async fn wait(&self) -> io::Result<Exit> {
        loop {
            let mut ready = self.handle.ready(Interest::READABLE).await?;
            let ended = rustix::process::waitid(
                WaitId::PidFd(self.handle.get_ref().as_fd()),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            )?;
            match ended {
                Some(status) => {
                    return Ok(match status.exit_status() {
                        Some(code) => Exit::Code(code),
                        None => Exit::Signal(status.terminating_signal().unwrap_or_default()),
                    });
                }
                None => ready.clear_ready(),
            }
        }
    }
}

/// Blocks until a child process ends and takes its exit status, unless it is already taken.
pub fn take_exit(process: &OwnedFd) {
    let _ =
        rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED));
}

/// Sends a signal to a process. No error if the process has ended.
///
/// # Errors
/// Returns an error if the process may not be signalled.
pub fn signal_process(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Starts a process and returns when its program runs. The kernel kills the process when the calling process ends.
///
/// # Errors
/// Returns [`LaunchError::Refused`] with the reason if the program, directory or user is invalid.
pub async fn launch(launch: Launch, streams: Streams) -> Result<Process, LaunchError> {
    let started = tokio::task::spawn_blocking(move || start(&launch, streams));
    let (pid, handle) = started.await.map_err(|error| LaunchError::System {
        action: "wait for a process to start",
        source: io::Error::other(error),
    })??;
    let handle = watch(handle, Interest::READABLE).map_err(system("watch a process"))?;
    Ok(Process { pid, handle })
}

/// Registers a descriptor with the async runtime.
fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, and nothing replaces the one inside the result.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

fn start(launch: &Launch, streams: Streams) -> Result<(u32, OwnedFd), LaunchError> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| system("make a socket")(error.into()))?;
    let mut helper = spawn(theirs)?;
    let instructed = instruct(&ours, launch, &streams);
    drop(streams);
    let report = instructed.and_then(|()| receive_report(&ours));
    // The helper has forked or failed, and exits.
    let _ = helper.wait();
    let report = report?;
    let pid = report.pid.ok_or_else(|| {
        LaunchError::Refused(report.failure.clone().unwrap_or_else(|| "the start helper ended unexpectedly".into()))
    })?;
    let handle =
        process_handle(pid).map_err(|error: NamespaceError| system("open a process")(io::Error::other(error)))?;
    match report.failure {
        None => Ok((pid, handle)),
        Some(failure) => {
            // The process has ended, so its exit status must be taken here.
            let _ = rustix::process::waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED);
            Err(LaunchError::Refused(failure))
        }
    }
}

/// Starts the helper on a thread that lives as long as the process: the kernel delivers `PDEATHSIG` when the *thread*
/// that started a child ends.
fn spawn(socket: OwnedFd) -> Result<std::process::Child, LaunchError> {
    type SpawnRequest = (OwnedFd, mpsc::SyncSender<io::Result<std::process::Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<SpawnRequest>();
        let run = move || {
            for (socket, started) in requests {
                let mut command = Command::new("/proc/self/exe");
                command.arg(ENTER).env_clear().stdin(socket).stdout(Stdio::null()).stderr(Stdio::inherit());
                let _ = started.send(command.spawn());
            }
        };
        // If the thread cannot be started, the request below fails, which is reported.
        let _ = std::thread::Builder::new().name("spawner".into()).spawn(run);
        sender
    });
    let (sender, started) = mpsc::sync_channel(1);
    let ended = || io::Error::other("the spawner thread has ended");
    spawner.send((socket, sender)).map_err(|_| system("start a process")(ended()))?;
    started.recv().map_err(|_| system("start a process")(ended()))?.map_err(system("start a process"))
}

/// Sends the instructions and the open files. The instructions are a memory file, as they may be large.
fn instruct(socket: &OwnedFd, launch: &Launch, streams: &Streams) -> Result<(), LaunchError> {
    let text = serde_json::to_vec(launch).map_err(|error| system("write instructions")(error.into()))?;
    let memory = rustix::fs::memfd_create("launch", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|error| system("make a memory file")(error.into()))?;
    let mut file = std::fs::File::from(memory);
    file.write_all(&text).map_err(system("write instructions"))?;
    let mut files = vec![file.as_fd(), streams.input.as_fd(), streams.output.as_fd(), streams.error.as_fd()];
    files.extend(streams.of.as_ref().map(OwnedFd::as_fd));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"launch")], &mut control, SendFlags::NOSIGNAL)
        .map_err(|error| system("instruct the start helper")(error.into()))?;
    Ok(())
}

/// A report of the helper, or of the process that it forked.
#[derive(Default, Serialize, Deserialize)]
struct StartReport {
    pid: Option<u32>,
    failure: Option<String>,
}

/// Receives reports until the socket closes, which happens when the program is executed or the start has failed.
fn receive_report(socket: &OwnedFd) -> Result<StartReport, LaunchError> {
    let mut whole = StartReport::default();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let (length, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty()))
                .map_err(|error| system("receive from the start helper")(error.into()))?;
        if length == 0 {
            return Ok(whole);
        }
        let part: StartReport = serde_json::from_slice(&buffer[..length])
            .map_err(|error| system("parse the report of the start helper")(error.into()))?;
        whole.pid = whole.pid.or(part.pid);
        whole.failure = whole.failure.or(part.failure);
    }
}

/// The mount namespace of a process. All processes of a container share it; each container has another one.
///
/// The handle keeps the namespace open, because the kernel reuses the numbers of namespaces that no longer exist.
#[derive(Debug)]
pub struct MountNamespace {
    file: std::fs::File,
}

impl MountNamespace {
    /// Returns the mount namespace of a process.
    ///
    /// # Errors
    /// Returns an error if the process has ended.
    pub fn of(pid: u32) -> io::Result<Self> {
        std::fs::File::open(format!("/proc/{pid}/ns/mnt")).map(|file| Self { file })
    }

    /// Kills all processes in the namespace: those that a container leaves behind when its first process ends. Returns
    /// their number.
    pub fn kill_all(&self) -> usize {
        let Ok(own) = self.file.metadata() else { return 0 };
        let mut killed = 0;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let there = std::fs::metadata(format!("/proc/{pid}/ns/mnt"));
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino()))
                && let Some(pid) = Pid::from_raw(pid)
                && rustix::process::kill_process(pid, Signal::KILL).is_ok()
            {
                killed += 1;
            }
        }
        killed
    }
}
