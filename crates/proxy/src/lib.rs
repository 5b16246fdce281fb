//! The proxy engine, shared by the sidecar and the gateways.
//!
//! From the bottom up:
//!
//! - [`io`] byte streams, [`relay`] copying them both ways
//! - [`http`] messages: heads, bodies, HTTP/2 settings, and requests that are refused
//! - [`detect`] the protocol of a stream, [`failure`] what can fail
//! - [`mesh`] the view of the mesh that the controller pushes
//! - [`upstream`] endpoints, connections and pools
//! - [`server`] downstream HTTP connections
//! - [`report`] metrics and access logs, [`tcp`] opaque connections
//! - [`worker`] the state of a worker thread, [`listener`] accepting connections and draining
//! - [`exchange`] a request on its way through: start here
//!
//! Dependencies point upwards in this list only; `tests/structure` checks it. The engine knows neither capture nor DNS (the
//! sidecar's), SNI routing (the east-west gateway's), Kubernetes, nor the APIs that users write.

pub mod detect;
pub mod exchange;
pub mod failure;
pub mod http;
pub mod io;
pub mod listener;
pub mod mesh;
pub mod relay;
pub mod report;
pub mod server;
pub mod tcp;
pub mod upstream;
pub mod worker;
