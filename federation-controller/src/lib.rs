//! The control plane: watches clusters, issues identities, tells every proxy what it needs.

pub mod ca;
pub mod clusters;
pub mod discovery;
pub mod export;
pub mod index;
pub mod inject;
pub mod metrics;
pub mod store;

#[cfg(test)]
mod fake;
