//! Takes what discovery tells and publishes it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use wire::Kind;
use wire::client::Subscriber;
use wire::delta::{Body, Rejected, Rejection, Update};

use super::model::{Endpoint, Service, Snapshot};
use super::policies::Policies;
use super::usage::Usage;
use super::{Place, convert};

/// What is published: the newest snapshot, and a number that tells whether one has it.
#[derive(Debug, Default)]
pub struct Shared {
    snapshot: ArcSwap<Snapshot>,
    version: AtomicU64,
    changed: Notify,
    usage: Mutex<Usage>,
}

impl Shared {
    /// These services are used now.
    pub fn used<'a>(&self, hostnames: impl IntoIterator<Item = &'a Arc<str>>) {
        let now = tokio::time::Instant::now().into_std();
        let mut usage = self.usage();
        hostnames.into_iter().for_each(|hostname| usage.used(hostname, now));
    }

    pub(super) fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest snapshot.
    pub fn newest(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Grows with each snapshot.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Returns at the next snapshot. Taken before looking, it misses none.
    pub fn changed(&self) -> impl Future<Output = ()> {
        let mut notified = Box::pin(self.changed.notified());
        notified.as_mut().enable();
        notified
    }

    fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.version.fetch_add(1, Ordering::Release);
        self.changed.notify_waiters();
    }
}

/// A service's endpoints as they arrive; `told` says that the collection was answered.
#[derive(Debug, Default)]
struct Endpoints {
    told: bool,
    by_name: BTreeMap<Arc<str>, Endpoint>,
}

/// All that was told. Lives on the control thread.
pub struct Store {
    place: Place,
    shared: Arc<Shared>,
    current: Snapshot,
    endpoints: HashMap<Arc<str>, Endpoints>,
    /// Addresses by which services were asked for, besides their own: those of pods.
    aliases: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    policies: Policies,
    /// Set once discovery exists: what a service needs is asked for as soon as it is known.
    subscriber: Rc<OnceCell<Subscriber>>,
    /// Told of each trust bundle.
    trusted: Box<dyn FnMut(identity::Trust)>,
}

impl Store {
    /// An empty one for a proxy at `place`, which calls `trusted` with each trust bundle that arrives.
    pub fn new(place: Place, trusted: impl FnMut(identity::Trust) + 'static) -> Self {
        Self {
            place,
            shared: Arc::default(),
            current: Snapshot::default(),
            endpoints: HashMap::new(),
            aliases: HashMap::new(),
            policies: Policies::default(),
            subscriber: Rc::default(),
            trusted: Box::new(trusted),
        }
    }

    /// What it publishes to.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Where the subscriber is put once it is there.
    pub fn subscriber(&self) -> Rc<OnceCell<Subscriber>> {
        self.subscriber.clone()
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
                (self.trusted)(trust);
            }
            Body::MeshConfig(message) => self.current.settings = Arc::new(convert::settings(&message)),
            Body::Workload(message) => {
                let own = convert::own(&message)?;
                self.policies.refer(&message, self.subscriber.get())?;
                self.current.own = Some(Arc::new(own));
                self.resolve_policies();
            }
            Body::PeerAuthentication(message) => {
                self.policies.put_peer_authentication(name, convert::authentication(&message)?);
                self.resolve_policies();
            }
            Body::AuthorizationPolicy(message) => {
                self.policies.put_authorization(name, convert::policy(&message)?);
                self.resolve_policies();
            }
            Body::NetworkGateway(message) => {
                let gateways = convert::gateways(&message)?;
                Arc::make_mut(&mut self.current.gateways).insert(name.into(), gateways);
            }
            Body::Service(message) => {
                let service = convert::service(&message, &self.place.cluster)?;
                self.ask_for_endpoints(&service, &message);
                touched.insert(service.hostname.clone());
                self.alias(&service, aliases);
                self.current.services.insert(service.hostname.clone(), Arc::new(service));
            }
            Body::Endpoint(message) => {
                let endpoint = convert::endpoint(name, &message)?;
                let of = wire::name::parse_endpoint(name).ok_or("its name is not that of an endpoint")?;
                let hostname: Arc<str> = of.hostname.into();
                let endpoints = self.endpoints.entry(hostname.clone()).or_default();
                endpoints.told = true;
                endpoints.by_name.insert(endpoint.id.clone(), endpoint);
                touched.insert(hostname);
            }
        }
        Ok(())
    }

    fn remove(&mut self, kind: Kind, name: &str, touched: &mut BTreeSet<Arc<str>>) {
        match kind {
            Kind::Service => {
                if let Some((_, ip)) = wire::name::parse_address(name) {
                    self.aliases.remove(&ip);
                    return;
                }
                self.current.services.remove(name);
                self.unalias(name);
                self.forget(name);
                touched.insert(name.into());
            }
            Kind::Endpoint => {
                if let Some(of) = wire::name::parse_endpoint(name) {
                    if let Some(endpoints) = self.endpoints.get_mut(of.hostname) {
                        endpoints.by_name.remove(name);
                        touched.insert(of.hostname.into());
                    }
                    self.forget(of.hostname);
                } else if let Some((hostname, _)) = wire::name::parse_endpoints(name) {
                    // The collection itself: it is empty.
                    *self.endpoints.entry(hostname.into()).or_default() =
                        Endpoints { told: true, by_name: BTreeMap::new() };
                    touched.insert(hostname.into());
                    self.forget(hostname);
                }
            }
            Kind::NetworkGateway => {
                Arc::make_mut(&mut self.current.gateways).insert(name.into(), Arc::new([]));
            }
            // These are replaced, never withdrawn; see `policies` for how policies end.
            Kind::Trust | Kind::MeshConfig | Kind::Workload | Kind::PeerAuthentication | Kind::AuthorizationPolicy => {
                tracing::debug!(%kind, name, "the controller has none");
            }
        }
    }

    /// Puts the policies that the workload names in force, once all of them have arrived.
    fn resolve_policies(&mut self) {
        if let Some((authentication, authorization)) = self.policies.resolve() {
            self.current.authentication = Some(authentication);
            self.current.authorization = Some(authorization);
        }
    }

    /// Notes the pods' addresses by which a service is known here. It is told with all of them, each time.
    fn alias(&mut self, service: &Service, aliases: &[String]) {
        self.unalias(&service.hostname);
        let asked = aliases.iter().filter_map(|alias| wire::name::parse_address(alias));
        for (_, ip) in asked.filter(|(_, ip)| !service.addresses.contains(ip)) {
            self.aliases.entry(ip).or_default().insert(service.hostname.clone());
        }
    }

    /// Leaves nothing of a service that is gone with all of its endpoints. Those that are told may still get their service.
    fn forget(&mut self, hostname: &str) {
        let gone = self.endpoints.get(hostname).is_some_and(|endpoints| endpoints.by_name.is_empty());
        if gone && !self.current.services.contains_key(hostname) {
            self.endpoints.remove(hostname);
        }
    }

    fn unalias(&mut self, hostname: &str) {
        self.aliases.retain(|_, services| {
            services.remove(hostname);
            !services.is_empty()
        });
    }

    fn ask_for_endpoints(&self, service: &Service, message: &wire::discovery::Service) {
        let Some(subscriber) = self.subscriber.get() else { return };
        if self.current.services.contains_key(&service.hostname) {
            return;
        }
        subscriber.subscribe(Kind::Endpoint, wire::name::endpoints(&service.hostname, &self.place.network));
        for export in &message.exports {
            if *export.network != *self.place.network && !self.current.gateways.contains_key(export.network.as_str()) {
                subscriber.subscribe(Kind::NetworkGateway, export.network.as_str());
            }
        }
    }

    /// Puts services and their endpoints together again and publishes.
    fn publish(&mut self, touched: BTreeSet<Arc<str>>) {
        for hostname in touched {
            // Endpoints may be told before their service, and stay subscribed to when it goes and comes back.
            let Some(service) = self.current.services.get_mut(&hostname) else { continue };
            if let Some(endpoints) = self.endpoints.get(&hostname).filter(|endpoints| endpoints.told) {
                Arc::make_mut(service).endpoints = Some(endpoints.by_name.values().cloned().collect());
            }
        }
        self.current.addresses = (self.current.services.values())
            .flat_map(|service| service.addresses.iter().map(|address| (*address, service.clone())))
            .collect();
        self.current.pods = (self.aliases.iter())
            .map(|(ip, services)| {
                (*ip, services.iter().filter_map(|hostname| self.current.services.get(hostname).cloned()).collect())
            })
            .collect();
        self.shared.publish(self.current.clone());
    }
}

impl wire::client::Store for Store {
    fn apply(&mut self, update: Update) -> Result<(), Rejected> {
        let mut touched = BTreeSet::new();
        let mut rejected = Vec::new();
        for name in &update.removed {
            self.remove(update.kind, name, &mut touched);
        }
        for changed in update.changed {
            if let Err(reason) = self.change(&changed.name, &changed.aliases, changed.body, &mut touched) {
                rejected.push(Rejection { name: changed.name, reason });
            }
        }
        self.publish(touched);
        if rejected.is_empty() { Ok(()) } else { Err(Rejected(rejected)) }
    }
}
