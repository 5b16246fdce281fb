//! Peer authentication and authorization: pure functions, no IO.
//!
//! - [`PeerAuthentication`] decides how a proxy handles an inbound connection: mutual TLS, plaintext, passthrough or
//!   refusal.
//! - [`Authorization`] holds the ALLOW and DENY policies of a workload. It is compiled when the policies change and
//!   evaluated on the [`Facts`] of each request or opaque connection.
//!
//! The semantics are those of Istio's `PeerAuthentication` and `AuthorizationPolicy`. Conditions on JWTs and the
//! actions AUDIT and CUSTOM are not supported.

pub mod authorization;
mod pattern;
mod peer;

pub use authorization::{Authorization, Decision, Facts};
pub use pattern::{InvalidPattern, PathPattern, Pattern};
pub use peer::{Accepted, PeerAuthentication, PeerMode, Presented};
