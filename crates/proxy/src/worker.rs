//! The state of one worker thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use identity::Identity;
use policy::jwt;
use runtime::drain::Watch;

use crate::mesh::{ApplicationSocket, MeshView};
use crate::report::{OwnParty, WorkerTelemetry};
use crate::upstream::connect::DialOptions;
use crate::upstream::{OverdueRequests, Pool, UpstreamCluster, UpstreamClusters};

/// How often idle connections are swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// The state of one worker thread. Workers share nothing but the published view of the mesh and exact limits.
pub struct Worker {
    /// The view of the mesh.
    pub view: MeshView,
    /// The identity of the proxy.
    pub identity: Identity,
    /// The upstream clusters.
    pub clusters: UpstreamClusters,
    /// Connections to the own application, by its socket.
    applications: RefCell<HashMap<ApplicationSocket, Rc<Pool>>>,
    /// Counts mirrored requests that are in progress, one reference each.
    pub mirrors: Rc<()>,
    /// Servers that are being asked about requests.
    pub checks: Checks,
    /// Requests that wait for responses.
    pub overdue: OverdueRequests,
    /// Tokens of end users that were verified.
    pub tokens: RefCell<jwt::TokenCache>,
    /// Metrics and access logs.
    pub telemetry: Rc<WorkerTelemetry>,
    /// The drain of the proxy.
    pub drain: Watch,
    /// The firewall mark of the proxy's own connections; `None` without capture.
    pub mark: Option<u32>,
}

/// The number of questions to one server that a worker asks at a time. Further ones have no answer.
const MAX_CHECKS: usize = 1024;

/// Counts the questions in progress, one reference each, by the host of the server that is asked.
#[derive(Debug, Default)]
pub struct Checks(RefCell<HashMap<Arc<str>, Rc<()>>>);

impl Checks {
    /// Returns the place of a question among those in progress, or `None` if there are too many.
    pub fn place(&self, host: &Arc<str>) -> Option<Rc<()>> {
        let mut hosts = self.0.borrow_mut();
        if !hosts.contains_key(host) {
            hosts.retain(|_, places| Rc::strong_count(places) > 1);
        }
        let places = hosts.entry(host.clone()).or_default();
        (Rc::strong_count(places) <= MAX_CHECKS).then(|| places.clone())
    }
}

impl Worker {
    /// Creates a worker's state.
    pub fn new(
        view: MeshView,
        identity: Identity,
        telemetry: WorkerTelemetry,
        drain: Watch,
        mark: Option<u32>,
    ) -> Self {
        let (clusters, applications, mirrors, checks, overdue, tokens) = Default::default();
        let telemetry = Rc::new(telemetry);
        Self { view, identity, clusters, applications, mirrors, checks, overdue, tokens, telemetry, drain, mark }
    }

    /// Returns how to connect to a cluster's endpoints, by the mesh's current settings.
    pub fn dial_options(&self, cluster: &UpstreamCluster) -> DialOptions {
        let timeouts = self.view.snapshot().settings.connect_timeouts(cluster.in_mesh());
        let (identity, policy) = (self.identity.clone(), cluster.policy());
        DialOptions { policy, limits: None, client: None, identity, mark: self.mark, timeouts }
    }

    /// Returns the own workload as metrics and peers see it.
    pub fn own_party(&self) -> Rc<OwnParty> {
        self.telemetry.own_party(self.view.snapshot().own.as_ref(), self.identity.id().as_str())
    }

    /// Returns the pool of connections to a socket of the application.
    pub fn application(&self, socket: &ApplicationSocket) -> Rc<Pool> {
        let mut applications = self.applications.borrow_mut();
        match applications.get(socket) {
            Some(pool) => pool.clone(),
            None => applications.entry(socket.clone()).or_default().clone(),
        }
    }

    /// Closes connections that have been idle for long, while the worker lives.
    pub async fn sweep(worker: Weak<Self>) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let Some(worker) = worker.upgrade() else { return };
            worker.clusters.sweep(&worker.view);
            worker.applications.borrow_mut().retain(|_, pool| {
                pool.sweep();
                Rc::strong_count(pool) > 1 || pool.kept() != (0, 0)
            });
        }
    }
}
