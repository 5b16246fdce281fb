//! An upstream cluster: a service's port, or a subset of it, as one worker uses it.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use balance::{Balancer, Locality, Outcome, Pick};
use tokio::sync::oneshot;

use super::connect::{self, DialOptions, Dialing, OpenConnection};
use super::pool::{Lease, Pool};
use super::target::{self, Target};
use crate::failure::Failure;
use crate::http::Version;
use crate::mesh::{GatewayAddress, MeshSettings, MeshSnapshot, OwnWorkload, Service, TrafficPolicy};

/// What identifies an upstream cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterKey {
    /// The service's hostname.
    pub hostname: Arc<str>,
    /// The service's port.
    pub port: u16,
    /// The subset; empty: all endpoints.
    pub subset: Arc<str>,
    /// The only endpoint to use, if the application chose it by its address.
    pub endpoint: Option<Arc<str>>,
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
    pub(super) fn of_service(key: ClusterKey) -> Self {
        let name = format!("outbound|{}|{}|{}", key.port, key.subset, key.hostname).into();
        Self {
            name,
            key,
            refuses: None,
            inputs: RefCell::default(),
            policy: RefCell::default(),
            balancer: RefCell::new(Balancer::new(Locality::default())),
            pools: RefCell::default(),
            late: RefCell::default(),
            version: Cell::new(u64::MAX),
            used: Cell::new(true),
        }
    }

    /// Returns a cluster of one fixed target outside the mesh, with one of Envoy's names.
    pub fn fixed(name: &str, target: Target) -> Self {
        let cluster = Self {
            name: name.into(),
            version: Cell::new(FIXED),
            ..Self::of_service(ClusterKey::address(target.address))
        };
        let endpoint = balance::Endpoint {
            id: cluster.key.hostname.clone(),
            locality: Locality::default(),
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
        Self { name, version, refuses, ..Self::of_service(ClusterKey::address(destination)) }
    }

    /// Returns the cluster of a destination that may be part of the mesh, for which the controller did not answer: every
    /// connection is refused.
    pub fn unanswered(destination: &str) -> Self {
        let (name, version) = ("UnansweredCluster".into(), Cell::new(FIXED));
        let key = ClusterKey { hostname: destination.into(), port: 0, subset: Arc::default(), endpoint: None };
        Self { name, version, refuses: Some(Refusal::Unanswered), ..Self::of_service(key) }
    }

    /// Returns whether the cluster is a service of the mesh.
    pub fn in_mesh(&self) -> bool {
        self.version.get() != FIXED
    }

    /// Returns the cluster's key.
    pub fn key(&self) -> &ClusterKey {
        &self.key
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
        let subset = (!self.key.subset.is_empty()).then(|| service.subset(&self.key.subset));
        let chosen = self.key.endpoint.as_deref();
        let mut targets = match subset {
            // The subset no longer exists.
            Some(None) => Vec::new(),
            Some(Some(subset)) => target::targets(service, self.key.port, Some(subset), chosen, snapshot),
            None => target::targets(service, self.key.port, None, chosen, snapshot),
        };
        if chosen.is_some() {
            // A pod that was chosen by its address is used in any state: members of a headless service find each other
            // before they are ready.
            targets.iter_mut().for_each(|candidate| candidate.health = balance::Health::Ready);
        }
        self.drop_pools(&targets);
        let mut balancer = self.balancer.borrow_mut();
        balancer.set_locality(snapshot.own.as_ref().map(|own| own.locality.clone()).unwrap_or_default());
        balancer.set_outlier_detection(service.policy.outlier_detection);
        balancer.update(targets);
        *self.policy.borrow_mut() = Rc::new(TrafficPolicy::clone(&service.policy));
        *self.inputs.borrow_mut() = Some(Inputs::of(service, snapshot));
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

    /// Returns a connection for a request, to an endpoint that is not in `tried` if there is another. Calls `dial` if no
    /// connection is open. `now` is approximate.
    pub async fn lease(
        self: &Rc<Self>,
        version: Version,
        tried: &mut Vec<Arc<str>>,
        now: Instant,
        dial: impl Fn() -> DialOptions,
    ) -> Result<LeasedConnection, Failure> {
        let pick = self.pick(tried, now)?;
        let pool = self.pool(&pick);
        if let Some(lease) = pool.take(version).await {
            return Ok(LeasedConnection { pick: Rc::new(pick), pool, lease });
        }
        // Boxed: connecting takes ten times the space of the rest, which each request would move.
        let (pick, dial) = (Rc::new(pick), dial());
        match version {
            Version::Http1 => Box::pin(self.lease_first(pick, pool, tried, dial)).await,
            Version::Http2 => Box::pin(self.open_and_lease(pick, &pool, version, tried, &dial)).await,
        }
    }

    /// Returns a connection of HTTP/1.1: a new one, or one that another request releases, whichever comes first. The new one
    /// is opened in any case, for the next request: if all is slow, requests would otherwise each wait for one handshake
    /// more, which makes everything slower.
    async fn lease_first(
        self: &Rc<Self>,
        pick: Rc<Pick<Arc<Target>>>,
        pool: Rc<Pool>,
        tried: &mut Vec<Arc<str>>,
        dial: DialOptions,
    ) -> Result<LeasedConnection, Failure> {
        let (send, opened) = oneshot::channel();
        let (cluster, first, to, mut before) = (self.clone(), pick.clone(), pool.clone(), tried.clone());
        tokio::task::spawn_local(async move {
            let leased = cluster.open_and_lease(first, &to, Version::Http1, &mut before, &dial).await;
            if let Err((Ok(leased), _)) = send.send((leased, before)) {
                leased.lease.release();
            }
        });
        tokio::select! {
            biased;
            opened = opened => {
                // The task ends without a result only with the worker.
                let (leased, before) = opened.map_err(|_| Failure::NoEndpoint(self.key.hostname.clone()))?;
                *tried = before;
                leased
            }
            lease = pool.released() => Ok(LeasedConnection { pick, pool: pool.clone(), lease }),
        }
    }

    async fn open_and_lease(
        self: &Rc<Self>,
        pick: Rc<Pick<Arc<Target>>>,
        pool: &Rc<Pool>,
        version: Version,
        tried: &mut Vec<Arc<str>>,
        dial: &DialOptions,
    ) -> Result<LeasedConnection, Failure> {
        let opening = match pool.open_or_take(version).await {
            Ok(opening) => opening,
            Err(lease) => return Ok(LeasedConnection { pick, pool: pool.clone(), lease }),
        };
        let (pick, opened) = self.open(pick, tried, Some(version), dial).await?;
        // The pool of the endpoint that won the race.
        let pool = self.pool(&pick);
        let adopted = pool.adopt(opened, version).await;
        drop(opening);
        match adopted {
            Ok(lease) => Ok(LeasedConnection { pick, pool, lease }),
            Err(error) => {
                pick.report(Outcome::ConnectFailure, Instant::now());
                Err(Failure::Connect { endpoint: pick.target.address.to_string().into(), error, retried: false })
            }
        }
    }

    /// Opens a connection for opaque bytes.
    pub async fn connect(
        self: &Rc<Self>,
        dial: &DialOptions,
    ) -> Result<(Rc<Pick<Arc<Target>>>, OpenConnection), Failure> {
        let mut tried = Vec::new();
        let first = self.pick(&tried, Instant::now())?;
        let (pick, opened) = self.open(Rc::new(first), &mut tried, None, dial).await?;
        pick.report(Outcome::Success, Instant::now());
        Ok((pick, opened))
    }

    async fn open(
        self: &Rc<Self>,
        first: Rc<Pick<Arc<Target>>>,
        tried: &mut Vec<Arc<str>>,
        version: Option<Version>,
        dial: &DialOptions,
    ) -> Result<(Rc<Pick<Arc<Target>>>, OpenConnection), Failure> {
        // An endpoint that has answered others since is busy, not gone.
        let is_late = |pick: &Pick<Arc<Target>>| {
            self.late.borrow().get(&pick.id).is_some_and(|since| !pick.has_succeeded_since(*since))
        };
        let clear_pool = |pick: &Pick<Arc<Target>>| self.clear_pool(&pick.id);
        let race =
            connect::race(&self.balancer, first, tried, connect::alpn_of(version), dial, is_late, clear_pool).await?;
        for dialing in race.late {
            // One attempt for each endpoint shows as much as many.
            if let Entry::Vacant(late) = self.late.borrow_mut().entry(dialing.pick.id.clone()) {
                late.insert(dialing.since);
                tokio::task::spawn_local(self.clone().finish(dialing, version));
            }
        }
        Ok((race.pick, race.opened))
    }

    /// Lets an attempt go on that another endpoint was faster than: the endpoint is far away, busy or gone, and only the
    /// attempt's end shows which. Its connection is kept for the next request.
    async fn finish(self: Rc<Self>, mut dialing: Dialing, version: Option<Version>) {
        let opened = (&mut dialing).await;
        let pick = &dialing.pick;
        self.late.borrow_mut().remove(&pick.id);
        match (opened, version) {
            (Ok(opened), Some(version)) => {
                let pool = self.pools.borrow().get(&pick.id).map(|(_, pool)| pool.clone());
                if let Some(pool) = pool
                    && let Ok(lease) = pool.adopt(opened, version).await
                {
                    lease.release();
                }
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                tracing::debug!(%error, endpoint = %pick.target.address, "a late attempt to connect failed");
                if dialing.report_failure() {
                    self.clear_pool(&pick.id);
                }
            }
        }
    }

    fn clear_pool(&self, id: &Arc<str>) {
        if let Some((_, pool)) = self.pools.borrow().get(id) {
            pool.clear();
        }
    }

    fn pick(&self, tried: &[Arc<str>], now: Instant) -> Result<Pick<Arc<Target>>, Failure> {
        if let Some(refusal) = self.refuses {
            let destination = self.key.hostname.clone();
            return Err(match refusal {
                Refusal::RegistryOnly => Failure::UnknownDestination(destination),
                Refusal::Unanswered => Failure::Unanswered(destination),
            });
        }
        let picked = self.balancer.borrow_mut().pick(now, tried, rand::random());
        picked.ok_or_else(|| Failure::NoEndpoint(self.key.hostname.clone()))
    }

    fn pool(&self, pick: &Pick<Arc<Target>>) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some((_, pool)) = pools.get(&pick.id) {
            return pool.clone();
        }
        let (_, pool) = pools.entry(pick.id.clone()).or_insert_with(|| (pick.target.clone(), Rc::default()));
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
    fn address(address: SocketAddr) -> Self {
        let hostname = address.to_string().into();
        Self { hostname, port: address.port(), subset: Arc::default(), endpoint: None }
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
    }
}
