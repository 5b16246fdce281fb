//! The state of one worker thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use balance::{Balancer, Locality, Pick};
use foldhash::{HashMap, HashMapExt};
use net::hello::Limits;
use net::splice::{Carrier, Relay};
use proxy::report::{AccessLog, AccessLogFiles};
use runtime::admission::Admission;
use telemetry::istio::{Labels, Party, TcpSeries};
use telemetry::metrics::Registry;

use crate::metrics::Counts;
use crate::open_connections::OpenConnections;
use crate::routes::{PodTarget, Route, RouteKey, Routes};

#[cfg(test)]
mod tests;

/// How often open connections report their bytes, and state of removed services is dropped.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// The settings of a gateway that do not come from discovery.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Limits on reading a ClientHello.
    pub hello: Limits,
    /// How connections are relayed.
    pub relay: Relay,
    /// The admission of connections, of all workers. A connection is pending while its ClientHello is read.
    pub admission: Admission,
    /// The maximum number of endpoints to try for one connection.
    pub attempts: usize,
    /// The gateway as a party to metrics.
    pub own: Party,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            hello: Limits::default(),
            relay: Relay::default(),
            admission: Admission::new(runtime::admission::Limits::default()),
            attempts: 6,
            own: Party::default(),
        }
    }
}

/// The state of one worker thread.
pub struct GatewayWorker {
    pub(crate) settings: WorkerSettings,
    pub(crate) carrier: Carrier,
    pub(crate) counts: Counts,
    routes: Arc<ArcSwap<Routes>>,
    istio: telemetry::istio::Metrics,
    balancers: RefCell<HashMap<RouteKey, RouteState>>,
    log: AccessLog,
    pub(crate) open: OpenConnections,
}

/// What the worker has learned of a route's endpoints.
struct RouteState {
    /// The service that the balancer was updated with.
    service: Arc<proxy::mesh::Service>,
    balancer: Balancer<PodTarget>,
    series: HashMap<Arc<Party>, TcpSeries>,
}

impl GatewayWorker {
    /// Creates a worker's state.
    pub fn new(
        settings: WorkerSettings,
        routes: Arc<ArcSwap<Routes>>,
        logs: AccessLogFiles,
        registry: &Registry,
    ) -> Rc<Self> {
        let scope = registry.worker();
        Rc::new(Self {
            settings,
            carrier: Carrier::new(),
            counts: Counts::new(&scope),
            routes,
            istio: telemetry::istio::Metrics::new(scope),
            balancers: RefCell::default(),
            log: AccessLog::new(logs),
            open: OpenConnections::default(),
        })
    }

    /// Returns the current routes.
    pub(crate) fn routes(&self) -> Guard<Arc<Routes>> {
        self.routes.load()
    }

    /// Returns the time in which an endpoint must be found: less than the client's sidecar grants for its whole handshake with
    /// that endpoint.
    pub(crate) fn connect_budget(&self) -> Duration {
        self.routes().mesh().settings.gateway_connect_budget()
    }

    /// Returns whether there is an access log.
    pub(crate) fn logs(&self) -> bool {
        !self.routes().mesh().settings.log.file.is_empty()
    }

    /// Returns the current access log.
    pub(crate) fn log(&self) -> Option<Rc<telemetry::access_log::Log>> {
        self.log.current(&self.routes().mesh().settings.log)
    }

    /// Picks the next endpoint of a route, which is not one of those tried before.
    pub(crate) fn pick(&self, route: &Route, tried: &[Arc<str>]) -> Option<Pick<PodTarget>> {
        let pick = self.with_state(route, |state| state.balancer.pick(Instant::now(), tried, rand::random()));
        pick.filter(|pick| !tried.contains(&pick.id))
    }

    /// Returns the metrics of connections to an endpoint.
    pub(crate) fn series(&self, route: &Route, target: &PodTarget) -> TcpSeries {
        self.with_state(route, |state| {
            let series = state.series.entry(target.party.clone()).or_insert_with(|| {
                self.istio.tcp(&Labels {
                    source: self.settings.own.clone(),
                    destination: Party::clone(&target.party),
                    service: telemetry::istio::Service {
                        host: route.service.hostname.clone(),
                        name: route.service.name.clone(),
                        namespace: route.service.namespace.clone(),
                    },
                    ..Labels::default()
                })
            });
            series.clone()
        })
    }

    /// Gives access to the state of a route, brought up to date.
    fn with_state<T>(&self, route: &Route, access: impl FnOnce(&mut RouteState) -> T) -> T {
        let (mut balancers, routes) = (self.balancers.borrow_mut(), self.routes());
        let state = balancers.entry(route.key()).or_insert_with(|| {
            let mut balancer = Balancer::new(Locality::default());
            balancer.update(routes.candidates(route));
            RouteState { service: route.service.clone(), balancer, series: HashMap::new() }
        });
        if !Arc::ptr_eq(&state.service, &route.service) {
            state.balancer.update(routes.candidates(route));
            state.series.clear();
            state.service = route.service.clone();
        }
        access(state)
    }

    /// Reports the bytes of open connections regularly, and drops the state of removed services.
    pub async fn report(self: Rc<Self>) {
        let mut tick = tokio::time::interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.open.report();
            let routes = self.routes();
            self.balancers.borrow_mut().retain(|key, _| key.is_current(&routes));
        }
    }
}
