//! TLS listeners of the controller. Each handshake runs in its own task, with a deadline and with the certificate that
//! is current when the connection is accepted.
//!
//! A connection takes a place in the port's [`Gate`] when it is accepted. A client that presents a certificate of the mesh
//! leaves the gate after the handshake. Any other connection keeps its place until it ends, and can lose it to one of
//! another source: half-open handshakes and silent clients keep nobody out.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use identity::alpn::Alpn;
use identity::{Accept, ClientRoots, Identity, refusal_of};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use telemetry::metrics::{Family, Registry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

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
#[derive(Debug, Clone)]
pub enum Clients {
    /// Proxies. [`Accept`] sets whether they must present a certificate, and [`Admission`] how many connections each may have.
    OfTheMesh(Accept, Admission),
    /// API servers that call a webhook. The listener requests no certificate.
    Anyone(Alpn),
    /// API servers that call a webhook and present a certificate.
    Known(Alpn, KnownClients),
}

/// Decides whether a client with these certificates may have one more connection, and returns what is to be held for as long
/// as the connection lasts.
#[derive(Clone)]
pub struct Admission(pub Arc<Decide>);

/// Decides on a connection by its client's certificates; `None` refuses it.
pub type Decide = dyn Fn(&[CertificateDer<'static>]) -> Option<Held> + Send + Sync;

/// What a connection holds.
pub type Held = Box<dyn Send + Sync>;

impl Admission {
    /// Admits every client, for tests.
    #[cfg(test)]
    pub(crate) fn unlimited() -> Self {
        Admission(Arc::new(|_| Some(Box::new(()))))
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission")
    }
}

/// The clients that are known by a certificate from outside the mesh.
#[derive(Debug, Clone)]
pub struct KnownClients {
    /// The certificate authorities.
    pub roots: ClientRoots,
    /// The names, of which each certificate must have one as its common name or a DNS name.
    pub names: Arc<[String]>,
}

impl KnownClients {
    fn knows(&self, stream: &TlsStream<TcpStream>) -> bool {
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let Some((_, leaf)) = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok()) else { return false };
        let named = |name: &str| self.names.iter().any(|known| known == name);
        let common = leaf.subject().iter_common_name().any(|name| name.as_str().is_ok_and(named));
        let alternative = leaf.subject_alternative_name().ok().flatten();
        let dns = |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(name) if named(name));
        common || alternative.is_some_and(|names| names.value.general_names.iter().any(dns))
    }
}

/// A connection after its handshake.
pub type Connection = Guarded<TlsStream<TcpStream>>;

impl Clients {
    fn gate(&self, metrics: &Registry) -> Gate {
        match self {
            Clients::OfTheMesh(..) => Gate::new("discovery", MAX_UNPROVED, metrics),
            Clients::Anyone(_) | Clients::Known(..) => Gate::new("webhook", MAX_CALLERS, metrics),
        }
    }

    /// Guards a connection after its handshake. Returns the reason if it is refused.
    fn guard(&self, stream: TlsStream<TcpStream>, place: Place) -> Result<Connection, &'static str> {
        match self {
            Clients::OfTheMesh(_, admission) => match stream.get_ref().1.peer_certificates() {
                Some(certificates) => {
                    let held = admission.0(certificates).ok_or("too_many_connections")?;
                    Ok(Guarded::new(stream, Lifetime::UntilFirstBytes(FIRST_BYTES_DEADLINE), None).holding(held))
                }
                None => Ok(Guarded::new(stream, Lifetime::Whole(ENROLMENT_DEADLINE), Some(place))),
            },
            Clients::Known(_, known) if !known.knows(&stream) => Err("unknown_client"),
            Clients::Anyone(_) | Clients::Known(..) => Ok(Guarded::new(stream, Lifetime::Unlimited, Some(place))),
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
        let config = match (&clients, &plain) {
            (Clients::OfTheMesh(accept, _), _) => identity.server_config(*accept),
            (_, Some((generation, config))) if *generation == identity.generation() => Arc::clone(config),
            (Clients::Anyone(alpn), _) => remember(&mut plain, &identity, identity.plain_server_config(alpn)),
            (Clients::Known(alpn, known), _) => {
                remember(&mut plain, &identity, identity.verifying_server_config(&known.roots, alpn))
            }
        };
        let place = gate.admit(address.ip());
        let (sender, metrics, clients) = (sender.clone(), metrics.clone(), clients.clone());
        tokio::spawn(async move {
            // Messages are small; waiting to fill segments would only add latency.
            let _ = socket.set_nodelay(true);
            let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, TlsAcceptor::from(config).accept(socket));
            let done = tokio::select! {
                done = handshake => done,
                () = place.lost() => return failed(&metrics, "evicted", &io::ErrorKind::ConnectionAborted.into()),
            };
            match done {
                Ok(Ok(stream)) => match clients.guard(stream, place) {
                    Ok(connection) => drop(sender.send(Ok(connection)).await),
                    Err(reason) => failed(&metrics, reason, &io::ErrorKind::PermissionDenied.into()),
                },
                Ok(Err(error)) => failed(&metrics, refusal_of(&error).map_or("handshake", |r| r.reason()), &error),
                Err(_) => failed(&metrics, "deadline", &io::Error::from(io::ErrorKind::TimedOut)),
            }
        });
    }
}

/// Keeps a configuration until the certificate changes.
fn remember(
    kept: &mut Option<(u64, Arc<ServerConfig>)>,
    identity: &Identity,
    config: Arc<ServerConfig>,
) -> Arc<ServerConfig> {
    *kept = Some((identity.generation(), Arc::clone(&config)));
    config
}

fn failed(metrics: &Registry, reason: &'static str, error: &io::Error) {
    metrics.shared().counter(&FAILED_HANDSHAKES, &[reason]).increment();
    tracing::debug!(reason, %error, "TLS handshake failed");
}
