//! Starting processes inside other namespaces.
//!
//! A process with threads must not fork and then do real work in the child: a lock that another thread held stays locked
//! there. So [`launch`] starts this same executable afresh with the argument [`ENTER`], and that small single-threaded
//! process (`process/enter.rs`) joins or makes the namespaces, forks once (a pid namespace is entered only by
//! children), puts the file tree together, gives up its privileges, and becomes the wanted program. Instructions and
//! standard streams reach it over a socket on its standard input; failures come back over it, and its closing says that
//! the program runs. The fork names *our* process as parent (`CLONE_PARENT`), so no process stays in between.
//!
//! A program that uses [`launch`] calls [`enter`] (and [`pause`] for [`PAUSE`]) first thing in `main`.

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

/// The hidden argument by which this executable becomes a program in other namespaces.
pub const ENTER: &str = "lab-enter";
/// The hidden argument by which this executable holds the namespaces of a pod.
pub const PAUSE: &str = "lab-pause";

/// A program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// What was asked for is impossible, in words for whoever asked: no such program, no such directory, …
    #[error("{0}")]
    Refused(String),
    /// The machinery failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::System { action, source }
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// This same executable.
    Own,
    /// A path, or a name that is looked up in the program's own `PATH`.
    Named(String),
}

/// Whom to run as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Capabilities kept by a user other than root, as in a pod's security context (`NET_ADMIN`).
    pub capabilities: Vec<String>,
}

/// Everything about a process to start but its open files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The program.
    pub program: Program,
    /// Its arguments, without its own name.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// Where it starts, in its own file tree; made if missing. The root if absent.
    pub directory: Option<PathBuf>,
    /// Namespaces to join, those of [`Streams::of`].
    pub join: Namespaces,
    /// Namespaces to make.
    pub make: Namespaces,
    /// The file tree, which needs a mount namespace that is made.
    pub view: Option<View>,
    /// The host name, which needs a host name namespace that is made.
    pub host_name: Option<String>,
    /// Whom to run as; the caller's own user if absent.
    pub user: Option<User>,
    /// Limit of open files, raised as far as allowed.
    pub open_files: Option<u64>,
    /// Whether standard input is a terminal that is to be the program's own.
    pub terminal: bool,
}

impl Launch {
    /// A program in the caller's own namespaces, with an empty environment.
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

/// The open files that a process starts with.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub input: OwnedFd,
    /// Standard output.
    pub output: OwnedFd,
    /// Standard error.
    pub error: OwnedFd,
    /// A process (see [`process_handle`]) whose namespaces are joined.
    pub of: Option<OwnedFd>,
}

impl Streams {
    /// Standard input, output and error that lead nowhere.
    ///
    /// # Errors
    /// When `/dev/null` cannot be opened.
    pub fn none() -> io::Result<Self> {
        let null: OwnedFd = std::fs::File::options().read(true).write(true).open("/dev/null")?.into();
        Ok(Self { input: null.try_clone()?, output: null.try_clone()?, error: null, of: None })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// The code that a shell and a kubelet would give: 128 + signal for one that was killed.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A running process. Dropping it does not end the process, but its end then leaves a zombie: wait for it.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    handle: AsyncFd<OwnedFd>,
}

impl Process {
    /// Its number in the caller's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A handle for joining its namespaces.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        self.handle.get_ref().try_clone()
    }

    /// Sends a signal. Fine if the process has ended.
    ///
    /// # Errors
    /// When the process may not be signalled.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        signal_process(self.handle.get_ref().as_fd(), signal)
    }

    /// Waits for its end. Is safe to drop half-way and call again, but gives the result once.
    ///
    /// # Errors
    /// When the end was already taken.
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

/// Waits, blocking, for the end of a child and takes its exit status, if nobody did yet.
pub fn take_exit(process: &OwnedFd) {
    let _ =
        rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED));
}

/// Sends a signal by a handle. Fine if the process has ended.
///
/// # Errors
/// When the process may not be signalled.
pub fn signal_process(process: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Starts a process and returns once the wanted program runs.
///
/// The process is killed if this process ends, however it ends.
///
/// # Errors
/// [`LaunchError::Refused`] when the program, directory or user is wrong; it says what.
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
    let told = instruct(&ours, launch, &streams);
    drop(streams);
    let answer = told.and_then(|()| answer(&ours));
    // The helper has forked or failed by now, and ends by itself.
    let _ = helper.wait();
    let answer = answer?;
    let pid = answer.pid.ok_or_else(|| {
        LaunchError::Refused(answer.failure.clone().unwrap_or_else(|| "the start helper ended early".into()))
    })?;
    let handle =
        process_handle(pid).map_err(|error: NamespaceError| system("open a process")(io::Error::other(error)))?;
    match answer.failure {
        None => Ok((pid, handle)),
        Some(failure) => {
            // It ended with the failure: nobody else will take its exit status.
            let _ = rustix::process::waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED);
            Err(LaunchError::Refused(failure))
        }
    }
}

/// Starts the helper on the one thread that lives as long as the process: the kernel ends a child with `PDEATHSIG`
/// when the *thread* that started it ends.
fn spawn(socket: OwnedFd) -> Result<std::process::Child, LaunchError> {
    type Job = (OwnedFd, mpsc::SyncSender<io::Result<std::process::Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        let run = move || {
            for (socket, answer) in jobs {
                let mut command = Command::new("/proc/self/exe");
                command.arg(ENTER).env_clear().stdin(socket).stdout(Stdio::null()).stderr(Stdio::inherit());
                let _ = answer.send(command.spawn());
            }
        };
        // Without the thread every job below fails, which is the error to report.
        let _ = std::thread::Builder::new().name("spawner".into()).spawn(run);
        sender
    });
    let (sender, started) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the spawner thread is gone");
    spawner.send((socket, sender)).map_err(|_| system("start a process")(gone()))?;
    started.recv().map_err(|_| system("start a process")(gone()))?.map_err(system("start a process"))
}

/// Sends the instructions (in a memory file, as they may be large) and the open files.
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

/// What came back from the helper and the process that it forked.
#[derive(Default, Serialize, Deserialize)]
struct Answer {
    pid: Option<u32>,
    failure: Option<String>,
}

/// Reads until the socket closes, which it does when the program is executed or the attempt has ended.
fn answer(socket: &OwnedFd) -> Result<Answer, LaunchError> {
    let mut whole = Answer::default();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let (length, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty()))
                .map_err(|error| system("hear from the start helper")(error.into()))?;
        if length == 0 {
            return Ok(whole);
        }
        let part: Answer = serde_json::from_slice(&buffer[..length])
            .map_err(|error| system("understand the start helper")(error.into()))?;
        whole.pid = whole.pid.or(part.pid);
        whole.failure = whole.failure.or(part.failure);
    }
}

/// A process' mount namespace: the same for all processes of a container, another for each container.
///
/// Held open, because the kernel gives the number of a namespace that is gone to the next one that is made.
#[derive(Debug)]
pub struct MountNamespace {
    file: std::fs::File,
}

impl MountNamespace {
    /// The namespace of a process.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> io::Result<Self> {
        std::fs::File::open(format!("/proc/{pid}/ns/mnt")).map(|file| Self { file })
    }

    /// Kills every process in it: what a container leaves behind when its first process ends. Gives how many.
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
