//! Routes of opaque connections.

use std::rc::Rc;
use std::time::Duration;

use net::hello::{HelloProgress, parse};
use route::{ConnectionFacts, Destination as RouteDestination, choose};

use super::{Destination, resolve};
use crate::exchange::{Downstream, host};
use crate::failure::Failure;
use crate::io::Io;
use crate::mesh::Protocol;
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
    let tls = is_tls.then(|| table.tls(&facts)).flatten();
    match tls.or_else(|| table.tcp(&facts)).and_then(chosen) {
        Some(to) => resolve::find(to, downstream.destination, &destination, worker).await,
        None => Ok(destination),
    }
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
    let Some(name) = name.as_deref().and_then(host::entry) else { return Ok(None) };
    let Some(service) = worker.view.by_host(&name).await.found() else { return Ok(None) };
    let port = downstream.destination.port();
    let opaque = service.port(port).is_some_and(|port| matches!(port.protocol, Protocol::Tcp | Protocol::Unknown));
    if !opaque {
        return Ok(None);
    }
    Ok(Some(Destination::of_host(&service, port, &name, downstream.destination, worker).await))
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
