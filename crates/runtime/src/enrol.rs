//! Enrolment: a proxy obtains a certificate from the mesh's certificate authority and renews it.
//!
//! [`start`] requests the first certificate with the pod's service account token and retries until it succeeds. A
//! background task then renews the certificate at half of its lifetime, so that the other half remains for retries.
//! Renewals present the current certificate; if the authority refuses it, they use the token again. The private key
//! never leaves the process.
//!
//! The API is Istio's `istio.v1.auth.IstioCertificateService`, with the proxy's cluster in the metadata `clusterid`.
//! `client.rs` sends single requests, `controller.rs` connects to the controller, `backoff.rs` spaces retries.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use identity::{Credential, Identity, Trust};
use telemetry::metrics::Registry;
use tonic::transport::Channel;

mod backoff;
mod client;
mod controller;
mod error;
#[cfg(test)]
mod tests;
mod trust;

use backoff::Backoff;
use client::CertificateClient;

pub use controller::{AddressError, Connector, Controller};
pub use error::EnrolError;
pub use trust::trust_of;

/// The settings of enrolment.
#[derive(Clone, Debug)]
pub struct Options {
    /// The controller.
    pub controller: Controller,
    /// The projected service account token. It is read for each request, since the kubelet rotates it.
    pub token_path: PathBuf,
    /// The roots of the mesh in PEM. They are read for each request.
    pub root_path: PathBuf,
    /// The cluster that the proxy runs in.
    pub cluster: String,
    /// The requested validity of certificates; the authority may shorten it.
    pub validity: Duration,
    /// The wait after the first failure. It doubles with each failure, up to [`Options::longest_wait`].
    pub first_wait: Duration,
    /// The longest wait after a failure.
    pub longest_wait: Duration,
}

impl Options {
    /// Creates settings with the usual paths and times.
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

    fn backoff(&self) -> Backoff {
        Backoff::new(self.first_wait, self.longest_wait)
    }
}

/// The result of enrolment: the identity of the proxy, and connections to the controller.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The identity of the proxy; a background task renews its certificate.
    pub identity: Identity,
    connector: Connector,
}

impl Enrolled {
    /// Returns a channel to the controller. It connects on first use and reconnects if the connection is lost. Each
    /// connection presents the certificate that is current at that time.
    pub fn channel(&self) -> Channel {
        self.connector.channel()
    }

    /// Returns the connector of [`Enrolled::channel`].
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }
}

/// Enrols the proxy, retrying until it succeeds, and renews the certificate while the runtime lives. To be called on the
/// runtime of the control thread.
pub async fn start(options: Options, registry: &Registry) -> Enrolled {
    let client = CertificateClient::new(options, registry);
    let (credential, trust) = first_certificate(&client).await;
    tracing::info!(id = %credential.id(), serial = credential.serial(), "enrolled");
    let identity = Identity::new(credential, trust);
    let connector = Connector::with_identity(client.options.controller.clone(), identity.clone());
    tokio::spawn(keep_renewed(client, identity.clone()));
    Enrolled { identity, connector }
}

async fn first_certificate(client: &CertificateClient) -> (Credential, Trust) {
    let mut backoff = client.options.backoff();
    loop {
        match client.request_with_token().await {
            Ok(issued) => return issued,
            Err(error) => {
                let controller = &client.options.controller;
                tracing::warn!(%error, %controller, wait_ms = backoff.next_ms(), "enrolment failed; retrying");
            }
        }
        backoff.wait().await;
    }
}

/// Renews the certificate whenever it is due.
async fn keep_renewed(client: CertificateClient, identity: Identity) {
    loop {
        tokio::time::sleep(until_renewal(&identity.credential(), client.options.longest_wait)).await;
        let credential = renewed_certificate(&client, &identity).await;
        tracing::info!(id = %credential.id(), serial = credential.serial(), "certificate renewed");
        identity.replace_credential(credential);
    }
}

/// Returns the time until a renewal. A certificate that is due at once, because its lifetime is shorter than the
/// allowance for clock skew, is renewed after a pause.
fn until_renewal(credential: &Credential, longest_pause: Duration) -> Duration {
    let now = SystemTime::now();
    let pause = (credential.remaining(now) / 2).min(longest_pause);
    credential.renew_in(now, rand::random()).max(pause)
}

async fn renewed_certificate(client: &CertificateClient, identity: &Identity) -> Credential {
    let mut backoff = client.options.backoff();
    loop {
        match renew(client, identity).await {
            Ok(credential) => return credential,
            Err(error) => {
                let remaining_s = identity.credential().remaining(SystemTime::now()).as_secs();
                let controller = &client.options.controller;
                tracing::warn!(%error, %controller, remaining_s, "certificate renewal failed; retrying");
            }
        }
        backoff.wait().await;
    }
}

/// Requests a certificate with the current one; if that fails, with the token.
async fn renew(client: &CertificateClient, identity: &Identity) -> Result<Credential, EnrolError> {
    match client.request_with_certificate(identity).await {
        Ok(credential) => Ok(credential),
        Err(error) => {
            tracing::info!(%error, "renewal with the certificate failed; using the token");
            client.request_with_token().await.map(|(credential, _)| credential)
        }
    }
}
