//! The proxy beside a pod.
//!
//! A pod's connections are redirected here by the kernel: those that its application opens ([`outbound`]) and those that
//! others open to it ([`inbound`]). Each is one task of one worker thread from its first byte to its last. What the proxy
//! knows of the mesh is in [`mesh`]; how it gets to an endpoint, in [`upstream`]. Start at [`run`] for the process, at
//! [`outbound::serve`] and [`inbound::serve`] for a connection's walk.
//!
//! It does not know Kubernetes or the APIs that people write: all that it needs comes over discovery.

pub mod dns;
pub mod inbound;
pub mod options;
pub mod outbound;
mod pages;
mod run;
pub mod workers;

pub use options::Options;
pub use run::run;
