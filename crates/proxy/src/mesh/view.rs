//! One worker's reading side.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wire::Kind;
use wire::client::{Link, Outcome, Subscriber};

use super::Place;
use super::model::{Found, Service, Snapshot};
use super::store::Shared;

/// How long a connection waits to be told of a destination that it is the first to use. The controller answers within
/// milliseconds; past this it is taken for unreachable, and the destination for unknown.
const ANSWER: Duration = Duration::from_secs(2);
/// The same while the stream to the controller is known to be down: just what a reconnect may take.
const ANSWER_WHILE_LOST: Duration = Duration::from_millis(100);

/// Reads the newest snapshot, and asks for what is not in it.
#[derive(Debug)]
pub struct View {
    place: Place,
    shared: Arc<Shared>,
    subscriber: Subscriber,
    cached: RefCell<Arc<Snapshot>>,
    version: Cell<u64>,
}

impl View {
    /// A view for one worker.
    pub fn new(place: Place, shared: Arc<Shared>, subscriber: Subscriber) -> Self {
        let version = Cell::new(shared.version());
        let cached = RefCell::new(shared.newest());
        Self { place, shared, subscriber, cached, version }
    }

    /// Where this proxy is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Everything, as of now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let version = self.shared.version();
        if version != self.version.get() {
            self.version.set(version);
            *self.cached.borrow_mut() = self.shared.newest();
        }
        self.cached.borrow().clone()
    }

    /// Waits until the proxy was told of its own inbound side: what it serves, and whom it lets in.
    pub async fn knows_itself(&self) {
        loop {
            let changed = self.shared.changed();
            let snapshot = self.snapshot();
            if snapshot.own.is_some() && snapshot.authentication.is_some() && snapshot.authorization.is_some() {
                return;
            }
            changed.await;
        }
    }

    /// These services are used now.
    pub fn used<'a>(&self, hostnames: impl IntoIterator<Item = &'a Arc<str>>) {
        self.shared.used(hostnames);
    }

    /// Grows with each snapshot: who keeps something made from one can tell that it is old.
    pub fn version(&self) -> u64 {
        self.shared.version()
    }

    /// What applications of this cluster reach at this address: a service, or one of its pods.
    pub async fn by_address(&self, address: SocketAddr) -> Option<Found> {
        let ip = address.ip();
        let snapshot = self.snapshot();
        let known = snapshot.addresses.contains_key(&ip) || snapshot.pods.contains_key(&ip);
        if !known && self.ask(Kind::Service, wire::name::address(&self.place.cluster, ip)).await != Outcome::Present {
            return None;
        }
        let snapshot = self.snapshot();
        if let Some(service) = snapshot.addresses.get(&ip) {
            let service = self.complete(service.clone()).await?;
            return Some(Found { service, port: address.port(), endpoint: None });
        }
        // A pod may serve several services. The first one that has this port there says what it is.
        for service in snapshot.pods.get(&ip).into_iter().flatten() {
            let Some(service) = self.complete(service.clone()).await else { continue };
            if let Some((endpoint, port)) = service.endpoint_at(address) {
                let endpoint = Some(endpoint.id.clone());
                return Some(Found { service, port, endpoint });
            }
        }
        None
    }

    /// The service of this hostname, with its endpoints.
    pub async fn by_name(&self, hostname: &str) -> Option<Arc<Service>> {
        let known = self.snapshot().services.get(hostname).cloned();
        let service = match known {
            Some(service) => service,
            None => {
                if self.ask(Kind::Service, hostname).await != Outcome::Present {
                    return None;
                }
                self.snapshot().services.get(hostname)?.clone()
            }
        };
        self.complete(service).await
    }

    /// Waits until what is needed to reach the service was told. What does not come in time is left out.
    async fn complete(&self, mut service: Arc<Service>) -> Option<Arc<Service>> {
        if service.endpoints.is_none() {
            let name = wire::name::endpoints(&service.hostname, &self.place.network);
            self.subscriber.subscribe(Kind::Endpoint, name.as_str());
            self.ask(Kind::Endpoint, name).await;
            service = self.snapshot().services.get(&service.hostname)?.clone();
        }
        for network in service.remote_networks() {
            if !self.snapshot().gateways.contains_key(network) {
                self.subscriber.subscribe(Kind::NetworkGateway, &**network);
                self.ask(Kind::NetworkGateway, &**network).await;
            }
        }
        Some(service)
    }

    async fn ask(&self, kind: Kind, name: impl Into<Box<str>>) -> Outcome {
        ask(&self.subscriber, kind, name).await
    }
}

/// Asks the controller, and waits for as long as a connection may be held up by that.
pub async fn ask(subscriber: &Subscriber, kind: Kind, name: impl Into<Box<str>>) -> Outcome {
    let lost = matches!(*subscriber.link().borrow(), Link::Lost { .. });
    subscriber.demand(kind, name, if lost { ANSWER_WHILE_LOST } else { ANSWER }).await
}
