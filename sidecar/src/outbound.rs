//! From the application to the mesh: captured connections on 15001.
//!
//! [`serve`] is a connection's whole walk: where it was going, what service that is, what it speaks, and then one of
//! three ways to carry it: requests ([`http`]), opaque bytes to an endpoint, or the same to where it was going anyway.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use telemetry::istio::{Reporter, Security};
use tokio::net::TcpStream;

use proxy::detect::{self, Spoken};
use proxy::failure::Failure;
use proxy::io::Io;
use proxy::mesh::{Found, OutboundPolicy, Protocol, Service, Settings};
use proxy::opaque;
use proxy::report::Route;
use proxy::upstream::{Cluster, Target};
use proxy::worker::Worker;

pub mod http;

/// How long to wait for the first bytes of a connection to an address outside of the mesh. An HTTP client speaks at
/// once; a client that waits for its server must not wait long, and loses nothing but the routing by `Host`.
const OUTSIDE_DETECTION: Duration = Duration::from_millis(200);

/// What is known of a captured connection when it is carried.
pub struct Captured {
    /// The application.
    pub client: SocketAddr,
    /// Where it was going.
    pub destination: SocketAddr,
    /// The service's port there, or the place itself.
    pub cluster: Rc<Cluster>,
    /// For metrics.
    pub route: Rc<Route>,
    /// What the port is declared to speak.
    pub protocol: Protocol,
}

/// Carries one captured connection from the application to where it meant to go.
pub async fn serve(stream: TcpStream, worker: Rc<Worker>) {
    if let Err(failure) = carry(stream, &worker).await {
        worker.telemetry.failed("outbound", failure.reason());
        tracing::debug!(error = %failure, "outbound connection failed");
    }
}

async fn carry(stream: TcpStream, worker: &Rc<Worker>) -> Result<(), Failure> {
    let own = |error: std::io::Error| Failure::Client(error.to_string().into());
    let client = proxy::io::peer_of(&stream).map_err(own)?;
    let destination = (worker.destination)(&stream).map_err(own)?;
    if destination == stream.local_addr().map_err(own)? {
        return Err(Failure::Refused("a connection that was not captured would be sent to this proxy again".into()));
    }
    let found = worker.view.by_address(destination).await;
    let settings = worker.view.snapshot().settings.clone();
    let captured = captured(client, destination, found.as_ref(), worker, &settings);
    let mut io = Io::from(stream);
    let spoken = match captured.protocol {
        Protocol::Tcp => Spoken::Opaque,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => Spoken::Http(detect::version(&mut io).await.map_err(own)?),
        Protocol::Unknown => {
            let within = if found.is_some() { settings.detection_timeout } else { Some(OUTSIDE_DETECTION) };
            detect::spoken(&mut io, within).await.map_err(own)?
        }
    };
    match spoken {
        Spoken::Http(version) => http::serve(io, version, captured, worker).await,
        Spoken::Opaque => relay(io, captured, worker).await,
    }
}

/// Finds the way for a destination.
fn captured(
    client: SocketAddr,
    destination: SocketAddr,
    found: Option<&Found>,
    worker: &Worker,
    settings: &Settings,
) -> Captured {
    let known = found.and_then(|found| Some((found, found.service.port(found.port)?)));
    let (cluster, route, protocol) = match known {
        Some((Found { service, endpoint, .. }, port)) => {
            let cluster = worker.clusters.of(service, port.number, endpoint.clone(), &worker.view);
            (cluster, route_to(service, worker), port.protocol)
        }
        None => {
            // Even where others are not allowed, `Host` may name a service.
            let cluster = match settings.outbound_policy {
                OutboundPolicy::AllowAny => Cluster::fixed("PassthroughCluster", Target::plaintext(destination)),
                OutboundPolicy::RegistryOnly => Cluster::black_hole(destination),
            };
            let labels = telemetry::istio::Service { name: cluster.name.clone(), ..Default::default() };
            let cluster = Rc::new(cluster);
            let route = worker.telemetry.route(Reporter::Source, Security::Unknown, &worker.me(), labels);
            (cluster, route, Protocol::Unknown)
        }
    };
    Captured { client, destination, cluster, route, protocol }
}

/// What requests to a service count for.
fn route_to(service: &Service, worker: &Worker) -> Rc<Route> {
    let labels = telemetry::istio::Service {
        host: service.hostname.clone(),
        name: service.name.clone(),
        namespace: service.namespace.clone(),
    };
    worker.telemetry.route(Reporter::Source, Security::Unknown, &worker.me(), labels)
}

/// Carries opaque bytes to an endpoint.
async fn relay(mut io: Io, captured: Captured, worker: &Rc<Worker>) -> Result<(), Failure> {
    let log = worker.view.snapshot().settings.log.clone();
    let mut seen = worker.telemetry.log.begin(&log);
    if let Some(seen) = &mut seen {
        seen.cluster = captured.cluster.name.clone();
        seen.destination = Some(captured.destination);
        seen.client = Some(captured.client);
    }
    let (pick, opened) = match captured.cluster.connect(&worker.dial(&captured.cluster)).await {
        Ok(connected) => connected,
        Err(failure) => {
            opaque::refused(&captured.route, &worker.telemetry, seen, &failure);
            return Err(failure);
        }
    };
    let mut party = proxy::report::party_of(&pick.target.labels, &pick.target.cluster);
    party.principal = opened.peer.as_ref().map_or_else(Arc::default, |peer| peer.id.as_str().into());
    if let Some(seen) = &mut seen {
        seen.upstream_host = Some(pick.target.address);
        seen.upstream_local = opened.local;
    }
    let mut upstream = opened.io;
    let series = captured.route.tcp(&worker.telemetry.intern(party));
    opaque::carry(&mut io, &mut upstream, series, seen).await;
    Ok(())
}
