//! The objects that the controller reads from clusters, and the events by which they arrive.

pub mod event;
pub(crate) mod intern;
pub(crate) mod labels;
pub(crate) mod metadata;
pub(crate) mod records;
