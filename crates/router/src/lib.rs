//! The router: an ingress or egress gateway.
//!
//! A router has listeners of its own, as Gateways configure them, where a sidecar has the connections of its pod. Behind them
//! is the engine that sidecars have: requests are carried by [`proxy::exchange::gateway`]. Start at [`run`] for the process, at
//! [`connection`] for the path of a connection, and at [`config`] for what the controller's resources mean.
//!
//! The router knows neither Kubernetes nor the APIs that users write: its whole configuration arrives over discovery,
//! certificates of servers included.

mod bind;
mod config;
mod connection;
mod convert;
mod files;
mod names;
mod pages;
mod proxy_protocol;
mod run;
mod store;
pub mod workers;

pub use run::run;
pub use runtime::options::GatewayOptions as Options;
