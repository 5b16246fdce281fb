//! Mount namespaces of containers.

use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, Signal};

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

    /// Returns the numbers that identify the mount namespace of a process as long as a process is in it.
    ///
    /// # Errors
    /// Returns an error if the process has ended or belongs to another user.
    pub fn id_of(pid: u32) -> io::Result<(u64, u64)> {
        std::fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|there| (there.dev(), there.ino()))
    }

    /// Kills all processes in the namespace: those that a container leaves behind when its first process ends. Returns
    /// their number.
    pub fn kill_all(&self) -> usize {
        let Ok(own) = self.file.metadata() else { return 0 };
        let mut killed = 0;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if Self::id_of(pid).is_ok_and(|there| there == (own.dev(), own.ino()))
                && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
                && rustix::process::kill_process(pid, Signal::KILL).is_ok()
            {
                killed += 1;
            }
        }
        killed
    }
}
