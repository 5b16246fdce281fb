//! The running router: discovery on the control thread, and worker threads. Separate from [`crate::run`] so that tests can run
//! it with an identity and a controller of their own.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::Identity;
use proxy::listener;
use proxy::mesh::{self, MeshStore, MeshView, ProxyLocation, Published};
use proxy::report::{
    AccessLog, AccessLogFiles, ControllerReport, PathProbe, WorkerTelemetry, observe_clusters, report_paths,
    report_refusals,
};
use proxy::worker::Worker;
use runtime::admission::Admission;
use runtime::drain::Watch;
use runtime::workers::{self, Workers};
use telemetry::metrics::Registry;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;
use wire::Kind;
use wire::client::Subscriber;
use wire::name::{self, Node};

use crate::bind::{Binder, Socket};
use crate::config;
use crate::connection::{self, RouterWorker};
use crate::store::RouterStore;

/// What a router is started with.
pub struct RouterSetup {
    /// The node ID.
    pub node: Node,
    /// The network.
    pub network: Arc<str>,
    /// The identity. Its trust bundle follows the controller's.
    pub identity: Identity,
    /// The number of workers.
    pub workers: usize,
    /// The admission of connections.
    pub admission: Admission,
    /// The metrics registry.
    pub registry: Registry,
    /// The drain.
    pub drain: Watch,
}

/// A running router.
pub struct Running {
    /// The worker threads.
    pub workers: Workers,
    /// The view of the mesh.
    pub published: Arc<Published>,
    /// The configuration of listeners.
    pub(crate) config: Arc<config::Published>,
    /// The subscriber to discovery.
    pub subscriber: Subscriber,
    /// The access logs.
    pub logs: AccessLogFiles,
    opened: oneshot::Receiver<()>,
}

impl Running {
    /// Waits until the listeners of the first configuration are open.
    pub async fn opened(&mut self) {
        // The sender lives as long as the task that opens listeners.
        let _ = (&mut self.opened).await;
    }

    /// Returns the addresses of the listeners.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        self.config.newest().listeners.keys().copied().collect()
    }
}

/// Starts discovery and workers. Must be called within a [`tokio::task::LocalSet`], which drives discovery. `channel` returns
/// a connection to the controller.
///
/// # Errors
/// Returns an error if a thread cannot be started.
pub fn start(setup: RouterSetup, channel: impl Fn() -> Channel + 'static) -> io::Result<Running> {
    let RouterSetup { node, network, identity, workers: count, admission, registry, drain } = setup;
    admission.observe(&registry, "gateway");
    tokio::task::spawn_local(admission.clone().enforce_deadline());
    let location = ProxyLocation {
        cluster: node.cluster.as_str().into(),
        network,
        namespace: node.namespace.as_str().into(),
        pod: node.pod.as_str().into(),
        ip: node.ip,
    };
    let (published, config, subscriber) = discover(&node, &location, &identity, channel);
    observe_clusters(&registry, &published);
    let report = ControllerReport::new(subscriber.clone());
    tokio::task::spawn_local(report_refusals(registry.clone(), report.clone()));
    let probe = PathProbe { identity: identity.clone(), mark: None };
    tokio::task::spawn_local(report_paths(published.clone(), probe, report));
    let logs = AccessLogFiles::new(registry.clone());

    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let receivers = Arc::new(Mutex::new(receivers));
    let (log_files, view) = (logs.clone(), (location, published.clone(), subscriber.clone(), config.clone()));
    let workers = workers::spawn(count, move |_| {
        let sockets = receivers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (location, published, subscriber, config) = view.clone();
        let log = AccessLog::new(log_files.clone());
        let telemetry = (registry.worker(), location.clone(), log);
        let (identity, drain, admission) = (identity.clone(), drain.clone(), admission.clone());
        async move {
            let Some(sockets) = sockets else { return };
            let view = MeshView::new(location, published, subscriber);
            let telemetry = WorkerTelemetry::new(telemetry.0, telemetry.1, telemetry.2);
            let worker = Rc::new(Worker::new(view, identity, telemetry, drain, None));
            work(Rc::new(RouterWorker { worker, published: config, admission }), sockets).await;
        }
    })?;
    let (ready, opened) = oneshot::channel();
    let (view, binder) = (published.clone(), Binder::new(config.clone(), senders));
    tokio::task::spawn_local(async move {
        inbound_ready(&view).await;
        let ready = move || {
            // Nobody may wait for it.
            let _ = ready.send(());
        };
        binder.run(ready).await;
    });
    Ok(Running { workers, published, config, subscriber, logs, opened })
}

/// Waits until the own workload and all of its policies have arrived: nothing is accepted before.
async fn inbound_ready(published: &Published) {
    loop {
        let changed = published.changed();
        let newest = published.newest();
        if newest.own.is_some() && newest.authorization.is_some() {
            return;
        }
        changed.await;
    }
}

/// Starts discovery.
fn discover(
    node: &Node,
    location: &ProxyLocation,
    identity: &Identity,
    channel: impl Fn() -> Channel + 'static,
) -> (Arc<Published>, Arc<config::Published>, Subscriber) {
    let trusting = identity.clone();
    let mesh = MeshStore::new(location.clone(), move |trust| trusting.replace_trust(trust)).with_routes();
    let (published, for_store) = (mesh.published(), mesh.subscriber());
    let store = RouterStore::new(mesh, location.namespace.clone());
    let config = store.published();
    tokio::task::spawn_local(store.follow_files());
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
    let own = name::workload(&node.cluster, &node.namespace, &node.pod);
    subscriber.subscribe(Kind::Workload, own.as_str());
    subscriber.subscribe(Kind::Listeners, own);
    tokio::task::spawn_local(discovery.run());
    let releasing = subscriber.clone();
    tokio::task::spawn_local(mesh::release_unused(published.clone(), location.clone(), move |kind, name| {
        releasing.unsubscribe(kind, name);
    }));
    let lookup = move |name: Arc<str>| async move { runtime::resolve::answer(&name, None).await };
    tokio::task::spawn_local(mesh::resolve_names(published.clone(), location.ip, lookup));
    (published, config, subscriber)
}

/// Runs a worker: accepts connections until the drain, and ends when the last one has ended.
async fn work(router: Rc<RouterWorker>, mut sockets: mpsc::UnboundedReceiver<Socket>) {
    tokio::task::spawn_local(Worker::sweep(Rc::downgrade(&router.worker)));
    let mut drain = router.worker.drain.clone();
    let mut accepting = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            () = drain.begun() => break,
            socket = sockets.recv() => match socket {
                Some(socket) => drop(accepting.spawn_local(accept(socket, router.clone()))),
                None => break,
            },
            Some(ended) = accepting.join_next() => or_end_process(ended.unwrap_or(Ok(()))),
        }
    }
    while let Some(ended) = accepting.join_next().await {
        or_end_process(ended.unwrap_or(Ok(())));
    }
    /// How often to look whether connections are left.
    const INTERVAL: Duration = Duration::from_millis(20);
    // Each connection holds `router`; connections that switched protocols hold the worker.
    while Rc::strong_count(&router) > 1 || Rc::strong_count(&router.worker) > 1 {
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Accepts the connections of a listener until it is removed or the drain begins.
async fn accept(socket: Socket, router: Rc<RouterWorker>) -> io::Result<()> {
    let Socket { address, listener, removed } = socket;
    // Held until the listener is closed: nothing else can listen on the address before.
    let mut removing = removed.clone();
    let (drain, mut begun) = (router.worker.drain.clone(), router.worker.drain.clone());
    let stop = async move {
        tokio::select! {
            () = begun.begun() => {}
            // An error: whoever opens and closes listeners has ended.
            _ = removing.changed() => {}
        }
    };
    let serve = |stream, client, admitted| connection::serve(stream, client, admitted, address, router.clone());
    let accepted = listener::accept(listener, stop, &drain, &router.admission, serve).await;
    drop(removed);
    accepted
}

/// Ends the process if a listener failed: a worker that does not accept would leave its share of connections waiting.
fn or_end_process(accepted: io::Result<()>) {
    if let Err(error) = accepted {
        panic!("a listener failed: {error}");
    }
}
