//! TLS listeners of the controller. Each handshake runs in its own task, with a deadline and with the certificate that
//! is current when the connection is accepted.
//!
//! A connection takes a place in the port's [`Gate`] when it is accepted. A client that presents a certificate of the mesh
//! leaves the gate after the handshake. Any other connection keeps its place until it ends, and can lose it to one of
//! another source: half-open handshakes and silent clients keep nobody out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use identity::{Accept, Identity, refusal_of};
use telemetry::metrics::{Family, Registry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::ports::gate::{Gate, Place};
use crate::ports::guarded::{Guarded, Lifetime};

/// Counts failed handshakes by reason.
pub const FAILED_HANDSHAKES: Family = Family {
    name: "isthmus_controller_handshake_failures_total",
    help: "Failed TLS handshakes with the controller, by reason.",
    labels: &["reason"],
};

/// The time for a handshake. A handshake around the world takes well under a second; a client that takes longer only
/// holds a socket.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// The number of connections without a client certificate, of which each holds about 40 KiB. A proxy that enrols needs its
/// place for milliseconds.
const MAX_UNPROVED: usize = 512;
/// The time for all that a client without a certificate does: one request for a certificate, which its client gives up
/// after 10 s.
const ENROLMENT_DEADLINE: Duration = Duration::from_secs(20);
/// The time from a handshake with a client certificate to the first bytes of HTTP.
const FIRST_BYTES_DEADLINE: Duration = Duration::from_secs(10);
/// The number of connections to a webhook. An API server multiplexes its calls over a few.
const MAX_CALLERS: usize = 128;
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

/// A connection after its handshake.
pub type Connection = Guarded<TlsStream<TcpStream>>;

impl Clients {
    fn gate(self, metrics: &Registry) -> Gate {
        match self {
            Clients::OfTheMesh(_) => Gate::new("discovery", MAX_UNPROVED, metrics),
            Clients::Anyone(_) => Gate::new("webhook", MAX_CALLERS, metrics),
        }
    }

    fn guard(self, stream: TlsStream<TcpStream>, place: Place) -> Connection {
        match self {
            Clients::OfTheMesh(_) if stream.get_ref().1.peer_certificates().is_some() => {
                Guarded::new(stream, Lifetime::UntilFirstBytes(FIRST_BYTES_DEADLINE), None)
            }
            Clients::OfTheMesh(_) => Guarded::new(stream, Lifetime::Whole(ENROLMENT_DEADLINE), Some(place)),
            Clients::Anyone(_) => Guarded::new(stream, Lifetime::Unlimited, Some(place)),
        }
    }
}

/// Returns the connections of a listener after their handshakes. Failed handshakes are counted and left out.
pub fn connections(
    listener: TcpListener,
    identity: Identity,
    clients: Clients,
    metrics: &Registry,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(accept(listener, identity, clients, metrics.clone(), sender));
    ReceiverStream::new(receiver)
}

async fn accept(
    listener: TcpListener,
    identity: Identity,
    clients: Clients,
    metrics: Registry,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    let gate = clients.gate(&metrics);
    let mut plain = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
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
        let place = gate.admit(address.ip());
        let (sender, metrics) = (sender.clone(), metrics.clone());
        tokio::spawn(async move {
            // Messages are small; waiting to fill segments would only add latency.
            let _ = socket.set_nodelay(true);
            let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, TlsAcceptor::from(config).accept(socket));
            let done = tokio::select! {
                done = handshake => done,
                () = place.lost() => return failed(&metrics, "evicted", &io::ErrorKind::ConnectionAborted.into()),
            };
            match done {
                Ok(Ok(stream)) => {
                    let _ = sender.send(Ok(clients.guard(stream, place))).await;
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
