//! A workload's certificate chain with its private key.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate;
use crate::refusal::Refusal;
use crate::spiffe::SpiffeId;
use crate::tls::provider;

/// A private key. Its `Debug` says nothing of it.
pub struct PrivateKey(PrivateKeyDer<'static>);

impl PrivateKey {
    /// Wraps a key.
    pub fn new(der: PrivateKeyDer<'static>) -> Self {
        PrivateKey(der)
    }

    /// The first private key of a PEM text (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// [`CredentialError::Key`].
    pub fn from_pem(text: &[u8]) -> Result<Self, CredentialError> {
        PrivateKeyDer::from_pem_slice(text).map(PrivateKey).map_err(|e| CredentialError::Key(e.to_string()))
    }

    /// The key in PEM, for writing to a file or Secret of mode 0600 or the like.
    pub fn to_pem(&self) -> String {
        crate::pem::private_key_to_pem(&self.0)
    }

    /// The key itself.
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

/// Why a chain and a key make no credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// No certificate in the chain.
    #[error("the certificate chain is empty")]
    Empty,
    /// The chain is not PEM.
    #[error("the certificate chain is broken: {0}")]
    Chain(String),
    /// The leaf does not name a workload.
    #[error("the certificate names no workload: {0}")]
    Leaf(Refusal),
    /// The key is broken or of a kind that TLS cannot use.
    #[error("the private key cannot be used: {0}")]
    Key(String),
    /// The key is not the one in the certificate.
    #[error("the certificate belongs to another private key")]
    KeyMismatch,
}

/// A certificate chain (leaf first, root left out) with its key. Cheap to clone.
#[derive(Clone)]
pub struct Credential {
    certified: Arc<CertifiedKey>,
    id: SpiffeId,
    serial: Arc<str>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Credential {
    /// Puts chain and key together after checking that they belong together. A self-signed certificate at the end of
    /// the chain (the root, which certificate APIs append) is dropped: peers have it already.
    ///
    /// # Errors
    /// [`CredentialError`].
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

    /// As [`Credential::new`], of PEM sections as the certificate API returns them.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn from_pem(chain: &[impl AsRef<str>], key: &PrivateKey) -> Result<Self, CredentialError> {
        let mut certificates = Vec::new();
        for part in chain {
            certificates
                .extend(crate::pem::certificates_from_pem(part.as_ref().as_bytes()).map_err(CredentialError::Chain)?);
        }
        Credential::new(certificates, key)
    }

    /// Who the certificate says its holder is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Leaf first, root left out.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// When it begins to be valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When it ceases to be valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// How long it still is valid; zero when it no longer is.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    /// How long from `now` until it should be renewed: at half of its life, moved by up to ±1 % of it (`jitter` from 0
    /// to 1), so that proxies that started together do not renew together. Zero when that time has passed.
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
