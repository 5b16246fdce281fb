//! Mounts, as far as pods need them. Each call acts on the calling thread's mount namespace.

use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::NamespaceError;

/// Cuts the mount namespace off: nothing mounted here shows elsewhere, nor the other way.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn make_private() -> Result<(), NamespaceError> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|source| NamespaceError::new("make mounts private", source))
}

/// Mounts a fresh in-memory file system.
///
/// # Errors
/// When the target is not a directory.
pub fn tmpfs(target: &Path, mode: u32) -> Result<(), NamespaceError> {
    let options = std::ffi::CString::new(format!("mode={mode:o}")).expect("a number has no NUL");
    rustix::mount::mount("tmpfs", target, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|source| NamespaceError::new(format!("mount a tmpfs at {}", target.display()), source))
}

/// Mounts `/proc` of the calling process' pid namespace. Where the system does not allow a fresh one (inside some
/// containers), shows the `existing` one instead.
///
/// # Errors
/// When neither works.
pub fn proc(target: &Path, existing: &Path) -> Result<(), NamespaceError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match rustix::mount::mount("proc", target, "proc", flags, None) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => bind(existing, target),
        Err(source) => Err(NamespaceError::new(format!("mount proc at {}", target.display()), source)),
    }
}

/// Shows a file or a directory with all that is mounted in it at another place too.
///
/// # Errors
/// When one of them is missing, or they are not both files or both directories.
pub fn bind(source: &Path, target: &Path) -> Result<(), NamespaceError> {
    rustix::mount::mount_bind_recursive(source, target)
        .map_err(|error| NamespaceError::new(format!("show {} at {}", source.display(), target.display()), error))
}

/// Makes what was shown by [`bind`] read-only.
///
/// # Errors
/// When the target is not a mount.
pub fn read_only(target: &Path) -> Result<(), NamespaceError> {
    // In a user namespace the flags that the source carries are locked and must be repeated.
    let carried =
        rustix::fs::statvfs(target).map(|found| found.f_flag).unwrap_or(rustix::fs::StatVfsMountFlags::empty());
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (given, flag) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (rustix::fs::StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (rustix::fs::StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if carried.contains(given) {
            flags |= flag;
        }
    }
    rustix::mount::mount_remount(target, flags, "")
        .map_err(|source| NamespaceError::new(format!("make {} read-only", target.display()), source))
}

/// Makes `root`, which must be a mount, the root of this mount namespace, and lets go of the old one.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn pivot(root: &Path) -> Result<(), NamespaceError> {
    let failed =
        |action: &str, source: rustix::io::Errno| NamespaceError::new(format!("{action} {}", root.display()), source);
    rustix::process::chdir(root).map_err(|source| failed("enter", source))?;
    // With the same directory as both arguments the old root is stacked on the new one (`pivot_root(2)`).
    rustix::process::pivot_root(".", ".").map_err(|source| failed("change the root to", source))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(|source| failed("let go of the root before", source))?;
    rustix::process::chdir("/").map_err(|source| failed("enter", source))
}
