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

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::{WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::namespace::Namespaces;
use crate::namespace::file_tree::FileTree;
#[cfg(doc)]
use crate::namespace::process_handle;

mod enter;
mod launch;
mod mount_namespace;
mod pause;
mod terminal;

pub use enter::enter;
pub use launch::launch;
pub use mount_namespace::MountNamespace;
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
    pub file_tree: Option<FileTree>,
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
            file_tree: None,
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

/// Registers a descriptor with the async runtime.
fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, and nothing replaces the one inside the result.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
