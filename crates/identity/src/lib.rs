//! SPIFFE identities, signing and verifying X.509 certificates, trust bundles and TLS configurations.
//!
//! Start at one of three types:
//!
//! - [`Authority`] signs: a root, or the intermediate of a cluster. It issues a certificate chain for a public key and a
//!   [`SpiffeId`].
//! - [`Trust`] is a trust bundle: the roots of each trust domain, and the intermediate of each cluster.
//! - [`Identity`] is a handle to the current [`Credential`] and [`Trust`] of a process. It provides TLS configurations
//!   and replaces them as certificates rotate.
//!
//! All checks fail closed. A client without an expected identity gets a configuration that refuses every server. A
//! certificate without a URI name, or with two of them, is refused. The cluster of a peer follows only from the
//! intermediate that signed its certificate ([`peer_of`]), never from the peer's own claims.
//!
//! The standard way to bind an intermediate to a trust domain is a URI name constraint. webpki refuses every certificate
//! under such a constraint, so this crate checks the trust domain itself.
//!
//! This crate opens no sockets, reads no files, and does not depend on Kubernetes.

pub mod alpn;
mod authority;
mod cacerts;
mod certificate;
mod credential;
mod details;
pub mod edge;
mod expectation;
mod handle;
pub mod outside;
mod pem;
mod provider;
mod refusal;
mod request;
mod server;
mod spiffe;
mod tls;
mod trust;
mod verify;

#[cfg(test)]
mod tests;

pub use authority::{Authority, CaError, Constraints};
pub use cacerts::{CaCerts, CaCertsError};
pub use credential::{Credential, CredentialError, PrivateKey};
pub use details::{fingerprint, forwarded_client_cert};
pub use expectation::{ClientAuth, Expectation};
pub use handle::{Accept, Identity};
pub use pem::{certificates_from_pem, certificates_to_pem};
pub use provider::provider;
pub use refusal::{Refusal, refusal_of};
pub use request::{KeyAndRequest, PublicKey, RequestError};
pub use server::{ServerCertificate, check_revocations, check_roots};
pub use spiffe::{SpiffeError, SpiffeId};
pub use tls::{ClientRoots, anonymous_client, server_only_client};
pub use trust::{Issuer, IssuerError, Peer, Trust, TrustError, peer_of, public_key_sha256, signing_key_sha256};
pub use verify::verify_client;

/// How long before its issue a certificate's validity begins, so that peers with slow clocks accept it.
pub const CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(120);
