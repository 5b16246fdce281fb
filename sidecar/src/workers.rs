//! The running proxy: workers, and what the control thread keeps for them. Separate from [`crate::run`] so that a test can
//! run it with listeners, an identity and a controller of its own.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use identity::Identity;
use runtime::drain::Watch;
use runtime::workers::{self, Workers};
use telemetry::metrics::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use wire::Kind;
use wire::client::Subscriber;
use wire::name::{self, Node};

use crate::{inbound, outbound};
use proxy::mesh::{self, Place, Shared, Store, View};
use proxy::report::{Files, Log, Telemetry};
use proxy::worker::{Destination, Worker};

/// Connections that may wait to be accepted.
pub const BACKLOG: i32 = 4096;

/// What a proxy is started with.
pub struct Setup {
    /// Where it is.
    pub node: Node,
    /// Its network.
    pub network: Arc<str>,
    /// Who it is. Its trust is kept up to date from what the controller tells.
    pub identity: Identity,
    /// For each worker its listeners.
    pub listeners: Vec<Listeners>,
    /// Where captured connections were going.
    pub destination: Destination,
    /// The mark of the proxy's own connections; `None` where nothing is captured.
    pub mark: Option<u32>,
    /// Where metrics go.
    pub registry: Registry,
    /// Says when to leave.
    pub drain: Watch,
}

/// One worker's listeners.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For connections of the application.
    pub outbound: Vec<TcpListener>,
    /// For connections to the application. Bound suffices: they are opened when the proxy knows whom to let in.
    pub inbound: Vec<TcpListener>,
}

/// A proxy that runs.
pub struct Running {
    /// Its worker threads.
    pub workers: Workers,
    /// What it knows of the mesh.
    pub shared: Arc<Shared>,
    /// Asks the controller.
    pub subscriber: Subscriber,
    /// Its access logs.
    pub logs: Files,
    /// Each worker has a sender until its inbound listeners are open. Nothing is ever sent.
    closed: mpsc::Receiver<Infallible>,
}

/// Starts workers and discovery. Must be called inside a [`tokio::task::LocalSet`], which drives discovery. `channel`
/// gives a way to the controller.
///
/// # Errors
/// Where a thread cannot be started.
pub fn start(setup: Setup, channel: impl Fn() -> Channel + 'static) -> io::Result<Running> {
    let Setup { node, network, identity, listeners, destination, mark, registry, drain } = setup;
    let place = Place {
        cluster: node.cluster.as_str().into(),
        network,
        namespace: node.namespace.as_str().into(),
        pod: node.pod.as_str().into(),
    };
    let trusting = identity.clone();
    let store = Store::new(place.clone(), move |trust| trusting.replace_trust(trust));
    let (shared, needs_subscriber) = (store.shared(), store.subscriber());
    let connect = move || {
        let channel = channel();
        async move { Ok::<_, Infallible>(channel) }
    };
    let (subscriber, discovery) = wire::client::discovery(&node, store, connect, wire::client::Settings::default());
    // The cell was empty: the store is new.
    let _ = needs_subscriber.set(subscriber.clone());
    let me = name::workload(&node.cluster, &node.namespace, &node.pod);
    for kind in [Kind::Trust, Kind::MeshConfig] {
        subscriber.subscribe(kind, name::MESH);
    }
    subscriber.subscribe(Kind::Workload, me.as_str());
    tokio::task::spawn_local(discovery.run());
    let giving_up = subscriber.clone();
    tokio::task::spawn_local(mesh::give_up(shared.clone(), place.clone(), move |kind, name| {
        giving_up.unsubscribe(kind, name);
    }));

    let logs = Files::new(registry.clone());
    let (count, (still_closed, closed)) = (listeners.len(), mpsc::channel(1));
    // Each is taken by one worker, so that none outlives its use.
    let own: Vec<_> = listeners.into_iter().map(|listeners| (listeners, still_closed.clone())).collect();
    drop(still_closed);
    let own = Arc::new(std::sync::Mutex::new(own));
    let for_workers = (place, shared.clone(), subscriber.clone(), logs.clone());
    let workers = workers::spawn(count, move |_| {
        let own = own.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        let (place, shared, subscriber, logs) = for_workers.clone();
        let (identity, registry, drain, destination) =
            (identity.clone(), registry.clone(), drain.clone(), destination.clone());
        async move {
            let view = View::new(place.clone(), shared, subscriber);
            let telemetry = Telemetry::new(registry.worker(), place, Log::new(logs));
            let Some((listeners, closed)) = own else { return };
            work(Rc::new(Worker::new(view, identity, telemetry, drain, mark, destination)), listeners, closed).await;
        }
    })?;
    Ok(Running { workers, shared, subscriber, logs, closed })
}

/// One worker's life.
async fn work(worker: Rc<Worker>, listeners: Listeners, closed: mpsc::Sender<Infallible>) {
    /// How often to look whether the last connection is gone, while draining.
    const LOOK: Duration = Duration::from_millis(20);
    tokio::task::spawn_local(Worker::sweep(Rc::downgrade(&worker)));
    // The application may need others while it finishes, so its own connections are taken until nothing else is left.
    let (last, mut others) = (Rc::new(tokio::sync::Notify::new()), JoinSet::new());
    for listener in listeners.outbound {
        let last = last.clone();
        let over = async move { last.notified().await };
        others.spawn_local(worker.clone().accept(listener, over, outbound::serve));
    }
    let mut drain = worker.drain.clone();
    if open(&worker, &listeners.inbound).await {
        drop(closed);
        let incoming = listeners.inbound.into_iter().map(|listener| {
            let mut drain = drain.clone();
            worker.clone().accept(listener, async move { drain.begun().await }, inbound::serve)
        });
        join_all(incoming).await;
    }
    drain.begun().await;
    // Besides this one, the accepting tasks have the worker, and each connection.
    while Rc::strong_count(&worker) > 1 + others.len() {
        tokio::time::sleep(LOOK).await;
    }
    last.notify_waiters();
    others.join_all().await;
    while Rc::strong_count(&worker) > 1 {
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the proxy knows whom to let in, and lets them connect. Until then the kernel refuses whoever comes, so that
/// they go to another endpoint at once: taken and then denied or left to wait, their requests would fail. Says whether it
/// came to that before drain.
async fn open(worker: &Worker, listeners: &[TcpListener]) -> bool {
    let mut drain = worker.drain.clone();
    tokio::select! {
        () = worker.view.knows_itself() => {}
        () = drain.begun() => return false,
    }
    for listener in listeners {
        if let Err(error) = net::socket::open(listener, BACKLOG) {
            let address = listener.local_addr().ok();
            tracing::error!(%error, ?address, "cannot listen for the application, so this proxy stays unready: does another run here?");
            return false;
        }
    }
    true
}

impl Running {
    /// Waits until the proxy knows its own inbound side, and all workers take connections to the application.
    pub async fn opened(&mut self) {
        while self.closed.recv().await.is_some() {}
    }
}
