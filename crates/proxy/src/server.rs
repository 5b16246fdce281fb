//! Serving HTTP connections of downstreams.
//!
//! - [`serve`] runs a connection, HTTP/1.1 or HTTP/2, hands each request to a [`Handler`], and drains.
//! - [`ResponseBody`] is a response's body on its way downstream; its [`Ending`] learns how it ended.
//! - [`local_reply`] answers without an upstream; [`upgrade`] carries WebSocket and `CONNECT`.

mod connection;
mod date;
mod heads;
mod local_reply;
mod request_lines;
mod response_body;
pub mod upgrade;

pub use connection::{Handler, serve, stream_size};
pub use local_reply::{grpc_status_of, local_reply};
pub use response_body::{Ending, ResponseBody};
