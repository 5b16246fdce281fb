//! The gRPC server on port 15012: discovery and certificates on one listener, and who calls.
//!
//! Handshakes are the business of [`crate::ca::serve`]; what arrives here are finished connections. A client certificate
//! is not required by the listener, because the first certificate is got by a token.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::{Identity, Peer};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::Request;
use tonic::service::Routes;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who called.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What it proved in the handshake.
    pub peer: Peer,
    /// Clusters with an intermediate of their own.
    pub issuers: Vec<Arc<str>>,
    /// When its certificate expires.
    pub expires: Option<SystemTime>,
    /// Where it calls from.
    pub address: SocketAddr,
}

impl Caller {
    /// Of a request; `None` without a certificate that names a workload.
    pub fn of<T>(request: &Request<T>, identity: &Identity) -> Option<Caller> {
        let certificates = request.peer_certs()?;
        let trust = identity.trust();
        Some(Caller {
            peer: identity::peer_of(&certificates, &trust)?,
            issuers: trust.issuers().into_iter().map(|issuer| issuer.cluster).collect(),
            expires: certificates.first().and_then(expiry),
            address: request.remote_addr().unwrap_or_else(|| ([0, 0, 0, 0], 0).into()),
        })
    }
}

fn expiry(leaf: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let seconds = u64::try_from(leaf.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Serves these services on finished connections until `stop` is done, then lets calls in progress end for at most
/// `grace`.
pub async fn serve(
    connections: impl Stream<Item = io::Result<TlsStream<TcpStream>>>,
    routes: Routes,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> Result<(), tonic::transport::Error> {
    let server = tonic::transport::Server::builder()
        // Proxies that vanish without a word are noticed within half a minute.
        .http2_keepalive_interval(Some(Duration::from_secs(15)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(64))
        .add_routes(routes);
    let (stopped, stopping) = tokio::sync::oneshot::channel::<()>();
    let serving = server.serve_with_incoming_shutdown(connections, async {
        // Sent or dropped: both mean stop.
        let _ = stopping.await;
    });
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => result,
        () = stop => {
            drop(stopped);
            // Whoever is not done by then is cut off.
            tokio::time::timeout(grace, serving).await.unwrap_or(Ok(()))
        }
    }
}
