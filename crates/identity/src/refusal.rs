//! Why a peer's certificate is refused.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};

use crate::spiffe::{SpiffeError, SpiffeId};

/// Why a peer's certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a certificate.
    #[error("the certificate cannot be parsed: {0}")]
    Encoding(String),
    /// No URI among its names.
    #[error("the certificate has no SPIFFE id")]
    NoIdentity,
    /// More than one URI among its names.
    #[error("the certificate has {0} URI names, a workload has exactly one")]
    SeveralIdentities(usize),
    /// The URI is not a workload's SPIFFE id.
    #[error("the certificate's URI name is refused: {0}")]
    BadIdentity(SpiffeError),
    /// It belongs to a trust domain that is not trusted.
    #[error("{0} belongs to a trust domain that this mesh does not trust")]
    ForeignTrustDomain(SpiffeId),
    /// Its time is over.
    #[error("the certificate has expired")]
    Expired,
    /// Its time has not come.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// No path leads from it to a root of its trust domain.
    #[error("the certificate is not signed under a trusted root")]
    UnknownIssuer,
    /// It may not be used for this side of a connection.
    #[error("the certificate may not be used for this purpose")]
    Usage,
    /// Anything else that is wrong with the chain.
    #[error("the certificate chain is refused: {0}")]
    Chain(String),
    /// It proves an identity, but not one that is expected here.
    #[error("{0} is not an identity that is expected here")]
    UnexpectedIdentity(SpiffeId),
    /// No identity is expected, so none is accepted.
    #[error("no identity is known for this destination, so none is accepted")]
    NothingExpected,
    /// The right identity, signed by another cluster's intermediate.
    #[error("{id} is signed for {}, which is not expected here", .cluster.as_deref().unwrap_or("no known cluster"))]
    UnexpectedCluster {
        /// Who it is.
        id: SpiffeId,
        /// Whose intermediate signed.
        cluster: Option<Arc<str>>,
    },
}

impl Refusal {
    /// A short name for metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Encoding(_) => "encoding",
            Refusal::NoIdentity => "no_identity",
            Refusal::SeveralIdentities(_) => "several_identities",
            Refusal::BadIdentity(_) => "bad_identity",
            Refusal::ForeignTrustDomain(_) => "foreign_trust_domain",
            Refusal::Expired => "expired",
            Refusal::NotYetValid => "not_yet_valid",
            Refusal::UnknownIssuer => "unknown_issuer",
            Refusal::Usage => "usage",
            Refusal::Chain(_) => "chain",
            Refusal::UnexpectedIdentity(_) => "unexpected_identity",
            Refusal::NothingExpected => "nothing_expected",
            Refusal::UnexpectedCluster { .. } => "unexpected_cluster",
        }
    }
}

/// The refusal behind a failed handshake, where it was this side that refused. rustls wraps it once, and IO errors wrap
/// rustls; both are looked through.
pub fn refusal_of(error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal.clone());
        }
        current = match error.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(CertificateError::Expired)) => return Some(Refusal::Expired),
            Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYet)) => {
                return Some(Refusal::NotYetValid);
            }
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                return Some(Refusal::UnknownIssuer);
            }
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => Some(other.0.as_ref()),
            _ => match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            },
        };
    }
    None
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        let certificate = match refusal {
            // Named ones where rustls has them, so that the peer's alert tells it what to do: renew.
            Refusal::Expired => CertificateError::Expired,
            Refusal::NotYetValid => CertificateError::NotValidYet,
            Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        rustls::Error::InvalidCertificate(certificate)
    }
}
