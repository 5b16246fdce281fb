//! The incremental discovery stream, as two state machines that do no IO.
//!
//! It is xDS's delta protocol (`envoy.service.discovery.v3`), with these points made exact, because xDS leaves them to
//! the reader:
//!
//! - Subscriptions are names: of a resource, of an address ("alias") or of a collection; see [`crate::name`]. There is
//!   no wildcard.
//! - **A subscription is always answered**: by resources that carry a body, or by a resource of the subscription's name
//!   without a body ("what you hold under this name is current and complete"), or by its name in `removed_resources`
//!   ("there is none, yet"). A collection's first answer is complete. Later, a subscription that loses its last
//!   resource is named in `removed_resources`, and one that gains its first is answered again.
//! - **An unsubscription is confirmed**, by a resource of its name without a body and with the version [`RELEASED`]. A
//!   client that wants the name again waits for that, so that an old answer is never taken for a new one.
//! - On a new stream the first request of each type carries all versions that the client holds. Versions are hashes of
//!   content, so that a restart of either side moves only differences; what is held and no longer subscribed to, or no
//!   longer exists, is removed by the first response.
//! - A resource that the client rejects (NACK) is kept in its last good form by the client and not sent again by the
//!   server until it changes.

mod client;
mod server;
#[cfg(test)]
mod tests;
mod update;

pub use client::{Answer, Client, Receipt};
pub use server::{Found, Item, MAX_SUBSCRIPTIONS, Refused, Server, Source, Stats};
pub use update::{Body, Changed, Malformed, Rejected, Rejection, Update};

/// How many responses of one type may be unacknowledged before the server waits.
///
/// One would make every change wait for a round trip to the proxy when changes come in a burst; many would queue stale
/// bodies for a slow reader. Two keep the pipe full with at most one response waiting in it.
pub const WINDOW: usize = 2;

/// The version that confirms an unsubscription.
pub const RELEASED: &str = "-";

/// The longest name that may be subscribed to. A hostname has at most 253 bytes; the longest names hold one, a network
/// and two separators.
pub const MAX_NAME: usize = 512;
