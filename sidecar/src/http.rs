//! HTTP as it is carried: one connection of a client, many requests, each to an upstream connection.
//!
//! - [`serve`] runs a client's connection, HTTP/1.1 or HTTP/2, over hyper's connection-level server, and drains it.
//! - [`headers`] edits heads in place: what ends at a hop, what the mesh adds, what must not be believed.
//! - [`Outgoing`] and [`Reply`] are the bodies: nothing is buffered but what a retry may need.
//! - [`upgrade`] carries WebSocket and the like.
//!
//! Which upstream a request goes to is decided in [`crate::outbound`] and [`crate::inbound`].

mod body;
pub mod headers;
mod local;
mod serve;
pub mod upgrade;

pub use body::{Ending, Outgoing, Reply, Uploaded};
pub use local::{grpc_status_of, local_reply};
pub use serve::{Handler, serve};

use std::future::Future;

/// Runs what hyper spawns on this worker's own runtime.
#[derive(Debug, Clone, Copy)]
pub struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        // The task ends with its connection; nobody needs to wait for it.
        drop(tokio::task::spawn_local(async move {
            future.await;
        }));
    }
}
