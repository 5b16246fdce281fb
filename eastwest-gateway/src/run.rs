//! The process: options in, exit code out.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use net::splice::Relay;
use proxy::listener::{self, BACKLOG};
use proxy::mesh::ProxyLocation;
use proxy::report::AccessLogFiles;
use runtime::admin::Admin;
use runtime::admission::{Admission, Limits};
use runtime::control;
use runtime::enrol::{self, Enrolled};
use runtime::readiness::Readiness;
use runtime::{drain, workers};
use telemetry::istio::{Party, register_build};
use telemetry::metrics::Registry;
use wire::Kind;
use wire::client::{Outcome, Subscriber};
use wire::name::Role;

use crate::connection;
use crate::options::Options;
use crate::pages;
use crate::routes::Routes;
use crate::store::RouteStore;
use crate::worker::{GatewayWorker, WorkerSettings};

/// How long the start waits for the endpoints of exported services.
const ENDPOINTS_TIMEOUT: Duration = Duration::from_secs(10);

/// TCP keep-alive to clients: the connection of a client whose network is gone would stay open for the whole idle timeout.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PROBES: u32 = 6;

/// How long a connection may be pending, beyond the deadline of its ClientHello, which has a report of its own.
const PENDING_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a gateway until it is asked to stop.
pub fn run(options: Options) -> ExitCode {
    if let Err(error) = telemetry::logging::init(&options.gateway.log, options.gateway.log_json) {
        eprintln!("isthmus eastwest-gateway: {error}");
        return ExitCode::from(2);
    }
    match control::run(run_gateway(options)).map_err(anyhow::Error::from).and_then(|ended| ended) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isthmus eastwest-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the gateway: bind, serve health checks, start workers, enrol, receive routes, drain.
async fn run_gateway(options: Options) -> anyhow::Result<()> {
    anyhow::ensure!(!options.gateway.network.is_empty(), "the gateway's network is unknown; set --network");
    let files = net::socket::raise_open_files_limit().context("cannot raise the limit of open files")?;
    let count = workers::count(Some(options.gateway.workers), usize::MAX);
    let listeners = bind(&options.listen, count)?;

    let (registry, readiness) = (Registry::new(), Readiness::new());
    register_build(&registry, "eastwest-gateway");
    let (signal, watch, drained) = drain::channel();
    let (identified, routed) = (readiness.needs("certificate"), readiness.needs("routes"));
    let identity = Arc::new(OnceLock::new());
    let store = RouteStore::new(location(&options), identity.clone());
    let routes = store.routes();
    let admin = Admin::new("eastwest-gateway", registry.clone(), readiness.clone(), signal.clone());
    let admin = Arc::new(pages::add(admin, &options, routes.clone()));
    admin.clone().serve(options.gateway.addresses()).context("cannot serve the admin endpoint")?;

    let workers = {
        let (settings, registry, routes) = (settings(&options, files), registry.clone(), routes.clone());
        settings.admission.observe(&registry, "gateway");
        tokio::spawn(settings.admission.clone().enforce_deadline());
        let logs = AccessLogFiles::new(registry.clone());
        let listeners = Arc::new(Mutex::new(listeners));
        workers::spawn(count, move |_| {
            let listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
            let (settings, logs, routes) = (settings.clone(), logs.clone(), routes.clone());
            let (registry, watch) = (registry.clone(), watch.clone());
            async move { work(listeners, GatewayWorker::new(settings, routes, logs, &registry), watch).await }
        })
        .context("cannot start workers")?
    };
    tracing::info!(workers = count, network = %options.gateway.network, listen = ?options.listen, "started");

    let starting = async {
        let enrolled = enrol::start(options.gateway.enrolment(), &registry).await;
        admin.identify(enrolled.identity.clone());
        // The cell is set here only.
        let _ = identity.set(enrolled.identity.clone());
        identified.done();

        let subscriber = discover(&options, store, enrolled);
        wait_for_routes(&options, &subscriber, &routes).await;
        routed.done();
        tracing::info!("ready");
        control::reclaim_when_idle();
        std::future::pending::<()>().await
    };
    tokio::select! {
        left = control::drain_on_shutdown(&readiness, &signal, drained, options.gateway.drain_times(), None::<std::future::Ready<()>>) => { left?; }
        () = starting => {}
    }
    drop(workers);
    Ok(())
}

/// Starts discovery, and subscribes to what the gateway needs.
fn discover(options: &Options, store: RouteStore, enrolled: Enrolled) -> Subscriber {
    let for_store = store.subscriber();
    let connector = enrolled.connector();
    let connect = move || {
        let channel = connector.channel();
        async move { Ok::<_, Infallible>(channel) }
    };
    let (subscriber, discovery) =
        wire::client::discovery(&options.gateway.node(Role::EastWestGateway), store, connect, Default::default());
    // The cell of a new store is empty.
    let _ = for_store.set(subscriber.clone());
    tokio::spawn(discovery.run());
    subscriber.subscribe(Kind::Trust, wire::name::MESH);
    subscriber.subscribe(Kind::MeshConfig, wire::name::MESH);
    subscriber.subscribe(Kind::Service, wire::name::exported(&options.gateway.network));
    subscriber
}

/// Waits for the exported services, and a limited time for their endpoints: a cluster that the controller does not reach has
/// none to push.
async fn wait_for_routes(options: &Options, subscriber: &Subscriber, routes: &ArcSwap<Routes>) {
    let exported = wire::name::exported(&options.gateway.network);
    while subscriber.demand(Kind::Service, exported.as_str(), ENDPOINTS_TIMEOUT).await == Outcome::Unanswered {
        tracing::warn!("the controller has not pushed the exported services yet");
    }
    // The store subscribed to all endpoints when their services arrived, so these are waits, not requests.
    let hostnames: BTreeSet<Arc<str>> = routes.load().iter().map(|(_, route)| route.service.hostname.clone()).collect();
    let answers = hostnames.into_iter().map(|hostname| {
        let endpoints = wire::name::endpoints(&hostname, &options.gateway.network);
        subscriber.demand(Kind::Endpoint, endpoints, ENDPOINTS_TIMEOUT)
    });
    if join_all(answers).await.contains(&Outcome::Unanswered) {
        tracing::warn!("connections to services whose endpoints the controller has not pushed yet are refused");
    }
}

/// Runs a worker: accepts connections until the drain, then stays until the process ends.
pub(crate) async fn work(listeners: Vec<TcpListener>, worker: Rc<GatewayWorker>, drain: drain::Watch) {
    tokio::task::spawn_local(worker.clone().report());
    let accepting = listeners.into_iter().map(|listener| {
        let (worker, mut begun, drain) = (&worker, drain.clone(), &drain);
        async move {
            let serve = |stream, peer, admitted| {
                let worker = worker.clone();
                async move { connection::serve(stream, peer, admitted, &worker).await }
            };
            let begun = async move { begun.begun().await };
            listener::accept(listener, begun, drain, &worker.settings.admission, serve).await
        }
    });
    for accepted in join_all(accepting).await {
        // A worker that does not accept would leave its share of connections waiting: the process ends and is restarted.
        accepted.expect("a bound listener accepts connections");
    }
    std::future::pending().await
}

/// Returns the listeners of each worker.
fn bind(addresses: &[SocketAddr], count: usize) -> anyhow::Result<Vec<Vec<TcpListener>>> {
    let mut by_worker: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    for address in addresses {
        let shared = net::socket::listen_shared(*address, count, BACKLOG).or_else(|error| {
            // The wildcard address is of both families, and of IPv4 alone if the machine has no IPv6.
            if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != std::io::ErrorKind::AddrInUse {
                net::socket::listen_shared(([0, 0, 0, 0], address.port()).into(), count, BACKLOG)
            } else {
                Err(error)
            }
        });
        let shared = shared.with_context(|| format!("cannot listen at {address}"))?;
        for (worker, listener) in by_worker.iter_mut().zip(shared) {
            net::socket::keep_alive(&listener, KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_PROBES)?;
            worker.push(listener);
        }
    }
    Ok(by_worker)
}

fn settings(options: &Options, files: u64) -> WorkerSettings {
    /// For listeners, admin connections, discovery, logs and pipes.
    const RESERVED_FILES: u64 = 512;
    /// The most connections that are open at a time; an open one takes some 4 KiB.
    const MAX_CONNECTIONS: u64 = 131_072;
    /// The most connections that are pending at a time; each may hold a ClientHello of 16 KiB.
    const MAX_PENDING: u32 = 2048;
    let connections = (files.saturating_sub(RESERVED_FILES) / 2).clamp(16, MAX_CONNECTIONS) as u32;
    let limits =
        Limits { connections, pending: connections.min(MAX_PENDING), deadline: PENDING_TIMEOUT, ..Limits::default() };
    let app: Arc<str> = "isthmus-eastwestgateway".into();
    WorkerSettings {
        admission: Admission::new(limits),
        relay: Relay { idle: Duration::from_secs(options.idle_timeout.max(1).into()), ..Relay::default() },
        own: Party {
            workload: app.clone(),
            namespace: options.gateway.namespace.as_str().into(),
            app: app.clone(),
            canonical_service: app,
            canonical_revision: "latest".into(),
            cluster: options.gateway.cluster.as_str().into(),
            ..Party::default()
        },
        ..WorkerSettings::default()
    }
}

fn location(options: &Options) -> ProxyLocation {
    ProxyLocation {
        cluster: options.gateway.cluster.as_str().into(),
        network: options.gateway.network.as_str().into(),
        namespace: options.gateway.namespace.as_str().into(),
        pod: options.gateway.pod.as_str().into(),
        ip: options.gateway.ip,
    }
}
