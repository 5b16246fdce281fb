//! TLS listeners of the controller: each handshake in a task of its own, with a deadline, and with the certificate that is
//! in force when the connection comes in.

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

/// Handshakes that failed, by reason.
pub const FAILED_HANDSHAKES: Family = Family {
    name: "isthmus_controller_handshake_failures_total",
    help: "TLS handshakes with the controller that failed, by reason.",
    labels: &["reason"],
};

/// A handshake crosses the world in well under this; whoever takes longer holds a socket for nothing.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes under way at once; each holds about 40 KiB.
const MAX_HANDSHAKES: usize = 512;
/// Between attempts where the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a listener treats its clients.
#[derive(Debug, Clone, Copy)]
pub enum Clients {
    /// As [`Accept`] says: proxies.
    OfTheMesh(Accept),
    /// No certificate is asked for: API servers calling a webhook.
    Anyone(identity::alpn::Alpn),
}

/// Finished connections of a listener. Failed handshakes are counted and never appear.
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
    let under_way = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut plain = None;
    loop {
        let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
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
            // Small messages both ways; waiting to fill segments would only add delay.
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
    tracing::debug!(reason, %error, "a handshake failed");
}
