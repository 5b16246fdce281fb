//! The incremental discovery protocol, as two state machines that do no IO.
//!
//! The protocol is the delta variant of xDS (`envoy.service.discovery.v3`), with these rules where xDS leaves a choice:
//!
//! - A subscription is a name: of a resource, of an address (an alias) or of a collection; see [`crate::name`]. There
//!   is no wildcard.
//! - **Every subscription is answered**: with resources that carry a body; or with a resource of the subscribed name
//!   without a body, which means that the client already holds all current resources of that name; or with the name in
//!   `removed_resources`, which means that no such resource exists yet. The first answer to a collection is complete.
//!   Later, a subscription that loses its last resource is named in `removed_resources`, and a subscription that gains
//!   its first resource is answered again.
//! - **Every unsubscription is confirmed** with a resource of its name that has no body and the version [`RELEASED`]. A
//!   client that subscribes to the name again waits for the confirmation first, so that it never takes an old answer
//!   for a new one.
//! - The first request of each type on a new stream carries the versions of all resources that the client holds.
//!   Versions are hashes of content, so that a restart of either side transfers only differences. The first response
//!   removes the resources that the client holds but no longer subscribes to, and those that no longer exist.
//! - When a client rejects a resource (NACK), it keeps the version that it last accepted. On the same stream, the
//!   server sends the resource again only when it changes.

mod client;
mod server;
#[cfg(test)]
mod tests;
mod update;

pub use client::{Answer, Client, Receipt};
pub use server::{Found, Item, MAX_SUBSCRIPTIONS, Refused, Server, Source, Stats};
pub use update::{Body, Changed, Malformed, Rejected, Rejection, Update};

/// The number of unacknowledged responses of one type at which the server stops sending responses of that type.
///
/// With one, every change of a burst would wait for a round trip to the proxy; with many, outdated bodies would queue
/// up for a slow reader. Two keep the connection busy with at most one response waiting in it.
pub const WINDOW: usize = 2;

/// The version that confirms an unsubscription.
pub const RELEASED: &str = "-";

/// The longest name that a proxy may subscribe to, in bytes.
///
/// A hostname has at most 253 bytes; the longest names consist of a hostname, a network and two separators.
pub const MAX_NAME: usize = 512;
