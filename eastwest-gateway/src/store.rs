//! What discovery has told, and the snapshots made of it.
//!
//! The store runs on the control thread. For each exported service it subscribes to that service's endpoints; after each
//! update it publishes what workers read. What it cannot read it rejects, and keeps what it had.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use identity::Identity;
use telemetry::access_log::{Format, Writer};
use telemetry::metrics::Registry;
use wire::Kind;
use wire::client::Subscriber;
use wire::delta::{Body, Changed, Rejected, Rejection, Update};
use wire::discovery;

use crate::routes::{Endpoint, Routes, Service};

#[cfg(test)]
mod tests;

/// How long to wait for an endpoint when the mesh does not say. The connection's own hello has not been forwarded yet, so
/// giving up early costs only an attempt elsewhere.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer settings are meant for endpoints far away; here they are in the same network.
const LONGEST_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What workers read.
#[derive(Debug)]
pub struct Snapshot {
    /// What is forwarded.
    pub routes: Routes,
    /// Where to log connections.
    pub log: Option<Arc<LogTo>>,
    /// For one attempt to connect to an endpoint.
    pub connect_timeout: Duration,
}

/// An access log and how its lines look.
#[derive(Debug)]
pub struct LogTo {
    /// The log.
    pub writer: Writer,
    /// The lines.
    pub format: Arc<Format>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { routes: Routes::default(), log: None, connect_timeout: CONNECT_TIMEOUT }
    }
}

/// The store.
#[derive(Debug)]
pub struct Store {
    network: String,
    identity: Option<Identity>,
    registry: Registry,
    subscriber: Arc<OnceLock<Subscriber>>,
    told: HashMap<String, discovery::Service>,
    endpoints: HashMap<String, BTreeMap<String, Endpoint>>,
    services: BTreeMap<String, Arc<Service>>,
    mesh: discovery::MeshConfig,
    log: Option<Arc<LogTo>>,
    published: Arc<ArcSwap<Snapshot>>,
}

impl Store {
    /// An empty store for the gateway of `network`.
    pub fn new(network: &str, registry: &Registry) -> Self {
        Self {
            network: network.to_owned(),
            identity: None,
            registry: registry.clone(),
            subscriber: Arc::default(),
            told: HashMap::new(),
            endpoints: HashMap::new(),
            services: BTreeMap::new(),
            mesh: discovery::MeshConfig::default(),
            log: None,
            published: Arc::default(),
        }
    }

    /// Gives this identity the mesh's trust as it changes.
    pub fn identify(&mut self, identity: Identity) {
        self.identity = Some(identity);
    }

    /// Where snapshots appear.
    pub fn published(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.published)
    }

    /// Takes the subscriber, which exists only once discovery has been given this store.
    pub fn subscriber(&self) -> Arc<OnceLock<Subscriber>> {
        Arc::clone(&self.subscriber)
    }

    fn apply_one(&mut self, changed: Changed, dirty: &mut HashSet<String>) -> Result<(), String> {
        match changed.body {
            Body::Service(service) => {
                // Read once now, so that what is wrong with it is told to the controller.
                Service::new(&service, [], &self.network)?;
                if let (false, Some(subscriber)) = (self.told.contains_key(&changed.name), self.subscriber.get()) {
                    subscriber.subscribe(Kind::Endpoint, wire::name::endpoints(&changed.name, &self.network));
                }
                dirty.insert(changed.name.clone());
                self.told.insert(changed.name, service);
            }
            Body::Endpoint(told) => {
                let endpoints = self.endpoints.entry(told.service.clone()).or_default();
                match Endpoint::read(&changed.name, &told, &self.network)? {
                    Some(endpoint) => drop(endpoints.insert(changed.name, endpoint)),
                    None => drop(endpoints.remove(&changed.name)),
                }
                dirty.insert(told.service);
            }
            Body::Trust(told) => {
                let trust = runtime::enrol::trust_of(&told)?;
                if let Some(identity) = &self.identity {
                    identity.replace_trust(trust);
                }
            }
            Body::MeshConfig(mesh) => self.set_mesh(mesh)?,
            // Not asked for.
            Body::Workload(_)
            | Body::PeerAuthentication(_)
            | Body::AuthorizationPolicy(_)
            | Body::NetworkGateway(_) => {}
        }
        Ok(())
    }

    fn remove(&mut self, kind: Kind, name: &str, dirty: &mut HashSet<String>) {
        match kind {
            Kind::Service if self.told.remove(name).is_some() => {
                if let Some(subscriber) = self.subscriber.get() {
                    subscriber.unsubscribe(Kind::Endpoint, wire::name::endpoints(name, &self.network));
                }
                dirty.insert(name.to_owned());
            }
            Kind::Endpoint => {
                if let Some(parsed) = wire::name::parse_endpoint(name)
                    && let Some(endpoints) = self.endpoints.get_mut(parsed.hostname)
                    && endpoints.remove(name).is_some()
                {
                    dirty.insert(parsed.hostname.to_owned());
                }
            }
            _ => {}
        }
    }

    fn set_mesh(&mut self, mesh: discovery::MeshConfig) -> Result<(), String> {
        let same_log = (&self.mesh.access_log_file, &self.mesh.access_log_format, self.mesh.access_log_encoding)
            == (&mesh.access_log_file, &mesh.access_log_format, mesh.access_log_encoding);
        if !same_log {
            self.log = if mesh.access_log_file.is_empty() {
                None
            } else {
                let format = match mesh.access_log_encoding() {
                    discovery::AccessLogEncoding::Text => Format::text(&mesh.access_log_format),
                    discovery::AccessLogEncoding::Json => Format::json(&mesh.access_log_format),
                };
                let format = Arc::new(format.map_err(|error| error.to_string())?);
                let writer = Writer::open(&mesh.access_log_file, &self.registry).map_err(|error| error.to_string())?;
                Some(Arc::new(LogTo { writer, format }))
            };
        }
        self.mesh = mesh;
        Ok(())
    }

    /// Makes the dirty services anew and publishes.
    fn publish(&mut self, dirty: &HashSet<String>) {
        for hostname in dirty {
            // Endpoints of a service that is gone stay until discovery takes them back: it knows what is held here, and
            // does not tell it again.
            if self.endpoints.get(hostname).is_some_and(BTreeMap::is_empty) {
                self.endpoints.remove(hostname);
            }
            let made = self.told.get(hostname).and_then(|told| {
                let endpoints = self.endpoints.get(hostname).into_iter().flat_map(BTreeMap::values);
                // Was read before; only its endpoints are new.
                Service::new(told, endpoints, &self.network).ok().flatten()
            });
            match made {
                // An equal one is left in place, so that workers do not update their balancers.
                Some(made) if self.services.get(hostname).is_some_and(|service| **service == made) => {}
                Some(made) => drop(self.services.insert(hostname.clone(), Arc::new(made))),
                None => drop(self.services.remove(hostname)),
            }
        }
        let connect_timeout = match self.mesh.connect_timeout_ms {
            0 => CONNECT_TIMEOUT,
            given => Duration::from_millis(given.into()).min(LONGEST_CONNECT_TIMEOUT),
        };
        self.published.store(Arc::new(Snapshot {
            routes: Routes::new(self.services.values()),
            log: self.log.clone(),
            connect_timeout,
        }));
    }
}

impl wire::client::Store for Store {
    fn apply(&mut self, update: Update) -> Result<(), Rejected> {
        let (mut dirty, mut rejected) = (HashSet::new(), Vec::new());
        for changed in update.changed {
            let name = changed.name.clone();
            if let Err(reason) = self.apply_one(changed, &mut dirty) {
                tracing::warn!(%name, %reason, "what the controller told is not understood");
                rejected.push(Rejection { name, reason });
            }
        }
        for name in &update.removed {
            self.remove(update.kind, name, &mut dirty);
        }
        if !dirty.is_empty() || update.kind == Kind::MeshConfig {
            self.publish(&dirty);
        }
        if rejected.is_empty() { Ok(()) } else { Err(Rejected(rejected)) }
    }
}
