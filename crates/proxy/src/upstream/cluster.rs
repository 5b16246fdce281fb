//! An upstream cluster: a service's port, or a subset of it, as one worker uses it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use balance::{Balancer, Detection, Locality, LocalityPolicy, Pick, Preference, Settings};
use runtime::limits::Permit;

use super::http1::AbortOnDrop;
use super::pool::{Lease, Pool};
use super::target::{self, Target};
use crate::failure::Failure;
use crate::mesh::{
    ClientTls, ConnectionPool, GatewayAddress, MeshSettings, MeshSnapshot, MeshView, OwnWorkload, ResolvedNames,
    Service, SharedCluster, TrafficPolicy,
};

mod forecast;
mod lease;

pub use forecast::{Candidate, ClusterForecast};

/// What identifies an upstream cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ClusterKey {
    /// The service's hostname.
    pub hostname: Arc<str>,
    /// The service's port.
    pub port: u16,
    /// The subset; empty: all endpoints.
    pub subset: Arc<str>,
    /// The only endpoint to use, if the application chose it by its address.
    pub endpoint: Option<Arc<str>>,
    /// The address to connect to instead of endpoints, if load balancing is `PASSTHROUGH`.
    pub address: Option<SocketAddr>,
    /// The server name of TLS with servers outside the mesh, if it is the host of requests.
    pub server_name: Option<Arc<str>>,
}

/// Why a cluster refuses every connection.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// The destination is unknown, and the mesh allows known ones only.
    RegistryOnly,
    /// The controller did not answer whether the destination is part of the mesh.
    Unanswered,
}

/// A service's port, or a subset of it, as one worker uses it.
#[derive(Debug)]
pub struct UpstreamCluster {
    /// Envoy's name: `outbound|<port>|<subset>|<hostname>`.
    pub name: Arc<str>,
    key: ClusterKey,
    refuses: Option<Refusal>,
    inputs: RefCell<Option<Inputs>>,
    /// A copy of its own, so that requests share no count with other workers.
    policy: RefCell<Rc<TrafficPolicy>>,
    /// The limits on connections, as pools have them.
    pool_policy: RefCell<Rc<ConnectionPool>>,
    /// The service is of a ServiceEntry whose endpoints are outside of the mesh.
    external: Cell<bool>,
    /// Requests or connections are limited.
    limited: Cell<bool>,
    /// Idle connections are closed when others need their places.
    watched: OnceCell<AbortOnDrop>,
    /// What the workers share of the cluster.
    shared: Arc<SharedCluster>,
    balancer: RefCell<Balancer<Arc<Target>>>,
    pools: RefCell<Pools>,
    /// The endpoints with an attempt to connect that another endpoint was faster than, and that has not ended; and when it began.
    late: RefCell<HashMap<Arc<str>, Instant>>,
    version: Cell<u64>,
    /// The cluster has been used since the last sweep.
    pub(super) used: Cell<bool>,
}

/// Pools by endpoint, each with the target of its connections.
type Pools = HashMap<Arc<str>, (Arc<Target>, Rc<Pool>)>;

/// The parts of a snapshot that targets are built from.
#[derive(Debug)]
struct Inputs {
    service: Arc<Service>,
    own: Option<Arc<OwnWorkload>>,
    gateways: Arc<HashMap<Arc<str>, Arc<[GatewayAddress]>>>,
    settings: Arc<MeshSettings>,
    issuers: Arc<HashSet<Arc<str>>>,
    resolved: Arc<ResolvedNames>,
}

/// The version of a cluster that no snapshot changes.
const FIXED: u64 = u64::MAX - 1;

/// A connection for one request, and the endpoint that it leads to.
#[derive(Debug)]
pub struct LeasedConnection {
    /// The endpoint, which receives reports.
    pub pick: Rc<Pick<Arc<Target>>>,
    /// The endpoint's pool.
    pub pool: Rc<Pool>,
    /// The connection.
    pub lease: Lease,
}

impl UpstreamCluster {
    pub(super) fn of_service(key: ClusterKey, view: &MeshView) -> Self {
        let cluster = Self::new(key);
        // The endpoints that an application chose by their addresses share the limits, not the name.
        let shared = view.shared_cluster(&cluster.name);
        cluster.balancer.borrow_mut().set_counts(shared.ejections.clone());
        Self { shared, ..cluster }
    }

    fn new(key: ClusterKey) -> Self {
        let name = format!("outbound|{}|{}|{}", key.port, key.subset, key.hostname).into();
        Self {
            name,
            key,
            refuses: None,
            inputs: RefCell::default(),
            policy: RefCell::default(),
            pool_policy: RefCell::default(),
            external: Cell::new(false),
            limited: Cell::new(false),
            watched: OnceCell::new(),
            shared: Arc::default(),
            balancer: RefCell::new(Balancer::new(Locality::default())),
            pools: RefCell::default(),
            late: RefCell::default(),
            version: Cell::new(u64::MAX),
            used: Cell::new(true),
        }
    }

    /// Returns a cluster of one fixed target outside the mesh, with one of Envoy's names.
    pub fn fixed(name: &str, target: Target) -> Self {
        let cluster =
            Self { name: name.into(), version: Cell::new(FIXED), ..Self::new(ClusterKey::address(target.address)) };
        let endpoint = balance::Endpoint {
            id: cluster.key.hostname.clone(),
            locality: Locality::default(),
            priority: 0,
            weight: 1,
            health: balance::Health::Ready,
            target: Arc::new(target),
        };
        cluster.balancer.borrow_mut().update([endpoint]);
        cluster
    }

    /// Returns the cluster of unknown destinations if the mesh does not allow them: every connection is refused.
    pub fn black_hole(destination: SocketAddr) -> Self {
        let (name, version) = ("BlackHoleCluster".into(), Cell::new(FIXED));
        let refuses = Some(Refusal::RegistryOnly);
        Self { name, version, refuses, ..Self::new(ClusterKey::address(destination)) }
    }

    /// Returns the cluster of a destination that may be part of the mesh, for which the controller did not answer: every
    /// connection is refused.
    pub fn unanswered(destination: &str) -> Self {
        let (name, version) = ("UnansweredCluster".into(), Cell::new(FIXED));
        let key = ClusterKey { hostname: destination.into(), ..ClusterKey::default() };
        Self { name, version, refuses: Some(Refusal::Unanswered), ..Self::new(key) }
    }

    /// Returns whether the cluster is a service that discovery knows.
    pub fn is_service(&self) -> bool {
        self.version.get() != FIXED
    }

    /// Returns whether the cluster is a service of the mesh.
    pub fn in_mesh(&self) -> bool {
        self.is_service() && !self.external.get()
    }

    /// Adds the endpoints in the localities of tried ones to these, for retries that go to other localities.
    pub fn add_neighbours(&self, tried: &mut Vec<Arc<str>>) {
        let balancer = self.balancer.borrow();
        let rows = || balancer.endpoints().map(|(endpoint, ..)| endpoint);
        let localities: HashSet<&Locality> =
            rows().filter(|endpoint| tried.contains(&endpoint.id)).map(|endpoint| &endpoint.locality).collect();
        let neighbours = rows().filter(|endpoint| localities.contains(&endpoint.locality));
        let new: Vec<Arc<str>> =
            neighbours.map(|endpoint| endpoint.id.clone()).filter(|id| !tried.contains(id)).collect();
        tried.extend(new);
    }

    /// Returns the cluster's key.
    pub fn key(&self) -> &ClusterKey {
        &self.key
    }

    /// Returns what the workers share of the cluster.
    pub fn shared(&self) -> &Arc<SharedCluster> {
        &self.shared
    }

    /// Acquires the place of a retry, or counts that there is none. A retry ends when the place is dropped.
    pub fn retry(&self) -> Option<Permit> {
        self.shared.retry(&self.policy.borrow())
    }

    /// Returns whether requests are sent by HTTP/2. `declared` is whether the port declares it, `used` whether the client
    /// uses it.
    pub fn speaks_http2(&self, declared: bool, used: bool) -> bool {
        let pool = &self.policy.borrow().pool;
        match pool.h2_upgrade {
            _ if pool.use_client_protocol => used,
            Some(upgrade) => declared || upgrade,
            None => declared || used,
        }
    }

    /// Returns whether the server name of connections is the host of the request that they are opened for.
    pub fn names_servers_by_host(&self) -> bool {
        self.key.server_name.is_none()
            && matches!(&self.policy.borrow().tls, ClientTls::Originate(settings) if settings.sni.is_none())
    }

    /// Returns how requests and connections are carried.
    pub fn policy(&self) -> Rc<TrafficPolicy> {
        self.policy.borrow().clone()
    }

    /// Returns whether the cluster is up to date with a version of the snapshot.
    pub(super) fn is_at(&self, version: u64) -> bool {
        let own = self.version.get();
        own == version || own == FIXED
    }

    /// Applies a snapshot.
    pub(super) fn refresh(&self, version: u64, snapshot: &MeshSnapshot) {
        if self.version.replace(version) == version {
            return;
        }
        // A removed service keeps its last endpoints for the connections that it has.
        let Some(service) = snapshot.services.get(&self.key.hostname) else { return };
        // Most snapshots change another service.
        if self.inputs.borrow().as_ref().is_some_and(|inputs| inputs.are_unchanged(service, snapshot)) {
            return;
        }
        self.external.set(service.entry.as_ref().is_some_and(|entry| entry.external));
        let mut targets = target::targets(service, &self.key, snapshot);
        if self.key.endpoint.is_some() {
            // A pod that was chosen by its address is used in any state: members of a headless service find each other
            // before they are ready.
            targets.iter_mut().for_each(|candidate| candidate.health = balance::Health::Ready);
        }
        let policy = TrafficPolicy::clone(service.policy.traffic(self.key.port, &self.key.subset));
        self.shared.apply(&policy);
        self.limited.set(policy.pool.is_limited() || policy.retry_budget.is_some());
        let mut pool_policy = policy.pool.clone();
        if policy.proxy_protocol.is_some() {
            // A connection is one client's.
            pool_policy.max_requests_per_connection = Some(1);
        }
        if **self.pool_policy.borrow() != pool_policy {
            *self.pool_policy.borrow_mut() = Rc::new(pool_policy);
            // New connections follow the new limits.
            self.pools.borrow_mut().drain().for_each(|(_, (_, pool))| pool.clear());
        }
        self.drop_pools(&targets);
        let mut balancer = self.balancer.borrow_mut();
        balancer.set_locality(snapshot.own.as_ref().map(|own| own.locality.clone()).unwrap_or_default());
        balancer.set_settings(self.settings(&policy, snapshot));
        balancer.update(targets);
        *self.policy.borrow_mut() = Rc::new(policy);
        *self.inputs.borrow_mut() = Some(Inputs::of(service, snapshot));
    }

    /// Returns the settings of the balancer.
    fn settings(&self, policy: &TrafficPolicy, snapshot: &MeshSnapshot) -> Settings {
        let balancing = &policy.balancing;
        let by_default = || {
            let near = snapshot.settings.locality_load_balancing;
            let preference = if near { Preference::Distance } else { Preference::Off };
            LocalityPolicy { preference, ..LocalityPolicy::default() }
        };
        // Of an endpoint that the application chose, nothing is to be decided.
        let detection = policy.outlier_detection.filter(|_| self.key.endpoint.is_none());
        Settings {
            algorithm: balancing.algorithm,
            warmup: balancing.warmup,
            locality: balancing.locality.as_ref().map_or_else(by_default, |rules| rules.policy.clone()),
            detection: detection.map_or_else(Detection::default, |policy| {
                Detection::Configured(self.shared.detector(policy, Instant::now()))
            }),
        }
    }

    /// Closes the pools of targets that have changed or were removed.
    fn drop_pools(&self, targets: &[balance::Endpoint<Arc<Target>>]) {
        let current: HashMap<&Arc<str>, &Arc<Target>> =
            targets.iter().map(|candidate| (&candidate.id, &candidate.target)).collect();
        self.pools.borrow_mut().retain(|id, (target, pool)| {
            let stays = current.get(id).is_some_and(|now| *now == target);
            if !stays {
                pool.clear();
            }
            stays
        });
    }

    fn clear_pool(&self, id: &Arc<str>) {
        if let Some((_, pool)) = self.pools.borrow().get(id) {
            pool.clear();
        }
    }

    fn pick(&self, tried: &[Arc<str>], hash: Option<u64>, now: Instant) -> Result<Pick<Arc<Target>>, Failure> {
        if let Some(refusal) = self.refuses {
            let destination = self.key.hostname.clone();
            return Err(match refusal {
                Refusal::RegistryOnly => Failure::UnknownDestination(destination),
                Refusal::Unanswered => Failure::Unanswered(destination),
            });
        }
        let picked = self.balancer.borrow_mut().pick_by(now, tried, hash, rand::random());
        picked.ok_or_else(|| Failure::NoEndpoint(self.key.hostname.clone()))
    }

    fn pool(&self, pick: &Pick<Arc<Target>>) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some((_, pool)) = pools.get(&pick.id) {
            return pool.clone();
        }
        let new = || (pick.target.clone(), Rc::new(Pool::new(self.pool_policy.borrow().clone())));
        let (_, pool) = pools.entry(pick.id.clone()).or_insert_with(new);
        pool.clone()
    }

    pub(super) fn keeps_connections(&self) -> bool {
        self.pools.borrow().values().any(|(_, pool)| pool.kept() != (0, 0))
    }

    /// Closes connections that have been idle for long.
    pub(super) fn sweep(&self) {
        self.pools.borrow().values().for_each(|(_, pool)| pool.sweep());
    }
}

impl ClusterKey {
    /// Returns the key of a port of a service, or of a subset of it; empty: of all endpoints.
    pub fn of(service: &Service, port: u16, subset: impl Into<Arc<str>>) -> Self {
        Self { hostname: service.hostname.clone(), port, subset: subset.into(), ..Self::default() }
    }

    fn address(address: SocketAddr) -> Self {
        let hostname = address.to_string().into();
        Self { hostname, port: address.port(), ..Self::default() }
    }
}

impl Inputs {
    fn of(service: &Arc<Service>, snapshot: &MeshSnapshot) -> Self {
        Self {
            service: service.clone(),
            own: snapshot.own.clone(),
            gateways: snapshot.gateways.clone(),
            settings: snapshot.settings.clone(),
            issuers: snapshot.issuers.clone(),
            resolved: snapshot.resolved.clone(),
        }
    }

    fn are_unchanged(&self, service: &Arc<Service>, snapshot: &MeshSnapshot) -> bool {
        let own = match (&self.own, &snapshot.own) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        own && Arc::ptr_eq(&self.service, service)
            && Arc::ptr_eq(&self.gateways, &snapshot.gateways)
            && Arc::ptr_eq(&self.settings, &snapshot.settings)
            && Arc::ptr_eq(&self.issuers, &snapshot.issuers)
            && (service.entry.is_none() || Arc::ptr_eq(&self.resolved, &snapshot.resolved))
    }
}
