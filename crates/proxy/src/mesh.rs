//! What this proxy knows of the mesh: what it was told by the controller, as far as its pod uses it.
//!
//! The control thread owns the [`Store`], to which discovery hands what arrives; it publishes immutable [`Snapshot`]s.
//! Each worker reads through a [`View`] of its own, which costs one relaxed load when nothing changed. What is not known
//! yet is asked for on first use, by [`View::by_address`] and [`View::by_name`]. Losing the controller changes nothing
//! that is known.

mod convert;
mod model;
mod policies;
mod store;
#[cfg(test)]
mod tests;
mod usage;
mod view;

pub use model::{
    Direct, Endpoint, Found, Gateway, InboundPort, LogSettings, OutboundPolicy, Own, Port, Protocol, Reach, Service,
    Settings, Snapshot, WorkloadLabels,
};
pub use store::{Shared, Store};
pub use usage::give_up;
pub use view::{View, ask};

use std::sync::Arc;

/// Who asks: where this proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// Its network.
    pub network: Arc<str>,
    /// Its pod's namespace.
    pub namespace: Arc<str>,
    /// Its pod.
    pub pod: Arc<str>,
}
