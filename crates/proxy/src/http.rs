//! HTTP messages: heads, bodies, and what both sides' HTTP/2 connections have in common.
//!
//! - [`headers`] edits heads in place: hop-by-hop headers, headers of the mesh, headers that are not trusted.
//! - [`settle`] refuses invalid requests, and gives each request one authority.
//! - [`Incoming`] is a body as a peer sends it; [`RequestBody`] shares a request's body among the attempts to send it.
//! - [`http2`] holds windows and bounds, and paces reading and writing; [`Pump`] sends a body on a stream.
//!
//! Connections are served in [`crate::server`] and opened in [`crate::upstream`].

mod body_copy;
mod continue_gate;
pub mod headers;
pub mod http2;
mod incoming;
mod paths;
mod peek;
mod pump;
mod request_body;
mod unsent;
mod validity;

pub use continue_gate::{ContinueGate, expects_continue};
pub use incoming::{Http2Body, Incoming};
pub use paths::PathNormalization;
pub use peek::{Beginning, PeekedBody};
pub use pump::{Pump, Source, Upload};
pub use request_body::{AttemptBody, RequestBody};
pub(crate) use validity::is_chunked;
pub use validity::{InvalidRequest, settle};

/// An error that ended a body early.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The largest buffer of an HTTP/1.1 connection, per direction (hyper's own limit is some 400 KB).
pub const BUFFER: usize = 64 * 1024;

/// The HTTP version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}
