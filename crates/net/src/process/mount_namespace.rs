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
