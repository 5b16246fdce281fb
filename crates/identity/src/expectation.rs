//! The peers that one side of a connection accepts.

use std::sync::Arc;

use crate::refusal::Refusal;
use crate::spiffe::SpiffeId;

/// Whether a server requires a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// Clients must present a certificate: between proxies.
    Required,
    /// Clients may present a certificate, which is verified: discovery and enrolment, where a new workload has no
    /// certificate yet.
    Optional,
}

/// The peers that a client accepts: a set of identities, optionally restricted to a set of clusters or of signing keys. An
/// empty set accepts no peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Expectation {
    identities: Box<[SpiffeId]>,
    clusters: Option<Box<[Arc<str>]>>,
    signers: Option<Box<[[u8; 32]]>>,
}

impl Expectation {
    /// Creates an expectation of any of these identities.
    pub fn any_of(identities: impl IntoIterator<Item = SpiffeId>) -> Self {
        let mut identities: Vec<_> = identities.into_iter().collect();
        identities.sort();
        identities.dedup();
        Expectation { identities: identities.into(), clusters: None, signers: None }
    }

    /// Restricts the expectation to certificates that the intermediate of one of these clusters signed.
    pub fn in_clusters(mut self, clusters: impl IntoIterator<Item = Arc<str>>) -> Self {
        let mut clusters: Vec<_> = clusters.into_iter().collect();
        clusters.sort();
        clusters.dedup();
        self.clusters = Some(clusters.into());
        self
    }

    /// Restricts the expectation to certificates that one of these keys signed directly, each by the hash of
    /// [`crate::signing_key_sha256`].
    pub fn signed_by(mut self, keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        self.signers = Some(keys.into());
        self
    }

    /// Returns the identities, for display.
    pub fn identities(&self) -> &[SpiffeId] {
        &self.identities
    }

    /// Returns the clusters whose intermediate may have signed the certificate, for display; `None`: any signer that is trusted.
    pub fn clusters(&self) -> Option<&[Arc<str>]> {
        self.clusters.as_deref()
    }

    /// Returns whether no peer can meet the expectation.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
            || self.clusters.as_ref().is_some_and(|clusters| clusters.is_empty())
            || self.signers.as_ref().is_some_and(|signers| signers.is_empty())
    }

    pub(crate) fn check(
        &self,
        id: SpiffeId,
        cluster: Option<Arc<str>>,
        signer: Option<[u8; 32]>,
    ) -> Result<(), Refusal> {
        if self.is_empty() {
            return Err(Refusal::NothingExpected);
        }
        if self.identities.binary_search(&id).is_err() {
            return Err(Refusal::UnexpectedIdentity(id));
        }
        let signed = |signers: &[[u8; 32]]| signer.is_some_and(|signer| signers.binary_search(&signer).is_ok());
        if !self.signers.as_deref().is_none_or(signed) {
            return Err(Refusal::UnexpectedSigner(id));
        }
        match &self.clusters {
            Some(clusters) if cluster.as_ref().is_none_or(|c| clusters.binary_search(c).is_err()) => {
                Err(Refusal::UnexpectedCluster { id, cluster })
            }
            _ => Ok(()),
        }
    }
}
