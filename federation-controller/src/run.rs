//! The process: starts the parts in the order of their dependencies, and stops them in reverse order.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::alpn;
use identity::{Accept, ClientAuth, ClientRoots};
use runtime::workers::{self, Workers};
use telemetry::metrics::Registry;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tracing::{info, warn};

use crate::ca::serve::{Clients, KnownClients, connections};
use crate::ca::service::{CertificateService, Validity};
use crate::clusters::queue::{Queues, Receiver, queues};
use crate::debug::Debug;
use crate::discovery::{Discovery, Limits, Shared, serve};
use crate::inject::template::{HomeCluster, Injector};
use crate::inject::webhook;
use crate::inventory::{Inventory, Settings};
use crate::keys::{self, Fetcher, FetcherError};
use crate::metrics::Metrics;
use crate::objects::Labels;
use crate::pipeline::{self, State};
use crate::publish::snapshot;
use crate::{
    Options, ca, clusters, credentials, gauges, multicluster, recorder, registration, rule_status,
    service_entries_export,
};

/// The time for calls in progress when the controller stops. Certificates are issued in milliseconds; streams end at once.
const GRACE: Duration = Duration::from_secs(2);

/// The number of threads for watches, handshakes and streams, besides the pipeline's.
const THREADS: usize = 2;

/// An error that ends the process.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error(transparent)]
    Log(#[from] telemetry::logging::LevelError),
    #[error("cannot listen on {address} ({what}): {error}")]
    Listen { what: &'static str, address: SocketAddr, error: io::Error },
    #[error("state directory {path}: {error}")]
    State { path: String, error: io::Error },
    #[error(transparent)]
    Clusters(#[from] clusters::StartError),
    #[error(transparent)]
    Authorities(#[from] ca::authorities::AuthoritiesError),
    #[error("own certificate: {0}")]
    Certificate(#[from] identity::CaError),
    #[error(transparent)]
    Keys(#[from] FetcherError),
    #[error("certificate authorities of the webhook's clients, {path}: {why}")]
    WebhookClients { path: String, why: String },
    #[error("discovery server: {0}")]
    Serve(#[from] tonic::transport::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the controller until it receives a signal to stop.
pub fn run(options: Options) -> ExitCode {
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(4)
        .on_thread_park(net::allocator::before_waiting)
        .enable_all()
        .build()
        .map_err(Fatal::Io)
        .and_then(|runtime| {
            let done = runtime.block_on(serve_until_stopped(options));
            // No other task has work to finish.
            runtime.shutdown_background();
            done
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isthmus federation-controller: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve_until_stopped(options: Options) -> Result<(), Fatal> {
    telemetry::logging::init(&options.log, options.log_json)?;
    let registry = Registry::new();
    let mut inventory = Inventory::new(settings(&options));
    if let Some(directory) = &options.state_dir {
        std::fs::create_dir_all(directory)
            .map_err(|error| Fatal::State { path: directory.display().to_string(), error })?;
        snapshot::restore(&mut inventory, directory);
    }
    let state = State::new(inventory, Metrics::new(&registry));
    let (events, receiver) = queues();
    let shared = Shared::new(state.clone(), events.clone(), Limits::default());
    gauges::observe(&shared, &registry);
    let debug = Debug::new(shared.clone());
    tokio::spawn(debug.clone().serve(listen("monitoring", options.monitoring_listen).await?));
    let discovery_listener = listen("discovery", options.discovery_listen).await?;
    let webhook_listener = listen("webhooks", options.webhook_listen).await?;

    let stop = state.stop.clone();
    let signalled = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = runtime::control::shutdown_signal().await {
            warn!(%error, "cannot receive signals");
            std::future::pending::<()>().await;
        }
        info!("stopping");
        signalled.cancel();
    });

    let fetcher = Fetcher::new(options.key_server_ca.as_deref(), options.key_server_addresses.clone())?;
    tokio::spawn(keys::run(state.clone(), events.clone(), fetcher, options.key_refresh));

    let mut parts = tokio::select! {
        parts = start(&options, state, events.clone(), receiver) => parts?,
        () = stop.cancelled() => return Ok(()),
    };
    debug.attach(parts.clusters.clone(), parts.authorities.clone());
    tokio::spawn(credentials::run(shared.state.clone(), events, parts.clusters.clone()));
    tokio::spawn(recorder::run(shared.state.clone(), parts.clusters.clone()));
    tokio::spawn(multicluster::run(shared.state.clone(), parts.clusters.clone()));
    tokio::spawn(recorder::leases::run(shared.state.clone(), parts.clusters.clone()));
    tokio::spawn(rule_status::run(shared.clone(), parts.clusters.own_client().clone()));
    tokio::spawn(service_entries_export::run(shared.state.clone(), parts.clusters.clone()));
    let writer = parts.clusters.own_client().clone();
    tokio::spawn(registration::run(shared.clone(), writer, options.workload_entry_grace));

    let injector = Injector {
        image: options.sidecar_image.clone(),
        router_image: options.router_image.clone(),
        proxy_container: options.proxy_container.clone(),
        discovery_address: options.discovery_address.clone(),
        controller_identity: parts.identity.id().to_string(),
        trust_domain: options.trust_domain.clone(),
    };
    let home = HomeCluster { cluster: options.cluster.clone(), network: options.network.clone() };
    let webhooks = connections(webhook_listener, parts.identity.clone(), webhook_clients(&options)?, &registry);
    let lookups = lookups(&shared.state);
    tokio::spawn(webhook::serve(webhooks, injector, home, lookups, registry.clone()));

    let validity = Validity { default: options.certificate_validity, max: options.max_certificate_validity };
    let (clusters, authorities) = (parts.clusters.clone(), parts.authorities.clone());
    let certificates = CertificateService::new(clusters, authorities, shared.state.clone(), validity, &registry);
    let routes =
        Routes::new(Discovery::service(shared.clone(), parts.identity.clone())).add_service(certificates.service());
    // A workload obtains its first certificate with a token, without a client certificate.
    let clients = Clients::OfTheMesh(
        Accept { client: ClientAuth::Optional, alpn: alpn::DISCOVERY },
        shared.admission(parts.identity.clone()),
    );
    let callers = connections(discovery_listener, parts.identity.clone(), clients, &registry);
    debug.set_serving(true);
    runtime::control::reclaim_when_idle();
    info!(cluster = options.cluster, discovery = %options.discovery_listen, "serving");
    serve::serve(callers, routes, stop.cancelled_owned(), GRACE).await?;
    debug.set_serving(false);
    // The pipeline stops as well, and writes the snapshot.
    let _ = tokio::time::timeout(GRACE, parts.pipeline.finished()).await;
    info!("stopped");
    Ok(())
}

/// The parts behind the ports.
struct Parts {
    clusters: clusters::Clusters,
    authorities: ca::Authorities,
    identity: identity::Identity,
    pipeline: Workers,
}

async fn start(options: &Options, state: Arc<State>, events: Queues, receiver: Receiver) -> Result<Parts, Fatal> {
    let pipeline = start_pipeline(state, receiver, options.state_dir.clone())?;
    let config = clusters::Config {
        cluster: options.cluster.as_str().into(),
        network: options.network.as_str().into(),
        root_namespace: options.root_namespace.clone(),
        kubeconfig: options.kubeconfig.clone(),
        heartbeat: options.heartbeat,
        removal_grace: options.removal_grace,
    };
    let clusters = clusters::start(config, events.clone()).await?;
    let own = options.cluster.as_str().into();
    let client = clusters.own_client().clone();
    let authorities = ca::authorities::start(client, &options.root_namespace, own, &options.trust_domain).await?;
    tokio::spawn(ca::authorities::publish_trust(authorities.clone(), events));
    tokio::spawn(ca::roots::keep(clusters.clone(), authorities.clone()));
    let names = ca::own::Names {
        namespace: options.namespace.clone(),
        service_account: options.service_account.clone(),
        cluster_domain: options.cluster_domain.clone(),
    };
    let identity = ca::own::start(&authorities, names)?;
    Ok(Parts { clusters, authorities, identity, pipeline })
}

/// Starts the pipeline on a thread of its own, with an allocator arena of its own, apart from the short-lived memory of the
/// other threads.
fn start_pipeline(state: Arc<State>, receiver: Receiver, directory: Option<PathBuf>) -> io::Result<Workers> {
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    workers::spawn(1, move |_| {
        let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (state, directory) = (state.clone(), directory.clone());
        async move {
            if let Err(error) = net::allocator::keep_apart() {
                warn!(%error, "the pipeline has no arena of its own");
            }
            if let Some(receiver) = receiver {
                pipeline::run(state, receiver, directory).await;
            }
        }
    })
}

/// Returns the clients of the webhook: the API servers with a certificate, if it is configured who signs it.
fn webhook_clients(options: &Options) -> Result<Clients, Fatal> {
    let Some(path) = &options.webhook_client_ca else { return Ok(Clients::Anyone(alpn::WEBHOOK)) };
    let failed = |why: String| Fatal::WebhookClients { path: path.display().to_string(), why };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let roots = identity::certificates_from_pem(&pem).map_err(failed)?;
    let roots = ClientRoots::new(&roots).map_err(|error| failed(error.to_string()))?;
    let names = options.webhook_client_names.as_slice().into();
    Ok(Clients::Known(alpn::WEBHOOK, KnownClients { roots, names }))
}

/// Returns what the webhooks look up in the inventory.
fn lookups(state: &Arc<State>) -> webhook::Lookups {
    let (of_kinds, of_proxies) = (state.clone(), state.clone());
    webhook::Lookups {
        denied: Arc::new(move |cluster: &str, kind| of_kinds.inventory().denies(cluster, kind)),
        layers: Arc::new(move |namespace: &str, labels: &Labels| {
            of_proxies.inventory().proxy_layers(&namespace.into(), labels)
        }),
    }
}

fn settings(options: &Options) -> Settings {
    Settings {
        cluster: options.cluster.as_str().into(),
        namespace: options.namespace.as_str().into(),
        root_namespace: options.root_namespace.as_str().into(),
        cluster_domain: options.cluster_domain.as_str().into(),
        trust_domain: options.trust_domain.as_str().into(),
    }
}

/// Opens a listener. The wildcard address of IPv6 accepts both families, and stands for IPv4 alone on a machine without
/// IPv6.
async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, Fatal> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    };
    bound.map_err(|error| Fatal::Listen { what, address, error })
}
