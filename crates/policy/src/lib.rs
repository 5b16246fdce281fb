//! Peer authentication, request authentication and authorization: pure functions, no IO.
//!
//! - [`PeerAuthentication`] decides how a proxy handles an inbound connection: mutual TLS, plaintext, passthrough or
//!   refusal.
//! - [`jwt`] verifies the tokens of end users, and has their claims.
//! - [`Authorization`] holds the policies of a workload. It is compiled when the policies change and evaluated on the
//!   [`Facts`] of each request or opaque connection.
//! - [`external`] has the servers that policies may ask instead.
//!
//! The semantics are those of Istio's `PeerAuthentication` and `AuthorizationPolicy`.

pub mod authorization;
pub mod external;
mod facts;
pub mod jwt;
mod pattern;
mod peer;

pub use authorization::{Authorization, Decision};
pub(crate) use facts::principal_of;
pub use facts::{Claims, Facts, Headers, Request};
pub use pattern::{InvalidPattern, PathPattern, Pattern, TokenPrincipal};
pub use peer::{Accepted, PeerAuthentication, PeerAuthenticationLayer, PeerMode, Presented};
