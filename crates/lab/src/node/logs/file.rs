//! The files of a run's log.

use std::path::{Path, PathBuf};

use tokio::fs;

/// Suffix of a file that was set aside.
const SET_ASIDE: &str = ".1";

/// Tells readers of one run's log what happens to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Grows with every write.
    pub written: u64,
    /// How many times the file was set aside.
    pub rotations: u64,
    /// Nothing will be written any more.
    pub ended: bool,
}

/// Where the log of a run of a container is.
pub fn path(directory: &Path, container: &str, run: u32) -> PathBuf {
    directory.join("logs").join(container).join(format!("{run}.log"))
}

pub(super) fn set_aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SET_ASIDE);
    name.into()
}

/// Removes the logs of runs before the one before `run`.
pub(in crate::node) async fn forget_old(directory: &Path, container: &str, run: u32) {
    if let Some(old) = run.checked_sub(2) {
        let old = path(directory, container, old);
        let _ = fs::remove_file(set_aside(&old)).await;
        let _ = fs::remove_file(old).await;
    }
}
