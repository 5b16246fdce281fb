//! What one worker thread has to itself, and the loop that accepts its connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use identity::Identity;
use runtime::drain::Watch;
use tokio::net::TcpStream;

use crate::mesh::View;
use crate::report::{Me, Telemetry};
use crate::upstream::connect::Dial;
use crate::upstream::{Cluster, Clusters, Overdue, Pool};

/// The longest that connecting inside the mesh takes, whatever the mesh's settings allow: Istio's default of 10 s would
/// hold a request for as long as a vanished pod stays listed.
const LONGEST_CONNECT: Duration = Duration::from_secs(1);
/// Connections accepted before those that are open get to run: a handshake of TLS takes some 200 µs, so a storm of new
/// connections delays requests by a few milliseconds and not by as many as wait.
const AT_ONCE: u32 = 16;
/// For handshakes that had begun when the drain did: some round trips to anywhere.
const HANDSHAKES: Duration = Duration::from_millis(300);
/// How often idle connections are looked over.
const SWEEP: Duration = Duration::from_secs(10);

/// Says where a connection was going. The kernel knows, of those that capture redirected; a test says so itself.
pub type Destination = Arc<dyn Fn(&TcpStream) -> std::io::Result<SocketAddr> + Send + Sync>;

/// One worker thread's own things. Nothing in here is shared with another worker but what the mesh publishes.
pub struct Worker {
    /// The mesh.
    pub view: View,
    /// Who this proxy is.
    pub identity: Identity,
    /// Upstream services.
    pub clusters: Clusters,
    /// Connections to the own application, by the address that it is asked at.
    apps: RefCell<HashMap<SocketAddr, Rc<Pool>>>,
    /// Requests that wait for responses.
    pub overdue: Overdue,
    /// Metrics and access logs.
    pub telemetry: Rc<Telemetry>,
    /// Says when to leave.
    pub drain: Watch,
    /// The mark of this proxy's own connections.
    pub mark: Option<u32>,
    /// Where captured connections were going.
    pub destination: Destination,
}

impl Worker {
    /// A worker's state, before its first connection.
    pub fn new(
        view: View,
        identity: Identity,
        telemetry: Telemetry,
        drain: Watch,
        mark: Option<u32>,
        destination: Destination,
    ) -> Self {
        let (clusters, apps, overdue) = Default::default();
        Self { view, identity, clusters, apps, overdue, telemetry: Rc::new(telemetry), drain, mark, destination }
    }

    /// How to connect to a cluster's endpoints, by the mesh's present settings.
    pub fn dial(&self, cluster: &Cluster) -> Dial {
        let allowed = self.view.snapshot().settings.connect_timeout;
        let timeout = if cluster.service().is_some() { allowed.min(LONGEST_CONNECT) } else { allowed };
        Dial { identity: self.identity.clone(), mark: self.mark, timeout }
    }

    /// Who this workload is, to metrics and peers.
    pub fn me(&self) -> Rc<Me> {
        self.telemetry.me(self.view.snapshot().own.as_ref(), self.identity.id().as_str())
    }

    /// Connections to the application at this address.
    pub fn app(&self, address: SocketAddr) -> Rc<Pool> {
        self.apps.borrow_mut().entry(address).or_default().clone()
    }

    /// Closes connections that were not used for long, as long as the worker lives.
    pub async fn sweep(worker: Weak<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(worker) = worker.upgrade() else { return };
            worker.clusters.sweep(&worker.view);
            worker.apps.borrow_mut().retain(|_, pool| {
                pool.sweep();
                Rc::strong_count(pool) > 1 || pool.kept() != (0, 0)
            });
        }
    }

    /// Accepts connections, each of which is a task of its own, until `over`, with whoever had connected by that time. The
    /// drain waits for it.
    pub async fn accept<F>(
        self: Rc<Self>,
        listener: std::net::TcpListener,
        over: impl Future<Output = ()>,
        serve: impl Fn(TcpStream, Rc<Self>) -> F,
    ) where
        F: Future<Output = ()> + 'static,
    {
        let _guard = self.drain.guard();
        let accepted = async {
            let mut acceptor = net::socket::Acceptor::new(listener)?;
            self.accept_until(over, &mut acceptor, &serve).await?;
            if let Err(error) = net::socket::refuse_new(&acceptor) {
                tracing::warn!(%error, "a connection that comes this moment may be reset");
            }
            self.accept_until(tokio::time::sleep(HANDSHAKES), &mut acceptor, &serve).await
        };
        if let Err(error) = accepted.await {
            let error: std::io::Error = error;
            tracing::error!(%error, "no longer accepting connections");
        }
    }

    /// Serves whoever connects until `over`.
    async fn accept_until<F>(
        self: &Rc<Self>,
        over: impl Future<Output = ()>,
        acceptor: &mut net::socket::Acceptor,
        serve: &impl Fn(TcpStream, Rc<Self>) -> F,
    ) -> std::io::Result<()>
    where
        F: Future<Output = ()> + 'static,
    {
        let mut over = std::pin::pin!(over);
        let mut at_once = 0;
        loop {
            let (stream, _) = tokio::select! {
                biased;
                () = &mut over => return Ok(()),
                accepted = acceptor.next() => accepted?,
            };
            let guard = self.drain.guard();
            let served = serve(stream, self.clone());
            tokio::task::spawn_local(async move {
                served.await;
                drop(guard);
            });
            at_once += 1;
            if at_once == AT_ONCE {
                at_once = 0;
                tokio::task::yield_now().await;
            }
        }
    }
}
