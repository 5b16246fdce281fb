//! The certificate API: `istio.v1.auth.IstioCertificateService/CreateCertificate` on port 15012.
//!
//! Who the caller is comes from its service account token, reviewed by the cluster that it names in the metadata
//! `clusterid`, or from the certificate that it presents (renewal). The request's own wishes for names are ignored; its
//! public key is all that is used. What is refused is answered with a clear status and counted by reason.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{CaError, Peer, PublicKey, SpiffeId, peer_of};
use telemetry::metrics::{Counter, Family, Registry, Shared};
use tonic::{Request, Response, Status};
use wire::ca::istio_certificate_service_server::IstioCertificateService;
use wire::ca::{IstioCertificateRequest, IstioCertificateResponse};

use super::Authorities;
use super::review::{ReviewError, review};
use crate::clusters::Clusters;

/// Requests, by cluster.
pub const REQUESTS: Family =
    Family { name: "citadel_server_csr_count", help: "Certificate requests received.", labels: &[] };
/// Certificates issued.
pub const ISSUED: Family = Family {
    name: "citadel_server_success_cert_issuance_count",
    help: "Certificates issued, by cluster.",
    labels: &["cluster"],
};
/// Requests refused.
pub const REFUSED: Family = Family {
    name: "isthmus_certificate_refusals_total",
    help: "Certificate requests refused, by reason.",
    labels: &["reason"],
};
/// Requests refused for who made them; a sum of some of [`REFUSED`], under Istio's name.
pub const AUTHENTICATION_FAILURES: Family = Family {
    name: "citadel_server_authentication_failure_count",
    help: "Certificate requests whose caller could not be authenticated.",
    labels: &[],
};

/// How long certificates are valid.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// Where the request names none.
    pub default: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Validity {
    /// A day, and Istio's bound of 90 days.
    fn default() -> Self {
        Validity { default: Duration::from_secs(24 * 3600), max: Duration::from_secs(90 * 24 * 3600) }
    }
}

impl Validity {
    /// What a request for so many seconds gets.
    fn of(&self, seconds: i64) -> Duration {
        match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).min(self.max),
            _ => self.default,
        }
    }
}

/// Who asks for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Caller {
    id: SpiffeId,
    cluster: Arc<str>,
}

/// Why no certificate is issued.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("neither a bearer token nor a client certificate was sent")]
    NoCredentials,
    #[error("the authorization header is no bearer token")]
    NotBearer,
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error("the client certificate {0}")]
    Certificate(String),
    #[error(transparent)]
    Request(#[from] identity::RequestError),
    #[error(
        "there is no signing certificate for cluster {0:?}: make Secret cacerts-{0} with `isthmus ca intermediate --cluster {0}`"
    )]
    NoAuthority(String),
    #[error(transparent)]
    Signing(#[from] CaError),
}

impl Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Refusal::NoCredentials | Refusal::NotBearer => "no_credentials",
            Refusal::Review(ReviewError::UnknownCluster(_)) => "unknown_cluster",
            Refusal::Review(ReviewError::Rejected { .. }) => "token_rejected",
            Refusal::Review(ReviewError::NotAServiceAccount(_)) => "not_a_service_account",
            Refusal::Review(ReviewError::Unavailable { .. }) => "cluster_unavailable",
            Refusal::Certificate(_) => "client_certificate",
            Refusal::Request(_) => "bad_request",
            Refusal::NoAuthority(_) => "no_authority",
            Refusal::Signing(_) => "signing",
        }
    }

    fn is_authentication(&self) -> bool {
        matches!(self, Refusal::NoCredentials | Refusal::NotBearer | Refusal::Certificate(_) | Refusal::Review(_))
            && !matches!(self, Refusal::Review(ReviewError::Unavailable { .. }))
    }

    fn status(&self) -> Status {
        let said = self.to_string();
        match self {
            Refusal::NoCredentials | Refusal::NotBearer | Refusal::Certificate(_) => Status::unauthenticated(said),
            Refusal::Review(ReviewError::Unavailable { .. }) => Status::unavailable(said),
            Refusal::Review(_) => Status::unauthenticated(said),
            Refusal::Request(_) => Status::invalid_argument(said),
            Refusal::NoAuthority(_) => Status::failed_precondition(said),
            // What went wrong inside is for the log, not for the caller.
            Refusal::Signing(_) => Status::internal("the certificate could not be signed"),
        }
    }
}

/// The service.
#[derive(Clone)]
pub struct CertificateService {
    clusters: Clusters,
    authorities: Authorities,
    validity: Validity,
    metrics: Registry,
    requests: Counter<Shared>,
    authentication_failures: Counter<Shared>,
}

impl CertificateService {
    /// A service that signs with these authorities for callers whom these clusters vouch for.
    pub fn new(clusters: Clusters, authorities: Authorities, validity: Validity, metrics: &Registry) -> Self {
        let shared = metrics.shared();
        let (requests, authentication_failures) =
            (shared.counter(&REQUESTS, &[]), shared.counter(&AUTHENTICATION_FAILURES, &[]));
        CertificateService {
            clusters,
            authorities,
            validity,
            metrics: metrics.clone(),
            requests,
            authentication_failures,
        }
    }

    async fn issue(&self, request: Request<IstioCertificateRequest>) -> Result<Vec<String>, Refusal> {
        let caller = self.caller(&request).await?;
        let asked = request.get_ref();
        let key = PublicKey::from_request_pem(&asked.csr)?;
        let snapshot = self.authorities.now();
        let authority = snapshot.of(&caller.cluster).ok_or_else(|| Refusal::NoAuthority(caller.cluster.to_string()))?;
        let validity = self.validity.of(asked.validity_duration);
        let chain = authority.issue_at(&key, &caller.id, &[], validity, SystemTime::now())?;
        self.metrics.shared().counter(&ISSUED, &[&caller.cluster]).increment();
        tracing::debug!(id = %caller.id, cluster = %caller.cluster, "certificate issued");
        Ok(chain
            .iter()
            .chain(authority.roots())
            .map(|certificate| identity::certificates_to_pem([certificate]))
            .collect())
    }

    async fn caller(&self, request: &Request<IstioCertificateRequest>) -> Result<Caller, Refusal> {
        let named = request.metadata().get("clusterid").and_then(|value| value.to_str().ok());
        if let Some(header) = request.metadata().get("authorization") {
            let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or(Refusal::NotBearer)?;
            // Without the metadata Istio means the cluster of the control plane.
            let cluster = named.unwrap_or(self.clusters.own());
            let account = review(&self.clusters, cluster, token.trim()).await?;
            let snapshot = self.authorities.now();
            let id = SpiffeId::new(snapshot.trust.trust_domain(), &account.namespace, &account.name)
                .map_err(|e| Refusal::Certificate(e.to_string()))?;
            return Ok(Caller { id, cluster: cluster.into() });
        }
        let chain = request.peer_certs().ok_or(Refusal::NoCredentials)?;
        let trust = self.authorities.now().trust.clone();
        let peer = peer_of(&chain, &trust).ok_or(Refusal::NoCredentials)?;
        renewing(peer, named, trust.trust_domain())
    }
}

/// Who renews: the same identity in the same cluster, proved by the intermediate that signed the old certificate.
fn renewing(peer: Peer, named: Option<&str>, trust_domain: &str) -> Result<Caller, Refusal> {
    if peer.id.trust_domain() != trust_domain {
        return Err(Refusal::Certificate(format!("is of trust domain {:?}", peer.id.trust_domain())));
    }
    let Some(cluster) = peer.cluster else {
        return Err(Refusal::Certificate(
            "is not signed by any cluster's known intermediate: enrol with a token".into(),
        ));
    };
    if named.is_some_and(|named| *named != *cluster) {
        let named = named.unwrap_or_default();
        return Err(Refusal::Certificate(format!("is signed for cluster {cluster}, the request is for {named:?}")));
    }
    Ok(Caller { id: peer.id, cluster })
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.requests.increment();
        match self.issue(request).await {
            Ok(cert_chain) => Ok(Response::new(IstioCertificateResponse { cert_chain })),
            Err(refusal) => {
                self.metrics.shared().counter(&REFUSED, &[refusal.reason()]).increment();
                if refusal.is_authentication() {
                    self.authentication_failures.increment();
                }
                tracing::warn!(reason = refusal.reason(), "certificate refused: {refusal}");
                Err(refusal.status())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_is_bounded() {
        let validity = Validity { default: Duration::from_secs(100), max: Duration::from_secs(1000) };
        for (asked, given) in [(0, 100), (-5, 100), (i64::MIN, 100), (1, 1), (999, 999), (1001, 1000), (i64::MAX, 1000)]
        {
            assert_eq!(validity.of(asked).as_secs(), given, "{asked}");
        }
    }

    #[test]
    fn only_the_same_cluster_renews() {
        let id = SpiffeId::new("cluster.local", "default", "reviews").unwrap();
        let peer = |cluster: Option<&str>| Peer { id: id.clone(), cluster: cluster.map(Into::into) };
        assert_eq!(&*renewing(peer(Some("east")), Some("east"), "cluster.local").unwrap().cluster, "east");
        assert!(renewing(peer(Some("east")), None, "cluster.local").is_ok());
        assert!(renewing(peer(Some("east")), Some("west"), "cluster.local").is_err());
        assert!(renewing(peer(None), Some("west"), "cluster.local").is_err());
        assert!(renewing(peer(Some("east")), Some("east"), "other.example").is_err());
    }
}
