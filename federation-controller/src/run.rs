//! The process: parts made in the order in which they depend on each other, and stopped in the other.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::alpn;
use identity::{Accept, ClientAuth};
use runtime::workers::{self, Workers};
use telemetry::metrics::Registry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tracing::{info, warn};
use wire::ca::istio_certificate_service_server::IstioCertificateServiceServer;

use crate::ca::serve::{Clients, connections};
use crate::ca::service::{CertificateService, Validity};
use crate::debug::Debug;
use crate::discovery::{Discovery, Limits, Shared, serve};
use crate::inject::template::{Injector, Place};
use crate::inject::webhook;
use crate::inventory::{Index, Settings};
use crate::metrics::{Metrics, observe};
use crate::objects::event::Event;
use crate::pipeline;
use crate::{Options, ca, clusters};

/// Events on their way to the index. A first list of ten thousand pods waits here for the index, not in memory.
const EVENTS: usize = 4096;

/// For calls in progress when stopping: certificates are issued in milliseconds, streams end at once.
const GRACE: Duration = Duration::from_secs(2);

/// Threads beside the publisher's: for watches, handshakes and streams.
const THREADS: usize = 2;

/// Why the process ends.
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
    #[error("discovery server: {0}")]
    Serve(#[from] tonic::transport::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the controller until it is asked to stop.
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
            // Watches and writers hold nothing that has to be finished.
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
    let mut index = Index::new(settings(&options));
    if let Some(directory) = &options.state_dir {
        std::fs::create_dir_all(directory)
            .map_err(|error| Fatal::State { path: directory.display().to_string(), error })?;
        index.restore(directory);
    }
    let shared = Shared::new(index, Metrics::new(&registry), Limits::default());
    observe(&shared, &registry);
    let debug = Debug::new(shared.clone());
    tokio::spawn(debug.clone().serve(listen("monitoring", options.monitoring_listen).await?));
    let discovery_listener = listen("discovery", options.discovery_listen).await?;
    let webhook_listener = listen("webhooks", options.webhook_listen).await?;

    let stop = shared.stop.clone();
    let asked = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = runtime::control::shutdown_signal().await {
            warn!(%error, "signals cannot be received");
            std::future::pending::<()>().await;
        }
        info!("stopping");
        asked.cancel();
    });

    let mut parts = tokio::select! {
        parts = start(&options, &shared) => parts?,
        () = stop.cancelled() => return Ok(()),
    };
    debug.attach(parts.clusters.clone(), parts.authorities.clone());

    let injector = Injector {
        image: options.sidecar_image.clone(),
        discovery_address: options.discovery_address.clone(),
        trust_domain: options.trust_domain.clone(),
    };
    let place = Place { cluster: options.cluster.clone(), network: options.network.clone() };
    let webhooks = connections(webhook_listener, parts.identity.clone(), Clients::Anyone(alpn::WEBHOOK), &registry);
    tokio::spawn(webhook::serve(webhooks, injector, place, registry.clone()));

    let validity = Validity { default: options.certificate_validity, max: options.max_certificate_validity };
    let certificates = CertificateService::new(parts.clusters.clone(), parts.authorities.clone(), validity, &registry);
    let routes = Routes::new(Discovery::service(shared.clone(), parts.identity.clone()))
        .add_service(IstioCertificateServiceServer::new(certificates));
    // Not every caller has a certificate yet: the first one is got by a token.
    let clients = Clients::OfTheMesh(Accept { client: ClientAuth::Optional, alpn: alpn::DISCOVERY });
    let callers = connections(discovery_listener, parts.identity.clone(), clients, &registry);
    debug.set_serving(true);
    runtime::control::reclaim_when_idle();
    info!(cluster = options.cluster, discovery = %options.discovery_listen, "serving");
    serve::serve(callers, routes, stop.cancelled_owned(), GRACE).await?;
    debug.set_serving(false);
    // The publisher saw the stop, too, and puts the last view on the disk.
    let _ = tokio::time::timeout(GRACE, parts.publishing.finished()).await;
    info!("stopped");
    Ok(())
}

/// What runs behind the ports.
struct Parts {
    clusters: clusters::Clusters,
    authorities: ca::Authorities,
    identity: identity::Identity,
    publishing: Workers,
}

async fn start(options: &Options, shared: &Arc<Shared>) -> Result<Parts, Fatal> {
    let (events, inbox) = mpsc::channel(EVENTS);
    let publishing = publishing(shared.clone(), inbox, options.state_dir.clone())?;
    let config = clusters::Config {
        cluster: options.cluster.as_str().into(),
        network: options.network.as_str().into(),
        root_namespace: options.root_namespace.clone(),
        kubeconfig: options.kubeconfig.clone(),
        heartbeat: options.heartbeat,
    };
    let clusters = clusters::start(config, events.clone()).await?;
    let own = options.cluster.as_str().into();
    let client = clusters.own_client().clone();
    let authorities = ca::authorities::start(client, &options.root_namespace, own, &options.trust_domain).await?;
    tokio::spawn(ca::authorities::tell_trust(authorities.clone(), events));
    tokio::spawn(ca::roots::keep(clusters.clone(), authorities.clone()));
    let names = ca::own::Names {
        namespace: options.namespace.clone(),
        service_account: options.service_account.clone(),
        cluster_domain: options.cluster_domain.clone(),
    };
    let identity = ca::own::start(&authorities, names)?;
    Ok(Parts { clusters, authorities, identity, publishing })
}

/// The publisher, on a thread of its own: what is known is kept in that one's memory, apart from what all others use in passing.
fn publishing(shared: Arc<Shared>, inbox: mpsc::Receiver<Event>, directory: Option<PathBuf>) -> io::Result<Workers> {
    let inbox = Arc::new(Mutex::new(Some(inbox)));
    workers::spawn(1, move |_| {
        let inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (shared, directory) = (shared.clone(), directory.clone());
        async move {
            if let Err(error) = net::allocator::keep_apart() {
                warn!(%error, "the publisher has no memory of its own");
            }
            if let Some(inbox) = inbox {
                pipeline::run(shared, inbox, directory).await;
            }
        }
    })
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

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, Fatal> {
    TcpListener::bind(address).await.map_err(|error| Fatal::Listen { what, address, error })
}
