//! Who is believed: the roots of each trust domain, and which intermediate speaks for which cluster.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::certificate;
use crate::spiffe::{SpiffeError, SpiffeId, check_trust_domain};

/// A peer sends at most this many certificates that are looked at for its cluster.
const MAX_INTERMEDIATES: usize = 8;

/// The intermediate that signs for one cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Issuer {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// SHA-256 of the intermediate's SubjectPublicKeyInfo; see [`public_key_sha256`].
    pub public_key_sha256: [u8; 32],
}

/// Why a published intermediate is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Not PEM, or no certificate in it.
    #[error("it holds no certificate")]
    NoCertificate,
    /// It may not sign.
    #[error("it is no signing certificate")]
    NoCa,
    /// Its time is over, or has not come.
    #[error("it is not valid now")]
    NotValidNow,
    /// It is not signed by one of our roots.
    #[error("it is not signed by a root that is trusted here")]
    ForeignRoot,
}

impl Issuer {
    /// The issuer of a cluster that publishes its intermediate (first certificate of `pem`): believed where one of `roots`
    /// signed it. Whether another cluster has the same one is for the caller to find out.
    ///
    /// # Errors
    /// [`IssuerError`].
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

/// What a peer proved in its handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its identity.
    pub id: SpiffeId,
    /// The cluster whose intermediate signed its certificate; `None` where that is no cluster's known intermediate.
    pub cluster: Option<Arc<str>>,
}

/// Why a trust bundle is refused. What was in force before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The trust domain's name is no trust domain.
    #[error(transparent)]
    Domain(#[from] SpiffeError),
    /// No root: nothing could be verified.
    #[error("trust domain {0:?} has no root certificate")]
    NoRoots(String),
    /// A root that cannot be parsed.
    #[error("root certificate {index} of trust domain {domain:?} cannot be used: {reason}")]
    Root {
        /// The trust domain.
        domain: String,
        /// Counted from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// An immutable trust bundle. Cheap to clone; compare to find out whether it changed.
#[derive(Clone, PartialEq)]
pub struct Trust {
    inner: Arc<Inner>,
}

#[derive(PartialEq)]
struct Inner {
    domain: Arc<str>,
    domains: BTreeMap<Arc<str>, Roots>,
    issuers: HashMap<[u8; 32], Arc<str>>,
}

#[derive(Clone, PartialEq)]
struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Trust {
    /// The bundle of one trust domain. Several roots are all trusted: that is how roots rotate.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn new(
        trust_domain: &str,
        roots: Vec<CertificateDer<'static>>,
        issuers: impl IntoIterator<Item = Issuer>,
    ) -> Result<Self, TrustError> {
        check_trust_domain(trust_domain)?;
        let domain: Arc<str> = trust_domain.into();
        let domains = BTreeMap::from([(Arc::clone(&domain), Roots::new(trust_domain, roots)?)]);
        let issuers = issuers.into_iter().map(|issuer| (issuer.public_key_sha256, issuer.cluster)).collect();
        Ok(Trust { inner: Arc::new(Inner { domain, domains, issuers }) })
    }

    /// The same bundle that trusts `roots` for `trust_domain` as well, and for that domain only.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn federated_with(&self, trust_domain: &str, roots: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        check_trust_domain(trust_domain)?;
        let mut domains = self.inner.domains.clone();
        domains.insert(trust_domain.into(), Roots::new(trust_domain, roots)?);
        Ok(Trust {
            inner: Arc::new(Inner {
                domain: Arc::clone(&self.inner.domain),
                domains,
                issuers: self.inner.issuers.clone(),
            }),
        })
    }

    /// The mesh's own trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.inner.domain
    }

    /// The roots of the mesh's own trust domain.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        self.inner.domains.get(&self.inner.domain).map_or(&[], |roots| &roots.certificates)
    }

    /// The known intermediates, ordered by cluster.
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

    pub(crate) fn cluster_of_key(&self, spki_der: &[u8]) -> Option<&Arc<str>> {
        self.inner.issuers.get(&public_key_sha256(spki_der))
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

impl Roots {
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
        Ok(Roots { certificates, anchors })
    }
}

/// SHA-256 of a SubjectPublicKeyInfo in DER, by which an intermediate is known: it stays the same when the intermediate
/// is renewed with the same key, and it is what a signature proves.
pub fn public_key_sha256(spki_der: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, spki_der).as_ref());
    hash
}

/// Who is at the other end of a connection: `certificates` is what the peer sent, leaf first, in a handshake that one of
/// this crate's configurations accepted (the chain is not verified again here).
///
/// The cluster is that of the presented intermediate which verifiably signed the leaf, so an intermediate that is merely
/// sent along proves nothing. `None` where the leaf names no workload.
pub fn peer_of(certificates: &[CertificateDer<'_>], trust: &Trust) -> Option<Peer> {
    let (leaf, rest) = certificates.split_first()?;
    let id = certificate::leaf_facts(leaf).ok()?.id;
    let cluster = rest
        .iter()
        .take(MAX_INTERMEDIATES)
        .find_map(|candidate| certificate::signing_key_of(candidate, leaf, |spki| trust.cluster_of_key(spki).cloned()));
    Some(Peer { id, cluster })
}
