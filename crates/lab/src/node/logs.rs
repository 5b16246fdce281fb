//! Container output on disk: one file per run of a container, bounded, readable while it is written.
//!
//! Lines are kept in the form of the Kubernetes container runtime interface: `<time> stdout|stderr F|P <text>`, where `P`
//! marks a piece of a line that goes on in the next record.

mod file;
mod read;
mod write;

pub(super) use file::forget_old;
pub use file::{Progress, path};
pub use read::{Query, stream};
pub(super) use write::{keep, pipe};
