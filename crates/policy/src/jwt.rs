//! End-user authentication: the JSON Web Tokens of Istio's `RequestAuthentication`.
//!
//! [`TokenRules`] are those of all policies that select a workload. [`TokenRules::authenticate`] finds the tokens of a
//! request, verifies them, or finds them among those that were verified before ([`TokenCache`]), and changes the request to
//! what the application receives. [`Verified`] has the claims, for authorization.
//!
//! The semantics are those of Envoy's filter `jwt_authn` as Istio configures it. `docs/differences.md` lists where this
//! module is stricter.
//!
//! Signatures are verified by `aws-lc-rs` with keys that are prepared once. The crate `jsonwebtoken` was not chosen: it
//! prepares a key for each token.

mod cache;
mod claims;
mod json;
mod keys;
mod locations;
mod rejection;
mod rules;
#[cfg(test)]
mod tests;
mod token;

pub use claims::Verified;
pub use keys::KeySet;
pub use locations::TokenLocation;
pub use rejection::TokenRejection;
pub use rules::{AcceptedToken, MAX_TOKENS, TokenCache, TokenRule, TokenRules};
pub use token::MAX_TOKEN_BYTES;
