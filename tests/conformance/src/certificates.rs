//! Certificates of the servers of TLS cases, and configurations that use them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::TlsAcceptor;

/// The names of the server's certificate.
const NAMES: [&str; 3] = ["*.shop.svc.cluster.local", "secure.example.com", "localhost"];

/// The serial number of the server's certificate.
const SERVER: u64 = 7;

/// Writes `ca.pem`, `other-ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`, and `revoked.pem`, a list with the
/// server's certificate; and a certificate and a key for each identity of the cases of policies.
///
/// # Errors
/// Returns an error if a file cannot be written.
pub fn write(directory: &Path) -> Result<()> {
    let mut issuers = Vec::new();
    for name in ["ca", "other-ca"] {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = parameters.self_signed(&key)?;
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem())?;
        issuers.push(Issuer::new(parameters, key));
    }
    for (name, names) in [("server", NAMES.as_slice()), ("client", &["client.example.com"])] {
        let mut parameters = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        parameters.serial_number = (name == "server").then(|| SerialNumber::from(SERVER));
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &issuers[0])?;
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem())?;
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
    }
    for identity in crate::places::identities() {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters
            .subject_alt_names
            .push(SanType::URI(format!("spiffe://cluster.local/{}", identity.path()).try_into()?));
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &issuers[0])?;
        std::fs::write(directory.join(format!("{}.pem", identity.file())), certificate.pem())?;
        std::fs::write(directory.join(format!("{}.key", identity.file())), key.serialize_pem())?;
    }
    let server = RevokedCertParams {
        serial_number: SerialNumber::from(SERVER),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2126, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![server],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    std::fs::write(directory.join("revoked.pem"), list.signed_by(&issuers[0])?.pem()?)?;
    Ok(())
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.with_context(|| path.display().to_string())
}

/// The server's side, with or without certificates of clients.
pub(crate) fn acceptor(directory: &Path, mutual: bool) -> Result<TlsAcceptor> {
    let builder = ServerConfig::builder();
    let builder = if mutual {
        let mut roots = RootCertStore::empty();
        for root in chain(&directory.join("ca.pem"))? {
            roots.add(root)?;
        }
        builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build()?)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key"))?;
    let mut config = builder.with_single_cert(chain(&directory.join("server.pem"))?, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A client that accepts every certificate: cases of TLS routes are about the way, not about the end.
pub(crate) fn client() -> ClientConfig {
    ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(Anyone)).with_no_client_auth()
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
