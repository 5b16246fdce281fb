//! The gRPC server on port 15012, which serves discovery and certificates on one listener, and the identity of its
//! callers.
//!
//! [`crate::ca::serve`] performs the handshakes. The listener does not require a client certificate, because a workload
//! obtains its first certificate with a token.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::{Identity, Peer};
use rustls_pki_types::CertificateDer;
use tokio_stream::Stream;
use tonic::Request;
use tonic::service::Routes;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ca::serve::Connection;

/// The number of concurrent calls on a connection.
const MAX_CALLS: u32 = 4;
/// The size of a call's headers, in bytes. The largest is a service account token, of which reviews accept 16 KiB.
const MAX_HEADERS: u32 = 24 << 10;

/// The flow-control windows of a call and of a connection, in bytes: what a client can have the controller hold unread. The
/// first request of the largest gateways, some megabytes, still arrives within seconds around the world.
const WINDOWS: (u32, u32) = (256 << 10, 512 << 10);

/// The authenticated caller of a discovery stream.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The identity in the client certificate.
    pub peer: Peer,
    /// The clusters with an intermediate of their own.
    pub issuers: Vec<Arc<str>>,
    /// When the client certificate expires.
    pub expires: Option<SystemTime>,
    /// The source address of the connection.
    pub address: SocketAddr,
}

impl Caller {
    /// Returns the caller of a request; `None` without the client certificate of a workload that is valid now.
    pub fn of<T>(request: &Request<T>, identity: &Identity) -> Option<Caller> {
        let certificates = request.peer_certs()?;
        let trust = identity.trust();
        Some(Caller {
            peer: identity::verify_client(&certificates, &trust, SystemTime::now()).ok()?,
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

/// Serves `routes` on connections until `stop` completes, then drains for at most `grace`.
///
/// # Errors
/// Returns an error if the server fails.
pub async fn serve(
    connections: impl Stream<Item = io::Result<Connection>>,
    routes: Routes,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> Result<(), tonic::transport::Error> {
    let server = tonic::transport::Server::builder()
        // Keepalives detect a proxy that vanishes within half a minute.
        .http2_keepalive_interval(Some(Duration::from_secs(15)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        // A proxy has one discovery stream, and one call for a certificate at a time.
        .max_concurrent_streams(Some(MAX_CALLS))
        .http2_max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .add_routes(routes);
    let (stopped, stopping) = tokio::sync::oneshot::channel::<()>();
    let serving = server.serve_with_incoming_shutdown(connections, async {
        // A message and a dropped sender both mean stop.
        let _ = stopping.await;
    });
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => result,
        () = stop => {
            drop(stopped);
            // Calls that are still open after the grace time are aborted.
            tokio::time::timeout(grace, serving).await.unwrap_or(Ok(()))
        }
    }
}
