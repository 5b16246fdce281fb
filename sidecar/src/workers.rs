//! The running sidecar: discovery on the control thread, and worker threads. Separate from [`crate::run`] so that tests can
//! run it with listeners, an identity and a controller of their own.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use identity::Identity;
use proxy::listener::{self, BACKLOG};
use proxy::mesh::{self, MeshStore, MeshView, ProxyLocation, Published};
use proxy::report::{
    AccessLog, AccessLogFiles, ControllerReport, ObservedTraffic, PathProbe, WorkerTelemetry, observe_clusters,
    report_paths, report_refusals,
};
use proxy::worker::Worker;
use runtime::admission::Admission;
use runtime::drain::Watch;
use runtime::workers::{self, Workers};
use telemetry::metrics::Registry;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use wire::Kind;
use wire::client::Subscriber;
use wire::name::{self, Node};

pub use crate::capture::OriginalDestination;
use crate::captured::Captured;
use crate::explain::{self, WorkerQuestion};
use crate::{inbound, outbound};

/// What a sidecar is started with.
pub struct SidecarSetup {
    /// The node ID.
    pub node: Node,
    /// The network.
    pub network: Arc<str>,
    /// The identity. Its trust bundle follows the controller's.
    pub identity: Identity,
    /// The listeners of each worker.
    pub listeners: Vec<Listeners>,
    /// How the original destination of a connection is found.
    pub original_destination: OriginalDestination,
    /// The firewall mark of the sidecar's own connections; `None` without capture.
    pub mark: Option<u32>,
    /// The admission of connections of the application.
    pub outbound: Admission,
    /// The admission of connections to the application.
    pub inbound: Admission,
    /// The metrics registry.
    pub registry: Registry,
    /// The drain.
    pub drain: Watch,
}

/// One worker's listeners.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Listeners for connections of the application.
    pub outbound: Vec<TcpListener>,
    /// Listeners for connections to the application. They need only be bound: they are opened when the inbound side is ready.
    pub inbound: Vec<TcpListener>,
}

/// A running sidecar.
pub struct Running {
    /// The worker threads.
    pub workers: Workers,
    /// The view of the mesh.
    pub published: Arc<Published>,
    /// The subscriber to discovery.
    pub subscriber: Subscriber,
    /// The report to the controller.
    pub report: ControllerReport,
    /// The access logs.
    pub logs: AccessLogFiles,
    /// What the workload has accepted.
    pub observed: ObservedTraffic,
    /// Asks each worker where a request would go.
    pub(crate) questions: Vec<mpsc::Sender<WorkerQuestion>>,
    /// Each worker holds a sender until its inbound listeners are open. Nothing is ever sent.
    opening: mpsc::Receiver<Infallible>,
}

/// Starts discovery and workers. Must be called within a [`tokio::task::LocalSet`], which drives discovery. `channel` returns
/// a connection to the controller.
///
/// # Errors
/// Returns an error if a thread cannot be started.
pub fn start(setup: SidecarSetup, channel: impl Fn() -> Channel + 'static) -> io::Result<Running> {
    let SidecarSetup { node, network, identity, listeners, original_destination, mark, .. } = setup;
    let SidecarSetup { outbound, inbound, registry, drain, .. } = setup;
    for (admission, listener) in [(&outbound, "outbound"), (&inbound, "inbound")] {
        admission.observe(&registry, listener);
        tokio::task::spawn_local(admission.clone().enforce_deadline());
    }
    let location = ProxyLocation {
        cluster: node.cluster.as_str().into(),
        network,
        namespace: node.namespace.as_str().into(),
        pod: node.pod.as_str().into(),
        ip: node.ip,
    };
    let (published, subscriber) = discover(&node, &location, &identity, mark, channel);
    observe_clusters(&registry, &published);
    let report = ControllerReport::new(subscriber.clone());
    tokio::task::spawn_local(report_refusals(registry.clone(), report.clone()));
    let probe = PathProbe { identity: identity.clone(), mark };
    tokio::task::spawn_local(report_paths(published.clone(), probe, report.clone()));
    let observed = ObservedTraffic::default();
    let logs = AccessLogFiles::new(registry.clone());
    let own_listeners = own_listeners(&listeners)?;
    let (count, (still_opening, opening)) = (listeners.len(), mpsc::channel(1));
    // Each worker takes its own, so that no sender outlives its use.
    let (questions, asked): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(1)).unzip();
    let parts = listeners.into_iter().zip(asked);
    let listeners: Vec<_> = parts.map(|(listeners, asked)| (listeners, asked, still_opening.clone())).collect();
    drop(still_opening);
    let listeners = Arc::new(Mutex::new(listeners));
    let (view, log_files) = ((location, published.clone(), subscriber.clone()), logs.clone());
    let traffic = observed.clone();
    let workers = workers::spawn(count, move |_| {
        let listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (location, published, subscriber) = view.clone();
        let telemetry = (registry.worker(), location.clone(), AccessLog::new(log_files.clone()));
        let (identity, drain) = (identity.clone(), drain.clone());
        let (original_destination, outbound, inbound) =
            (original_destination.clone(), outbound.clone(), inbound.clone());
        let (own_listeners, traffic) = (own_listeners.clone(), traffic.clone());
        async move {
            let Some((listeners, asked, opening)) = listeners else { return };
            let view = MeshView::new(location, published, subscriber);
            let telemetry = WorkerTelemetry::new(telemetry.0, telemetry.1, telemetry.2).observed_in(&traffic);
            let worker = Rc::new(Worker::new(view, identity, telemetry, drain, mark));
            tokio::task::spawn_local(explain::answer(asked, Rc::downgrade(&worker)));
            let captured = Captured { worker, original_destination, own_listeners, outbound, inbound };
            work(Rc::new(captured), listeners, opening).await;
        }
    })?;
    Ok(Running { workers, published, subscriber, report, logs, observed, questions, opening })
}

/// Returns the addresses of all listeners, each once.
fn own_listeners(listeners: &[Listeners]) -> io::Result<Arc<[SocketAddr]>> {
    let listeners = listeners.iter().flat_map(|of| of.outbound.iter().chain(&of.inbound));
    let addresses: BTreeSet<SocketAddr> = listeners.map(TcpListener::local_addr).collect::<io::Result<_>>()?;
    Ok(addresses.into_iter().collect())
}

/// Starts discovery.
fn discover(
    node: &Node,
    location: &ProxyLocation,
    identity: &Identity,
    mark: Option<u32>,
    channel: impl Fn() -> Channel + 'static,
) -> (Arc<Published>, Subscriber) {
    let trusting = identity.clone();
    let store = MeshStore::new(location.clone(), move |trust| trusting.replace_trust(trust)).with_routes();
    let (published, for_store) = (store.published(), store.subscriber());
    let connect = move || {
        let channel = channel();
        async move { Ok::<_, Infallible>(channel) }
    };
    let (subscriber, discovery) = wire::client::discovery(node, store, connect, wire::client::Settings::default());
    // The cell of a new store is empty.
    let _ = for_store.set(subscriber.clone());
    for kind in [Kind::Trust, Kind::MeshConfig] {
        subscriber.subscribe(kind, name::MESH);
    }
    subscriber.subscribe(Kind::Workload, name::workload(&node.cluster, &node.namespace, &node.pod));
    tokio::task::spawn_local(discovery.run());
    let releasing = subscriber.clone();
    tokio::task::spawn_local(mesh::release_unused(published.clone(), location.clone(), move |kind, name| {
        releasing.unsubscribe(kind, name);
    }));
    let lookup = move |name: Arc<str>| async move { runtime::resolve::answer(&name, mark).await };
    tokio::task::spawn_local(mesh::resolve_names(published.clone(), location.ip, lookup));
    (published, subscriber)
}

/// Runs a worker: accepts connections until the drain, and ends when the last one has ended.
async fn work(captured: Rc<Captured>, listeners: Listeners, opening: mpsc::Sender<Infallible>) {
    let worker = &captured.worker;
    tokio::task::spawn_local(Worker::sweep(Rc::downgrade(worker)));
    // The application may need other services while it finishes, so its connections are accepted until no other is left.
    let (last, mut outgoing) = (Rc::new(Notify::new()), JoinSet::new());
    for listener in listeners.outbound {
        let (captured, last) = (captured.clone(), last.clone());
        outgoing.spawn_local(async move {
            let drain = captured.worker.drain.clone();
            let serve = |stream, client, admitted| outbound::serve(stream, client, admitted, captured.clone());
            listener::accept(listener, last.notified(), &drain, &captured.outbound, serve).await
        });
    }
    let mut drain = worker.drain.clone();
    if open(worker, &listeners.inbound).await {
        drop(opening);
        let incoming = listeners.inbound.into_iter().map(|listener| {
            let (captured, mut begun, drain) = (captured.clone(), drain.clone(), drain.clone());
            async move {
                let serve = |stream, client, admitted| inbound::serve(stream, client, admitted, captured.clone());
                let begun = async move { begun.begun().await };
                listener::accept(listener, begun, &drain, &captured.inbound, serve).await
            }
        });
        join_all(incoming).await.into_iter().for_each(or_end_process);
    }
    drain.begun().await;
    // Each task that accepts holds `captured` as well.
    closed(&captured, outgoing.len()).await;
    last.notify_waiters();
    while let Some(accepted) = outgoing.join_next().await {
        or_end_process(accepted.unwrap_or(Ok(())));
    }
    closed(&captured, 0).await;
}

/// Waits until all connections have ended. `holders` is the number of other holders of `captured`.
async fn closed(captured: &Rc<Captured>, holders: usize) {
    /// How often to check.
    const INTERVAL: Duration = Duration::from_millis(20);
    // Each connection holds `captured`; connections that switched protocols hold the worker.
    while Rc::strong_count(captured) > 1 + holders || Rc::strong_count(&captured.worker) > 1 {
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Ends the process if a listener failed: a worker that does not accept would leave its share of connections waiting.
fn or_end_process(accepted: io::Result<()>) {
    if let Err(error) = accepted {
        panic!("a listener failed: {error}");
    }
}

/// Opens the inbound listeners when the own workload and its policies have arrived. Until then the kernel refuses
/// connections, so that clients use another endpoint: requests that are accepted and then denied or delayed would fail.
/// Returns whether the listeners are open; they are not if the drain begins first or another process listens there.
async fn open(worker: &Worker, listeners: &[TcpListener]) -> bool {
    let mut drain = worker.drain.clone();
    tokio::select! {
        () = worker.view.inbound_ready() => {}
        () = drain.begun() => return false,
    }
    for listener in listeners {
        if let Err(error) = net::socket::open(listener, BACKLOG) {
            let address = listener.local_addr().ok();
            tracing::error!(%error, ?address, "cannot listen for inbound connections; the sidecar stays unready. Does another process listen there?");
            return false;
        }
    }
    true
}

impl Running {
    /// Waits until all workers accept inbound connections.
    pub async fn opened(&mut self) {
        while self.opening.recv().await.is_some() {}
    }
}
