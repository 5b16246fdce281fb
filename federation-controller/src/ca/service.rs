//! The certificate API: `istio.v1.auth.IstioCertificateService/CreateCertificate` on port 15012.
//!
//! The caller is authenticated by its service account token, reviewed by the cluster in the metadata `clusterid`, or by
//! its client certificate (renewal). A renewal needs a certificate that is valid at that time, a joined cluster, and a
//! service account that still exists ([`account`]). Only the public key of the certificate request is used; the names in it are
//! ignored. A refusal is answered with a status that gives the reason, and counted by reason.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{CaError, Peer, PublicKey, SpiffeId, verify_client};
use telemetry::metrics::{Counter, Family, Registry, Shared};
use tonic::{Request, Response, Status};
use wire::ca::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use wire::ca::{IstioCertificateRequest, IstioCertificateResponse};

use super::Authorities;
use super::account::{self, AccountError};
use super::review::{Account, ReviewError, review};
use crate::clusters::Clusters;
use crate::pipeline::State;
use crate::ports::shares::Shares;

/// Counts certificate requests.
pub const REQUESTS: Family = Family { name: "citadel_server_csr_count", help: "Certificate requests.", labels: &[] };
/// Counts issued certificates by cluster.
pub const ISSUED: Family = Family {
    name: "citadel_server_success_cert_issuance_count",
    help: "Issued certificates, by cluster.",
    labels: &["cluster"],
};
/// Counts refused requests by reason.
pub const REFUSED: Family = Family {
    name: "isthmus_certificate_refusals_total",
    help: "Refused certificate requests, by reason.",
    labels: &["reason"],
};
/// Counts requests with a caller that is not authenticated: the sum of some reasons of [`REFUSED`], under Istio's name.
pub const AUTHENTICATION_FAILURES: Family = Family {
    name: "citadel_server_authentication_failure_count",
    help: "Certificate requests with a caller that is not authenticated.",
    labels: &[],
};

/// The maximum size of a message, in bytes. A certificate request has about 500.
const MAX_MESSAGE: usize = 32 << 10;

/// The numbers of callers whose tokens and accounts are looked up at a time: in all, and from one source. All proxies of
/// another network have one source, its gateway.
const LOOKUPS: (usize, usize) = (64, 32);
/// The time for a lookup to have its turn.
const TURN: Duration = Duration::from_secs(5);

/// The lifetimes of certificates.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// The lifetime without a requested lifetime.
    pub default: Duration,
    /// The maximum lifetime.
    pub max: Duration,
}

impl Default for Validity {
    /// Returns a default of one day and Istio's maximum of 90 days.
    fn default() -> Self {
        Validity { default: Duration::from_secs(24 * 3600), max: Duration::from_secs(90 * 24 * 3600) }
    }
}

impl Validity {
    /// Returns the lifetime for a requested number of seconds.
    fn of(&self, seconds: i64) -> Duration {
        match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).min(self.max),
            _ => self.default,
        }
    }
}

/// The authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Caller {
    id: SpiffeId,
    cluster: Arc<str>,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request has neither a bearer token nor a client certificate")]
    NoCredentials,
    #[error("the authorization header is not a bearer token")]
    NotBearer,
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error("{0}")]
    Certificate(String),
    #[error("{0}; enrol with a token")]
    Invalid(#[from] identity::Refusal),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("too many certificate requests wait for an API server; try again")]
    Busy,
    #[error(transparent)]
    Request(#[from] identity::RequestError),
    #[error(
        "cluster {0:?} has no signing certificate: create Secret cacerts-{0} with `isthmus ca intermediate --cluster {0}`"
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
            Refusal::Certificate(_) | Refusal::Invalid(_) => "client_certificate",
            Refusal::Account(AccountError::NotJoined(_)) => "unknown_cluster",
            Refusal::Account(AccountError::Starting(_)) => "starting",
            Refusal::Account(AccountError::Gone { .. }) => "account_gone",
            Refusal::Busy => "busy",
            Refusal::Request(_) => "bad_request",
            Refusal::NoAuthority(_) => "no_authority",
            Refusal::Signing(_) => "signing",
        }
    }

    fn is_authentication(&self) -> bool {
        self.status().code() == tonic::Code::Unauthenticated
    }

    fn status(&self) -> Status {
        let message = self.to_string();
        match self {
            Refusal::NoCredentials | Refusal::NotBearer | Refusal::Certificate(_) => Status::unauthenticated(message),
            Refusal::Review(ReviewError::Unavailable { .. })
            | Refusal::Account(AccountError::Starting(_))
            | Refusal::Busy => Status::unavailable(message),
            Refusal::Review(_) | Refusal::Invalid(_) | Refusal::Account(_) => Status::unauthenticated(message),
            Refusal::Request(_) => Status::invalid_argument(message),
            Refusal::NoAuthority(_) => Status::failed_precondition(message),
            // The reason is for the operator and logged only.
            Refusal::Signing(_) => Status::internal("the certificate cannot be signed; see the controller's log"),
        }
    }
}

/// The certificate service.
#[derive(Clone)]
pub struct CertificateService {
    clusters: Clusters,
    authorities: Authorities,
    state: Arc<State>,
    lookups: Shares,
    validity: Validity,
    metrics: Registry,
    requests: Counter<Shared>,
    authentication_failures: Counter<Shared>,
}

impl CertificateService {
    /// Creates a service that signs with `authorities` for callers that `clusters` vouch for.
    pub fn new(
        clusters: Clusters,
        authorities: Authorities,
        state: Arc<State>,
        validity: Validity,
        metrics: &Registry,
    ) -> Self {
        let shared = metrics.shared();
        let (requests, authentication_failures) =
            (shared.counter(&REQUESTS, &[]), shared.counter(&AUTHENTICATION_FAILURES, &[]));
        CertificateService {
            clusters,
            authorities,
            state,
            lookups: Shares::new(LOOKUPS.0, LOOKUPS.1),
            validity,
            metrics: metrics.clone(),
            requests,
            authentication_failures,
        }
    }

    /// Returns the gRPC service.
    pub fn service(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn issue(&self, request: Request<IstioCertificateRequest>) -> Result<Vec<String>, Refusal> {
        let caller = self.caller(&request).await?;
        let message = request.get_ref();
        let key = PublicKey::from_request_pem(&message.csr)?;
        let snapshot = self.authorities.now();
        let authority = snapshot.of(&caller.cluster).ok_or_else(|| Refusal::NoAuthority(caller.cluster.to_string()))?;
        let validity = self.validity.of(message.validity_duration);
        let chain = authority.issue_at(&key, &caller.id, &[], validity, SystemTime::now())?;
        self.metrics.shared().counter(&ISSUED, &[&caller.cluster]).increment();
        tracing::debug!(id = %caller.id, cluster = %caller.cluster, "issued a certificate");
        Ok(chain
            .iter()
            .chain(authority.roots())
            .map(|certificate| identity::certificates_to_pem([certificate]))
            .collect())
    }

    async fn caller(&self, request: &Request<IstioCertificateRequest>) -> Result<Caller, Refusal> {
        let named = request.metadata().get("clusterid").and_then(|value| value.to_str().ok());
        let source = request.remote_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
        let turn = tokio::time::timeout(TURN, self.lookups.take(source)).await.ok().flatten();
        let _turn = turn.ok_or(Refusal::Busy)?;
        if let Some(header) = request.metadata().get("authorization") {
            let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or(Refusal::NotBearer)?;
            // As in Istio, a request without the metadata comes from the control plane's own cluster.
            let cluster = named.unwrap_or(self.clusters.own());
            let account = review(&self.clusters, cluster, token.trim()).await?;
            let snapshot = self.authorities.now();
            let id = SpiffeId::new(snapshot.trust.trust_domain(), &account.namespace, &account.name)
                .map_err(|e| Refusal::Certificate(e.to_string()))?;
            return Ok(Caller { id, cluster: cluster.into() });
        }
        let chain = request.peer_certs().ok_or(Refusal::NoCredentials)?;
        let trust = self.authorities.now().trust.clone();
        let peer = verify_client(&chain, &trust, SystemTime::now())?;
        let caller = renewing(peer, named, trust.trust_domain())?;
        let account =
            Account { namespace: caller.id.namespace().to_owned(), name: caller.id.service_account().to_owned() };
        account::check(&self.clusters, &self.state, &caller.cluster, &account).await?;
        Ok(caller)
    }
}

/// Returns the caller of a renewal: the same identity in the same cluster, proved by the intermediate that signed the
/// old certificate.
fn renewing(peer: Peer, named: Option<&str>, trust_domain: &str) -> Result<Caller, Refusal> {
    if peer.id.trust_domain() != trust_domain {
        return Err(Refusal::Certificate(format!(
            "the client certificate has the trust domain {:?}; the mesh has {trust_domain:?}",
            peer.id.trust_domain()
        )));
    }
    let Some(cluster) = peer.cluster else {
        return Err(Refusal::Certificate(
            "the client certificate is not signed by the known intermediate of a cluster: enrol with a token".into(),
        ));
    };
    if named.is_some_and(|named| *named != *cluster) {
        let named = named.unwrap_or_default();
        return Err(Refusal::Certificate(format!(
            "the client certificate is signed for cluster {cluster}, the request is for {named:?}"
        )));
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
                tracing::warn!(reason = refusal.reason(), "certificate request refused: {refusal}");
                Err(refusal.status())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_bounded() {
        let validity = Validity { default: Duration::from_secs(100), max: Duration::from_secs(1000) };
        for (requested, expected) in
            [(0, 100), (-5, 100), (i64::MIN, 100), (1, 1), (999, 999), (1001, 1000), (i64::MAX, 1000)]
        {
            assert_eq!(validity.of(requested).as_secs(), expected, "{requested}");
        }
    }

    #[test]
    fn a_certificate_is_renewed_only_for_its_own_cluster() {
        let id = SpiffeId::new("cluster.local", "default", "reviews").unwrap();
        let peer = |cluster: Option<&str>| Peer { id: id.clone(), cluster: cluster.map(Into::into) };
        assert_eq!(&*renewing(peer(Some("east")), Some("east"), "cluster.local").unwrap().cluster, "east");
        assert!(renewing(peer(Some("east")), None, "cluster.local").is_ok());
        assert!(renewing(peer(Some("east")), Some("west"), "cluster.local").is_err());
        assert!(renewing(peer(None), Some("west"), "cluster.local").is_err());
        assert!(renewing(peer(Some("east")), Some("east"), "other.example").is_err());
    }
}
