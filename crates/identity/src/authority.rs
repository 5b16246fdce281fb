//! Certificate authorities: the root of a mesh and the intermediates of its clusters, which sign workload certificates.
//!
//! This module sets every field of a certificate. The defaults of the signing library would end its validity in the year
//! 4096, repeat the serial number if the same key is certified again, and copy fields of the request.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::CLOCK_SKEW;
use crate::cacerts::CaCertsError;
use crate::certificate;
use crate::credential::{Credential, CredentialError, PrivateKey};
use crate::refusal::Refusal;
use crate::request::{KeyAndRequest, PublicKey, RequestError};
use crate::spiffe::SpiffeId;
use crate::trust::{Issuer, TrustError, public_key_sha256};

mod load;
mod parameters;

use parameters::{ca_params, ia5, private_key, random_serial};

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
    /// A certificate that the authority signs does not verify under its roots: the chain is incomplete, a constraint
    /// excludes it, or the signing certificate is not a CA.
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

    /// Creates an intermediate for one cluster, signed by this root. The intermediate may sign only leaf certificates,
    /// with the DNS names that `constraints` permits and without IP addresses. It expires no later than the root.
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

    /// Signs a workload certificate. It is valid from [`CLOCK_SKEW`] ago until `validity` from now, but no longer than
    /// this authority. Returns the chain: the leaf first, without the root.
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
