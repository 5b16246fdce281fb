//! Outbound connections: from the application to the mesh, captured on 15001.
//!
//! [`serve`] is the path of a connection: original destination → service → protocol → requests
//! ([`proxy::exchange::outbound`]) or opaque bytes to an endpoint.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use proxy::detect::{self, Detected};
use proxy::exchange::Downstream;
use proxy::exchange::outbound::{self, Destination};
use proxy::failure::Failure;
use proxy::io::Io;
use proxy::mesh::{AddressMatch, Lookup, OutboundPolicy, Protocol};
use proxy::upstream::{Target, UpstreamCluster};
use proxy::worker::Worker;
use runtime::admission::Admitted;
use tokio::net::TcpStream;

use crate::captured::Captured;
use crate::inbound::TLS_HANDSHAKE;

/// How long to wait for the first bytes of a connection to a destination outside the mesh. An HTTP client sends at once; a
/// client that waits for its server must not wait long, and loses nothing but routing by host.
const EXTERNAL_DETECTION: Duration = Duration::from_millis(200);

/// Carries a connection of the application to its destination.
pub async fn serve(stream: TcpStream, client: SocketAddr, admitted: Admitted, captured: Rc<Captured>) {
    if let Err(failure) = carry(stream, client, admitted, &captured).await {
        captured.worker.telemetry.failed("outbound", failure.reason());
        tracing::debug!(error = %failure, "outbound connection failed");
    }
}

async fn carry(stream: TcpStream, client: SocketAddr, admitted: Admitted, captured: &Captured) -> Result<(), Failure> {
    let worker = &captured.worker;
    let downstream = Downstream::plaintext(client, captured.destination(&stream)?, admitted);
    let found = worker.view.reached_at(downstream.destination).await;
    let destination = destination(downstream.destination, &found, worker).await;
    let mut io = Io::from(stream);
    let detected = match destination.protocol {
        Protocol::Tcp => Detected::Opaque,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            Detected::Http(detect::version(&mut io).await.map_err(Failure::downstream)?)
        }
        Protocol::Unknown => {
            let configured = worker.view.snapshot().settings.detection_timeout;
            let within = if matches!(found, Lookup::Found(_)) { configured } else { EXTERNAL_DETECTION };
            detect::protocol(&mut io, within).await.map_err(Failure::downstream)?
        }
    };
    // TLS of the application's own is no plaintext.
    let destination = match found {
        Lookup::Unanswered if io.prefix().first() == Some(&TLS_HANDSHAKE) => {
            unknown_tls(downstream.destination, worker)
        }
        _ => destination,
    };
    // A wildcard of DYNAMIC_DNS leads to the server name, whatever the address.
    let dynamic = matches!(&found, Lookup::Found(found) if found.service.is_dynamic());
    let by_name = dynamic || destination.is_outside();
    let named = match detected {
        Detected::Opaque
            if by_name && io.prefix().first() == Some(&TLS_HANDSHAKE) && worker.view.snapshot().settings.entries =>
        {
            let within = worker.view.snapshot().settings.detection_timeout;
            outbound::connections::named(&mut io, &downstream, within, worker).await?
        }
        _ => None,
    };
    let destination = named.unwrap_or(destination);
    match detected {
        Detected::Http(version) => outbound::serve(io, version, downstream, destination, worker).await,
        Detected::Opaque => {
            let within = worker.view.snapshot().settings.detection_timeout;
            let destination = outbound::connections::route(&mut io, &downstream, destination, within, worker).await?;
            outbound::connections::relay(io, &downstream, destination, worker).await
        }
    }
}

/// Returns the destination that an address leads to.
pub(crate) async fn destination(address: SocketAddr, found: &Lookup<AddressMatch>, worker: &Worker) -> Destination {
    match found {
        Lookup::Found(found) if found.service.port(found.port).is_some() => {
            return Destination::at(&found.service, found.port, found.endpoint.clone(), address, worker);
        }
        Lookup::Unanswered => {
            let cluster = UpstreamCluster::unanswered(&address.to_string());
            return Destination::external(cluster, detect::undeclared(address.port()), worker);
        }
        Lookup::Found(_) | Lookup::Absent => {}
    }
    // Even if unknown destinations are not allowed, a request's host may name a service.
    let snapshot = worker.view.snapshot();
    let proxy = snapshot.scope.as_ref().and_then(|scope| scope.egress_proxy.as_ref());
    let cluster = match (snapshot.outbound_policy(), proxy) {
        (OutboundPolicy::AllowAny, None) => passthrough(address),
        (OutboundPolicy::AllowAny, Some(proxy)) => return Destination::through(proxy, address, worker).await,
        (OutboundPolicy::RegistryOnly, _) => UpstreamCluster::black_hole(address),
    };
    Destination::external(cluster, detect::undeclared(address.port()), worker)
}

/// Returns the destination of TLS of the application's own to an address that the controller did not answer for.
pub(crate) fn unknown_tls(address: SocketAddr, worker: &Worker) -> Destination {
    Destination::external(passthrough(address), Protocol::Tcp, worker)
}

fn passthrough(address: SocketAddr) -> UpstreamCluster {
    UpstreamCluster::fixed("PassthroughCluster", Target::plaintext(address))
}
