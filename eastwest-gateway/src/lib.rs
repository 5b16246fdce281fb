//! The SNI router between networks: takes mutual-TLS connections of other networks on port 15443, reads where each wants
//! to go from its ClientHello, and forwards its bytes unopened to an endpoint of that service in its own network.
//!
//! Where to look, along a connection: [`worker`] accepts, `serve` is the walk of one connection, [`routes`] says what is
//! forwarded, [`store`] makes that of what discovery tells, [`refusal`] is why not. It holds no key that could open what
//! it forwards, and forwards nothing that was not exported.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use net::socket::Acceptor;
use net::splice::Relay;
use runtime::admin::{Addresses, Admin};
use runtime::control::{self, Leaving};
use runtime::enrol::{self, Controller};
use runtime::readiness::Readiness;
use runtime::{drain, workers};
use telemetry::istio::{Party, tell_build};
use telemetry::metrics::Registry;
use wire::Kind;
use wire::client::Outcome;
use wire::name::{Node, Role};

pub mod metrics;
mod pages;
pub mod refusal;
pub mod routes;
mod serve;
pub mod store;
pub mod worker;

use store::Store;
use worker::{Settings, Worker};

/// How to run a gateway.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The cluster that this gateway runs in.
    #[arg(long, env = "ISTIO_META_CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster: String,
    /// The network whose services it forwards to.
    #[arg(long, env = "ISTIO_META_NETWORK", default_value = "")]
    pub network: String,
    /// The controller, as host:port.
    #[arg(long, env = "DISCOVERY_ADDRESS", default_value = "isthmus-controller.isthmus-system.svc:15012")]
    pub discovery_address: Controller,
    /// This pod's name.
    #[arg(long, env = "POD_NAME")]
    pub pod: String,
    /// This pod's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "isthmus-system")]
    pub namespace: String,
    /// This pod's address.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    pub ip: IpAddr,
    /// Address to take connections of other networks at; may be given more than once.
    #[arg(long, default_values_t = [SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15443)])]
    pub listen: Vec<SocketAddr>,
    /// Where people on this pod ask.
    #[arg(long, env = "ISTHMUS_ADMIN_ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin_address: SocketAddr,
    /// Where the kubelet asks for health.
    #[arg(long, env = "ISTHMUS_HEALTH_ADDRESS", default_value = "[::]:15021")]
    pub health_address: SocketAddr,
    /// Where Prometheus asks.
    #[arg(long, env = "ISTHMUS_METRICS_ADDRESS", default_value = "[::]:15090")]
    pub metrics_address: SocketAddr,
    /// Worker threads; 0: as many as processors may be used.
    #[arg(long, env = "ISTHMUS_WORKERS", default_value_t = 0)]
    pub workers: usize,
    /// The service account token to enrol with.
    #[arg(long, env = "ISTHMUS_TOKEN_PATH", default_value = "/var/run/secrets/tokens/istio-token")]
    pub token_path: std::path::PathBuf,
    /// The mesh's roots.
    #[arg(long, env = "ISTHMUS_ROOT_PATH", default_value = "/var/run/secrets/istio/root-cert.pem")]
    pub root_path: std::path::PathBuf,
    /// Seconds after which a connection ends on which nothing moves.
    #[arg(long, env = "ISTHMUS_IDLE_TIMEOUT_SECONDS", default_value_t = 3600)]
    pub idle_timeout: u32,
    /// Seconds from failing readiness to accepting no more.
    #[arg(long, env = "ISTHMUS_DRAIN_DELAY_SECONDS", default_value_t = 1.0)]
    pub drain_delay: f64,
    /// Seconds for connections to finish after that.
    #[arg(long, env = "TERMINATION_DRAIN_DURATION_SECONDS", default_value_t = 5.0)]
    pub drain_deadline: f64,
    /// The log's level, or a list of target=level.
    #[arg(long, env = "ISTHMUS_LOG", default_value = "info")]
    pub log: String,
    /// Log lines as JSON.
    #[arg(long, env = "ISTHMUS_LOG_JSON")]
    pub log_json: bool,
}

/// How long to wait at the start for the endpoints of what is exported.
const ENDPOINTS: Duration = Duration::from_secs(10);

/// Runs a gateway until it is told to stop.
pub fn run(options: Options) -> ExitCode {
    if let Err(error) = telemetry::logging::init(&options.log, options.log_json) {
        eprintln!("isthmus eastwest-gateway: {error}");
        return ExitCode::from(2);
    }
    match control::run(gateway(options)).map_err(anyhow::Error::from).and_then(|ended| ended) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isthmus eastwest-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The gateway's life, in order: bind, answer probes, enrol, learn the routes, carry, drain.
async fn gateway(options: Options) -> anyhow::Result<()> {
    anyhow::ensure!(!options.network.is_empty(), "which network is this the gateway of? Set --network");
    let files = net::socket::raise_open_files_limit().context("raising the limit of open files")?;
    let count = workers::count(Some(options.workers), usize::MAX);
    let listeners = bind(&options.listen, count)?;

    let (registry, readiness) = (Registry::new(), Readiness::new());
    tell_build(&registry, "eastwest-gateway");
    let (signal, watch, drained) = drain::channel();
    let (identified, routed) = (readiness.needs("certificate"), readiness.needs("routes"));
    let mut store = Store::new(&options.network, &registry);
    let admin = Admin::new("eastwest-gateway", registry.clone(), readiness.clone(), signal.clone());
    let admin = Arc::new(pages::add(admin, &options, store.published()));
    let addresses = Addresses {
        admin: Some(options.admin_address),
        health: Some(options.health_address),
        metrics: Some(options.metrics_address),
        merged_metrics: None,
    };
    Arc::clone(&admin).serve(addresses).context("the admin ports")?;

    let settings = settings(&options, files, count);
    let published = store.published();
    let workers = {
        let (registry, published) = (registry.clone(), Arc::clone(&published));
        let listeners = Arc::new(std::sync::Mutex::new(listeners));
        workers::spawn(count, move |worker| {
            let (registry, published, watch) = (registry.clone(), Arc::clone(&published), watch.clone());
            let listeners = listeners.lock().map(|mut all| std::mem::take(&mut all[worker])).unwrap_or_default();
            let settings = settings.clone();
            async move { carry(listeners, Worker::new(settings, published, &registry), watch).await }
        })
        .context("starting workers")?
    };
    tracing::info!(workers = count, network = %options.network, listen = ?options.listen, "started");

    let learn = async {
        let mut enrolment = enrol::Options::new(options.discovery_address.clone(), &options.cluster);
        enrolment.token_path.clone_from(&options.token_path);
        enrolment.root_path.clone_from(&options.root_path);
        let enrolled = enrol::start(enrolment, &registry).await;
        admin.identify(enrolled.identity.clone());
        identified.done();

        store.identify(enrolled.identity.clone());
        let slot = store.subscriber();
        let connector = enrolled.connector();
        let connect = move || {
            let channel = connector.channel();
            async move { Ok::<_, std::convert::Infallible>(channel) }
        };
        let (subscriber, discovery) = wire::client::discovery(&node(&options), store, connect, Default::default());
        let _ = slot.set(subscriber.clone());
        tokio::spawn(discovery.run());
        subscriber.subscribe(Kind::Trust, "mesh");
        subscriber.subscribe(Kind::MeshConfig, "mesh");
        let exported = wire::name::exported(&options.network);
        subscriber.subscribe(Kind::Service, exported.as_str());
        while subscriber.demand(Kind::Service, exported.as_str(), Duration::from_secs(10)).await == Outcome::Unanswered
        {
            tracing::warn!("the controller has not told yet what is exported");
        }
        // A route leads nowhere until its endpoints are told, too: each was asked for when its service came. Of a cluster that
        // the controller has not reached nothing is told, and nobody waits for that for long.
        let services = hostnames(&published.load().routes);
        let told = async {
            let mut all = true;
            for hostname in services {
                let endpoints = wire::name::endpoints(&hostname, &options.network);
                all &= subscriber.demand(Kind::Endpoint, endpoints, ENDPOINTS).await != Outcome::Unanswered;
            }
            all
        };
        if !tokio::time::timeout(ENDPOINTS, told).await.unwrap_or(false) {
            tracing::warn!("connections are refused where the controller has not told endpoints yet");
        }
        routed.done();
        tracing::info!("ready");
        runtime::control::settle();
        std::future::pending::<()>().await
    };
    let leaving = Leaving {
        delay: Duration::from_secs_f64(options.drain_delay.clamp(0.0, 3600.0)),
        deadline: Duration::from_secs_f64(options.drain_deadline.clamp(0.0, 86_400.0)),
    };
    tokio::select! {
        left = control::leave(&readiness, &signal, drained, leaving) => { left?; }
        () = learn => {}
    }
    drop(workers);
    Ok(())
}

/// The services that these lead to, each once.
fn hostnames(routes: &routes::Routes) -> BTreeSet<Arc<str>> {
    routes.iter().map(|(_, route)| Arc::clone(&route.service.hostname)).collect()
}

/// What one worker thread does: accept until drain, then stay until the process ends.
async fn carry(listeners: Vec<std::net::TcpListener>, worker: std::rc::Rc<Worker>, watch: drain::Watch) {
    let acceptors: std::io::Result<Vec<_>> = listeners.into_iter().map(Acceptor::new).collect();
    let served = match acceptors {
        Ok(acceptors) => worker.run(acceptors, watch).await,
        Err(error) => Err(error),
    };
    // A worker that cannot accept would leave its share of connections hanging: end, and be started anew.
    served.expect("a bound listener accepts");
    std::future::pending().await
}

/// For each worker its listeners.
fn bind(addresses: &[SocketAddr], count: usize) -> anyhow::Result<Vec<Vec<std::net::TcpListener>>> {
    let mut by_worker: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    for address in addresses {
        let shared = net::socket::listen_shared(*address, count, 4096).or_else(|error| {
            // The wildcard address stands for both families, and for IPv4 alone where the machine has no IPv6.
            if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != std::io::ErrorKind::AddrInUse {
                net::socket::listen_shared(([0, 0, 0, 0], address.port()).into(), count, 4096)
            } else {
                Err(error)
            }
        });
        for (worker, listener) in by_worker.iter_mut().zip(shared.with_context(|| format!("listening on {address}"))?) {
            // A client whose network is gone would hold its connection for the whole idle timeout.
            net::socket::keep_alive(&listener, Duration::from_secs(60), Duration::from_secs(10), 6)?;
            worker.push(listener);
        }
    }
    Ok(by_worker)
}

fn settings(options: &Options, files: u64, workers: usize) -> Settings {
    /// For listeners, the admin ports, discovery, logs and pipes.
    const OTHER_FILES: u64 = 256;
    let each = files.saturating_sub(OTHER_FILES) / 2 / workers.max(1) as u64;
    Settings {
        max_connections: usize::try_from(each).unwrap_or(usize::MAX).max(16),
        relay: Relay { idle: Duration::from_secs(options.idle_timeout.max(1).into()), ..Relay::default() },
        own: Party {
            workload: "isthmus-eastwestgateway".into(),
            namespace: options.namespace.as_str().into(),
            app: "isthmus-eastwestgateway".into(),
            canonical_service: "isthmus-eastwestgateway".into(),
            canonical_revision: "latest".into(),
            cluster: options.cluster.as_str().into(),
            ..Party::default()
        },
        ..Settings::default()
    }
}

fn node(options: &Options) -> Node {
    Node {
        role: Role::EastWestGateway,
        ip: options.ip,
        pod: options.pod.clone(),
        namespace: options.namespace.clone(),
        cluster: options.cluster.clone(),
    }
}
