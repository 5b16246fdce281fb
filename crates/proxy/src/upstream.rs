//! Upstream connections: from a service's port to a connection that carries a request.
//!
//! - [`target`]: the endpoints of a service's port as addresses to connect to. Pure functions.
//! - [`UpstreamCluster`]: a service's port, or a subset of it, as one worker uses it: a balancer over the targets and a pool
//!   per target.
//! - [`connect`]: TCP and TLS to one target, and the race between several.
//! - [`Pool`]: idle HTTP/1.1 connections ([`http1`]) and HTTP/2 sessions ([`http2`]) to one target.
//! - [`application`]: connections to the application beside the proxy.

mod answer_first;
pub mod application;
mod cluster;
mod clusters;
pub mod connect;
pub mod hash;
pub mod http1;
pub mod http2;
mod originate;
mod overdue;
mod pool;
mod preamble;
pub mod target;
mod wake_relay;

pub use cluster::{Candidate, ClusterForecast, ClusterKey, LeasedConnection, UpstreamCluster};
pub use clusters::UpstreamClusters;
pub use connect::OpenConnection;
pub use originate::Origination;
pub use overdue::OverdueRequests;
pub use pool::{ConnectionInfo, Lease, Pool, SendError, SendErrorCause};
pub use target::Target;
