//! Deciding whether a connection or a request may pass. Pure functions over facts; no IO.
//!
//! - [`PeerAuthentication`] decides what an inbound connection may be: mutual TLS, plaintext, either.
//! - [`Authorization`] is a list of ALLOW and DENY policies, compiled once when it arrives, that decides on the
//!   [`Facts`] of a request or an opaque connection.
//!
//! The meaning is that of Istio's `PeerAuthentication` and `AuthorizationPolicy`. Conditions on JWTs, AUDIT and CUSTOM
//! are not part of it.

pub mod authorization;
mod pattern;
mod peer;

pub use authorization::{Authorization, Decision, Facts};
pub use pattern::{InvalidPattern, PathPattern, Pattern};
pub use peer::{Accepted, PeerAuthentication, PeerMode, Presented};
