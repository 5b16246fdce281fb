//! What is known of all clusters, and what follows from it.

pub mod event;
