//! Certificates of the servers of TLS cases, and configurations that use them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData as _, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::TlsAcceptor;

use crate::case::ClientTls;

/// The names of the server's certificate.
const NAMES: [&str; 3] = ["*.shop.svc.cluster.local", "secure.example.com", "localhost"];

/// The certificates of sites that gateways serve, with their names, by the name of their files.
pub(crate) const SITES: [(&str, &[&str]); 3] =
    [("a", &["a.example.com"]), ("b", &["b.example.com"]), ("wild", &["*.example.com"])];

/// The serial number of the server's certificate.
const SERVER: u64 = 7;

/// Writes `ca.pem`, `other-ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`, the same of `stranger`, which the other
/// authority signed, and of each site, and `revoked.pem`, a list with the server's certificate; and a certificate and a key for
/// each identity of pods.
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
    let others =
        [("server", NAMES.as_slice()), ("client", &["client.example.com"]), ("stranger", &["client.example.com"])];
    for (name, names) in others.into_iter().chain(SITES) {
        let mut parameters = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        parameters.serial_number = (name == "server").then(|| SerialNumber::from(SERVER));
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &issuers[usize::from(name == "stranger")])?;
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

/// The certificates of a file.
pub(crate) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.with_context(|| path.display().to_string())
}

/// The SHA-256 of a certificate, in hexadecimal.
pub(crate) fn hash(path: &Path) -> Result<String> {
    let chain = chain(path)?;
    let leaf = chain.first().context("no certificate")?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The SHA-256 of the public key of the certificate of a key's file.
pub(crate) fn key_hash(path: &Path) -> Result<Vec<u8>> {
    let key = KeyPair::from_pem(&std::fs::read_to_string(path)?)?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
    Ok(digest.as_ref().to_vec())
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

/// A client that accepts every certificate, with the options of a case.
pub(crate) fn client_of(tls: &ClientTls, directory: &Path) -> Result<ClientConfig> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if let Some(wanted) = &tls.cipher_suite {
        provider.cipher_suites.retain(|suite| suite.suite().as_str() == Some(wanted));
    }
    let versions: &[_] = match tls.version.as_deref() {
        None => rustls::ALL_VERSIONS,
        Some("1.2") => &[&rustls::version::TLS12],
        Some("1.3") => &[&rustls::version::TLS13],
        Some(other) => anyhow::bail!("a client speaks no TLS {other}"),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone));
    Ok(match &tls.certificate {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(directory.join(format!("{name}.key")))?;
            builder.with_client_auth_cert(chain(&directory.join(format!("{name}.pem")))?, key)?
        }
    })
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
