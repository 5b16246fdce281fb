//! TLS listeners of the controller. Each handshake runs in its own task, with a deadline and with the certificate that
//! is current when the connection is accepted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use identity::{Accept, Identity, refusal_of};
use telemetry::metrics::{Family, Registry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

/// Counts failed handshakes by reason.
pub const FAILED_HANDSHAKES: Family = Family {
    name: "isthmus_controller_handshake_failures_total",
    help: "Failed TLS handshakes with the controller, by reason.",
    labels: &["reason"],
};

/// The time for a handshake. A handshake around the world takes well under a second; a client that takes longer only
/// holds a socket.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// The maximum number of concurrent handshakes; each holds about 40 KiB.
const MAX_HANDSHAKES: usize = 512;
/// The time between attempts after a connection cannot be accepted, such as without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The clients of a listener, and how it authenticates them.
#[derive(Debug, Clone, Copy)]
pub enum Clients {
    /// Proxies. [`Accept`] sets whether they must present a certificate.
    OfTheMesh(Accept),
    /// API servers that call a webhook. The listener requests no certificate.
    Anyone(identity::alpn::Alpn),
}

/// Returns the connections of a listener after their handshakes. Failed handshakes are counted and left out.
pub fn connections(
    listener: TcpListener,
    identity: Identity,
    clients: Clients,
    metrics: &Registry,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(accept(listener, identity, clients, metrics.clone(), sender));
    ReceiverStream::new(receiver)
}

async fn accept(
    listener: TcpListener,
    identity: Identity,
    clients: Clients,
    metrics: Registry,
    sender: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut plain = None;
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let config = match clients {
            Clients::OfTheMesh(accept) => identity.server_config(accept),
            Clients::Anyone(alpn) => {
                let generation = identity.generation();
                match &plain {
                    Some((of, config)) if *of == generation => Arc::clone(config),
                    _ => {
                        let config = identity.plain_server_config(alpn);
                        plain = Some((generation, Arc::clone(&config)));
                        config
                    }
                }
            }
        };
        let (sender, metrics) = (sender.clone(), metrics.clone());
        tokio::spawn(async move {
            let _permit = permit;
            // Messages are small; waiting to fill segments would only add latency.
            let _ = socket.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE_DEADLINE, TlsAcceptor::from(config).accept(socket)).await {
                Ok(Ok(stream)) => {
                    let _ = sender.send(Ok(stream)).await;
                }
                Ok(Err(error)) => failed(&metrics, refusal_of(&error).map_or("handshake", |r| r.reason()), &error),
                Err(_) => failed(&metrics, "deadline", &io::Error::from(io::ErrorKind::TimedOut)),
            }
        });
    }
}

fn failed(metrics: &Registry, reason: &'static str, error: &io::Error) {
    metrics.shared().counter(&FAILED_HANDSHAKES, &[reason]).increment();
    tracing::debug!(reason, %error, "TLS handshake failed");
}
