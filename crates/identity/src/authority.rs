//! Certificate authorities: the root of a mesh and the intermediates of its clusters, which sign workload certificates.
//!
//! This module sets every field of a certificate. The defaults of the signing library would end its validity in the year
//! 4096, repeat the serial number if the same key is certified again, and copy fields of the request.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::OffsetDateTime;

use crate::CLOCK_SKEW;
use crate::cacerts::{CaCerts, CaCertsError};
use crate::certificate;
use crate::credential::{Credential, CredentialError, PrivateKey};
use crate::refusal::Refusal;
use crate::request::{KeyAndRequest, PublicKey, RequestError};
use crate::spiffe::SpiffeId;
use crate::trust::{Issuer, Trust, TrustError, public_key_sha256};
use crate::verify::{PeerSide, verify_chain};

/// Why an authority cannot be created, loaded or used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CaError {
    /// The `cacerts` entries are incomplete.
    #[error("cacerts: {0}")]
    Form(#[from] CaCertsError),
    /// An entry has invalid content.
    #[error("cacerts: {entry} is invalid: {reason}")]
    Entry {
        /// The name of the entry.
        entry: &'static str,
        /// The reason.
        reason: String,
    },
    /// The private key does not match the certificate.
    #[error("cacerts: ca-key.pem does not match ca-cert.pem")]
    KeyMismatch,
    /// The signing certificate has expired.
    #[error("the signing certificate has expired; create a new one with `isthmus ca intermediate`")]
    Expired,
    /// A certificate that the authority signs does not verify under its roots: the chain is incomplete, a constraint excludes it, or
    /// the signing certificate is not a CA.
    #[error("certificates signed by this authority do not verify under its root: {0}")]
    SelfTest(Refusal),
    /// A name has characters that certificates cannot contain.
    #[error("{0:?} cannot be a name in a certificate")]
    Name(String),
    /// The signing library failed.
    #[error("signing failed: {0}")]
    Signing(#[from] rcgen::Error),
    /// The authority's own request was refused, which is a bug.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The credential cannot be created.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The roots are invalid.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// The names that an intermediate may sign. IP addresses are always excluded; URIs cannot be constrained (see the crate's
/// documentation).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraints {
    /// The permitted DNS subtrees.
    pub dns: Vec<String>,
}

impl Default for Constraints {
    /// The subtrees of cluster-internal names: `svc` and `cluster.local`.
    fn default() -> Self {
        Constraints { dns: vec!["svc".to_owned(), "cluster.local".to_owned()] }
    }
}

/// A certificate authority: a signing certificate with its private key.
pub struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    key: PrivateKey,
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
    /// The chain from the signing certificate up to the root, without the root; empty for a root.
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// Creates a root with a new P-256 key, which may sign one level of intermediates.
    ///
    /// # Errors
    /// Returns [`CaError::Signing`] if signing fails.
    pub fn self_signed_root(organization: &str, validity: Duration) -> Result<Self, CaError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = ca_params("Isthmus root", organization, 1, None, validity, SystemTime::now())?;
        let certificate = params.self_signed(&pair)?.der().clone();
        let key = private_key(&pair);
        let issuer = rcgen::Issuer::new(params, pair);
        Authority::assemble(issuer, key, certificate.clone(), Vec::new(), vec![certificate])
    }

    /// Creates an intermediate for one cluster, signed by this root. The intermediate may sign only leaf certificates, with the
    /// DNS names that `constraints` permits and without IP addresses. It expires no later than the root.
    ///
    /// # Errors
    /// Returns an error if a name is invalid, the root has expired, or signing fails.
    pub fn intermediate_for(
        &self,
        cluster: &str,
        constraints: &Constraints,
        validity: Duration,
    ) -> Result<Self, CaError> {
        let now = SystemTime::now();
        let validity = validity.min(self.not_after.duration_since(now).map_err(|_| CaError::Expired)?);
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let name = format!("Isthmus intermediate of {cluster}");
        let params = ca_params(&name, cluster, 0, Some(constraints), validity, now)?;
        let certificate = params.signed_by(&pair, &self.issuer)?.der().clone();
        let key = private_key(&pair);
        let mut chain = vec![certificate.clone()];
        chain.extend(self.chain.iter().cloned());
        Authority::assemble(rcgen::Issuer::new(params, pair), key, certificate, chain, self.roots.clone())
    }

    /// Loads an authority from the `cacerts` format. As a self-test it signs a certificate and verifies it.
    ///
    /// # Errors
    /// Returns an error that names the invalid entry.
    pub fn from_cacerts(cacerts: &CaCerts) -> Result<Self, CaError> {
        let certificates = |entry: &'static str, text: &str| {
            crate::pem::certificates_from_pem(text.as_bytes()).map_err(|reason| CaError::Entry { entry, reason })
        };
        let mut signing = certificates("ca-cert.pem", &cacerts.ca_cert)?.into_iter();
        let certificate = signing.next().ok_or_else(|| no_certificate("ca-cert.pem"))?;
        let roots = certificates("root-cert.pem", &cacerts.root_cert)?;
        if roots.is_empty() {
            return Err(no_certificate("root-cert.pem"));
        }
        let key = PrivateKey::from_pem(cacerts.ca_key.as_bytes())
            .map_err(|e| CaError::Entry { entry: "ca-key.pem", reason: e.to_string() })?;
        let pair =
            KeyPair::try_from(key.der()).map_err(|e| CaError::Entry { entry: "ca-key.pem", reason: e.to_string() })?;
        if certificate::spki_of(&certificate).as_deref() != Some(pair.subject_public_key_info().as_slice()) {
            return Err(CaError::KeyMismatch);
        }
        // `cert-chain.pem`, and `ca-cert.pem` after the signing certificate, may contain the certificates up to the root. They may
        // repeat the signing certificate and include the root.
        let mut chain = Vec::new();
        if !roots.contains(&certificate) {
            chain.push(certificate.clone());
            for link in signing.chain(certificates("cert-chain.pem", &cacerts.cert_chain)?) {
                if !chain.contains(&link) && !roots.contains(&link) {
                    chain.push(link);
                }
            }
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(&certificate, pair)
            .map_err(|e| CaError::Entry { entry: "ca-cert.pem", reason: e.to_string() })?;
        let authority = Authority::assemble(issuer, key, certificate, chain, roots)?;
        if authority.not_after <= SystemTime::now() {
            return Err(CaError::Expired);
        }
        authority.self_test()?;
        Ok(authority)
    }

    fn assemble(
        issuer: rcgen::Issuer<'static, KeyPair>,
        key: PrivateKey,
        certificate: CertificateDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CaError> {
        let not_after = certificate::not_after(&certificate).ok_or_else(|| CaError::Entry {
            entry: "ca-cert.pem",
            reason: "it is not an X.509 certificate".to_owned(),
        })?;
        Ok(Authority { issuer, key, certificate, not_after, chain, roots })
    }

    fn self_test(&self) -> Result<(), CaError> {
        let id = SpiffeId::new("self-test", "isthmus", "isthmus").expect("a valid id");
        let chain = self.issue(&KeyAndRequest::generate()?.public_key()?, &id, Duration::from_secs(60))?;
        let trust = Trust::new("self-test", self.roots.clone(), [])?;
        let (leaf, rest) = chain.split_first().expect("a chain begins with its leaf");
        verify_chain(&trust, leaf, rest, UnixTime::now(), PeerSide::Client).map_err(CaError::SelfTest)?;
        Ok(())
    }

    /// Returns the authority in the `cacerts` format, including the private key.
    pub fn to_cacerts(&self) -> CaCerts {
        CaCerts {
            ca_cert: crate::pem::certificates_to_pem([&self.certificate]),
            ca_key: self.key.to_pem(),
            root_cert: crate::pem::certificates_to_pem(&self.roots),
            cert_chain: crate::pem::certificates_to_pem(self.chain.iter().chain(&self.roots)),
        }
    }

    /// Signs a workload certificate. It is valid from [`CLOCK_SKEW`] ago until `validity` from now, but no longer than this
    /// authority. Returns the chain: the leaf first, without the root.
    ///
    /// # Errors
    /// Returns an error if the authority has expired or signing fails.
    pub fn issue(
        &self,
        key: &PublicKey,
        id: &SpiffeId,
        validity: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        self.issue_at(key, id, &[], validity, SystemTime::now())
    }

    /// Signs a certificate that also has DNS names, for the controller. See [`Authority::issue`].
    ///
    /// # Errors
    /// Returns an error in the cases of [`Authority::issue`], and if a DNS name is invalid.
    pub fn issue_server(
        &self,
        key: &PublicKey,
        id: &SpiffeId,
        dns_names: &[&str],
        validity: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        self.issue_at(key, id, dns_names, validity, SystemTime::now())
    }

    /// Signs a certificate at a given time. See [`Authority::issue_server`].
    ///
    /// # Errors
    /// Returns an error in the cases of [`Authority::issue_server`].
    pub fn issue_at(
        &self,
        key: &PublicKey,
        id: &SpiffeId,
        dns_names: &[&str],
        validity: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        if now >= self.not_after {
            return Err(CaError::Expired);
        }
        let mut params = CertificateParams::default();
        // No subject: the URI name alone is the identity. RFC 5280 requires that it is critical in that case.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(ia5(id.as_str())?)];
        for name in dns_names {
            params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
        params.not_after = OffsetDateTime::from((now + validity).min(self.not_after));
        params.serial_number = Some(random_serial());
        let leaf = params.signed_by(&key.0, &self.issuer)?.der().clone();
        let mut chain = Vec::with_capacity(1 + self.chain.len());
        chain.push(leaf);
        chain.extend(self.chain.iter().cloned());
        Ok(chain)
    }

    /// Creates a key and signs its certificate: for the controller itself, for labs and tests.
    ///
    /// # Errors
    /// Returns an error in the cases of [`Authority::issue_server`].
    pub fn credential(&self, id: &SpiffeId, dns_names: &[&str], validity: Duration) -> Result<Credential, CaError> {
        let made = KeyAndRequest::generate()?;
        let chain = self.issue_server(&made.public_key()?, id, dns_names, validity)?;
        Ok(Credential::new(chain, &made.key)?)
    }

    /// Returns the signing certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns the roots under which issued certificates verify.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Returns the roots in PEM, as workloads receive them.
    pub fn roots_pem(&self) -> String {
        crate::pem::certificates_to_pem(&self.roots)
    }

    /// Returns when the signing certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Returns whether the authority is a root. A certificate that a root signs belongs to no cluster.
    pub fn is_root(&self) -> bool {
        self.chain.is_empty()
    }

    /// Returns the trust bundle's entry for this authority as the intermediate of `cluster`.
    pub fn issuer_of(&self, cluster: &str) -> Issuer {
        let spki = certificate::spki_of(&self.certificate).unwrap_or_default();
        Issuer { cluster: cluster.into(), public_key_sha256: public_key_sha256(&spki) }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("not_after", &self.not_after)
            .field("root", &self.is_root())
            .field("key", &"redacted")
            .finish_non_exhaustive()
    }
}

fn ca_params(
    common_name: &str,
    organization: &str,
    path_length: u8,
    constraints: Option<&Constraints>,
    validity: Duration,
    now: SystemTime,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
    params.not_after = OffsetDateTime::from(now + validity);
    params.serial_number = Some(random_serial());
    if let Some(constraints) = constraints {
        for name in &constraints.dns {
            ia5(name)?;
        }
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: constraints.dns.iter().cloned().map(GeneralSubtree::DnsName).collect(),
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(Ipv4Addr::UNSPECIFIED.into(), 0)),
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(Ipv6Addr::UNSPECIFIED.into(), 0)),
            ],
        });
    }
    Ok(params)
}

/// Returns a serial number with 126 random bits: positive and always 16 bytes long. The CA/Browser baseline requires 64 random bits.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn private_key(pair: &KeyPair) -> PrivateKey {
    PrivateKey::new(PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der())))
}

fn ia5(name: &str) -> Result<rcgen::string::Ia5String, CaError> {
    name.try_into().map_err(|_| CaError::Name(name.to_owned()))
}

fn no_certificate(entry: &'static str) -> CaError {
    CaError::Entry { entry, reason: "it contains no certificate".to_owned() }
}
