//! Linux namespaces: entering a user namespace, handles to network namespaces, running code in a namespace.
//!
//! The semantics are those of `namespaces(7)` and `user_namespaces(7)`. A thread is in exactly one network namespace,
//! and a socket stays in the namespace in which its thread created it. So this module never moves a shared thread: work
//! in a namespace runs on a thread of its own ([`NetNamespace::run_in`]).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

pub mod file_tree;
pub mod mount;

/// The error of an operation on namespaces.
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

/// A set of namespace types, to create or to join.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// Network: links, routes, ports, packet rules.
    pub net: bool,
    /// Mounts.
    pub mount: bool,
    /// Process ids. They affect the children of the caller, never the caller itself.
    pub pid: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// The host name.
    pub uts: bool,
}

impl Namespaces {
    /// All types.
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

/// Enters a new user namespace in which the caller is root, unless the caller already is root.
///
/// Returns whether it entered a namespace. In it, the caller's user and group have id 0, and no other ids exist. It
/// must be called before the process starts a thread, and so before it creates an async runtime.
///
/// # Errors
/// Returns an error if the process has further threads, or the system does not permit user namespaces to ordinary users.
pub fn enter_user_namespace() -> Result<bool, NamespaceError> {
    if rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: the flags do not unshare the file descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(|source| NamespaceError {
        action: "create a user namespace".into(),
        source: source.into(),
        advice: match source {
            rustix::io::Errno::INVAL => " (the process has more than one thread)",
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

/// Returns whether a user id exists in the user namespace of this process, so that a process can run as that user.
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

/// Moves the calling thread to new namespaces of the given types (for `pid`: its future children).
///
/// # Errors
/// Returns an error if the process lacks `CAP_SYS_ADMIN`.
pub fn unshare(kinds: Namespaces) -> Result<(), NamespaceError> {
    let flags = UnshareFlags::from_bits_retain(kinds.flags());
    // SAFETY: the flags do not unshare the file descriptor table. A new mount namespace also unshares the thread's
    // working directory and root, as intended.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|source| NamespaceError::new("create namespaces", source))
}

/// Moves the calling thread to the namespaces of another process (for `pid`: its future children).
///
/// # Errors
/// Returns an error if the process has ended or the kernel refuses.
pub fn join(process: BorrowedFd<'_>, kinds: Namespaces) -> Result<(), NamespaceError> {
    let kinds = ThreadNameSpaceType::from_bits_retain(kinds.flags());
    rustix::thread::move_into_thread_name_spaces(process, kinds)
        .map_err(|source| NamespaceError::new("join the namespaces of a process", source))
}

/// Runs `work` in the namespaces of another process, on a thread of its own, and waits for it. Types `mount` and `pid`
/// are not possible: a thread of a process with several threads cannot join a mount namespace, and `pid` affects
/// children only.
///
/// # Errors
/// Returns an error in the cases of [`join`].
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

/// A handle to a network namespace, which keeps the namespace alive.
#[derive(Debug)]
pub struct NetNamespace {
    fd: OwnedFd,
}

impl NetNamespace {
    /// Returns the namespace of the calling thread.
    ///
    /// # Errors
    /// Returns an error if `/proc` is not mounted.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Returns the namespace of a process.
    ///
    /// # Errors
    /// Returns an error if the process has ended or belongs to another user.
    pub fn of_process(pid: u32) -> Result<Self, NamespaceError> {
        Self::open(&PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    fn open(path: &Path) -> Result<Self, NamespaceError> {
        let file =
            File::open(path).map_err(|source| NamespaceError::new(format!("open {}", path.display()), source))?;
        Ok(Self { fd: file.into() })
    }

    /// Creates a namespace and brings up its `lo`. The calling thread does not enter it.
    ///
    /// # Errors
    /// Returns an error if the process lacks `CAP_SYS_ADMIN` in its user namespace.
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

    /// Moves the calling thread to this namespace. Only for threads that no other code uses.
    ///
    /// # Errors
    /// Returns an error if the process lacks `CAP_SYS_ADMIN` over the namespace.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        rustix::thread::move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|source| NamespaceError::new("enter a network namespace", source))
    }

    /// Runs `work` in this namespace, on a thread of its own, and waits for it.
    ///
    /// Sockets that `work` creates and returns stay in the namespace. For use with an async runtime, return sockets of
    /// the standard library and register them in the caller.
    ///
    /// # Errors
    /// Returns an error in the cases of [`Self::enter`].
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Starts a thread in this namespace.
    ///
    /// # Errors
    /// Returns an error if no thread can be started. If the thread cannot enter the namespace, joining it returns the
    /// error.
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

    /// Returns another handle to the namespace.
    ///
    /// # Errors
    /// Returns an error if the process has no file descriptors left.
    pub fn try_clone(&self) -> Result<Self, NamespaceError> {
        let fd = self.fd.try_clone().map_err(|source| NamespaceError::new("copy a namespace handle", source))?;
        Ok(Self { fd })
    }

    /// Enables IPv6 with addresses that are assigned here alone, for links that are created afterwards: they accept no
    /// router advertisements, and their addresses are usable at once, without duplicate address detection.
    ///
    /// # Errors
    /// Returns an error if the kernel has no IPv6.
    pub fn use_static_ipv6(&self) -> Result<(), NamespaceError> {
        for links in ["all", "default"] {
            for (setting, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")] {
                self.set(&format!("ipv6/conf/{links}/{setting}"), value)?;
            }
        }
        Ok(())
    }

    /// Sets a network sysctl of this namespace, such as `set("ipv4/ip_forward", "1")` (a path below `/proc/sys/net`).
    ///
    /// # Errors
    /// Returns an error if the sysctl does not exist or the kernel refuses the value.
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

/// Returns a handle to a process (pidfd), which never refers to another process, unlike its id.
///
/// # Errors
/// Returns an error if the process does not exist.
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
