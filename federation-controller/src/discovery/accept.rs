//! The listener on port 15012: discovery and certificates, both gRPC over TLS.
//!
//! Each handshake runs in a task of its own with a deadline, so that one that stalls holds up no other, and only finished
//! connections are handed to the server: a failed one would end its accept loop. A client certificate is asked for and not
//! required, because the first certificate is got by a token.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::{Accept, ClientAuth, Identity, Peer};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tracing::{debug, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::metrics::Metrics;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes at once. A post-quantum handshake costs about a millisecond of CPU and some tens of KiB; more of them at
/// once would only make all of them late.
const HANDSHAKES: usize = 256;

/// Who called; in the extensions of every request. The [`Peer`] is there by itself as well, where there is one.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What it proved; `None` without a client certificate.
    pub peer: Option<Peer>,
    /// When its certificate expires.
    pub expires: Option<SystemTime>,
    /// Where it calls from.
    pub address: SocketAddr,
}

/// A connection whose handshake is done.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
}

/// Serves these services until `stop` is done, then lets calls in progress end for at most `grace`.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    routes: Routes,
    metrics: Metrics,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> Result<(), tonic::transport::Error> {
    let (finished, connections) = mpsc::channel::<io::Result<Connection>>(16);
    let accepting = tokio::spawn(accept(listener, identity, finished, metrics));
    let with_peer = tower::ServiceBuilder::new().map_request(|mut request: http::Request<tonic::body::Body>| {
        // The connection's information is put into each request by the server; what is found there is passed on plainly.
        let peer = request.extensions().get::<Caller>().and_then(|caller| caller.peer.clone());
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        request
    });
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(15)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(64))
        .tcp_nodelay(true)
        .layer(with_peer)
        .add_routes(routes);
    let (ended, stopping) = tokio::sync::oneshot::channel::<()>();
    let serving = server.serve_with_incoming_shutdown(ReceiverStream::new(connections), async {
        // Dropped or sent: both mean stop.
        let _ = stopping.await;
    });
    tokio::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = stop => {
            accepting.abort();
            drop(ended);
            tokio::time::timeout(grace, serving).await.unwrap_or(Ok(()))
        }
    };
    accepting.abort();
    result
}

async fn accept(
    listener: TcpListener,
    identity: Identity,
    finished: mpsc::Sender<io::Result<Connection>>,
    metrics: Metrics,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a connection that was gone before it was taken: wait and go on.
                warn!(%error, "cannot accept connections on the discovery port");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Latency counts more than packets here; a socket that refuses the option works all the same.
        let _ = stream.set_nodelay(true);
        let (identity, finished, metrics) = (identity.clone(), finished.clone(), metrics.clone());
        tokio::spawn(async move {
            let handshake = handshake(stream, address, &identity);
            match tokio::time::timeout(HANDSHAKE, handshake).await {
                // The server may be stopping.
                Ok(Ok(connection)) => drop(finished.send(Ok(connection)).await),
                Ok(Err(error)) => {
                    debug!(%address, %error, "handshake on the discovery port failed");
                    metrics.handshake_failed("failed");
                }
                Err(_) => metrics.handshake_failed("timeout"),
            }
            drop(permit);
        });
    }
}

async fn handshake(stream: TcpStream, address: SocketAddr, identity: &Identity) -> io::Result<Connection> {
    let config = identity.server_config(Accept { client: ClientAuth::Optional, alpn: identity::alpn::DISCOVERY });
    let stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let caller = Caller {
        peer: identity::peer_of(certificates, &identity.trust()),
        expires: certificates.first().and_then(expiry),
        address,
    };
    Ok(Connection { stream, caller })
}

fn expiry(leaf: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let seconds = u64::try_from(leaf.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
