//! Single requests to the certificate service.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use identity::{Credential, Identity, KeyAndRequest, Trust};
use telemetry::metrics::{Counter, Family, Registry, Shared};
use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};
use wire::ca::IstioCertificateRequest;
use wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;

use super::controller::Connector;
use super::{EnrolError, Options};

/// The timeout of a request, including its connection.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) const REQUESTS: Family = Family {
    name: "isthmus_certificate_requests_total",
    help: "Certificate requests by authentication (token or certificate) and outcome.",
    labels: &["by", "outcome"],
};
const EXPIRY: Family = Family {
    name: "isthmus_certificate_expiry_timestamp_seconds",
    help: "Expiry of this proxy's certificate as a Unix timestamp in seconds.",
    labels: &[],
};

/// Requests certificates and reports them as metrics.
pub(super) struct CertificateClient {
    pub(super) options: Options,
    registry: Registry,
    /// The expiry of the last certificate as a Unix timestamp.
    expiry: Arc<AtomicI64>,
}

impl CertificateClient {
    pub(super) fn new(options: Options, registry: &Registry) -> Self {
        let expiry = Arc::new(AtomicI64::new(0));
        let observed = Arc::clone(&expiry);
        registry.observe_gauge(EXPIRY, move |put| put(&[], observed.load(Relaxed) as f64));
        Self { options, registry: registry.clone(), expiry }
    }

    /// Requests a certificate with the service account token. Also returns the trust that the mounted roots define.
    pub(super) async fn request_with_token(&self) -> Result<(Credential, Trust), EnrolError> {
        let issued = self.issue_with_token().await;
        self.report("token", issued.as_ref().map(|(credential, _)| credential));
        issued
    }

    /// Requests a certificate with the current certificate of `identity`.
    pub(super) async fn request_with_certificate(&self, identity: &Identity) -> Result<Credential, EnrolError> {
        let connector = Connector::with_identity(self.options.controller.clone(), identity.clone());
        let issued = self.issue(&connector, None).await;
        self.report("certificate", issued.as_ref());
        issued
    }

    async fn issue_with_token(&self) -> Result<(Credential, Trust), EnrolError> {
        let token = read(&self.options.token_path)?;
        let bearer = format!("Bearer {}", String::from_utf8_lossy(&token).trim());
        let bearer = bearer.parse().map_err(|_| EnrolError::Token(self.options.token_path.clone()))?;
        let invalid_roots = |reason: String| EnrolError::Roots { path: self.options.root_path.clone(), reason };
        let roots = identity::certificates_from_pem(&read(&self.options.root_path)?).map_err(invalid_roots)?;
        let connector = Connector::with_roots(self.options.controller.clone(), &roots)
            .map_err(|error| invalid_roots(error.to_string()))?;
        let credential = self.issue(&connector, Some(bearer)).await?;
        // Only the mounted roots are trusted, not a root at the end of the issued chain.
        let trust =
            Trust::new(credential.id().trust_domain(), roots, []).map_err(|error| invalid_roots(error.to_string()))?;
        Ok((credential, trust))
    }

    /// Sends one request, on a connection of its own.
    async fn issue(
        &self,
        connector: &Connector,
        bearer: Option<MetadataValue<Ascii>>,
    ) -> Result<Credential, EnrolError> {
        let generated = KeyAndRequest::generate().map_err(|error| EnrolError::Key(error.to_string()))?;
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: generated.request_pem,
            validity_duration: self.options.validity.as_secs().try_into().unwrap_or(i64::MAX),
            metadata: None,
        });
        if let Some(bearer) = bearer {
            request.metadata_mut().insert("authorization", bearer);
        }
        if let Ok(cluster) = self.options.cluster.parse() {
            request.metadata_mut().insert("clusterid", cluster);
        }
        request.set_timeout(TIMEOUT);
        let mut service = IstioCertificateServiceClient::new(connector.channel());
        let response = match tokio::time::timeout(TIMEOUT, service.create_certificate(request)).await {
            Ok(response) => response.map_err(|status| EnrolError::Refused(Box::new(status)))?.into_inner(),
            Err(_) => return Err(EnrolError::Refused(Box::new(Status::deadline_exceeded("no response")))),
        };
        let credential = Credential::from_pem(&response.cert_chain, &generated.key)
            .map_err(|error| EnrolError::Issued(error.to_string()))?;
        if credential.remaining(SystemTime::now()).is_zero() {
            return Err(EnrolError::Issued("it has expired already; check the clocks".to_owned()));
        }
        Ok(credential)
    }

    fn report(&self, by: &str, issued: Result<&Credential, &EnrolError>) {
        let outcome = match issued {
            Ok(credential) => {
                let expiry = credential.not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                self.expiry.store(expiry.as_secs().cast_signed(), Relaxed);
                "success"
            }
            Err(error) => error.outcome(),
        };
        let counter: Counter<Shared> = self.registry.shared().counter(&REQUESTS, &[by, outcome]);
        counter.increment();
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, EnrolError> {
    std::fs::read(path).map_err(|source| EnrolError::File { path: path.clone(), source })
}
