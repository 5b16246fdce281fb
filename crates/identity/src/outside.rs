//! TLS with servers outside the mesh: what DestinationRules with the modes SIMPLE and MUTUAL ask for.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, RevocationOptionsBuilder};

use crate::alpn::Alpn;
use crate::certificate::uri_names;
use crate::pem::certificates_from_pem;
use crate::provider::provider;
use crate::tls::SERVER_VERSIONS;

/// The contents of PEM files.
#[derive(Default)]
pub struct Files {
    /// The client's certificates, leaf first, and its key; `None`: it presents none.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// The authorities that servers are verified with; `None`: every certificate is accepted.
    pub authorities: Option<Vec<u8>>,
    /// Lists of revoked certificates.
    pub revoked: Option<Vec<u8>>,
}

/// Returns the configuration of a client. The server's certificate must have one of `names` or, if that is empty, the server
/// name of the connection.
///
/// # Errors
/// Returns the reason if a file is invalid.
pub fn client_config(files: &Files, names: &[Box<str>], alpn: Alpn) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(SERVER_VERSIONS)
        .expect("the provider has cipher suites for TLS 1.2 and 1.3")
        .dangerous();
    let builder = builder.with_custom_certificate_verifier(verifier(files, names)?);
    let mut config = match &files.client {
        Some((certificates, key)) => {
            let chain =
                certificates_from_pem(certificates).map_err(|error| format!("the client certificate is {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|error| format!("the client's key is not valid: {error}"))?;
            let refused = |error| format!("the client certificate cannot be used with its key: {error}");
            builder.with_client_auth_cert(chain, key).map_err(refused)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn verifier(files: &Files, names: &[Box<str>]) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let Some(authorities) = &files.authorities else {
        return Ok(Arc::new(OutsideVerifier { roots: None, names: Box::default(), revoked: vec![] }));
    };
    let mut roots = RootCertStore::empty();
    let found = certificates_from_pem(authorities).map_err(|error| format!("the file of authorities is {error}"))?;
    // A system's bundle may have some that are too old to be understood.
    let (added, _) = roots.add_parsable_certificates(found);
    if added == 0 {
        return Err("the file of authorities has no certificate that can be used".to_owned());
    }
    let revoked = match &files.revoked {
        Some(lists) => CertificateRevocationListDer::pem_slice_iter(lists)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("the file of revoked certificates is not valid: {error}"))?,
        None => Vec::new(),
    };
    if names.is_empty() {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
        let built = builder.with_crls(revoked).allow_unknown_revocation_status().build();
        return Ok(built.map_err(|error| format!("the authorities cannot be used: {error}"))?);
    }
    let list = |list: CertificateRevocationListDer<'_>| {
        webpki::OwnedCertRevocationList::from_der(&list).map(webpki::CertRevocationList::from)
    };
    let revoked = revoked.into_iter().map(list).collect::<Result<_, _>>();
    let revoked = revoked.map_err(|error| format!("the file of revoked certificates is not valid: {error}"))?;
    Ok(Arc::new(OutsideVerifier { roots: Some(roots), names: names.into(), revoked }))
}

/// Accepts servers with one of several names, or any server.
#[derive(Debug)]
struct OutsideVerifier {
    /// `None`: every certificate is accepted.
    roots: Option<RootCertStore>,
    names: Box<[Box<str>]>,
    revoked: Vec<webpki::CertRevocationList<'static>>,
}

impl OutsideVerifier {
    fn has_name(&self, certificate: &EndEntityCert<'_>, der: &CertificateDer<'_>) -> bool {
        let uris = uri_names(der);
        self.names.iter().any(|name| {
            let as_host = ServerName::try_from(&**name);
            as_host.is_ok_and(|host| certificate.verify_is_valid_for_subject_name(&host).is_ok())
                // A host is not named by a URI name, which authorities may not check.
                || (name.contains(':') && uris.iter().any(|uri| **uri == **name))
        })
    }
}

impl ServerCertVerifier for OutsideVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let refused = |error: webpki::Error| match error {
            webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
            webpki::Error::CertRevoked => CertificateError::Revoked.into(),
            webpki::Error::CertExpired { .. } => CertificateError::Expired.into(),
            other => rustls::Error::General(other.to_string()),
        };
        let certificate = EndEntityCert::try_from(end_entity).map_err(refused)?;
        let lists: Vec<&webpki::CertRevocationList<'_>> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok();
        let revocation =
            revocation.map(|builder| builder.with_status_policy(webpki::UnknownStatusPolicy::Allow).build());
        let algorithms = provider().signature_verification_algorithms.all;
        certificate
            .verify_for_usage(algorithms, &roots.roots, intermediates, now, KeyUsage::server_auth(), revocation, None)
            .map_err(refused)?;
        if self.has_name(&certificate, end_entity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
