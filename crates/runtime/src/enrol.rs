//! A proxy's enrolment: it makes a key, has the mesh's authority sign it, and keeps the certificate fresh.
//!
//! The first certificate is asked for with the pod's service account token; later ones with the certificate in hand, and
//! with the token again should that be refused. A renewal begins at half of the certificate's life, so there is another
//! half in which to retry. The private key never leaves this process. The API is Istio's
//! `istio.v1.auth.IstioCertificateService`, with the caller's cluster in the metadata `clusterid`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use identity::{Credential, Identity, KeyAndRequest, Trust, alpn};
use rustls_pki_types::CertificateDer;
use telemetry::metrics::{Counter, Family, Registry, Shared};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use wire::ca::IstioCertificateRequest;
use wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;

mod connect;
#[cfg(test)]
mod tests;

pub use connect::{AddressError, Connector, Controller};

/// Where to enrol and what with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The controller.
    pub controller: Controller,
    /// The projected service account token; read anew for each request, since it is rotated.
    pub token_path: PathBuf,
    /// The mesh's roots in PEM; read anew likewise.
    pub root_path: PathBuf,
    /// The cluster that this proxy runs in.
    pub cluster: String,
    /// How long the certificate should be valid; the authority may choose less.
    pub validity: Duration,
    /// The first wait after a failure; doubled up to [`Options::longest_wait`].
    pub first_wait: Duration,
    /// The longest wait after a failure.
    pub longest_wait: Duration,
}

impl Options {
    /// The usual places and times.
    pub fn new(controller: Controller, cluster: &str) -> Self {
        Self {
            controller,
            token_path: "/var/run/secrets/tokens/istio-token".into(),
            root_path: "/var/run/secrets/istio/root-cert.pem".into(),
            cluster: cluster.to_owned(),
            validity: Duration::from_secs(24 * 3600),
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(10),
        }
    }
}

/// Why there is no certificate this time.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// A file of the pod cannot be read.
    #[error("reading {path}: {source} (it is mounted into the pod by the injector)")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The token cannot be sent.
    #[error("the token in {0} is not text")]
    Token(PathBuf),
    /// The roots cannot be used.
    #[error("the mesh's roots: {0}")]
    Roots(String),
    /// A key cannot be made.
    #[error("making a key: {0}")]
    Key(String),
    /// The authority could not be reached, or refused.
    #[error("the certificate service answered {}: {}", .0.code(), said(.0))]
    Refused(Box<tonic::Status>),
    /// What it returned cannot be used.
    #[error("the certificate that was issued cannot be used: {0}")]
    Issued(String),
}

impl EnrolError {
    fn outcome(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Token(_) => "no_token",
            Self::Roots(_) => "no_roots",
            Self::Key(_) => "no_key",
            Self::Refused(status) => match status.code() {
                tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Unknown => "unreachable",
                _ => "refused",
            },
            Self::Issued(_) => "unusable",
        }
    }
}

/// A status' message, and what is behind it where that is a connection that failed.
fn said(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// An enrolled proxy.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// Who this proxy is; renewed in the background.
    pub identity: Identity,
    connector: Connector,
}

impl Enrolled {
    /// A channel to the controller. It connects when used, with the certificate of that time, and again when lost.
    pub fn channel(&self) -> Channel {
        self.connector.channel()
    }

    /// The connector behind [`Enrolled::channel`].
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }
}

const REQUESTS: Family = Family {
    name: "isthmus_certificate_requests_total",
    help: "Certificates asked for, by how (token or certificate) and what came of it.",
    labels: &["by", "outcome"],
};
const EXPIRY: Family = Family {
    name: "isthmus_certificate_expiry_timestamp_seconds",
    help: "When this proxy's certificate expires, in seconds since 1970.",
    labels: &[],
};

/// Enrols, however long it takes, and keeps the certificate fresh for as long as the runtime lives. Must be called on
/// the control thread's runtime.
pub async fn start(options: Options, registry: &Registry) -> Enrolled {
    let expiry = Arc::new(AtomicI64::new(0));
    let shown = Arc::clone(&expiry);
    registry.observe_gauge(EXPIRY, move |put| put(&[], shown.load(Relaxed) as f64));
    let mut enrolment = Enrolment { options, registry: registry.clone(), expiry };
    let (credential, trust) = enrolment.first().await;
    tracing::info!(id = %credential.id(), serial = credential.serial(), "enrolled");
    let identity = Identity::new(credential, trust);
    let connector = Connector::with_identity(enrolment.options.controller.clone(), identity.clone());
    let enrolled = Enrolled { identity: identity.clone(), connector };
    tokio::spawn(async move { enrolment.keep_fresh(identity).await });
    enrolled
}

struct Enrolment {
    options: Options,
    registry: Registry,
    expiry: Arc<AtomicI64>,
}

impl Enrolment {
    async fn first(&mut self) -> (Credential, Trust) {
        let mut wait = self.options.first_wait;
        loop {
            match self.by_token().await {
                Ok(issued) => return issued,
                Err(error) => {
                    let wait_ms = wait.as_millis() as u64;
                    tracing::warn!(%error, wait_ms, controller = %self.options.controller, "not enrolled yet");
                }
            }
            self.pause(&mut wait).await;
        }
    }

    async fn keep_fresh(&mut self, identity: Identity) {
        loop {
            let (credential, now) = (identity.credential(), SystemTime::now());
            // An authority that issues for less than the allowance for skewed clocks must not be asked without pause.
            let at_least = (credential.remaining(now) / 2).min(self.options.longest_wait);
            tokio::time::sleep(credential.renew_in(now, rand::random()).max(at_least)).await;
            let mut wait = self.options.first_wait;
            let renewed = loop {
                match self.renew(&identity).await {
                    Ok(renewed) => break renewed,
                    Err(error) => {
                        let left_s = identity.credential().remaining(SystemTime::now()).as_secs();
                        tracing::warn!(%error, left_s, controller = %self.options.controller, "certificate not renewed");
                    }
                }
                self.pause(&mut wait).await;
            };
            tracing::info!(id = %renewed.id(), serial = renewed.serial(), "certificate renewed");
            identity.replace_credential(renewed);
        }
    }

    /// With the certificate in hand, else with the token.
    async fn renew(&self, identity: &Identity) -> Result<Credential, EnrolError> {
        let connector = Connector::with_identity(self.options.controller.clone(), identity.clone());
        let by_certificate = self.ask(&connector, None).await;
        self.count("certificate", by_certificate.as_ref());
        match by_certificate {
            Ok(credential) => Ok(credential),
            Err(error) => {
                tracing::info!(%error, "renewing by token instead");
                self.by_token().await.map(|(credential, _)| credential)
            }
        }
    }

    async fn by_token(&self) -> Result<(Credential, Trust), EnrolError> {
        let asked = async {
            let token = read(&self.options.token_path)?;
            let bearer = format!("Bearer {}", String::from_utf8_lossy(&token).trim());
            let bearer = bearer.parse().map_err(|_| EnrolError::Token(self.options.token_path.clone()))?;
            let roots = self.roots()?;
            let connector = Connector::with_roots(self.options.controller.clone(), &roots)
                .map_err(|error| EnrolError::Roots(error.to_string()))?;
            let credential = self.ask(&connector, Some(bearer)).await?;
            // A root that the answer may end with is not trusted for that: only those mounted are.
            let trust = Trust::new(credential.id().trust_domain(), roots, [])
                .map_err(|error| EnrolError::Roots(error.to_string()))?;
            Ok((credential, trust))
        }
        .await;
        self.count("token", asked.as_ref().map(|(credential, _)| credential));
        asked
    }

    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, EnrolError> {
        identity::certificates_from_pem(&read(&self.options.root_path)?).map_err(EnrolError::Roots)
    }

    /// One request on a connection of its own.
    async fn ask(&self, connector: &Connector, bearer: Option<MetadataValue<Ascii>>) -> Result<Credential, EnrolError> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        let made = KeyAndRequest::generate().map_err(|error| EnrolError::Key(error.to_string()))?;
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: made.request_pem,
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
        let answer = match tokio::time::timeout(TIMEOUT, service.create_certificate(request)).await {
            Ok(answer) => answer.map_err(|status| EnrolError::Refused(Box::new(status)))?.into_inner(),
            Err(_) => return Err(EnrolError::Refused(Box::new(tonic::Status::deadline_exceeded("no answer")))),
        };
        let credential = Credential::from_pem(&answer.cert_chain, &made.key)
            .map_err(|error| EnrolError::Issued(error.to_string()))?;
        if credential.remaining(SystemTime::now()).is_zero() {
            return Err(EnrolError::Issued("it has expired already; are the clocks right?".to_owned()));
        }
        Ok(credential)
    }

    fn count(&self, by: &str, result: Result<&Credential, &EnrolError>) {
        let outcome = match result {
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

    /// Waits, spread by ±25 % so that proxies that failed together do not return together.
    async fn pause(&self, wait: &mut Duration) {
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.75..1.25))).await;
        *wait = (*wait * 2).min(self.options.longest_wait);
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, EnrolError> {
    std::fs::read(path).map_err(|source| EnrolError::File { path: path.clone(), source })
}

/// Trust as the controller tells it, in the form that identities are verified with.
///
/// # Errors
/// What is wrong with it, in words.
pub fn trust_of(told: &wire::discovery::Trust) -> Result<Trust, String> {
    let roots = told.roots.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let issuers = told
        .issuers
        .iter()
        .map(|issuer| {
            let public_key_sha256 = <[u8; 32]>::try_from(&issuer.public_key_sha256[..])
                .map_err(|_| format!("the key hash of cluster {} has not 32 bytes", issuer.cluster))?;
            Ok(identity::Issuer { cluster: issuer.cluster.as_str().into(), public_key_sha256 })
        })
        .collect::<Result<Vec<_>, String>>()?;
    Trust::new(&told.trust_domain, roots, issuers).map_err(|error| error.to_string())
}

/// The protocol names by which the controller is spoken to.
pub(crate) const ALPN: alpn::Alpn = alpn::DISCOVERY;
