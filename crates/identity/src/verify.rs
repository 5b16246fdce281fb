//! Verifying a peer's chain: the rules in one function, and the two rustls verifiers that apply it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::spiffe::{SpiffeError, SpiffeId};
use crate::tls::{ClientAuth, Expectation, provider};
use crate::trust::Trust;

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

/// What is read of a leaf.
pub(crate) struct LeafFacts {
    pub(crate) id: SpiffeId,
    pub(crate) serial: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Reads a leaf strictly: exactly one URI among its names, and that a workload's SPIFFE id.
pub(crate) fn leaf_facts(leaf: &CertificateDer<'_>) -> Result<LeafFacts, Refusal> {
    let certificate = parse(leaf)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| Refusal::Encoding(e.to_string()))?
        .ok_or(Refusal::NoIdentity)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(Refusal::NoIdentity)?;
    let more = uris.count();
    if more > 0 {
        return Err(Refusal::SeveralIdentities(more + 1));
    }
    Ok(LeafFacts {
        id: uri.parse().map_err(Refusal::BadIdentity)?,
        serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: from_unix(certificate.validity().not_before.timestamp()),
        not_after: from_unix(certificate.validity().not_after.timestamp()),
    })
}

/// What is read of a signing certificate.
pub(crate) struct CaFacts {
    pub(crate) spki: Vec<u8>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Reads a signing certificate; `None` where it is none.
pub(crate) fn ca_facts(certificate: &CertificateDer<'_>) -> Option<CaFacts> {
    let certificate = parse(certificate).ok()?;
    certificate.is_ca().then(|| CaFacts {
        spki: certificate.public_key().raw.to_vec(),
        not_before: from_unix(certificate.validity().not_before.timestamp()),
        not_after: from_unix(certificate.validity().not_after.timestamp()),
    })
}

/// When a certificate ends.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    Some(from_unix(parse(certificate).ok()?.validity().not_after.timestamp()))
}

/// The SubjectPublicKeyInfo of a certificate.
pub(crate) fn spki_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    Some(parse(certificate).ok()?.public_key().raw.to_vec())
}

/// Whether a certificate names itself as its issuer, as roots do.
pub(crate) fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_ok_and(|c| c.subject().as_raw() == c.issuer().as_raw())
}

/// Asks `known` about the candidate's key, and answers what it said if that key verifiably signed the leaf.
pub(crate) fn signing_key_of<T>(
    candidate: &CertificateDer<'_>,
    leaf: &CertificateDer<'_>,
    known: impl FnOnce(&[u8]) -> Option<T>,
) -> Option<T> {
    let candidate = parse(candidate).ok()?;
    let leaf = parse(leaf).ok()?;
    if leaf.issuer().as_raw() != candidate.subject().as_raw() {
        return None;
    }
    let answer = known(candidate.public_key().raw)?;
    leaf.verify_signature(Some(candidate.public_key())).ok()?;
    Some(answer)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(Refusal::Encoding(format!("{} bytes after its end", rest.len()))),
        Err(e) => Err(Refusal::Encoding(e.to_string())),
    }
}

fn from_unix(seconds: i64) -> SystemTime {
    u64::try_from(seconds).map_or(UNIX_EPOCH, |seconds| UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Which side of a connection the certificate is presented by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// The rules: one SPIFFE id, of a trusted domain, under a root of that very domain, valid now, for this purpose. Returns
/// who it is and whose intermediate signed the leaf.
pub(crate) fn verify_chain(
    trust: &Trust,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    side: Side,
) -> Result<(SpiffeId, Option<Arc<str>>), Refusal> {
    let id = leaf_facts(leaf)?.id;
    let Some(anchors) = trust.anchors_of(id.trust_domain()) else {
        return Err(Refusal::ForeignTrustDomain(id));
    };
    let usage = match side {
        Side::Client => KeyUsage::client_auth(),
        Side::Server => KeyUsage::server_auth(),
    };
    let end_entity = EndEntityCert::try_from(leaf).map_err(from_webpki)?;
    let path = end_entity
        .verify_for_usage(algorithms().all, anchors, intermediates, now, usage, None, None)
        .map_err(from_webpki)?;
    let cluster = path
        .intermediate_certificates()
        .next()
        .and_then(|issuer| trust.cluster_of_key(issuer.subject_public_key_info().as_ref()).cloned());
    Ok((id, cluster))
}

fn from_webpki(error: webpki::Error) -> Refusal {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } | Error::InvalidCertValidity => Refusal::Expired,
        Error::CertNotValidYet { .. } => Refusal::NotYetValid,
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => Refusal::UnknownIssuer,
        Error::RequiredEkuNotFoundContext(_) => Refusal::Usage,
        other => Refusal::Chain(other.to_string()),
    }
}

fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &provider().signature_verification_algorithms
}

/// Accepts a server that proves one of the expected identities. The name asked for in the handshake plays no part: it
/// says where a gateway is to forward, not who is to answer.
#[derive(Debug)]
pub(crate) struct PeerServerVerifier {
    pub(crate) trust: Trust,
    pub(crate) expected: Expectation,
}

impl ServerCertVerifier for PeerServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.expected.is_empty() {
            return Err(Refusal::NothingExpected.into());
        }
        let (id, cluster) = verify_chain(&self.trust, end_entity, intermediates, now, Side::Server)?;
        self.expected.check(id, cluster)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Accepts any client of a trusted domain; who may do what is for authorization to say.
#[derive(Debug)]
pub(crate) struct PeerClientVerifier {
    pub(crate) trust: Trust,
    pub(crate) auth: ClientAuth,
}

impl ClientCertVerifier for PeerClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        verify_chain(&self.trust, end_entity, intermediates, now, Side::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
