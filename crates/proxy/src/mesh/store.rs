//! The store of pushed resources, and the publication of snapshots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use wire::Kind;
use wire::client::Subscriber;
use wire::delta::{Body, Rejected, Rejection, Update};

use super::domain::DomainAddresses;
use super::dynamic::DynamicHosts;
use super::model::{Endpoint, Service};
use super::names::ResolvedNames;
use super::policies::Policies;
use super::routes::Routes;
use super::scope::Scope;
use super::shared::{SharedCluster, SharedClusters};
use super::snapshot::MeshSnapshot;
use super::usage::Usage;
use super::{ProxyLocation, convert};

/// The newest snapshot, as the store publishes it and views read it.
#[derive(Debug, Default)]
pub struct Published {
    snapshot: ArcSwap<MeshSnapshot>,
    version: AtomicU64,
    changed: Notify,
    usage: Mutex<Usage>,
    domain: DomainAddresses,
    /// The addresses of the names of endpoints, which do not come from the store.
    resolved: ArcSwap<ResolvedNames>,
    /// Hosts that are resolved beside the names of endpoints.
    pub(super) dynamic: DynamicHosts,
    clusters: SharedClusters,
}

impl Published {
    /// Returns what the workers share of the upstream cluster of this name.
    pub(crate) fn shared_cluster(&self, name: &Arc<str>) -> Arc<SharedCluster> {
        self.clusters.get(name)
    }

    /// Calls `visit` for each upstream cluster in use, in the order of names.
    pub fn each_cluster(&self, visit: impl FnMut(&str, &SharedCluster)) {
        self.clusters.each(visit);
    }

    /// Notes an address that the cluster's own DNS has answered for a name of the cluster's domain.
    pub fn note_address(&self, address: IpAddr) {
        self.domain.note(address);
    }

    /// Returns whether an address was noted.
    pub(super) fn is_of_domain(&self, address: IpAddr) -> bool {
        self.domain.contains(address)
    }

    /// Marks services as used now.
    pub fn mark_used<'a>(&self, hostnames: impl IntoIterator<Item = &'a Arc<str>>) {
        let now = tokio::time::Instant::now().into_std();
        let mut usage = self.usage();
        hostnames.into_iter().for_each(|hostname| usage.mark(hostname, now));
    }

    pub(super) fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the newest snapshot.
    pub fn newest(&self) -> Arc<MeshSnapshot> {
        self.snapshot.load_full()
    }

    /// Returns the version of the newest snapshot. Versions grow.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Returns a future that resolves with the next snapshot after this call.
    pub fn changed(&self) -> impl Future<Output = ()> {
        let mut notified = Box::pin(self.changed.notified());
        notified.as_mut().enable();
        notified
    }

    /// Replaces the addresses of the names of endpoints. Must be called on the thread of the store.
    pub(super) fn set_resolved(&self, resolved: ResolvedNames) {
        self.resolved.store(Arc::new(resolved));
        self.publish(MeshSnapshot::clone(&self.newest()));
    }

    fn publish(&self, mut snapshot: MeshSnapshot) {
        snapshot.resolved = self.resolved.load_full();
        self.snapshot.store(Arc::new(snapshot));
        self.version.fetch_add(1, Ordering::Release);
        self.changed.notify_waiters();
    }
}

/// A service's endpoints as they arrive.
#[derive(Debug, Default)]
struct EndpointSet {
    /// The subscription has been answered.
    complete: bool,
    by_name: BTreeMap<Arc<str>, Endpoint>,
}

/// The result of an update.
#[derive(Debug, Default)]
pub struct Applied {
    /// Hostnames of services that changed, were added or removed.
    pub services: BTreeSet<Arc<str>>,
    /// Resources that are invalid. The store keeps their previous version.
    pub rejected: Vec<Rejection>,
}

/// All resources that the controller has pushed. Lives on the control thread.
pub struct MeshStore {
    location: ProxyLocation,
    published: Arc<Published>,
    current: MeshSnapshot,
    endpoints: HashMap<Arc<str>, EndpointSet>,
    /// Services by virtual address. Of several services with the same address, the first by hostname is used.
    addresses: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    /// Services by the addresses of pods that were looked up, and these addresses by service.
    pods: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    pods_of: HashMap<Arc<str>, Vec<IpAddr>>,
    policies: Policies,
    /// `None`: the proxy does not use routes.
    routes: Option<Routes>,
    /// The policies of the destinations of routes.
    destinations: HashMap<Arc<str>, convert::DestinationVariants>,
    limits: convert::PortLimits,
    /// The name of the own workload's scope; empty: it has none.
    scope: Box<str>,
    /// Set when discovery has been created. The store subscribes to what a service needs as soon as the service arrives.
    subscriber: Arc<OnceLock<Subscriber>>,
    /// Receives each trust bundle.
    on_trust: Box<dyn FnMut(identity::Trust) + Send>,
}

impl MeshStore {
    /// Creates an empty store for a proxy. `on_trust` is called with each trust bundle.
    pub fn new(location: ProxyLocation, on_trust: impl FnMut(identity::Trust) + Send + 'static) -> Self {
        Self {
            location,
            published: Arc::default(),
            current: MeshSnapshot::default(),
            endpoints: HashMap::new(),
            addresses: HashMap::new(),
            pods: HashMap::new(),
            pods_of: HashMap::new(),
            policies: Policies::default(),
            routes: None,
            destinations: HashMap::new(),
            limits: convert::PortLimits::default(),
            scope: Box::default(),
            subscriber: Arc::default(),
            on_trust: Box::new(on_trust),
        }
    }

    /// Makes the store subscribe to the routes of services.
    pub fn with_routes(mut self) -> Self {
        self.routes = Some(Routes::new(self.location.namespace.clone()));
        self
    }

    /// Returns the publication of snapshots.
    pub fn published(&self) -> Arc<Published> {
        self.published.clone()
    }

    /// Returns the cell for the subscriber, which exists only after discovery has received the store.
    pub fn subscriber(&self) -> Arc<OnceLock<Subscriber>> {
        self.subscriber.clone()
    }

    /// Returns the current state, which is the newest snapshot after [`MeshStore::update`].
    pub fn current(&self) -> &MeshSnapshot {
        &self.current
    }

    /// Applies an update and publishes a snapshot.
    pub fn update(&mut self, update: Update) -> Applied {
        let mut applied = Applied::default();
        for name in &update.removed {
            self.remove(update.kind, name, &mut applied.services);
        }
        for changed in update.changed {
            if let Err(reason) = self.change(&changed.name, &changed.aliases, changed.body, &mut applied.services) {
                applied.rejected.push(Rejection { name: changed.name, reason });
            }
        }
        for hostname in &applied.services {
            self.refresh(hostname);
        }
        self.published.publish(self.current.clone());
        applied
    }

    fn change(
        &mut self,
        name: &str,
        aliases: &[String],
        body: Body,
        touched: &mut BTreeSet<Arc<str>>,
    ) -> Result<(), String> {
        match body {
            Body::Trust(message) => {
                let trust = runtime::enrol::trust_of(&message)?;
                self.current.issuers = Arc::new(trust.issuers().into_iter().map(|issuer| issuer.cluster).collect());
                (self.on_trust)(trust);
            }
            Body::MeshConfig(message) => {
                self.current.settings = Arc::new(convert::settings(&message, &self.location.cluster)?)
            }
            Body::PeerAuthentication(message) => {
                self.policies.put_peer_authentication(name, convert::authentication(&message)?);
                self.resolve_policies();
            }
            Body::RequestAuthentication(message) => {
                self.policies.put_request_authentication(name, convert::request_authentication(&message)?);
                self.resolve_policies();
            }
            Body::AuthorizationPolicy(message) => {
                let policy = convert::policy(&message)?;
                if let (Some(host), Some(subscriber)) = (policy.asks(), self.subscriber.get()) {
                    // Before the policy is in force, so that the first request does not wait for it.
                    subscriber.subscribe(Kind::Service, &**host);
                }
                self.policies.put_authorization(name, policy);
                self.resolve_policies();
            }
            Body::RateLimit(message) => {
                let now = tokio::time::Instant::now().into_std();
                let policy = self.policies.put_rate_limit(name, message, now)?;
                if let Some(subscriber) = self.subscriber.get() {
                    policy.asks().for_each(|host| subscriber.subscribe(Kind::Service, &**host));
                }
                self.resolve_policies();
            }
            Body::Workload(message) => {
                let own = convert::own_workload(&message, &mut self.limits)?;
                self.policies.refer(&message, self.subscriber.get())?;
                self.current.own = Some(Arc::new(own));
                if let Some(routes) = &mut self.routes {
                    touched.extend(routes.set_labels(message.pod_labels));
                }
                // Conditions on the own pod's labels.
                touched.extend(self.destinations.keys().cloned());
                self.resolve_policies();
                self.refer_to_scope(&message.scope, touched);
            }
            Body::Scope(message) => {
                let scope = Scope::of(&message, &self.location.namespace)?;
                if *self.scope == *name {
                    self.set_scope(Some(scope), touched);
                }
            }
            Body::NetworkGateway(message) => {
                let gateways = convert::gateways(&message, self.location.ip)?;
                Arc::make_mut(&mut self.current.gateways).insert(name.into(), gateways);
            }
            Body::DestinationPolicy(message) => {
                self.destinations.insert(name.into(), convert::destination(&message)?);
                touched.insert(name.into());
            }
            Body::Service(message) => {
                let service = convert::service(&message, &self.location)?;
                self.subscribe_to_parts(&service);
                touched.insert(service.hostname.clone());
                self.put_service(service, aliases);
            }
            Body::Endpoint(message) => {
                let endpoint = convert::endpoint(name, &message, self.location.ip)?;
                let of = wire::name::parse_endpoint(name).ok_or("the name is not that of an endpoint")?;
                let hostname: Arc<str> = of.hostname.into();
                let endpoints = self.endpoints.entry(hostname.clone()).or_default();
                endpoints.complete = true;
                endpoints.by_name.insert(endpoint.id.clone(), endpoint);
                touched.insert(hostname);
            }
            Body::RouteTable(message) => {
                let routes = self.routes.as_mut().ok_or("this proxy does not use routes")?;
                routes.put(name, message)?;
                touched.insert(name.into());
            }
            other => return Err(format!("this proxy does not use resources of type {}", other.kind())),
        }
        Ok(())
    }

    fn remove(&mut self, kind: Kind, name: &str, touched: &mut BTreeSet<Arc<str>>) {
        match kind {
            Kind::Service => {
                if let Some((_, ip)) = wire::name::parse_address(name) {
                    for hostname in self.pods.remove(&ip).into_iter().flatten() {
                        self.pods_of.entry(hostname).and_modify(|ips| ips.retain(|of| *of != ip));
                    }
                    self.refresh_pod(ip);
                    return;
                }
                self.remove_service(name);
                touched.insert(name.into());
            }
            Kind::Endpoint => {
                if let Some(of) = wire::name::parse_endpoint(name) {
                    if let Some(endpoints) = self.endpoints.get_mut(of.hostname) {
                        endpoints.by_name.remove(name);
                        touched.insert(of.hostname.into());
                    }
                    self.drop_unused_endpoints(of.hostname);
                } else if let Some((hostname, _)) = wire::name::parse_endpoints(name) {
                    // The collection is empty.
                    *self.endpoints.entry(hostname.into()).or_default() =
                        EndpointSet { complete: true, by_name: BTreeMap::new() };
                    touched.insert(hostname.into());
                    self.drop_unused_endpoints(hostname);
                }
            }
            Kind::NetworkGateway => {
                Arc::make_mut(&mut self.current.gateways).insert(name.into(), Arc::new([]));
            }
            Kind::RouteTable => {
                if let Some(routes) = &mut self.routes {
                    // The routes of a service that the proxy no longer uses are not kept.
                    match self.current.services.contains_key(name) {
                        true => routes.put_none(name),
                        false => routes.remove(name),
                    }
                    touched.insert(name.into());
                }
            }
            Kind::DestinationPolicy => {
                self.destinations.remove(name);
                touched.insert(name.into());
            }
            // These are replaced, never withdrawn; see `policies` for how policies end.
            _ => {
                tracing::debug!(%kind, name, "the controller has no such resource");
            }
        }
    }

    /// Puts the policies that the workload names in force, once all of them have arrived.
    fn resolve_policies(&mut self) {
        if let Some(resolved) = self.policies.resolve() {
            self.current.authentication = Some(resolved.authentication);
            self.current.tokens = resolved.tokens;
            self.current.authorization = Some(resolved.authorization);
            self.current.rate_limits = resolved.rate_limits;
        }
    }

    /// Notes the scope that the own workload names. Until it arrives, the previous one is in force.
    fn refer_to_scope(&mut self, name: &str, touched: &mut BTreeSet<Arc<str>>) {
        // A proxy without routes carries nothing of an application.
        let name = if self.routes.is_some() { name } else { "" };
        if *self.scope != *name {
            if let Some(subscriber) = self.subscriber.get() {
                if !name.is_empty() {
                    subscriber.subscribe(Kind::Scope, name);
                }
                if !self.scope.is_empty() {
                    subscriber.unsubscribe(Kind::Scope, &*self.scope);
                }
            }
            self.scope = name.into();
        }
        if name.is_empty() {
            self.set_scope(None, touched);
        }
    }

    /// Puts a scope in force. Which routes have effect depends on it.
    fn set_scope(&mut self, scope: Option<Scope>, touched: &mut BTreeSet<Arc<str>>) {
        self.current.scope_known = true;
        if self.current.scope.as_deref() == scope.as_ref() {
            return;
        }
        if let (Some(scope), Some(subscriber)) = (&scope, self.subscriber.get()) {
            scope.prefetched().for_each(|hostname| subscriber.subscribe(Kind::Service, hostname));
        }
        self.current.scope = scope.map(Arc::new);
        touched.extend(self.current.services.keys().cloned());
    }

    /// Adds or replaces a service. `aliases` are all pod addresses under which it was looked up.
    fn put_service(&mut self, service: Service, aliases: &[String]) {
        self.release_addresses(&service.hostname);
        for ip in &service.addresses {
            self.addresses.entry(*ip).or_default().insert(service.hostname.clone());
        }
        let aliases = aliases.iter().filter_map(|alias| wire::name::parse_address(alias)).map(|(_, ip)| ip);
        let pods: Vec<IpAddr> = aliases.filter(|ip| !service.addresses.contains(ip)).collect();
        for ip in &pods {
            self.pods.entry(*ip).or_default().insert(service.hostname.clone());
        }
        if !pods.is_empty() {
            self.pods_of.insert(service.hostname.clone(), pods);
        }
        self.current.services.insert(service.hostname.clone(), Arc::new(service));
    }

    fn remove_service(&mut self, hostname: &str) {
        self.release_addresses(hostname);
        self.current.services.remove(hostname);
        if let Some(routes) = &mut self.routes {
            routes.remove(hostname);
        }
        self.drop_unused_endpoints(hostname);
    }

    /// Takes a service's addresses from it: its own and those of its pods.
    fn release_addresses(&mut self, hostname: &str) {
        if let Some(service) = self.current.services.get(hostname).cloned() {
            for ip in &service.addresses {
                release(&mut self.addresses, *ip, hostname);
                self.refresh_address(*ip);
            }
        }
        for ip in self.pods_of.remove(hostname).unwrap_or_default() {
            release(&mut self.pods, ip, hostname);
            self.refresh_pod(ip);
        }
    }

    /// Drops the endpoints of a service that was removed, once all of them are removed. Endpoints that are still held may
    /// get their service back.
    fn drop_unused_endpoints(&mut self, hostname: &str) {
        let empty = self.endpoints.get(hostname).is_some_and(|endpoints| endpoints.by_name.is_empty());
        if empty && !self.current.services.contains_key(hostname) {
            self.endpoints.remove(hostname);
        }
    }

    fn subscribe_to_parts(&self, service: &Service) {
        let Some(subscriber) = self.subscriber.get() else { return };
        if self.current.services.contains_key(&service.hostname) {
            return;
        }
        if self.routes.is_some() {
            // Before the endpoints: the first connection already follows it.
            subscriber.subscribe(Kind::DestinationPolicy, &*service.hostname);
        }
        if service.entry.is_none() {
            subscriber.subscribe(Kind::Endpoint, wire::name::endpoints(&service.hostname, &self.location.network));
        }
        if self.routes.is_some() {
            subscriber.subscribe(Kind::RouteTable, &*service.hostname);
        }
        for network in service.exports.iter().map(|export| &export.network).chain(service.remote_networks()) {
            if *network != self.location.network && !self.current.gateways.contains_key(network) {
                subscriber.subscribe(Kind::NetworkGateway, &**network);
            }
        }
    }

    /// Gives a service its present endpoints and routes, and its addresses the present service.
    fn refresh(&mut self, hostname: &str) {
        // Endpoints may arrive before their service, and stay subscribed to while it is removed and added again.
        let Some(known) = self.current.services.get(hostname) else { return };
        let mut service = Service::clone(known);
        // Endpoints of an entry are part of it.
        let endpoints = self.endpoints.get(hostname).filter(|_| service.entry.is_none());
        if let Some(endpoints) = endpoints.filter(|endpoints| endpoints.complete) {
            service.endpoints = Some(endpoints.by_name.values().cloned().collect());
        }
        service.routes = self.routes.as_ref().and_then(|routes| routes.get(hostname, self.current.scope.as_deref()));
        let variants = self.destinations.get(hostname).zip(self.routes.as_ref());
        service.policy = variants.map(|(variants, routes)| variants.policy_for(routes.client())).unwrap_or_default();
        // An equal service stays as it is, so that nothing that was built from it is built anew.
        let service = if service == **known { known.clone() } else { Arc::new(service) };
        self.current.services.insert(service.hostname.clone(), service.clone());
        for ip in &service.addresses {
            self.refresh_address(*ip);
        }
        for ip in self.pods_of.get(hostname).cloned().unwrap_or_default() {
            self.refresh_pod(ip);
        }
    }

    fn refresh_address(&mut self, ip: IpAddr) {
        let first = self.addresses.get(&ip).and_then(BTreeSet::first);
        match first.and_then(|hostname| self.current.services.get(hostname)) {
            Some(service) => drop(self.current.addresses.insert(ip, service.clone())),
            None => drop(self.current.addresses.remove(&ip)),
        }
    }

    fn refresh_pod(&mut self, ip: IpAddr) {
        let hostnames = self.pods.get(&ip).into_iter().flatten();
        let services: Arc<[Arc<Service>]> =
            hostnames.filter_map(|hostname| self.current.services.get(hostname).cloned()).collect();
        if services.is_empty() {
            self.current.pods.remove(&ip);
        } else {
            self.current.pods.insert(ip, services);
        }
    }
}

impl wire::client::Store for MeshStore {
    fn apply(&mut self, update: Update) -> Result<(), Rejected> {
        let rejected = self.update(update).rejected;
        if rejected.is_empty() { Ok(()) } else { Err(Rejected(rejected)) }
    }
}

fn release(services: &mut HashMap<IpAddr, BTreeSet<Arc<str>>>, ip: IpAddr, hostname: &str) {
    if let Some(hostnames) = services.get_mut(&ip) {
        hostnames.remove(hostname);
        if hostnames.is_empty() {
            services.remove(&ip);
        }
    }
}
