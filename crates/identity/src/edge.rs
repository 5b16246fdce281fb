//! TLS servers for clients outside the mesh: what Istio's Gateways with the modes SIMPLE, MUTUAL and OPTIONAL_MUTUAL ask for.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use webpki::EndEntityCert;

use crate::alpn::Alpn;
use crate::certificate::uri_names;
use crate::details::{fingerprint, key_fingerprint};
use crate::pem::certificates_from_pem;
use crate::provider::provider;

/// The cipher suites of TLS 1.2 by OpenSSL's names. Those of TLS 1.3 cannot be configured, as in Envoy.
const SUITES: [(&str, CipherSuite); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// What a Secret or files hold for a server: its certificate, and the authorities of its clients.
#[derive(Default)]
pub struct ServerCertificate {
    certified: Option<Arc<CertifiedKey>>,
    authorities: Option<Arc<RootCertStore>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl ServerCertificate {
    /// Parses PEM. Empty texts are absent: `chain` with `key`, the leaf first; `authorities`; and `revoked`, lists of revoked
    /// certificates.
    ///
    /// # Errors
    /// Returns the reason if a text is invalid, or the key is not that of the certificate.
    pub fn parse(chain: &[u8], key: &[u8], authorities: &[u8], revoked: &[u8]) -> Result<Self, String> {
        let certified = if chain.is_empty() && key.is_empty() {
            None
        } else {
            let chain = certificates_from_pem(chain).map_err(|error| format!("the certificate is {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key is not valid: {error}"))?;
            let certified = CertifiedKey::from_der(chain, key, provider());
            Some(Arc::new(certified.map_err(|error| format!("the certificate cannot be used with its key: {error}"))?))
        };
        let authorities = if authorities.is_empty() {
            None
        } else {
            let found = certificates_from_pem(authorities)
                .map_err(|error| format!("the authorities of clients are {error}"))?;
            let mut roots = RootCertStore::empty();
            if roots.add_parsable_certificates(found).0 == 0 {
                return Err("the authorities of clients have no certificate that can be used".to_owned());
            }
            Some(Arc::new(roots))
        };
        let revoked = CertificateRevocationListDer::pem_slice_iter(revoked).collect::<Result<Vec<_>, _>>();
        let revoked = revoked.map_err(|error| format!("the list of revoked certificates is not valid: {error}"))?;
        Ok(Self { certified, authorities, revoked })
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate(redacted)")
    }
}

/// Which certificates clients show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ClientCertificates {
    /// None.
    #[default]
    None,
    /// A client without one is accepted; one that is not valid is refused.
    Optional,
    /// A client without one is refused.
    Required,
}

/// The settings of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ServerSettings {
    /// Which certificates clients show.
    pub clients: ClientCertificates,
    /// Names of which a client's certificate must have one; empty: any.
    pub names: Box<[Box<str>]>,
    /// SHA-256 of certificates of clients, in hexadecimal; empty: any.
    pub hashes: Box<[Box<str>]>,
    /// SHA-256 of keys of clients, in base64; empty: any.
    pub keys: Box<[Box<str>]>,
    /// Only TLS 1.3.
    pub from_1_3: bool,
    /// Only TLS 1.2.
    pub up_to_1_2: bool,
    /// The cipher suites of TLS 1.2 by OpenSSL's names; empty: all.
    pub cipher_suites: Box<[Box<str>]>,
}

/// What the servers of a process share: keys by which clients resume sessions, so that sessions need no memory.
#[derive(Clone)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    /// Creates the keys.
    ///
    /// # Errors
    /// Returns an error if there is no source of randomness.
    pub fn new() -> Result<Self, rustls::Error> {
        rustls::crypto::aws_lc_rs::Ticketer::new().map(Tickets)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets(redacted)")
    }
}

/// Returns the configuration of a server, which presents the first of `certificates` whose key the client can use. The
/// authorities of clients are those of `authorities` or, without it, of the first certificate that has some. Sessions are resumed where clients
/// show no certificates: a resumed session would skip the check of one that was revoked meanwhile.
///
/// # Errors
/// Returns the reason if the settings cannot be met.
pub fn server_config(
    certificates: &[Arc<ServerCertificate>],
    authorities: Option<&ServerCertificate>,
    settings: &ServerSettings,
    tickets: &Tickets,
    alpn: Alpn,
) -> Result<ServerConfig, String> {
    let keys: Box<[Arc<CertifiedKey>]> = certificates.iter().filter_map(|of| of.certified.clone()).collect();
    if keys.is_empty() {
        return Err("there is no certificate".to_owned());
    }
    let versions: &[&SupportedProtocolVersion] = match (settings.from_1_3, settings.up_to_1_2) {
        (false, false) => &[&TLS13, &TLS12],
        (true, false) => &[&TLS13],
        (false, true) => &[&TLS12],
        (true, true) => return Err("the newest version of TLS is older than the oldest".to_owned()),
    };
    let builder = ServerConfig::builder_with_provider(provider_with(&settings.cipher_suites))
        .with_protocol_versions(versions)
        .map_err(|error| format!("the cipher suites cannot be used: {error}"))?;
    let with_clients = settings.clients != ClientCertificates::None;
    let builder = match with_clients {
        false => builder.with_no_client_auth(),
        true => {
            let of = authorities.or_else(|| certificates.iter().map(|of| &**of).find(|of| of.authorities.is_some()));
            builder.with_client_cert_verifier(client_verifier(of, settings)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Presented(keys)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if with_clients {
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = tickets.0.clone();
        config.send_tls13_tickets = 1;
    }
    Ok(config)
}

/// Returns the provider with some cipher suites of TLS 1.2.
fn provider_with(suites: &[Box<str>]) -> Arc<CryptoProvider> {
    if suites.is_empty() {
        return Arc::clone(provider());
    }
    let named =
        |suite: CipherSuite| SUITES.iter().any(|(name, of)| *of == suite && suites.iter().any(|s| &**s == *name));
    let mut provider = CryptoProvider::clone(provider());
    provider.cipher_suites.retain(|suite| suite.version() == &TLS13 || named(suite.suite()));
    Arc::new(provider)
}

/// Presents the first certificate whose key the client can use.
struct Presented(Box<[Arc<CertifiedKey>]>);

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented(redacted)")
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |of: &&Arc<CertifiedKey>| of.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.iter().find(usable).or(self.0.first()).cloned()
    }
}

fn client_verifier(
    of: Option<&ServerCertificate>,
    settings: &ServerSettings,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let none = "there are no authorities of clients: the Secret has no ca.crt";
    let of = of.ok_or(none)?;
    let roots = of.authorities.clone().ok_or(none)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()));
    if !of.revoked.is_empty() {
        builder = builder.with_crls(of.revoked.clone()).allow_unknown_revocation_status();
    }
    if settings.clients == ClientCertificates::Optional {
        builder = builder.allow_unauthenticated();
    }
    let inner = builder.build().map_err(|error| format!("the authorities of clients cannot be used: {error}"))?;
    if settings.names.is_empty() && settings.hashes.is_empty() && settings.keys.is_empty() {
        return Ok(inner);
    }
    let ServerSettings { names, hashes, keys, .. } = settings.clone();
    Ok(Arc::new(NamedClients { inner, names, hashes, keys }))
}

/// Accepts clients with certain names, certificates or keys, among those that `inner` accepts.
#[derive(Debug)]
struct NamedClients {
    inner: Arc<dyn ClientCertVerifier>,
    names: Box<[Box<str>]>,
    hashes: Box<[Box<str>]>,
    keys: Box<[Box<str>]>,
}

impl NamedClients {
    fn accepts(&self, certificate: &CertificateDer<'_>) -> bool {
        let hash = self.hashes.is_empty() || {
            let own = fingerprint(certificate);
            self.hashes.iter().any(|hash| hash.eq_ignore_ascii_case(&own))
        };
        let key = self.keys.is_empty() || {
            let own = key_fingerprint(certificate);
            own.is_some_and(|own| self.keys.iter().any(|key| **key == *own))
        };
        // As in Envoy, one of both lists is sufficient.
        let pinned = match (self.hashes.is_empty(), self.keys.is_empty()) {
            (false, false) => hash || key,
            _ => hash && key,
        };
        pinned && (self.names.is_empty() || self.has_name(certificate))
    }

    fn has_name(&self, der: &CertificateDer<'_>) -> bool {
        let (Ok(certificate), uris) = (EndEntityCert::try_from(der), uri_names(der)) else { return false };
        self.names.iter().any(|name| {
            let as_host = ServerName::try_from(&**name);
            as_host.is_ok_and(|host| certificate.verify_is_valid_for_subject_name(&host).is_ok())
                || (name.contains(':') && uris.iter().any(|uri| **uri == **name))
        })
    }
}

impl ClientCertVerifier for NamedClients {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        if !self.accepts(end_entity) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
