//! Credentials: a workload's certificate chain with its private key.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate;
use crate::provider::provider;
use crate::refusal::Refusal;
use crate::spiffe::SpiffeId;

/// A private key. `Debug` does not show it.
pub struct PrivateKey(PrivateKeyDer<'static>);

impl PrivateKey {
    /// Wraps a key in DER.
    pub fn new(der: PrivateKeyDer<'static>) -> Self {
        PrivateKey(der)
    }

    /// Reads the first private key of a PEM text (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// Returns an error if the text contains no valid private key.
    pub fn from_pem(text: &[u8]) -> Result<Self, CredentialError> {
        PrivateKeyDer::from_pem_slice(text).map(PrivateKey).map_err(|e| CredentialError::Key(e.to_string()))
    }

    /// Returns the key in PEM.
    pub fn to_pem(&self) -> String {
        crate::pem::private_key_to_pem(&self.0)
    }

    /// Returns the key in DER.
    pub fn der(&self) -> &PrivateKeyDer<'static> {
        &self.0
    }
}

impl Clone for PrivateKey {
    fn clone(&self) -> Self {
        PrivateKey(self.0.clone_key())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

/// Why a chain and a key are not a valid credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The chain is empty.
    #[error("the certificate chain is empty")]
    Empty,
    /// The chain is not valid PEM.
    #[error("the certificate chain is invalid: {0}")]
    Chain(String),
    /// The leaf is not a workload certificate.
    #[error("the certificate is not a workload certificate: {0}")]
    Leaf(Refusal),
    /// The key is malformed or of an unsupported type.
    #[error("the private key is invalid: {0}")]
    Key(String),
    /// The key does not match the certificate.
    #[error("the private key does not match the certificate")]
    KeyMismatch,
}

/// A certificate chain (leaf first, without the root) with its private key. Cheap to clone.
#[derive(Clone)]
pub struct Credential {
    certified: Arc<CertifiedKey>,
    id: SpiffeId,
    serial: Arc<str>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Credential {
    /// Creates a credential. A self-signed certificate at the end of the chain is dropped: certificate APIs append the
    /// root, which peers already have.
    ///
    /// # Errors
    /// Returns an error if the leaf is not a workload certificate, or the key does not match it.
    pub fn new(mut chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Result<Self, CredentialError> {
        while chain.len() > 1 && chain.last().is_some_and(|last| certificate::is_self_issued(last)) {
            chain.pop();
        }
        let leaf = chain.first().ok_or(CredentialError::Empty)?;
        let facts = certificate::leaf_facts(leaf).map_err(CredentialError::Leaf)?;
        let signing = provider()
            .key_provider
            .load_private_key(key.der().clone_key())
            .map_err(|e| CredentialError::Key(e.to_string()))?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| CredentialError::KeyMismatch)?;
        Ok(Credential {
            certified: Arc::new(certified),
            id: facts.id,
            serial: facts.serial.into(),
            not_before: facts.not_before,
            not_after: facts.not_after,
        })
    }

    /// Creates a credential from PEM texts, as the certificate API returns them.
    ///
    /// # Errors
    /// Returns an error if the texts are not valid PEM, and in the cases of [`Credential::new`].
    pub fn from_pem(chain: &[impl AsRef<str>], key: &PrivateKey) -> Result<Self, CredentialError> {
        let mut certificates = Vec::new();
        for part in chain {
            certificates
                .extend(crate::pem::certificates_from_pem(part.as_ref().as_bytes()).map_err(CredentialError::Chain)?);
        }
        Credential::new(certificates, key)
    }

    /// Returns the SPIFFE ID in the certificate.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Returns the chain: the leaf first, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Returns the serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Returns when the certificate becomes valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Returns when the certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Returns the remaining validity; zero after the expiry.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    /// Returns the time from `now` until the certificate is due for renewal, at half of its lifetime. `jitter` (0 to 1)
    /// moves that time by up to ±1 % of the lifetime, so that proxies that started together do not renew together. Zero
    /// if renewal is overdue.
    pub fn renew_in(&self, now: SystemTime, jitter: f64) -> Duration {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        let share = 0.5 + (jitter.clamp(0.0, 1.0) - 0.5) * 0.02;
        (self.not_before + life.mul_f64(share)).duration_since(now).unwrap_or_default()
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .field("key", &"redacted")
            .finish()
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}
