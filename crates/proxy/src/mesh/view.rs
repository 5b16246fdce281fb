//! One worker's view of the mesh.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;

use wire::Kind;
use wire::client::{Link, Outcome, Subscriber};

use super::ProxyLocation;
use super::model::Service;
use super::shared::SharedCluster;
use super::snapshot::{AddressMatch, MeshSettings, MeshSnapshot};
use super::store::Published;

/// The number of wildcards that a host may be of.
const MAX_WILDCARDS: usize = 8;

/// The result of a lookup.
#[derive(Debug, Clone)]
pub enum Lookup<T> {
    /// It is part of the mesh.
    Found(T),
    /// It is not part of the mesh.
    Absent,
    /// The controller did not answer.
    Unanswered,
}

impl<T> Lookup<T> {
    fn of(found: Option<T>) -> Self {
        found.map_or(Lookup::Absent, Lookup::Found)
    }

    /// Returns what was found.
    pub fn found(self) -> Option<T> {
        match self {
            Lookup::Found(found) => Some(found),
            Lookup::Absent | Lookup::Unanswered => None,
        }
    }
}

/// Reads the newest snapshot, and requests resources that are not in it.
#[derive(Debug)]
pub struct MeshView {
    location: ProxyLocation,
    published: Arc<Published>,
    subscriber: Subscriber,
    cached: RefCell<Arc<MeshSnapshot>>,
    version: Cell<u64>,
}

impl MeshView {
    /// Creates a worker's view.
    pub fn new(location: ProxyLocation, published: Arc<Published>, subscriber: Subscriber) -> Self {
        let version = Cell::new(published.version());
        let cached = RefCell::new(published.newest());
        Self { location, published, subscriber, cached, version }
    }

    /// Returns the location of the proxy.
    pub fn location(&self) -> &ProxyLocation {
        &self.location
    }

    /// Returns the newest snapshot.
    pub fn snapshot(&self) -> Arc<MeshSnapshot> {
        let version = self.published.version();
        if version != self.version.get() {
            self.version.set(version);
            *self.cached.borrow_mut() = self.published.newest();
        }
        self.cached.borrow().clone()
    }

    /// Waits until the own workload, its scope and all of its policies have arrived.
    pub async fn inbound_ready(&self) {
        loop {
            let changed = self.published.changed();
            let snapshot = self.snapshot();
            let policies = snapshot.authentication.is_some() && snapshot.authorization.is_some();
            if snapshot.own.is_some() && policies && snapshot.scope_known {
                return;
            }
            changed.await;
        }
    }

    /// Marks services as used now.
    pub fn mark_used<'a>(&self, hostnames: impl IntoIterator<Item = &'a Arc<str>>) {
        self.published.mark_used(hostnames);
    }

    /// Returns what the workers share of the upstream cluster of this name.
    pub fn shared_cluster(&self, name: &Arc<str>) -> Arc<SharedCluster> {
        self.published.shared_cluster(name)
    }

    /// Returns the version of the newest snapshot. Versions grow, so state that was built from a snapshot can tell that it is
    /// outdated.
    pub fn version(&self) -> u64 {
        self.published.version()
    }

    /// Returns the service that the application reaches at an address, as [`MeshView::by_address`] does, unless it is
    /// not in the scope.
    pub async fn reached_at(&self, address: SocketAddr) -> Lookup<AddressMatch> {
        let found = self.by_address(address).await;
        self.in_scope(found, |of| &of.service, address.port())
    }

    /// Returns the service with this hostname that the application reaches through a port, as [`MeshView::by_name`]
    /// does, unless it is not in the scope.
    pub async fn reached_by_name(&self, hostname: &str, port: u16) -> Lookup<Arc<Service>> {
        let found = self.by_name(hostname).await;
        self.in_scope(found, |service| service, port)
    }

    /// Returns the service with this host that the application reaches through a port, as [`MeshView::by_host`] does,
    /// unless it is not in the scope.
    pub async fn reached_by_host(&self, host: &str, port: u16) -> Lookup<Arc<Service>> {
        let found = self.by_host(host).await;
        self.in_scope(found, |service| service, port)
    }

    fn in_scope<T>(&self, found: Lookup<T>, service: impl Fn(&T) -> &Service, port: u16) -> Lookup<T> {
        match found {
            Lookup::Found(of) if !self.snapshot().reaches(service(&of), port) => Lookup::Absent,
            found => found,
        }
    }

    /// Returns the service that applications of this cluster reach at an address, or the service of the pod at it. Requests
    /// it from the controller on first use. An address that the controller did not answer for is absent unless it is of the
    /// cluster's domain: most destinations are outside of the mesh.
    pub async fn by_address(&self, address: SocketAddr) -> Lookup<AddressMatch> {
        let ip = address.ip();
        let snapshot = self.snapshot();
        let known = snapshot.addresses.contains_key(&ip) || snapshot.pods.contains_key(&ip);
        let name = || wire::name::address(&self.location.cluster, ip);
        if !known {
            match self.demand(Kind::Service, name()).await {
                Outcome::Present => {}
                Outcome::Unanswered if self.published.is_of_domain(ip) => return Lookup::Unanswered,
                Outcome::Absent | Outcome::Unanswered => return Box::pin(self.by_block(address)).await,
            }
        }
        let snapshot = self.snapshot();
        if let Some(service) = snapshot.addresses.get(&ip) {
            let service = self.complete(service.clone()).await;
            return Lookup::of(service.map(|service| AddressMatch { service, port: address.port(), endpoint: None }));
        }
        // A pod may serve several services: the first with this port is used.
        for service in snapshot.pods.get(&ip).iter().flat_map(|services| services.iter()) {
            let Some(service) = self.complete(service.clone()).await else { continue };
            if let Some((endpoint, port)) = service.endpoint_at(address) {
                let endpoint = Some(endpoint.id.clone());
                return Lookup::Found(AddressMatch { service, port, endpoint });
            }
        }
        Box::pin(self.by_block(address)).await
    }

    /// Returns the service with this hostname and its endpoints. Requests it from the controller on first use.
    pub async fn by_name(&self, hostname: &str) -> Lookup<Arc<Service>> {
        let known = self.snapshot().services.get(hostname).cloned();
        let service = match known {
            Some(service) => service,
            None => {
                match self.demand(Kind::Service, hostname).await {
                    Outcome::Present => {}
                    Outcome::Absent => return Lookup::Absent,
                    Outcome::Unanswered => return Lookup::Unanswered,
                }
                match self.snapshot().services.get(hostname) {
                    Some(service) => service.clone(),
                    None => return Lookup::Absent,
                }
            }
        };
        Lookup::of(self.complete(service).await)
    }

    /// Returns the service with this host: a ServiceEntry of any domain, of which one with the host itself comes first, then the one
    /// with the longest wildcard. Requests them from the controller on first use.
    pub async fn by_host(&self, host: &str) -> Lookup<Arc<Service>> {
        let exact = self.by_name(host).await;
        if matches!(exact, Lookup::Found(_)) || !self.snapshot().settings.wildcard_entries {
            return exact;
        }
        let wildcards: Vec<String> =
            host.match_indices('.').take(MAX_WILDCARDS).map(|(at, _)| format!("*{}", &host[at..])).collect();
        let found = futures_util::future::join_all(wildcards.iter().map(|host| self.by_name(host))).await;
        found.into_iter().find(|found| matches!(found, Lookup::Found(_))).unwrap_or(exact)
    }

    /// Returns the service whose address block has an address.
    async fn by_block(&self, address: SocketAddr) -> Lookup<AddressMatch> {
        let settings = self.snapshot().settings.clone();
        let block = settings.address_blocks.iter().find(|block| block.contains(address.ip()));
        let Some(block) = block else { return Lookup::Absent };
        match self.by_name(&block.hostname).await {
            Lookup::Found(service) => Lookup::Found(AddressMatch { service, port: address.port(), endpoint: None }),
            Lookup::Absent => Lookup::Absent,
            Lookup::Unanswered => Lookup::Unanswered,
        }
    }

    /// Waits for the endpoints of a service, the gateways that lead to them, and its routes. What does not arrive in time is left out.
    async fn complete(&self, mut service: Arc<Service>) -> Option<Arc<Service>> {
        if service.endpoints.is_none() {
            self.demand(Kind::DestinationPolicy, &*service.hostname).await;
            let name = wire::name::endpoints(&service.hostname, &self.location.network);
            self.subscriber.subscribe(Kind::Endpoint, name.as_str());
            self.demand(Kind::Endpoint, name).await;
            service = self.snapshot().services.get(&service.hostname)?.clone();
        }
        if service.routes.is_none() {
            self.demand(Kind::DestinationPolicy, &*service.hostname).await;
            self.subscriber.subscribe(Kind::RouteTable, &*service.hostname);
            self.demand(Kind::RouteTable, &*service.hostname).await;
            service = self.snapshot().services.get(&service.hostname)?.clone();
        }
        if service.entry.is_some() {
            self.until_resolved(&service).await;
        }
        for network in service.remote_networks() {
            if !self.snapshot().gateways.contains_key(network) {
                self.subscriber.subscribe(Kind::NetworkGateway, &**network);
                self.demand(Kind::NetworkGateway, &**network).await;
            }
        }
        Some(service)
    }

    /// Waits until the names of a service's endpoints have been resolved, as long as a connection may be delayed.
    async fn until_resolved(&self, service: &Service) {
        let resolved = async {
            loop {
                let changed = self.published.changed();
                if self.snapshot().resolves(service) {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(self.snapshot().settings.first_use_timeout(false), resolved).await;
    }

    async fn demand(&self, kind: Kind, name: impl Into<Box<str>>) -> Outcome {
        demand(&self.subscriber, &self.snapshot().settings, kind, name).await
    }
}

/// Requests a resource, and waits for the answer for as long as a connection may be delayed.
pub async fn demand(
    subscriber: &Subscriber,
    settings: &MeshSettings,
    kind: Kind,
    name: impl Into<Box<str>>,
) -> Outcome {
    let lost = matches!(*subscriber.link().borrow(), Link::Lost { .. });
    subscriber.demand(kind, name, settings.first_use_timeout(lost)).await
}
