//! HTTP as it is carried: one connection of a client, many requests, each to an upstream connection.
//!
//! - [`serve`] runs a client's connection, HTTP/1.1 or HTTP/2, over hyper's connection-level server, and drains it.
//! - [`headers`] edits heads in place: what ends at a hop, what the mesh adds, what must not be believed.
//! - [`Outgoing`] and [`Reply`] are the bodies: nothing is buffered but what a retry may need.
//! - [`upgrade`] carries WebSocket and the like.
//!
//! Which upstream a request goes to is decided in [`crate::outbound`] and [`crate::inbound`].

mod body;
mod date;
pub mod headers;
pub mod http2;
mod incoming;
mod local;
mod pump;
mod serve;
pub mod upgrade;

pub use body::{Ending, Outgoing, Reply, Uploaded};
pub use incoming::{Frames, Incoming};
pub use local::{grpc_status_of, local_reply};
pub use pump::{Pump, Upload};
pub use serve::stream_size;
pub use serve::{Handler, serve};

/// Whatever ended a body too early.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
