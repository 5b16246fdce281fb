//! SPIFFE identities, issuing and verifying X.509, trust bundles and TLS configurations.
//!
//! Three roles meet here, and each has one type to start at:
//!
//! - who signs: [`Authority`], a cluster's intermediate (or the root it is made from), which turns a public key and a
//!   [`SpiffeId`] into a certificate chain;
//! - who is trusted: [`Trust`], the roots of each trust domain and which intermediate speaks for which cluster;
//! - who one is: [`Identity`], a handle on the current [`Credential`] and [`Trust`] that hands out ready TLS
//!   configurations and swaps them as certificates rotate.
//!
//! Everything fails closed: a client without an expected identity gets a configuration that refuses every server, a
//! certificate with no or with two URI names is refused, and a peer's cluster is told only by the intermediate that
//! signed its certificate ([`peer_of`]), never by what it says of itself.
//!
//! URI name constraints would be the textbook way to bind an intermediate to a trust domain, but the verifier in use
//! (webpki) refuses every certificate under such a constraint, so the trust domain is checked here instead.
//!
//! What it does not do: it opens no socket, reads no file, and knows nothing of Kubernetes.

pub mod alpn;
mod authority;
mod cacerts;
mod certificate;
mod credential;
mod handle;
mod pem;
mod refusal;
mod request;
mod spiffe;
mod tls;
mod trust;
mod verify;

#[cfg(test)]
mod tests;

pub use authority::{Authority, CaError, Constraints};
pub use cacerts::{CaCerts, CaCertsError};
pub use credential::{Credential, CredentialError, PrivateKey};
pub use handle::{Accept, Identity};
pub use pem::{certificates_from_pem, certificates_to_pem};
pub use refusal::{Refusal, refusal_of};
pub use request::{KeyAndRequest, PublicKey, RequestError};
pub use spiffe::{SpiffeError, SpiffeId};
pub use tls::{ClientAuth, Expectation, provider, server_only_client};
pub use trust::{Issuer, IssuerError, Peer, Trust, TrustError, peer_of, public_key_sha256};

/// How far back a certificate's validity begins, so that a peer whose clock is behind accepts it at once.
pub const CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(120);
