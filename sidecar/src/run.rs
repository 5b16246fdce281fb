//! The process: options in, exit code out.

use std::cell::OnceCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use proxy::listener::BACKLOG;
use proxy::report::AccessLogFiles;
use runtime::admin::{Admin, Application, Probes};
use runtime::admission::{Admission, Limits};
use runtime::enrol::{self, Controller};
use runtime::readiness::Readiness;
use runtime::{control, drain, workers as threads};
use telemetry::metrics::Registry;
use tokio::task::LocalSet;
use wire::name::{Node, Role};

use crate::capture::original_destination;
use crate::options::{InitOptions, Listener, Mode, Options, any};
use crate::workers::{self, Listeners, SidecarSetup};
use crate::{dns, explain, health, machine, pages};

/// The default of the maximum number of workers: a sidecar shares its machine with the application.
const MAX_WORKERS: usize = 2;
/// The file that names the pod's DNS servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long a connection may take to prove itself: to complete its handshake and the head of a request. Many clients open
/// connections ahead of their requests, so it is as long as other servers grant (nginx's `client_header_timeout`).
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the sidecar looks whether the application has ended, when the pod ends.
const APPLICATION_CHECK: Duration = Duration::from_millis(100);
/// How long the last lines of the access log may take to be written.
const LOG_FLUSH: Duration = Duration::from_millis(200);

/// The reason why the process ends.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("{0}")]
    Log(#[from] telemetry::logging::LevelError),
    #[error("--discovery: {0}")]
    Controller(#[from] enrol::AddressError),
    #[error(
        "the pod's name is unknown; set --pod or POD_NAME, or --workload-group or --workload-entry for a workload that is no pod"
    )]
    NoName,
    #[error("cannot listen at {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("without capture, the sidecar needs listeners; add --egress or --ingress")]
    NoListeners,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Capture(#[from] net::firewall::FirewallError),
}

/// Runs the sidecar, or the mode that the options select, until it ends.
pub fn run(options: Options) -> ExitCode {
    let options = match machine::read(options) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("isthmus sidecar: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = match options.mode.clone() {
        Some(Mode::Init(init)) => install_capture(&options, init),
        None => serve(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isthmus sidecar: {error}");
            ExitCode::FAILURE
        }
    }
}

fn install_capture(options: &Options, init: InitOptions) -> Result<(), Fatal> {
    net::firewall::install_capture(&net::firewall::Capture {
        outbound_port: options.outbound_port,
        inbound_port: options.inbound_port,
        dns_port: Some(options.dns_port).filter(|port| *port != 0),
        dns_servers: dns::servers(Path::new(RESOLV_CONF)),
        exclude_inbound_ports: init.exclude_inbound_ports,
        exclude_outbound_ports: init.exclude_outbound_ports,
        exclude_outbound_cidrs: init.exclude_outbound_cidrs,
        ..net::firewall::Capture::default()
    })?;
    println!(
        "traffic of this pod is redirected to ports {} (outbound) and {} (inbound)",
        options.outbound_port, options.inbound_port
    );
    if options.dns_port != 0 {
        println!("queries to this pod's DNS servers are redirected to port {}", options.dns_port);
    }
    Ok(())
}

fn serve(options: Options) -> Result<(), Fatal> {
    telemetry::logging::init(&options.log, options.log_json)?;
    if options.workload().is_none() {
        return Err(Fatal::NoName);
    }
    let mut controller = options.discovery.parse::<Controller>()?;
    if let Some(name) = &options.discovery_name {
        controller = controller.named(name)?;
    }
    if let Some(mark) = options.mark() {
        controller = controller.marked(mark);
    }
    let files = net::socket::raise_open_files_limit()?;
    // Before anything else, so that a conflict with another process or a missing privilege shows at once.
    let listeners = listen(&options)?;
    let limits = limits(files, threads::memory_limit());
    let running = run_sidecar(options, controller, listeners, limits);
    control::run(async move { LocalSet::new().run_until(running).await })?
}

/// Waits until no other process of the pod listens or has a connection.
async fn application_ended() {
    while net::socket::are_used_by_others() {
        tokio::time::sleep(APPLICATION_CHECK).await;
    }
}

/// Returns the limits of each direction for a limit of open files and of memory.
fn limits(files: u64, memory: Option<u64>) -> Limits {
    /// For listeners, admin connections, discovery and logs.
    const RESERVED_FILES: u64 = 512;
    /// A connection takes one file, and one on its behalf two, in each direction.
    const FILES: u64 = 6;
    /// The memory if it has no limit.
    const MEMORY: u64 = 1 << 30;
    /// The memory of an idle connection with TLS, with a margin.
    const CONNECTION: u64 = 64 << 10;
    /// The buffers of a request that neither side reads: the head or body on both sides, and a copy for retries.
    const REQUEST: u64 = 128 << 10;
    /// Many times what an incomplete head or handshake takes (some 27 KiB, measured with 21,000 of them), since pending
    /// connections are all that a client without an identity can hold under strict mutual TLS.
    const PENDING: u64 = 1 << 20;
    /// The part of the memory that bytes may take which the next hop does not take.
    const BUFFERED: u64 = 64;
    let (memory, by_files) = (memory.unwrap_or(MEMORY), files.saturating_sub(RESERVED_FILES) / FILES);
    let at_most = |bytes: u64, most: u32| (memory / bytes).min(by_files).clamp(16, most.into()) as u32;
    Limits {
        connections: at_most(CONNECTION, 16_384),
        pending: at_most(PENDING, 1024),
        dialled: at_most(REQUEST, 8192),
        buffered: memory / BUFFERED,
        deadline: HEAD_TIMEOUT,
    }
}

/// Returns the listeners of each worker.
fn listen(options: &Options) -> Result<Vec<Listeners>, Fatal> {
    if options.no_capture && options.egress.is_empty() && options.ingress.is_empty() {
        return Err(Fatal::NoListeners);
    }
    let captured = |port| (!options.no_capture).then(|| any(port));
    let binds = |listeners: &[Listener]| listeners.iter().map(|listener| listener.bind).collect::<Vec<_>>();
    let count = threads::count(options.concurrency, MAX_WORKERS);
    let mut all: Vec<Listeners> = (0..count).map(|_| Listeners::default()).collect();
    for address in captured(options.outbound_port).into_iter().chain(binds(&options.egress)) {
        let shared = bind(address, |address| net::socket::listen_shared(address, count, BACKLOG))?;
        for (own, listener) in all.iter_mut().zip(shared) {
            own.outbound.push(listener);
        }
    }
    for address in captured(options.inbound_port).into_iter().chain(binds(&options.ingress)) {
        // Opened when the inbound side is ready.
        let shared = bind(address, |address| net::socket::bind_shared(address, count))?;
        for (own, listener) in all.iter_mut().zip(shared) {
            own.inbound.push(listener);
        }
    }
    Ok(all)
}

fn bind<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> Result<T, Fatal> {
    let bound = bind(address).or_else(|error| match error.kind() {
        // The machine has no IPv6.
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported if address.ip().is_unspecified() => {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        _ => Err(error),
    });
    bound.map_err(|error| Fatal::Listen { address, error })
}

/// Runs the control thread from enrolment until the drain is complete.
async fn run_sidecar(
    options: Options,
    controller: Controller,
    listeners: Vec<Listeners>,
    limits: Limits,
) -> Result<(), Fatal> {
    let registry = Registry::new();
    telemetry::istio::register_build(&registry, "proxy");
    let readiness = Readiness::new();
    let (signal, watch, drained) = drain::channel();
    let (has_identity, has_inbound) = (readiness.needs("identity"), readiness.needs("inbound configuration"));

    let (shown, logs) = (pages::Shown::default(), OnceCell::<AccessLogFiles>::new());
    let admin = pages::add(Admin::new("sidecar", registry.clone(), readiness.clone(), signal.clone()), &shown)
        .application(Application::from_environment(options.mark()))
        .probes(Probes::from_environment(options.ip, options.mark()));
    let admin = Arc::new(admin);
    admin.clone().serve(options.addresses())?;

    let draining = control::drain_on_shutdown(
        &readiness,
        &signal,
        drained,
        options.drain_times(),
        // Other processes of a machine do not end with the sidecar.
        (!options.no_capture && !options.is_machine()).then(application_ended),
    );
    let running = async {
        let controller = match &options.controller_identity {
            Some(id) => controller.known_as(id.clone(), options.controller_issuer.clone()),
            None => controller,
        };
        let enrolment = enrol::Options {
            token_path: options.token.clone(),
            root_path: options.root.clone(),
            ..enrol::Options::new(controller, &options.cluster)
        };
        let enrolled = enrol::start(enrolment, &registry).await;
        admin.identify(enrolled.identity.clone());
        let _ = shown.identity.set(enrolled.identity.clone());
        has_identity.done();

        let pod = options.workload().unwrap_or_default();
        let setup = SidecarSetup {
            node: Node {
                role: Role::Sidecar,
                ip: options.ip,
                pod: pod.clone(),
                namespace: options.namespace.clone(),
                cluster: options.cluster.clone(),
            },
            network: options.network.as_str().into(),
            identity: enrolled.identity.clone(),
            listeners,
            original_destination: original_destination([&*options.egress, &*options.ingress].concat()),
            mark: options.mark(),
            outbound: Admission::new(limits),
            inbound: Admission::new(limits),
            registry: registry.clone(),
            drain: watch,
        };
        let _ = shown.node.set(format!("{pod}.{}", options.namespace));
        let _ = shown.address.set(options.ip);
        let mut sidecar = workers::start(setup, move || enrolled.channel())?;
        // The cells are empty: they are set here only.
        let _ = shown.published.set(sidecar.published.clone());
        let _ = logs.set(sidecar.logs.clone());
        let _ = shown.observed.set((options.cluster.clone(), sidecar.observed.clone()));
        if let Some(group) = options.workload_group.clone() {
            let network = options.network.clone();
            sidecar.report.update(|report| (report.workload_group, report.network) = (group, network));
            let checks = health::Checks { address: options.ip, mark: options.mark() };
            tokio::task::spawn_local(health::report(sidecar.published.clone(), checks, sidecar.report.clone()));
        }
        let names = || {
            let (cluster, network) = (options.cluster.as_str().into(), options.network.as_str().into());
            dns::Names::new(cluster, network, sidecar.published.clone(), sidecar.subscriber.clone())
        };
        let search = explain::Search::read(Path::new(RESOLV_CONF));
        let explainer = explain::Explainer {
            names: names(),
            search,
            link: sidecar.subscriber.link(),
            workers: sidecar.questions.clone(),
            mark: options.mark(),
        };
        let _ = shown.questions.set(explain::serve(explainer));
        if options.dns_port != 0 {
            let names = names();
            let forwarding = dns::Forwarding { resolv_conf: RESOLV_CONF.into(), mark: options.mark() };
            dns::serve(names, options.dns_port, forwarding).await?;
        }
        sidecar.opened().await;
        has_inbound.done();
        tracing::info!(cluster = %options.cluster, pod, "ready");
        control::reclaim_when_idle();
        std::future::pending::<()>().await;
        drop(sidecar);
        Ok::<(), Fatal>(())
    };
    tokio::select! {
        left = draining => {
            left?;
            if let Some(logs) = logs.get() {
                logs.flush(LOG_FLUSH);
            }
            Ok(())
        }
        failed = running => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_leave_files_for_upstreams_health_and_discovery() {
        for files in [1024, 4096, 65_536, 1 << 20] {
            let limits = limits(files, None);
            let in_use = 2 * (u64::from(limits.connections) + 2 * u64::from(limits.dialled));
            assert!(in_use + 512 <= files, "{files}: {limits:?}");
            assert!(limits.pending <= limits.connections && limits.connections >= 64, "{files}: {limits:?}");
        }
        let roomy = limits(1 << 20, None);
        assert_eq!((roomy.connections, roomy.pending, roomy.dialled), (16_384, 1024, 8192));
        let small = limits(1 << 20, Some(128 << 20));
        assert_eq!((small.connections, small.pending, small.dialled), (2048, 128, 1024));
    }
}
