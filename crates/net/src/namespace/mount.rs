//! Mounts for the file trees of pods. Each call affects the mount namespace of the calling thread.

use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::NamespaceError;

/// Makes all mounts private: mounts do not propagate to other namespaces or from them.
///
/// # Errors
/// Returns an error if the process lacks `CAP_SYS_ADMIN`.
pub fn make_private() -> Result<(), NamespaceError> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|source| NamespaceError::new("make mounts private", source))
}

/// Mounts an empty in-memory file system.
///
/// # Errors
/// Returns an error if the target is not a directory.
pub fn tmpfs(target: &Path, mode: u32) -> Result<(), NamespaceError> {
    let options = std::ffi::CString::new(format!("mode={mode:o}")).expect("a number contains no NUL");
    rustix::mount::mount("tmpfs", target, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|source| NamespaceError::new(format!("mount a tmpfs at {}", target.display()), source))
}

/// Mounts the `/proc` of the calling process's pid namespace. If the system does not permit that (in some containers),
/// the `existing` one is bound instead.
///
/// # Errors
/// Returns an error if both fail.
pub fn proc(target: &Path, existing: &Path) -> Result<(), NamespaceError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match rustix::mount::mount("proc", target, "proc", flags, None) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => bind(existing, target),
        Err(source) => Err(NamespaceError::new(format!("mount proc at {}", target.display()), source)),
    }
}

/// Binds a file or a directory, including the mounts in it, to a target.
///
/// # Errors
/// Returns an error if source or target does not exist, or one is a directory and the other is not.
pub fn bind(source: &Path, target: &Path) -> Result<(), NamespaceError> {
    rustix::mount::mount_bind_recursive(source, target)
        .map_err(|error| NamespaceError::new(format!("bind {} to {}", source.display(), target.display()), error))
}

/// Makes a mount that [`bind`] created read-only.
///
/// # Errors
/// Returns an error if the target is not a mount.
pub fn read_only(target: &Path) -> Result<(), NamespaceError> {
    // In a user namespace the source's flags are locked and must be repeated.
    let locked =
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
        if locked.contains(given) {
            flags |= flag;
        }
    }
    rustix::mount::mount_remount(target, flags, "")
        .map_err(|source| NamespaceError::new(format!("make {} read-only", target.display()), source))
}

/// Makes `root`, which must be a mount, the root of the mount namespace, and unmounts the old root.
///
/// # Errors
/// Returns an error if the process lacks `CAP_SYS_ADMIN`.
pub fn pivot(root: &Path) -> Result<(), NamespaceError> {
    let failed =
        |action: &str, source: rustix::io::Errno| NamespaceError::new(format!("{action} {}", root.display()), source);
    rustix::process::chdir(root).map_err(|source| failed("enter", source))?;
    // With the same directory as both arguments the old root is stacked on the new one (`pivot_root(2)`).
    rustix::process::pivot_root(".", ".").map_err(|source| failed("change the root to", source))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(|source| failed("unmount the old root of", source))?;
    rustix::process::chdir("/").map_err(|source| failed("enter", source))
}
