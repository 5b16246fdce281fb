//! The east-west gateway: forwards mutual-TLS connections between networks by SNI, without terminating them.
//!
//! It accepts connections of other networks on port 15443, reads the server name of each from its ClientHello, and forwards the
//! bytes to an endpoint of that service in its own network. It holds no key that could decrypt them, and forwards nothing that
//! is not exported.
//!
//! Along a connection: `connection` is its path, [`routes`] decides what is forwarded, `race` finds an endpoint that answers, [`store`] builds routes from pushed
//! resources, [`refusal`] is why a connection is refused. Start at [`run`] for the process. The view of the mesh, accepting
//! and draining are the engine's (`crates/proxy`).

mod connection;
#[cfg(test)]
mod fixtures;
pub mod metrics;
mod open_connections;
mod options;
mod pages;
mod race;
pub mod refusal;
pub mod routes;
mod run;
pub mod store;
pub mod worker;

pub use options::Options;
pub use run::run;
