//! Opaque connections: their routes, and their way to an endpoint.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use net::hello::{HelloProgress, parse};
use route::{ConnectionFacts, Destination as RouteDestination, Table, choose};

use super::{Destination, resolve};
use crate::exchange::{Downstream, host};
use crate::failure::Failure;
use crate::io::Io;
use crate::mesh::{HashKey, Protocol};
use crate::report::endpoint_party;
use crate::tcp::{self, CarryLimits};
use crate::upstream::UpstreamCluster;
use crate::upstream::hash::connection_hash;
use crate::worker::Worker;

/// The maximum size of a ClientHello whose server name is read.
const MAX_HELLO: usize = 16 * 1024;
/// The maximum number of attempts to parse it; each begins at the first byte.
const MAX_PARTS: usize = 256;
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 22;

/// Returns where a connection goes: to a destination of the first route of the service that takes it, else to the service. For
/// routes by server name, the ClientHello is read ahead, at most `within`.
///
/// # Errors
/// Returns an error if the route's destination does not exist, or the connection fails.
pub async fn route(
    io: &mut Io,
    downstream: &Downstream,
    destination: Destination,
    within: Duration,
    worker: &Rc<Worker>,
) -> Result<Destination, Failure> {
    let Some(table) = destination.routes.clone() else { return Ok(destination) };
    let server_name = match table.has_tls() {
        true => tokio::time::timeout(within, server_name(io)).await.unwrap_or(Ok(None)).map_err(Failure::downstream)?,
        false => None,
    };
    let facts = ConnectionFacts {
        source: downstream.client.ip(),
        destination: downstream.destination.ip(),
        port: downstream.destination.port(),
        server_name: server_name.as_deref(),
    };
    let is_tls = io.prefix().first() == Some(&TLS_HANDSHAKE);
    match taken(&table, &facts, is_tls).and_then(chosen) {
        Some(to) => resolve::find(to, downstream.destination, &destination, worker).await,
        None => Ok(destination),
    }
}

/// Returns the destinations of the first route that takes a connection. `is_tls` is whether it is TLS of the application's own.
pub(super) fn taken<'a>(table: &'a Table, facts: &ConnectionFacts<'_>, is_tls: bool) -> Option<&'a [RouteDestination]> {
    is_tls.then(|| table.tls(facts)).flatten().or_else(|| table.tcp(facts))
}

/// Returns the service that the server name of a TLS connection names, if its port is not one of requests: a ServiceEntry. The
/// ClientHello is read ahead, at most `within`.
///
/// # Errors
/// Returns an error if the connection fails.
pub async fn named(
    io: &mut Io,
    downstream: &Downstream,
    within: Duration,
    worker: &Rc<Worker>,
) -> Result<Option<Destination>, Failure> {
    let name = tokio::time::timeout(within, server_name(io)).await.unwrap_or(Ok(None)).map_err(Failure::downstream)?;
    Ok(match name {
        Some(name) => of_server_name(&name, downstream.destination, worker).await,
        None => None,
    })
}

/// Returns the service that a server name of TLS names, if its port is not one of requests, for a connection to `address`.
pub async fn of_server_name(name: &str, address: SocketAddr, worker: &Rc<Worker>) -> Option<Destination> {
    let (name, port) = (host::entry(name)?, address.port());
    let service = worker.view.reached_by_host(&name, port).await.found()?;
    let opaque = service.port(port).is_some_and(|port| matches!(port.protocol, Protocol::Tcp | Protocol::Unknown));
    if !opaque {
        return None;
    }
    Some(Destination::of_host(&service, port, &name, address, worker).await)
}

/// Returns where a gateway's connection goes: to a destination of the first route that takes it. `server_port` is the port of the
/// connection as routes see it, and `passes_tls` whether TLS of the client's own is passed on.
///
/// # Errors
/// Returns an error if no route takes it, or the route's destination does not exist.
pub async fn route_at_gateway(
    tables: &[Arc<Table>],
    downstream: &Downstream,
    server_port: u16,
    passes_tls: bool,
    worker: &Rc<Worker>,
) -> Result<Destination, Failure> {
    let address = SocketAddr::new(downstream.destination.ip(), server_port);
    let facts = ConnectionFacts {
        source: downstream.client.ip(),
        destination: address.ip(),
        port: server_port,
        // `*` matches a connection without a server name as well.
        server_name: downstream.server_name.as_deref().or(Some("")),
    };
    let mut routes = tables.iter().filter_map(|table| if passes_tls { table.tls(&facts) } else { table.tcp(&facts) });
    let Some(to) = routes.next().and_then(chosen) else {
        let name = downstream.server_name.clone().unwrap_or_else(|| address.to_string().into());
        return Err(Failure::NoRoute(name));
    };
    let nowhere = Destination::external(UpstreamCluster::black_hole(address), Protocol::Tcp, worker);
    resolve::find(to, address, &nowhere, worker).await
}

/// Carries opaque bytes to an endpoint.
///
/// # Errors
/// Returns an error if no endpoint was reached.
pub async fn relay(
    mut io: Io,
    downstream: &Downstream,
    destination: Destination,
    worker: &Rc<Worker>,
) -> Result<(), Failure> {
    let Destination { cluster, metrics, .. } = destination;
    let mut log = worker.telemetry.log.begin(&worker.view.snapshot().settings.log);
    if let Some(log) = &mut log {
        downstream.log_to(log);
        log.cluster = cluster.name.clone();
    }
    let policy = cluster.policy();
    let by_source = policy.balancing.hash == Some(HashKey::SourceAddress);
    let hash = by_source.then(|| connection_hash(downstream.client).hash).flatten();
    let dial = worker.dial_options(&cluster).for_client(downstream.client, downstream.destination);
    let (pick, opened) = match cluster.connect(hash, &dial).await {
        Ok(connected) => connected,
        Err(failure) => {
            tcp::refused(&metrics, &worker.telemetry, log, &failure);
            return Err(failure);
        }
    };
    let mut party = endpoint_party(&pick.target.labels, &pick.target.cluster);
    party.principal = opened.peer.as_ref().map(|peer| peer.id.as_str().into()).unwrap_or_default();
    if let Some(log) = &mut log {
        log.upstream_host = Some(pick.target.address);
        log.upstream_local = opened.local;
    }
    let mut upstream = opened.io;
    let metrics = metrics.tcp(&worker.telemetry.intern(party));
    let limits = CarryLimits::of(&policy);
    tcp::carry(&mut io, &mut upstream, &downstream.admitted, limits, metrics, log).await;
    Ok(())
}

fn chosen(destinations: &[RouteDestination]) -> Option<&RouteDestination> {
    destinations.get(choose(destinations, rand::random())?)
}

/// Reads the server name of a connection ahead; `None` if it has none, or is no TLS.
async fn server_name(io: &mut Io) -> std::io::Result<Option<String>> {
    let (mut needed, mut attempts) = (0, 0);
    while attempts < MAX_PARTS {
        if io.prefix().len() >= needed.max(1) {
            attempts += 1;
            match parse(io.prefix()) {
                Ok(HelloProgress::Done(names)) => return Ok(names.server_name),
                Ok(HelloProgress::Needs(total)) if total <= MAX_HELLO => needed = total,
                Ok(HelloProgress::Needs(_)) | Err(_) => return Ok(None),
            }
        }
        if io.read_ahead().await? == 0 {
            return Ok(None);
        }
    }
    Ok(None)
}
