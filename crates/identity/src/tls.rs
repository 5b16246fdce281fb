//! TLS configurations: versions, keys, verifiers and protocols of each kind of connection.
//!
//! The crypto provider is always passed explicitly, so that a library which installs another process default has no
//! effect. Sessions are not resumed inside the mesh: a resumed session would outlive the certificate of its first
//! handshake, and connections are long-lived and pooled.

use std::fmt;
use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;

use crate::alpn::Alpn;
use crate::credential::Credential;
use crate::expectation::{ClientAuth, Expectation};
use crate::provider::provider;
use crate::trust::{Trust, TrustError};
use crate::verify::{PeerClientVerifier, PeerServerVerifier};

/// Istio's proxies offer TLS 1.3, but can be configured for 1.2 only.
pub(crate) const SERVER_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
/// TLS 1.3 encrypts the client's certificate, so that an observer does not see which workloads communicate.
const CLIENT_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];

/// A certificate resolver that always presents the same credential.
struct CredentialResolver(Arc<CertifiedKey>);

impl fmt::Debug for CredentialResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialResolver(redacted)")
    }
}

impl ResolvesServerCert for CredentialResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for CredentialResolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn names(alpn: Alpn) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

pub(crate) fn mesh_server(credential: &Credential, trust: &Trust, auth: ClientAuth, alpn: Alpn) -> ServerConfig {
    let verifier = Arc::new(PeerClientVerifier { trust: trust.clone(), auth });
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(SERVER_VERSIONS)
        .expect("the provider has cipher suites for TLS 1.2 and 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(CredentialResolver(Arc::clone(credential.certified()))));
    config.alpn_protocols = names(alpn);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

/// The certificate authorities of clients outside the mesh, such as API servers.
#[derive(Clone, Debug)]
pub struct ClientRoots(Arc<dyn ClientCertVerifier>);

impl ClientRoots {
    /// Creates the verifier of clients whose certificates one of `roots` signed.
    ///
    /// # Errors
    /// Returns an error if `roots` is empty or a root is invalid.
    pub fn new(roots: &[CertificateDer<'static>]) -> Result<Self, TrustError> {
        let store = Arc::new(root_store(roots, "of clients")?);
        let verifier = WebPkiClientVerifier::builder_with_provider(store, Arc::clone(provider()))
            .build()
            .map_err(|_| TrustError::NoRoots("of clients".to_owned()))?;
        Ok(ClientRoots(verifier))
    }
}

/// Builds the configuration of a webhook's server, which the API server calls. It requires a client certificate under
/// `clients`, if given, and otherwise requests none.
pub(crate) fn plain_server(credential: &Credential, clients: Option<&ClientRoots>, alpn: Alpn) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(SERVER_VERSIONS)
        .expect("the provider has cipher suites for TLS 1.2 and 1.3");
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::clone(&clients.0)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(CredentialResolver(Arc::clone(credential.certified()))));
    config.alpn_protocols = names(alpn);
    config
}

pub(crate) fn mesh_client(credential: &Credential, trust: &Trust, expected: Expectation, alpn: Alpn) -> ClientConfig {
    let verifier = Arc::new(PeerServerVerifier { trust: trust.clone(), expected });
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(CLIENT_VERSIONS)
        .expect("the provider has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(CredentialResolver(Arc::clone(credential.certified()))));
    config.alpn_protocols = names(alpn);
    config.resumption = Resumption::disabled();
    config
}

/// Returns the configuration of a client without a certificate, for a server that meets an expectation: for a workload's
/// first request to the certificate API.
pub fn anonymous_client(trust: &Trust, expected: Expectation, alpn: Alpn) -> Arc<ClientConfig> {
    let verifier = Arc::new(PeerServerVerifier { trust: trust.clone(), expected });
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(CLIENT_VERSIONS)
        .expect("the provider has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = names(alpn);
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Builds the configuration of a client that verifies the server's DNS name and presents `credential`, if given.
pub(crate) fn named_server_client(
    credential: Option<&Credential>,
    roots: &[CertificateDer<'static>],
    alpn: Alpn,
) -> Result<ClientConfig, TrustError> {
    let store = root_store(roots, "of the controller")?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider()))
        .build()
        .map_err(|_| TrustError::NoRoots("of the controller".to_owned()))?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(CLIENT_VERSIONS)
        .expect("the provider has cipher suites for TLS 1.3")
        .with_webpki_verifier(verifier);
    let mut config = match credential {
        Some(credential) => {
            builder.with_client_cert_resolver(Arc::new(CredentialResolver(Arc::clone(credential.certified()))))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = names(alpn);
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn root_store(roots: &[CertificateDer<'static>], domain: &str) -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    for (index, root) in roots.iter().enumerate() {
        let invalid = |e: rustls::Error| TrustError::Root { domain: domain.to_owned(), index, reason: e.to_string() };
        store.add(root.clone()).map_err(invalid)?;
    }
    Ok(store)
}

/// Returns the configuration of a client without a certificate that verifies the server's DNS name under `roots`: for a
/// workload's first request to the certificate API.
///
/// # Errors
/// Returns an error if `roots` is empty or a root is invalid.
pub fn server_only_client(roots: &[CertificateDer<'static>], alpn: Alpn) -> Result<Arc<ClientConfig>, TrustError> {
    named_server_client(None, roots, alpn).map(Arc::new)
}
