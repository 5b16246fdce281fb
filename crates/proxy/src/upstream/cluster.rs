//! A service's port as one worker uses it: which endpoint is next, and the connections to each.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use balance::{Balancer, Outcome, Pick};
use tokio::sync::oneshot;

use super::connect::{self, Dial, Opened};
use super::pool::{Lease, Pool, Version};
use super::target::{self, Target};
use crate::failure::Failure;
use crate::mesh::{Service, Snapshot, View};

/// A service's port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The service.
    pub hostname: Arc<str>,
    /// Its port.
    pub port: u16,
    /// The only endpoint to be used, where the application chose it by its address.
    pub endpoint: Option<Arc<str>>,
}

/// A service's port as one worker uses it.
#[derive(Debug)]
pub struct Cluster {
    /// As Envoy names it: `outbound|<port>||<hostname>`.
    pub name: Arc<str>,
    key: Key,
    refuses: bool,
    /// What the targets were made of.
    made_of: RefCell<Option<Snapshot>>,
    service: RefCell<Option<Arc<Service>>>,
    balancer: RefCell<Balancer<Arc<Target>>>,
    pools: RefCell<Pools>,
    version: Cell<u64>,
    /// Since the last sweep.
    used: Cell<bool>,
}

/// By endpoint; with the place that its connections lead to.
type Pools = HashMap<Arc<str>, (Arc<Target>, Rc<Pool>)>;

/// A connection for one request, and the endpoint that it leads to.
#[derive(Debug)]
pub struct Leased {
    /// The endpoint; reports go here.
    pub pick: Rc<Pick<Arc<Target>>>,
    /// Its connections.
    pub pool: Rc<Pool>,
    /// One of them.
    pub lease: Lease,
}

impl Cluster {
    fn of_service(key: Key) -> Self {
        let name = format!("outbound|{}||{}", key.port, key.hostname).into();
        Self {
            name,
            key,
            refuses: false,
            made_of: RefCell::default(),
            service: RefCell::default(),
            balancer: RefCell::new(Balancer::new(balance::Locality::default())),
            pools: RefCell::default(),
            version: Cell::new(u64::MAX),
            used: Cell::new(true),
        }
    }

    /// One fixed place outside of the mesh, under a name of Envoy's.
    pub fn fixed(name: &str, target: Target) -> Self {
        let key = Key { hostname: target.address.to_string().into(), port: target.address.port(), endpoint: None };
        let cluster = Self { name: name.into(), version: Cell::new(FIXED), ..Self::of_service(key) };
        let endpoint = balance::Endpoint {
            id: cluster.key.hostname.clone(),
            locality: balance::Locality::default(),
            weight: 1,
            health: balance::Health::Ready,
            target: Arc::new(target),
        };
        cluster.balancer.borrow_mut().update([endpoint]);
        cluster
    }

    /// Where unknown destinations go that the mesh does not allow: nowhere.
    pub fn black_hole(destination: SocketAddr) -> Self {
        let key = Key { hostname: destination.to_string().into(), port: destination.port(), endpoint: None };
        let (name, version) = ("BlackHoleCluster".into(), Cell::new(FIXED));
        Self { name, version, refuses: true, ..Self::of_service(key) }
    }

    /// The service, if it is one.
    pub fn service(&self) -> Option<Arc<Service>> {
        self.service.borrow().clone()
    }

    /// The service's port.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Takes over what has changed in the mesh.
    fn refresh(&self, version: u64, snapshot: &Snapshot) {
        if self.version.replace(version) == version {
            return;
        }
        // A service that is no longer told keeps its last endpoints for the connections that it has.
        let Some(service) = snapshot.services.get(&self.key.hostname) else { return };
        if self.is_made_of(service, snapshot) {
            return;
        }
        let mut targets = target::targets(service, self.key.port, snapshot);
        if let Some(chosen) = &self.key.endpoint {
            targets.retain(|choice| choice.id == *chosen);
            // Who asks for this pod gets this pod: members of a headless service find each other before they are ready.
            targets.iter_mut().for_each(|choice| choice.health = balance::Health::Ready);
        }
        let current: HashMap<&Arc<str>, &Arc<Target>> =
            targets.iter().map(|choice| (&choice.id, &choice.target)).collect();
        self.pools.borrow_mut().retain(|id, (target, pool)| {
            let stays = current.get(id).is_some_and(|now| *now == target);
            if !stays {
                pool.clear();
            }
            stays
        });
        let mut balancer = self.balancer.borrow_mut();
        balancer.place_at(snapshot.own.as_ref().map(|own| own.locality.clone()).unwrap_or_default());
        balancer.update(targets);
        *self.service.borrow_mut() = Some(service.clone());
        *self.made_of.borrow_mut() = Some(Snapshot {
            services: Default::default(),
            addresses: Default::default(),
            pods: Default::default(),
            ..snapshot.clone()
        });
    }

    /// Whether nothing that the targets depend on has changed: most snapshots change another service.
    fn is_made_of(&self, service: &Arc<Service>, snapshot: &Snapshot) -> bool {
        let known = self.service.borrow().as_ref().is_some_and(|known| Arc::ptr_eq(known, service));
        known
            && self.made_of.borrow().as_ref().is_some_and(|before| {
                let own = match (&before.own, &snapshot.own) {
                    (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                    (before, now) => before.is_none() && now.is_none(),
                };
                own && Arc::ptr_eq(&before.gateways, &snapshot.gateways)
                    && Arc::ptr_eq(&before.settings, &snapshot.settings)
                    && Arc::ptr_eq(&before.issuers, &snapshot.issuers)
            })
    }

    /// A connection for a request, to an endpoint that is not in `tried` where there is another. `dial` is asked where none
    /// is open. `now` is about now.
    pub async fn lease(
        self: &Rc<Self>,
        version: Version,
        tried: &mut Vec<Arc<str>>,
        now: Instant,
        dial: impl Fn() -> Dial,
    ) -> Result<Leased, Failure> {
        let pick = self.pick(tried, now)?;
        let pool = self.pool(&pick);
        if let Some(lease) = pool.take(version).await {
            return Ok(Leased { pick: Rc::new(pick), pool, lease });
        }
        // Boxed, because connecting takes ten times the room of all the rest, which each request would move about.
        let (pick, dial) = (Rc::new(pick), dial());
        match version {
            Version::Http1 => Box::pin(self.lease_first(pick, pool, tried, dial)).await,
            Version::Http2 => Box::pin(self.lease_anew(pick, &pool, version, tried, &dial)).await,
        }
    }

    /// A connection of HTTP/1.1: a new one, or one that another request has done with, whichever comes first. The new one is
    /// opened to the end in any case, for the next request. Otherwise requests that have to wait because everything is slow
    /// would each wait for a handshake more, which makes everything slower.
    async fn lease_first(
        self: &Rc<Self>,
        pick: Rc<Pick<Arc<Target>>>,
        pool: Rc<Pool>,
        tried: &mut Vec<Arc<str>>,
        dial: Dial,
    ) -> Result<Leased, Failure> {
        let (tell, told) = oneshot::channel();
        let (cluster, first, to, mut before) = (self.clone(), pick.clone(), pool.clone(), tried.clone());
        tokio::task::spawn_local(async move {
            let leased = cluster.lease_anew(first, &to, Version::Http1, &mut before, &dial).await;
            if let Err((Ok(leased), _)) = tell.send((leased, before)) {
                leased.lease.release();
            }
        });
        tokio::select! {
            biased;
            told = told => {
                // Nobody but the end of the worker keeps it from telling.
                let (leased, before) = told.map_err(|_| Failure::NoEndpoint(self.key.hostname.clone()))?;
                *tried = before;
                leased
            }
            lease = pool.freed() => Ok(Leased { pick, pool: pool.clone(), lease }),
        }
    }

    async fn lease_anew(
        &self,
        pick: Rc<Pick<Arc<Target>>>,
        pool: &Rc<Pool>,
        version: Version,
        tried: &mut Vec<Arc<str>>,
        dial: &Dial,
    ) -> Result<Leased, Failure> {
        let opening = match pool.open_or_take(version).await {
            Ok(opening) => opening,
            Err(lease) => return Ok(Leased { pick, pool: pool.clone(), lease }),
        };
        let (pick, opened) = self.open(pick, tried, Some(version), dial).await?;
        // Where another endpoint was faster, this is its pool.
        let others = self.pool(&pick);
        let adopted = others.adopt(opened, version).await;
        drop(opening);
        match adopted {
            Ok(lease) => Ok(Leased { pick, pool: others, lease }),
            Err(error) => {
                pick.report(Outcome::ConnectFailure, Instant::now());
                Err(Failure::Connect { endpoint: pick.target.address.to_string().into(), error, retried: false })
            }
        }
    }

    /// A connection for opaque bytes.
    pub async fn connect(&self, dial: &Dial) -> Result<(Rc<Pick<Arc<Target>>>, Opened), Failure> {
        let mut tried = Vec::new();
        let first = self.pick(&tried, Instant::now())?;
        let (pick, opened) = self.open(Rc::new(first), &mut tried, None, dial).await?;
        pick.report(Outcome::Success, Instant::now());
        Ok((pick, opened))
    }

    async fn open(
        &self,
        first: Rc<Pick<Arc<Target>>>,
        tried: &mut Vec<Arc<str>>,
        version: Option<Version>,
        dial: &Dial,
    ) -> Result<(Rc<Pick<Arc<Target>>>, Opened), Failure> {
        let forget = |pick: &Pick<Arc<Target>>| {
            if let Some((_, pool)) = self.pools.borrow().get(&pick.id) {
                pool.clear();
            }
        };
        connect::race(&self.balancer, first, tried, connect::alpn_of(version), dial, forget).await
    }

    fn pick(&self, tried: &[Arc<str>], now: Instant) -> Result<Pick<Arc<Target>>, Failure> {
        if self.refuses {
            return Err(Failure::UnknownDestination(self.key.hostname.clone()));
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

    fn keeps_connections(&self) -> bool {
        self.pools.borrow().values().any(|(_, pool)| pool.kept() != (0, 0))
    }

    /// Closes connections that were not used for long.
    fn sweep(&self) {
        self.pools.borrow().values().for_each(|(_, pool)| pool.sweep());
    }
}

/// All clusters of one worker.
#[derive(Debug, Default)]
pub struct Clusters {
    by_key: RefCell<HashMap<Key, Rc<Cluster>>>,
}

impl Clusters {
    /// The cluster of a service's port, or of one endpoint of it, up to date.
    pub fn of(&self, service: &Service, port: u16, endpoint: Option<Arc<str>>, view: &View) -> Rc<Cluster> {
        let key = Key { hostname: service.hostname.clone(), port, endpoint };
        let cluster = self
            .by_key
            .borrow_mut()
            .entry(key)
            .or_insert_with_key(|key| Rc::new(Cluster::of_service(key.clone())))
            .clone();
        self.refresh(&cluster, view);
        cluster
    }

    /// Brings a cluster that is being used up to date.
    pub fn refresh(&self, cluster: &Cluster, view: &View) {
        cluster.used.set(true);
        self.take_over(cluster, view);
    }

    fn take_over(&self, cluster: &Cluster, view: &View) {
        let version = view.version();
        if cluster.version.get() != version && cluster.version.get() != FIXED {
            cluster.refresh(version, &view.snapshot());
        }
    }

    /// Closes connections that were not used for long, and takes over changes where nobody asked for a while, so that
    /// connections to what is gone do not stay. Says which services are used, and forgets what nobody needs any more.
    pub fn sweep(&self, view: &View) {
        self.by_key.borrow().values().for_each(|cluster| {
            self.take_over(cluster, view);
            cluster.sweep();
        });
        let snapshot = view.snapshot();
        let mut used = HashSet::new();
        self.by_key.borrow_mut().retain(|key, cluster| {
            // Each connection of the application has the cluster that it goes to.
            if cluster.used.replace(false) || Rc::strong_count(cluster) > 1 {
                used.insert(key.hostname.clone());
                return true;
            }
            // One pod's is made anew for little; a service's knows what failed, and goes with the service.
            snapshot.services.contains_key(&key.hostname) && (key.endpoint.is_none() || cluster.keeps_connections())
        });
        view.used(&used);
    }
}

/// The version of a cluster that no snapshot changes.
const FIXED: u64 = u64::MAX - 1;
