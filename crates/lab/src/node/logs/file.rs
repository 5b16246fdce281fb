//! The files of a run's log.

use std::path::{Path, PathBuf};

use tokio::fs;

/// Suffix of a rotated file.
const SET_ASIDE: &str = ".1";

/// The progress of one run's log, for its readers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogProgress {
    /// Bytes written.
    pub written: u64,
    /// Number of rotations of the file.
    pub rotations: u64,
    /// Whether the log is complete.
    pub ended: bool,
}

/// Returns the path of the log of a container's run.
pub fn path(directory: &Path, container: &str, run: u32) -> PathBuf {
    directory.join("logs").join(container).join(format!("{run}.log"))
}

pub(super) fn set_aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SET_ASIDE);
    name.into()
}

/// Removes logs older than that of the run before `run`.
pub(in crate::node) async fn forget_old(directory: &Path, container: &str, run: u32) {
    if let Some(old) = run.checked_sub(2) {
        let old = path(directory, container, old);
        let _ = fs::remove_file(set_aside(&old)).await;
        let _ = fs::remove_file(old).await;
    }
}
