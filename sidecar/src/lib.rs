//! The sidecar: the proxy beside a pod.
//!
//! The kernel redirects a pod's connections to the sidecar: those that the application opens ([`outbound`]) and those that
//! others open to it ([`inbound`]). Each is one task of one worker thread from its first byte to its last. Start at [`run`]
//! for the process, at [`outbound::serve`] and [`inbound::serve`] for the path of a connection. Requests, upstream connections
//! and the view of the mesh are the engine's (`crates/proxy`).
//!
//! The sidecar knows neither Kubernetes nor the APIs that users write: its whole configuration arrives over discovery.

mod capture;
mod captured;
pub mod dns;
mod explain;
mod health;
pub mod inbound;
mod machine;
pub mod options;
pub mod outbound;
mod pages;
mod run;
pub mod workers;

pub use options::Options;
pub use run::run;
