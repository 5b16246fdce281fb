//! The destinations of routes.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use route::Destination as RouteDestination;

use super::Destination;
use crate::failure::Failure;
use crate::mesh::{Lookup, Service};
use crate::worker::Worker;

/// The number of destinations that a connection remembers.
const MAX_RESOLVED: usize = 32;

/// The destinations of routes that the requests of a connection went to.
#[derive(Default)]
pub(super) struct Resolved {
    known: RefCell<Vec<Known>>,
}

struct Known {
    host: Arc<str>,
    subset: Arc<str>,
    port: u16,
    /// The version of the snapshot.
    version: u64,
    destination: Destination,
}

impl Resolved {
    /// Returns the cluster of a route's destination. `address` is the one that the client connected to, and `host` is the
    /// host whose route it is.
    pub(super) async fn get(
        &self,
        to: &RouteDestination,
        address: SocketAddr,
        host: &Destination,
        worker: &Rc<Worker>,
    ) -> Result<Destination, Failure> {
        let (port, version) = (to.port.unwrap_or(address.port()), worker.view.version());
        let is = |known: &&Known| {
            known.version == version && known.port == port && known.host == to.host && known.subset == to.subset
        };
        if let Some(known) = self.known.borrow().iter().find(is) {
            worker.clusters.refresh(&known.destination.cluster, &worker.view);
            return Ok(known.destination.clone());
        }
        let destination = Box::pin(find(to, address, host, worker)).await?;
        let mut known = self.known.borrow_mut();
        known.retain(|known| known.version == version);
        if known.len() < MAX_RESOLVED {
            let (host, subset) = (to.host.clone(), to.subset.clone());
            known.push(Known { host, subset, port, version, destination: destination.clone() });
        }
        Ok(destination)
    }
}

/// Returns the cluster of a route's destination, for a connection to `address`.
///
/// # Errors
/// Returns an error if there is no such service, port or subset.
pub(super) async fn find(
    to: &RouteDestination,
    address: SocketAddr,
    host: &Destination,
    worker: &Rc<Worker>,
) -> Result<Destination, Failure> {
    let port = to.port.unwrap_or(address.port());
    let missing = || {
        let subset = if to.subset.is_empty() { String::new() } else { format!(" (subset {})", to.subset) };
        Failure::NoDestination(format!("{}:{port}{subset}", to.host).into())
    };
    let service = match known(&to.host, worker) {
        Some(service) => service,
        None => match worker.view.by_name(&to.host).await {
            Lookup::Found(service) => service,
            Lookup::Absent => return Err(missing()),
            Lookup::Unanswered => return Err(Failure::Unanswered(to.host.clone())),
        },
    };
    if service.port(port).is_none() || (!to.subset.is_empty() && service.policy.subset(&to.subset).is_none()) {
        return Err(missing());
    }
    let key = host.cluster.key();
    // A pod that the application chose by its address stays chosen.
    let endpoint = key.endpoint.clone().filter(|_| key.hostname == to.host && to.subset.is_empty());
    let destination = Destination::subset(&service, port, to.subset.clone(), endpoint, address, worker);
    match &key.server_name {
        // The wildcard's own routes lead to the host that was asked for.
        Some(name) if service.is_dynamic() && key.hostname == service.hostname => {
            Ok(destination.named(name.clone(), worker))
        }
        _ => Ok(destination),
    }
}

/// Returns a service whose parts have all arrived.
fn known(hostname: &str, worker: &Worker) -> Option<Arc<Service>> {
    let snapshot = worker.view.snapshot();
    snapshot.services.get(hostname).filter(|service| service.endpoints.is_some() && service.routes.is_some()).cloned()
}
