//! A worker: accepts on its own listener and carries its connections, all on one thread.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use balance::{Balancer, Locality, Pick};
use foldhash::{HashMap, HashMapExt};
use futures_util::FutureExt as _;
use net::hello::Limits;
use net::socket::Acceptor;
use net::splice::{Carrier, Relay};
use runtime::drain::Watch;
use telemetry::access_log::Log;
use telemetry::istio::{Labels, Party, TcpSeries};
use telemetry::metrics::Registry;
use tokio::net::TcpStream;

use crate::metrics::Counts;
use crate::refusal::Refusal;
use crate::routes::{Route, Service, Target};
use crate::serve;
use crate::store::{LogTo, Snapshot};

#[cfg(test)]
mod tests;

/// How often open connections report what they have carried, and what is no longer used is given up.
const REPORT: Duration = Duration::from_secs(5);

/// Connections accepted before those that are open get a turn. A new one costs some 100 µs in all, so a storm of them delays
/// what is carried by two milliseconds, and not by as many as wait.
const AT_ONCE: usize = 16;

/// What a gateway is set to, apart from what discovery tells.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds on reading a ClientHello.
    pub hello: Limits,
    /// How to carry.
    pub relay: Relay,
    /// Connections of one worker whose hello is being read. Each may hold as much memory as the hello may be large.
    pub max_pending: usize,
    /// Connections of one worker.
    pub max_connections: usize,
    /// Endpoints tried for one connection.
    pub attempts: usize,
    /// What telemetry calls this gateway.
    pub own: Party,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hello: Limits::default(),
            relay: Relay::default(),
            max_pending: 512,
            max_connections: usize::MAX,
            attempts: 3,
            own: Party::default(),
        }
    }
}

/// One worker's state. It stays on its thread.
#[derive(Debug)]
pub struct Worker {
    pub(crate) settings: Settings,
    pub(crate) carrier: Carrier,
    pub(crate) counts: Counts,
    published: Arc<ArcSwap<Snapshot>>,
    istio: telemetry::istio::Metrics,
    balancers: RefCell<HashMap<Key, Local>>,
    log: RefCell<Option<(Arc<LogTo>, Rc<Log>)>>,
    open: Rc<RefCell<HashMap<u64, Rc<serve::Open>>>>,
    next: Cell<u64>,
    pending: Cell<usize>,
    connections: Cell<usize>,
}

/// A service's port; names with TLS of their own have other endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    hostname: Arc<str>,
    port: u16,
    mesh_only: bool,
}

#[derive(Debug)]
struct Local {
    /// What the balancer was last told.
    service: Arc<Service>,
    balancer: Balancer<Target>,
    series: HashMap<Arc<Party>, TcpSeries>,
}

/// Counts one connection for as long as it lives.
pub(crate) struct Place<'a>(&'a Cell<usize>);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Worker {
    /// A worker that reads these snapshots.
    pub fn new(settings: Settings, published: Arc<ArcSwap<Snapshot>>, registry: &Registry) -> Rc<Self> {
        let scope = registry.worker();
        Rc::new(Self {
            settings,
            carrier: Carrier::new(),
            counts: Counts::new(&scope),
            published,
            istio: telemetry::istio::Metrics::new(scope),
            balancers: RefCell::default(),
            log: RefCell::default(),
            open: Rc::default(),
            next: Cell::new(1),
            pending: Cell::new(0),
            connections: Cell::new(0),
        })
    }

    /// Accepts until drain begins, then whoever had begun to connect by that time, and returns. The connections live on.
    pub async fn run(self: Rc<Self>, mut acceptors: Vec<Acceptor>, mut drain: Watch) -> std::io::Result<()> {
        /// For handshakes that had begun when the drain did: some round trips to anywhere.
        const HANDSHAKES: Duration = Duration::from_millis(300);
        let _accepting = drain.guard();
        let reporting = tokio::task::spawn_local(Rc::clone(&self).report());
        let guards = drain.clone();
        let accepted = async {
            self.accept_until(drain.begun(), &mut acceptors, &guards).await?;
            for acceptor in &acceptors {
                if let Err(error) = net::socket::refuse_new(acceptor) {
                    tracing::warn!(%error, "a connection that comes this moment may be reset");
                }
            }
            self.accept_until(tokio::time::sleep(HANDSHAKES), &mut acceptors, &guards).await?;
            self.accept_rest(&mut acceptors, &guards).await
        };
        let accepted = accepted.await;
        if accepted.is_err() {
            reporting.abort();
        }
        accepted
    }

    async fn accept_until(
        self: &Rc<Self>,
        end: impl Future<Output = ()>,
        acceptors: &mut [Acceptor],
        guards: &Watch,
    ) -> std::io::Result<()> {
        let mut end = std::pin::pin!(end);
        loop {
            for _ in 0..AT_ONCE {
                let accepted = tokio::select! {
                    biased;
                    () = &mut end => return Ok(()),
                    accepted = next(acceptors) => accepted?,
                };
                self.begin(accepted, guards);
            }
            tokio::task::yield_now().await;
        }
    }

    /// What still waits, which closing the listener would reset.
    async fn accept_rest(self: &Rc<Self>, acceptors: &mut [Acceptor], guards: &Watch) -> std::io::Result<()> {
        /// No queue is longer. Where nothing keeps new ones out, this does.
        const TURNS: usize = 4096 / AT_ONCE;
        for _ in 0..TURNS {
            for _ in 0..AT_ONCE {
                match next(acceptors).now_or_never() {
                    Some(accepted) => self.begin(accepted?, guards),
                    None => return Ok(()),
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn begin(self: &Rc<Self>, (client, peer): (TcpStream, SocketAddr), guards: &Watch) {
        let (worker, guard) = (Rc::clone(self), guards.guard());
        tokio::task::spawn_local(async move {
            serve::connection(client, peer, &worker).await;
            drop(guard);
        });
    }

    /// A place among those whose hello is being read, and among all.
    pub(crate) fn places(&self) -> Result<(Place<'_>, Place<'_>), Refusal> {
        let (pending, all) = (self.pending.get(), self.connections.get());
        if pending >= self.settings.max_pending || all >= self.settings.max_connections {
            return Err(Refusal::Overload);
        }
        self.pending.set(pending + 1);
        self.connections.set(all + 1);
        Ok((Place(&self.pending), Place(&self.connections)))
    }

    /// What is in force now.
    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.published.load()
    }

    /// Whether there is an access log.
    pub(crate) fn logs(&self) -> bool {
        self.published.load().log.is_some()
    }

    /// The access log in force now.
    pub(crate) fn log(&self) -> Option<Rc<Log>> {
        let snapshot = self.published.load();
        let to = snapshot.log.as_ref()?;
        let mut log = self.log.borrow_mut();
        match &*log {
            Some((same, log)) if Arc::ptr_eq(same, to) => Some(Rc::clone(log)),
            _ => {
                let made = Rc::new(to.writer.log(Arc::clone(&to.format)));
                *log = Some((Arc::clone(to), Rc::clone(&made)));
                Some(made)
            }
        }
    }

    /// The next endpoint of a route, not one of those tried before, if there is another.
    pub(crate) fn pick(&self, route: &Route, tried: &[Arc<str>]) -> Option<Pick<Target>> {
        let mut balancers = self.balancers.borrow_mut();
        let pick = local(&mut balancers, route).balancer.pick(Instant::now(), tried, rand::random());
        pick.filter(|pick| !tried.contains(&pick.id))
    }

    /// Where connections to this endpoint are counted.
    pub(crate) fn series(&self, route: &Route, target: &Target) -> TcpSeries {
        let mut balancers = self.balancers.borrow_mut();
        let series = &mut local(&mut balancers, route).series;
        let made = series.entry(Arc::clone(&target.party)).or_insert_with(|| {
            self.istio.tcp(&Labels {
                source: self.settings.own.clone(),
                destination: Party::clone(&target.party),
                service: route.service.labels.clone(),
                ..Labels::default()
            })
        });
        made.clone()
    }

    /// A connection that reports from time to time until what is returned is dropped.
    pub(crate) fn keep(&self, open: Rc<serve::Open>) -> Kept {
        let id = self.next.get();
        self.next.set(id + 1);
        self.open.borrow_mut().insert(id, open);
        Kept { id, open: Rc::clone(&self.open) }
    }

    /// Reports what long connections have carried, and forgets services that are gone.
    async fn report(self: Rc<Self>) {
        let mut tick = tokio::time::interval(REPORT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.open.borrow().values().for_each(|open| open.report());
            let snapshot = self.published.load();
            self.balancers
                .borrow_mut()
                .retain(|key, _| snapshot.routes.find(&wire::name::sni(key.port, "", &key.hostname)).is_some());
        }
    }
}

/// A connection's entry among those that report.
pub(crate) struct Kept {
    pub(crate) id: u64,
    open: Rc<RefCell<HashMap<u64, Rc<serve::Open>>>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.open.borrow_mut().remove(&self.id);
    }
}

/// This worker's view of a route, brought up to date.
fn local<'a>(balancers: &'a mut HashMap<Key, Local>, route: &Route) -> &'a mut Local {
    let key = Key { hostname: Arc::clone(&route.service.hostname), port: route.port, mesh_only: route.mesh_only };
    let local = balancers.entry(key).or_insert_with(|| {
        let mut balancer = Balancer::new(Locality::default());
        balancer.update(route.service.candidates(route.port, route.mesh_only));
        Local { service: Arc::clone(&route.service), balancer, series: HashMap::new() }
    });
    if !Arc::ptr_eq(&local.service, &route.service) {
        local.balancer.update(route.service.candidates(route.port, route.mesh_only));
        local.series.clear();
        local.service = Arc::clone(&route.service);
    }
    local
}

/// The next connection on any of the listeners.
async fn next(acceptors: &mut [Acceptor]) -> std::io::Result<(TcpStream, SocketAddr)> {
    match acceptors {
        [one] => one.next().await,
        many => {
            let waiting = many.iter_mut().map(|acceptor| Box::pin(acceptor.next()));
            futures_util::future::select_all(waiting).await.0
        }
    }
}
