//! Trust bundles: the roots of each trust domain, and the intermediate of each cluster.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::certificate;
use crate::spiffe::{SpiffeError, SpiffeId, check_trust_domain};

/// The number of a peer's certificates that are examined for its cluster.
const MAX_INTERMEDIATES: usize = 8;

/// The intermediate of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Issuer {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// SHA-256 of the intermediate's SubjectPublicKeyInfo; see [`public_key_sha256`].
    pub public_key_sha256: [u8; 32],
}

/// Why a published intermediate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// The text contains no certificate in PEM.
    #[error("it contains no certificate")]
    NoCertificate,
    /// The certificate is not a CA.
    #[error("it is not a signing certificate")]
    NoCa,
    /// The certificate has expired or is not valid yet.
    #[error("it has expired or is not valid yet")]
    NotValidNow,
    /// No trusted root signed the certificate.
    #[error("it is not signed by a trusted root")]
    ForeignRoot,
    /// Another cluster has published the certificate first.
    #[error(
        "it belongs to cluster {holder}, which published it first (entry {key} of ConfigMap isthmus-intermediates)"
    )]
    Claimed {
        /// The cluster that has it.
        holder: String,
        /// The key of the record.
        key: String,
    },
    /// The cluster has published too many certificates.
    #[error("the cluster has published {0} others: delete the old ones from ConfigMap isthmus-intermediates")]
    TooMany(usize),
}

impl Issuer {
    /// Reads the intermediate that a cluster publishes: the first certificate of `pem`, which one of `roots` must have
    /// signed. The caller checks that no other cluster has the same intermediate.
    ///
    /// # Errors
    /// Returns an error if the certificate is not a valid intermediate under `roots`.
    pub fn published(
        cluster: &str,
        pem: &[u8],
        roots: &[CertificateDer<'_>],
        now: std::time::SystemTime,
    ) -> Result<Self, IssuerError> {
        let certificates = crate::pem::certificates_from_pem(pem).map_err(|_| IssuerError::NoCertificate)?;
        let certificate = certificates.first().ok_or(IssuerError::NoCertificate)?;
        let facts = certificate::ca_facts(certificate).ok_or(IssuerError::NoCa)?;
        if now < facts.not_before || now >= facts.not_after {
            return Err(IssuerError::NotValidNow);
        }
        let signed = roots.iter().any(|root| certificate::signing_key_of(root, certificate, |_| Some(())).is_some());
        if !signed {
            return Err(IssuerError::ForeignRoot);
        }
        Ok(Issuer { cluster: cluster.into(), public_key_sha256: public_key_sha256(&facts.spki) })
    }
}

/// The identity and cluster that a peer proved in its handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The SPIFFE ID.
    pub id: SpiffeId,
    /// The cluster whose intermediate signed the certificate; `None` if it is not the intermediate of a known cluster.
    pub cluster: Option<Arc<str>>,
}

/// Why a trust bundle is refused. The previous bundle stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The trust domain is invalid.
    #[error(transparent)]
    Domain(#[from] SpiffeError),
    /// The trust domain has no root, so that nothing could be verified.
    #[error("trust domain {0:?} has no root certificate")]
    NoRoots(String),
    /// A root is invalid.
    #[error("root certificate {index} of trust domain {domain:?} is invalid: {reason}")]
    Root {
        /// The trust domain.
        domain: String,
        /// The index of the root, from 0.
        index: usize,
        /// The reason.
        reason: String,
    },
}

/// A trust bundle. Immutable and cheap to clone; comparison shows whether it has changed.
#[derive(Clone, PartialEq)]
pub struct Trust {
    inner: Arc<TrustContent>,
}

#[derive(PartialEq)]
struct TrustContent {
    domain: Arc<str>,
    domains: BTreeMap<Arc<str>, DomainRoots>,
    issuers: HashMap<[u8; 32], Arc<str>>,
}

#[derive(Clone, PartialEq)]
struct DomainRoots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Trust {
    /// Creates the bundle of one trust domain. All roots are trusted; a rotation has several.
    ///
    /// # Errors
    /// Returns an error if the trust domain is invalid, `roots` is empty, or a root is invalid.
    pub fn new(
        trust_domain: &str,
        roots: Vec<CertificateDer<'static>>,
        issuers: impl IntoIterator<Item = Issuer>,
    ) -> Result<Self, TrustError> {
        check_trust_domain(trust_domain)?;
        let domain: Arc<str> = trust_domain.into();
        let domains = BTreeMap::from([(Arc::clone(&domain), DomainRoots::new(trust_domain, roots)?)]);
        let issuers = issuers.into_iter().map(|issuer| (issuer.public_key_sha256, issuer.cluster)).collect();
        Ok(Trust { inner: Arc::new(TrustContent { domain, domains, issuers }) })
    }

    /// Returns a bundle that also trusts `roots` for `trust_domain`, and only for that domain.
    ///
    /// # Errors
    /// Returns an error in the cases of [`Trust::new`].
    pub fn federated_with(&self, trust_domain: &str, roots: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        check_trust_domain(trust_domain)?;
        let mut domains = self.inner.domains.clone();
        domains.insert(trust_domain.into(), DomainRoots::new(trust_domain, roots)?);
        Ok(Trust {
            inner: Arc::new(TrustContent {
                domain: Arc::clone(&self.inner.domain),
                domains,
                issuers: self.inner.issuers.clone(),
            }),
        })
    }

    /// Returns the trust domain of the mesh.
    pub fn trust_domain(&self) -> &str {
        &self.inner.domain
    }

    /// Returns the roots of the mesh's trust domain.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        self.inner.domains.get(&self.inner.domain).map_or(&[], |roots| &roots.certificates)
    }

    /// Returns the known intermediates, sorted by cluster.
    pub fn issuers(&self) -> Vec<Issuer> {
        let mut issuers: Vec<_> = self
            .inner
            .issuers
            .iter()
            .map(|(key, cluster)| Issuer { cluster: Arc::clone(cluster), public_key_sha256: *key })
            .collect();
        issuers.sort();
        issuers
    }

    pub(crate) fn anchors_of(&self, trust_domain: &str) -> Option<&[TrustAnchor<'static>]> {
        self.inner.domains.get(trust_domain).map(|roots| roots.anchors.as_slice())
    }

    pub(crate) fn cluster_of_hash(&self, public_key_sha256: &[u8; 32]) -> Option<&Arc<str>> {
        self.inner.issuers.get(public_key_sha256)
    }

    /// Returns the hash of the key of the root that signed a certificate directly.
    pub(crate) fn root_that_signed(&self, leaf: &CertificateDer<'_>) -> Option<[u8; 32]> {
        let signer = |root| certificate::signing_key_of(root, leaf, |spki| Some(public_key_sha256(spki)));
        self.roots().iter().find_map(signer)
    }

    pub(crate) fn cluster_of_key(&self, spki_der: &[u8]) -> Option<&Arc<str>> {
        self.cluster_of_hash(&public_key_sha256(spki_der))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("trust_domain", &self.inner.domain)
            .field("roots", &self.roots().len())
            .field("issuers", &self.inner.issuers.values())
            .finish_non_exhaustive()
    }
}

impl DomainRoots {
    fn new(domain: &str, certificates: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        if certificates.is_empty() {
            return Err(TrustError::NoRoots(domain.to_owned()));
        }
        let anchors = certificates
            .iter()
            .enumerate()
            .map(|(index, certificate)| {
                webpki::anchor_from_trusted_cert(certificate)
                    .map(|anchor| anchor.to_owned())
                    .map_err(|e| TrustError::Root { domain: domain.to_owned(), index, reason: e.to_string() })
            })
            .collect::<Result<_, _>>()?;
        Ok(DomainRoots { certificates, anchors })
    }
}

/// Returns the SHA-256 of a SubjectPublicKeyInfo in DER, which identifies an intermediate. It stays the same if the
/// intermediate is renewed with the same key, and a signature proves it.
pub fn public_key_sha256(spki_der: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, spki_der).as_ref());
    hash
}

/// Returns the hash by which the key of a signing certificate is known ([`public_key_sha256`]); `None` if it is not a CA.
pub fn signing_key_sha256(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    certificate::ca_facts(certificate).map(|facts| public_key_sha256(&facts.spki))
}

/// Returns the peer of a connection. `certificates` is the chain that the peer sent, leaf first, in a handshake that
/// one of this crate's configurations accepted; the chain is not verified again.
///
/// The cluster is that of the intermediate whose key signed the leaf. An intermediate that is sent along without having
/// signed the leaf proves nothing. Returns `None` if the leaf is not a workload certificate.
pub fn peer_of(certificates: &[CertificateDer<'_>], trust: &Trust) -> Option<Peer> {
    let (leaf, rest) = certificates.split_first()?;
    let id = certificate::leaf_facts(leaf).ok()?.id;
    let cluster = rest
        .iter()
        .take(MAX_INTERMEDIATES)
        .find_map(|candidate| certificate::signing_key_of(candidate, leaf, |spki| trust.cluster_of_key(spki).cloned()));
    Some(Peer { id, cluster })
}
