//! The way out: from a service and a port to a connection that can be used.
//!
//! - [`target`]: what the endpoints of a service port are, as places to connect to. Pure.
//! - [`Cluster`]: one service port as one worker uses it: a balancer over those targets, and a pool per target.
//! - [`connect`]: TCP and TLS to one target, and the race between several.
//! - [`Pool`]: idle HTTP/1.1 connections ([`http1`]) and HTTP/2 sessions ([`http2`]) of one target.

pub mod application;
mod cluster;
pub mod connect;
pub mod http1;
pub mod http2;
mod overdue;
mod pool;
mod relay;
pub mod target;

pub use cluster::{Cluster, Clusters, Key, Leased};
pub use connect::Opened;
pub use overdue::Overdue;
pub use pool::{BUFFER, Lease, Line, Pool, Sent, Unsent, Version};
pub use target::Target;
