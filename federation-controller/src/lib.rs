//! The control plane: watches clusters, issues identities, tells every proxy what it needs.

pub mod index;
