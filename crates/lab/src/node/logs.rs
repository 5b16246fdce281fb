//! Container output on disk: one file per run of a container, bounded, readable while it is written.
//!
//! The format of a line is that of the Kubernetes container runtime interface: `<time> stdout|stderr F|P <text>`. `P`
//! marks a part of a line that continues in the next record.

mod file;
mod read;
mod write;

pub(super) use file::forget_old;
pub use file::{LogProgress, path};
pub use read::{LogQuery, stream};
pub(super) use write::{keep, pipe};
