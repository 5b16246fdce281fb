//! Verification of peer certificates: one function with the rules, and the two rustls verifiers that call it.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate::leaf_facts;
use crate::expectation::{ClientAuth, Expectation};
use crate::provider::provider;
use crate::refusal::Refusal;
use crate::spiffe::SpiffeId;
use crate::trust::{Peer, Trust, public_key_sha256};

/// The side of a connection that presents a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerSide {
    Client,
    Server,
}

/// Verifies a certificate chain: one SPIFFE ID, of a trusted domain, under a root of that domain, valid now, with a key
/// usage for this side. Returns the identity and the cluster whose intermediate signed the leaf.
pub(crate) fn verify_chain(
    trust: &Trust,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    side: PeerSide,
) -> Result<(SpiffeId, Option<Arc<str>>), Refusal> {
    verify_path(trust, leaf, intermediates, now, side).map(|path| (path.id, path.cluster))
}

/// What the path from a leaf to a root proves.
struct VerifiedPath {
    id: SpiffeId,
    /// The cluster of the intermediate that signed the leaf, if it is known.
    cluster: Option<Arc<str>>,
    /// The hash of that intermediate's key; `None` if a root signed the leaf.
    signer: Option<[u8; 32]>,
}

/// Verifies the path from a leaf to a root.
fn verify_path(
    trust: &Trust,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    side: PeerSide,
) -> Result<VerifiedPath, Refusal> {
    let id = leaf_facts(leaf)?.id;
    let Some(anchors) = trust.anchors_of(id.trust_domain()) else {
        return Err(Refusal::ForeignTrustDomain(id));
    };
    let usage = match side {
        PeerSide::Client => KeyUsage::client_auth(),
        PeerSide::Server => KeyUsage::server_auth(),
    };
    let end_entity = EndEntityCert::try_from(leaf).map_err(from_webpki)?;
    let path = end_entity
        .verify_for_usage(algorithms().all, anchors, intermediates, now, usage, None, None)
        .map_err(from_webpki)?;
    let signer = path.intermediate_certificates().next();
    let signer = signer.map(|signer| public_key_sha256(signer.subject_public_key_info().as_ref()));
    let cluster = signer.and_then(|signer| trust.cluster_of_hash(&signer).cloned());
    Ok(VerifiedPath { id, cluster, signer })
}

/// Verifies the certificates of a client, leaf first, as its handshake did, with the trust and at the time of now: a
/// connection may outlive the certificate that opened it, or a root.
///
/// # Errors
/// Returns a [`Refusal`] if a handshake would be refused now.
pub fn verify_client(
    certificates: &[CertificateDer<'_>],
    trust: &Trust,
    now: std::time::SystemTime,
) -> Result<Peer, Refusal> {
    let Some((leaf, intermediates)) = certificates.split_first() else {
        return Err(Refusal::UnknownIssuer);
    };
    let now = now.duration_since(std::time::UNIX_EPOCH).map_err(|_| Refusal::NotYetValid)?;
    let (id, cluster) = verify_chain(trust, leaf, intermediates, UnixTime::since_unix_epoch(now), PeerSide::Client)?;
    Ok(Peer { id, cluster })
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

/// The methods that rustls' two verifier traits have in common: handshake signatures are verified with the provider's
/// algorithms.
macro_rules! handshake_signatures {
    () => {
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
    };
}

/// Accepts servers with an expected identity. The server name of the handshake is not verified: it tells a gateway
/// where to forward the connection, and is no identity.
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
        let path = verify_path(&self.trust, end_entity, intermediates, now, PeerSide::Server)?;
        let signer = path.signer.or_else(|| self.trust.root_that_signed(end_entity));
        self.expected.check(path.id, path.cluster, signer)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Accepts all clients of a trusted domain. Authorization decides later which requests they may send.
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
        verify_chain(&self.trust, end_entity, intermediates, now, PeerSide::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}
