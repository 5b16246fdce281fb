//! Refusals of peer certificates.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};

use crate::spiffe::{SpiffeError, SpiffeId};

/// Why a peer's certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The certificate is not valid X.509.
    #[error("the certificate cannot be parsed: {0}")]
    Encoding(String),
    /// The certificate has no URI name.
    #[error("the certificate has no SPIFFE ID")]
    NoIdentity,
    /// The certificate has more than one URI name.
    #[error("the certificate has {0} URI names instead of one")]
    SeveralIdentities(usize),
    /// The URI name is not the SPIFFE ID of a workload.
    #[error("the URI name of the certificate is invalid: {0}")]
    BadIdentity(SpiffeError),
    /// The trust domain is not trusted.
    #[error("the trust domain of {0} is not trusted")]
    ForeignTrustDomain(SpiffeId),
    /// The certificate has expired.
    #[error("the certificate has expired")]
    Expired,
    /// The certificate is not valid yet.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// The certificate has no chain to a root of its trust domain.
    #[error("the certificate is not signed under a trusted root")]
    UnknownIssuer,
    /// The extended key usage does not permit this side of a connection.
    #[error("the key usage of the certificate does not permit this use")]
    Usage,
    /// The chain is invalid for another reason.
    #[error("the certificate chain is invalid: {0}")]
    Chain(String),
    /// The peer has an identity that the client does not expect.
    #[error("{0} is not an expected identity")]
    UnexpectedIdentity(SpiffeId),
    /// The peer has an expected identity, but another key than the expected ones signed its certificate.
    #[error("the certificate of {0} is not signed by the expected intermediate")]
    UnexpectedSigner(SpiffeId),
    /// The client expects no identity, so it accepts none.
    #[error("no identity is expected for this destination, so none is accepted")]
    NothingExpected,
    /// The identity is expected, but not in the cluster whose intermediate signed the certificate.
    #[error("{id} is signed for {}, which is not an expected cluster", .cluster.as_deref().unwrap_or("no known cluster"))]
    UnexpectedCluster {
        /// The identity.
        id: SpiffeId,
        /// The cluster whose intermediate signed the certificate.
        cluster: Option<Arc<str>>,
    },
}

impl Refusal {
    /// Returns the reason as a metric label value.
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
            Refusal::UnexpectedSigner(_) => "unexpected_signer",
            Refusal::NothingExpected => "nothing_expected",
            Refusal::UnexpectedCluster { .. } => "unexpected_cluster",
        }
    }
}

/// Returns the refusal that caused a handshake to fail; `None` if the peer refused. rustls errors and IO errors around
/// the refusal are unwrapped.
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
            // rustls sends a specific alert for these, which tells the peer to renew its certificate.
            Refusal::Expired => CertificateError::Expired,
            Refusal::NotYetValid => CertificateError::NotValidYet,
            Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        rustls::Error::InvalidCertificate(certificate)
    }
}
