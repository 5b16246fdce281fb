//! Linux namespaces: entering a user namespace, network namespaces as handles, running code inside one.
//!
//! Source of the semantics: `namespaces(7)`, `user_namespaces(7)`. A thread is in exactly one network namespace, and a
//! socket stays in the one that its thread was in when it was made. So nothing here moves a thread that others use:
//! work inside a namespace runs on a thread of its own ([`NetNamespace::run_in`]).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

pub mod mount;
pub mod view;

/// A namespace could not be made, entered or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}{advice}")]
pub struct NamespaceError {
    action: String,
    #[source]
    source: io::Error,
    advice: &'static str,
}

impl NamespaceError {
    pub(crate) fn new(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { action: action.into(), source: source.into(), advice: "" }
    }
}

/// Which namespaces to make or to join.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// Links, routes, ports, packet rules.
    pub net: bool,
    /// The tree of mounts.
    pub mount: bool,
    /// Process ids. Made or joined for children of the caller, never for the caller itself.
    pub pid: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
}

impl Namespaces {
    /// All of them.
    pub const ALL: Self = Self { net: true, mount: true, pid: true, ipc: true, uts: true };

    fn flags(self) -> u32 {
        [
            (self.net, libc::CLONE_NEWNET),
            (self.mount, libc::CLONE_NEWNS),
            (self.pid, libc::CLONE_NEWPID),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.uts, libc::CLONE_NEWUTS),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |flags, (_, flag)| flags | flag as u32)
    }
}

/// Enters a new user namespace in which the caller is root, unless the caller has the host's root already.
///
/// Returns whether it did. Own user and group become 0 there; no other id exists in it. Must come before any thread is
/// started, so before any async runtime.
///
/// # Errors
/// When a thread already runs, or when the system does not let ordinary users make user namespaces.
pub fn enter_user_namespace() -> Result<bool, NamespaceError> {
    if rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: the flags do not unshare the file descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(|source| NamespaceError {
        action: "make a user namespace".into(),
        source: source.into(),
        advice: match source {
            rustix::io::Errno::INVAL => " (a thread already runs)",
            rustix::io::Errno::PERM | rustix::io::Errno::ACCESS | rustix::io::Errno::NOSPC => {
                "; run as root, or allow it: sysctl user.max_user_namespaces=10000, and where they exist \
                 kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0"
            }
            _ => "",
        },
    })?;
    for (file, line) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {} 1", uid.as_raw())),
        ("gid_map", format!("0 {} 1", gid.as_raw())),
    ] {
        let path = format!("/proc/self/{file}");
        fs::write(&path, line).map_err(|source| NamespaceError::new(format!("write {path}"), source))?;
    }
    Ok(true)
}

/// Whether a user exists in this process' user namespace, so that a process can run as it.
pub fn maps_user(uid: u32) -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<u64>().ok());
        let (Some(first), Some(_), Some(count)) = (numbers.next(), numbers.next(), numbers.next()) else {
            return false;
        };
        (first..first + count).contains(&u64::from(uid))
    })
}

/// Moves the calling thread to new namespaces of the kinds given (for `pid`: its next children).
///
/// # Errors
/// When the kernel refuses: without `CAP_SYS_ADMIN`.
pub fn unshare(kinds: Namespaces) -> Result<(), NamespaceError> {
    let flags = UnshareFlags::from_bits_retain(kinds.flags());
    // SAFETY: the flags do not unshare the file descriptor table. A new mount namespace also unshares the thread's
    // working directory and root, which is the meaning of it.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|source| NamespaceError::new("make namespaces", source))
}

/// Moves the calling thread to another process' namespaces (for `pid`: its next children).
///
/// # Errors
/// When the process is gone, or the kernel refuses.
pub fn join(process: BorrowedFd<'_>, kinds: Namespaces) -> Result<(), NamespaceError> {
    let kinds = ThreadNameSpaceType::from_bits_retain(kinds.flags());
    rustix::thread::move_into_thread_name_spaces(process, kinds)
        .map_err(|source| NamespaceError::new("join the namespaces of a process", source))
}

/// Runs `work` in another process' namespaces, on a thread of its own, and waits for it. Not for `mount`, which a thread
/// of a process with others cannot join, nor `pid`, which is for children.
///
/// # Errors
/// As [`join`].
pub fn run_joined<T: Send>(
    process: BorrowedFd<'_>,
    kinds: Namespaces,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NamespaceError> {
    on_own_thread(|| {
        join(process, kinds)?;
        Ok(work())
    })
}

/// A network namespace, kept alive by this handle.
#[derive(Debug)]
pub struct NetNamespace {
    fd: OwnedFd,
}

impl NetNamespace {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// When the process is gone or belongs to someone else.
    pub fn of_process(pid: u32) -> Result<Self, NamespaceError> {
        Self::open(&PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    fn open(path: &Path) -> Result<Self, NamespaceError> {
        let file =
            File::open(path).map_err(|source| NamespaceError::new(format!("open {}", path.display()), source))?;
        Ok(Self { fd: file.into() })
    }

    /// Makes a namespace with its `lo` up. The calling thread stays where it is.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN` over the current user namespace.
    pub fn create() -> Result<Self, NamespaceError> {
        on_own_thread(|| {
            unshare(Namespaces { net: true, ..Namespaces::default() })?;
            let created = Self::current()?;
            crate::link::Links::open()
                .and_then(|mut links| links.up("lo"))
                .map_err(|source| NamespaceError::new("bring up lo", io::Error::other(source)))?;
            Ok(created)
        })
    }

    /// Moves the calling thread into this namespace. Only for threads that nobody shares.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN` over the namespace.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        rustix::thread::move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|source| NamespaceError::new("enter a network namespace", source))
    }

    /// Runs `work` in this namespace, on a thread of its own, and waits for it.
    ///
    /// Sockets that `work` makes and returns stay in the namespace. For use with an async runtime return standard
    /// library sockets and register them on the caller's side.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Starts a thread that lives in this namespace.
    ///
    /// # Errors
    /// When no thread can be started. A failure to enter ends the thread and is the result of joining it.
    pub fn spawn_in<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<std::thread::JoinHandle<Result<T, NamespaceError>>, NamespaceError> {
        let inside = self.try_clone()?;
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                inside.enter()?;
                Ok(work())
            })
            .map_err(|source| NamespaceError::new(format!("start thread {name}"), source))
    }

    /// Another handle of the same namespace.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn try_clone(&self) -> Result<Self, NamespaceError> {
        let fd = self.fd.try_clone().map_err(|source| NamespaceError::new("copy a namespace handle", source))?;
        Ok(Self { fd })
    }

    /// Sets a network setting of this namespace, e.g. `set("ipv4/ip_forward", "1")` (a path below `/proc/sys/net`).
    ///
    /// # Errors
    /// When there is no such setting or the value is refused.
    pub fn set(&self, setting: &str, value: &str) -> Result<(), NamespaceError> {
        let path = format!("/proc/sys/net/{setting}");
        self.run_in(|| fs::write(&path, value))?
            .map_err(|source| NamespaceError::new(format!("set {path} to {value}"), source))
    }
}

impl AsFd for NetNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A handle of a process that cannot come to mean another one.
///
/// # Errors
/// When there is no such process.
pub fn process_handle(pid: u32) -> Result<OwnedFd, NamespaceError> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
    id.ok_or(rustix::io::Errno::SRCH)
        .and_then(|id| pidfd_open(id, PidfdFlags::empty()))
        .map_err(|source| NamespaceError::new(format!("open process {pid}"), source))
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, NamespaceError> + Send) -> Result<T, NamespaceError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .spawn_scoped(scope, work)
            .map_err(|source| NamespaceError::new("start a thread", source))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
