//! The process: options in, exit code out.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use runtime::admin::{Admin, Application};
use runtime::enrol::{self, Controller};
use runtime::readiness::Readiness;
use runtime::{control, drain, workers as threads};
use telemetry::metrics::Registry;
use tokio::task::LocalSet;
use wire::name::{Node, Role};

use crate::options::{Init, Listener, Mode, Options, any};
use crate::workers::{self, BACKLOG, Listeners, Setup};
use crate::{dns, pages};
use proxy::worker::Destination;

/// Workers that a sidecar has at most unless told otherwise: it lives beside what it serves.
const AT_MOST: usize = 2;
/// For the last lines of the access log to be written.
const LAST_LINES: std::time::Duration = std::time::Duration::from_millis(200);

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("{0}")]
    Log(#[from] telemetry::logging::LevelError),
    #[error("{0}")]
    Controller(String),
    #[error("the pod's name is not known; set POD_NAME")]
    NoName,
    #[error("cannot listen at {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("nothing is captured, so say with --egress or --ingress what to carry")]
    NothingToCarry,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Capture(#[from] net::firewall::FirewallError),
}

/// Does what the options say, and returns when it is done.
pub fn run(options: Options) -> ExitCode {
    let done = match options.mode.clone() {
        Some(Mode::Init(init)) => capture(&options, init),
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

fn capture(options: &Options, init: Init) -> Result<(), Fatal> {
    net::firewall::install_capture(&net::firewall::Capture {
        outbound_port: options.outbound_port,
        inbound_port: options.inbound_port,
        dns_port: Some(options.dns_port).filter(|port| *port != 0),
        exclude_inbound_ports: init.exclude_inbound_ports,
        exclude_outbound_ports: init.exclude_outbound_ports,
        exclude_outbound_cidrs: init.exclude_outbound_cidrs,
        ..net::firewall::Capture::default()
    })?;
    println!("traffic of this pod goes to ports {} (out) and {} (in)", options.outbound_port, options.inbound_port);
    if options.dns_port != 0 {
        println!("its DNS questions go to port {}", options.dns_port);
    }
    Ok(())
}

fn serve(options: Options) -> Result<(), Fatal> {
    telemetry::logging::init(&options.log, options.log_json)?;
    if options.pod.is_empty() {
        return Err(Fatal::NoName);
    }
    let mut controller =
        options.discovery.parse::<Controller>().map_err(|error| Fatal::Controller(error.to_string()))?;
    if let Some(mark) = options.mark() {
        controller = controller.marked(mark);
    }
    net::socket::raise_open_files_limit()?;
    // Before anything else: another proxy here, or a missing right, shows at once.
    let listeners = listen(&options)?;
    control::run(async move { LocalSet::new().run_until(live(options, controller, listeners)).await })?
}

/// For each worker its listeners.
fn listen(options: &Options) -> Result<Vec<Listeners>, Fatal> {
    if options.no_capture && options.egress.is_empty() && options.ingress.is_empty() {
        return Err(Fatal::NothingToCarry);
    }
    let captured = |port| (!options.no_capture).then(|| any(port));
    let binds = |listeners: &[Listener]| listeners.iter().map(|listener| listener.bind).collect::<Vec<_>>();
    let count = threads::count(options.concurrency, AT_MOST);
    let mut all: Vec<Listeners> = (0..count).map(|_| Listeners::default()).collect();
    for address in captured(options.outbound_port).into_iter().chain(binds(&options.egress)) {
        let shared = bind(address, |address| net::socket::listen_shared(address, count, BACKLOG))?;
        for (own, listener) in all.iter_mut().zip(shared) {
            own.outbound.push(listener);
        }
    }
    for address in captured(options.inbound_port).into_iter().chain(binds(&options.ingress)) {
        // Opened when it is known whom to let in.
        let shared = bind(address, |address| net::socket::bind_shared(address, count))?;
        for (own, listener) in all.iter_mut().zip(shared) {
            own.inbound.push(listener);
        }
    }
    Ok(all)
}

fn bind<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> Result<T, Fatal> {
    let bound = bind(address).or_else(|error| match error.kind() {
        // A machine without IPv6.
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported if address.ip().is_unspecified() => {
            bind((std::net::Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        _ => Err(error),
    });
    bound.map_err(|error| Fatal::Listen { address, error })
}

/// Where connections go: those of a listener of their own, to its destination; others, as the kernel says.
fn destination(options: &Options) -> Destination {
    let own = [options.egress.as_slice(), options.ingress.as_slice()].concat();
    if own.is_empty() {
        return Arc::new(net::original_destination);
    }
    Arc::new(move |stream| {
        let local = stream.local_addr()?;
        match own.iter().find(|listener| listener.takes(local)) {
            Some(listener) => Ok(listener.destination),
            None => net::original_destination(stream),
        }
    })
}

/// The control thread, from enrolment to the last connection's end.
async fn live(options: Options, controller: Controller, listeners: Vec<Listeners>) -> Result<(), Fatal> {
    let registry = Registry::new();
    telemetry::istio::tell_build(&registry, "proxy");
    let readiness = Readiness::new();
    let (signal, watch, drained) = drain::channel();
    let (has_identity, has_inbound) = (readiness.needs("identity"), readiness.needs("inbound configuration"));

    let (known, logs) = (pages::Known::default(), std::cell::OnceCell::new());
    let admin = pages::add(Admin::new("sidecar", registry.clone(), readiness.clone(), signal.clone()), &known)
        .application(Application::from_environment(options.mark()));
    let admin = Arc::new(admin);
    admin.clone().serve(options.addresses())?;

    let leaving = control::leave(&readiness, &signal, drained, options.leaving());
    let living = async {
        let enrolment = enrol::Options {
            token_path: options.token.clone(),
            root_path: options.root.clone(),
            ..enrol::Options::new(controller, &options.cluster)
        };
        let enrolled = enrol::start(enrolment, &registry).await;
        admin.identify(enrolled.identity.clone());
        has_identity.done();

        let mut running = workers::start(
            Setup {
                node: Node {
                    role: Role::Sidecar,
                    ip: options.ip,
                    pod: options.pod.clone(),
                    namespace: options.namespace.clone(),
                    cluster: options.cluster.clone(),
                },
                network: options.network.as_str().into(),
                identity: enrolled.identity.clone(),
                listeners,
                destination: destination(&options),
                mark: options.mark(),
                registry: registry.clone(),
                drain: watch,
            },
            move || enrolled.channel(),
        )?;
        // Set once: this is the only place.
        let _ = known.set(running.shared.clone());
        let _ = logs.set(running.logs.clone());
        if options.dns_port != 0 {
            let (network, shared) = (options.network.as_str().into(), running.shared.clone());
            let names = dns::Names::new(network, shared, running.subscriber.clone());
            dns::serve(names, options.dns_port, options.mark()).await?;
        }
        running.opened().await;
        has_inbound.done();
        tracing::info!(cluster = %options.cluster, pod = %options.pod, "ready");
        control::settle();
        std::future::pending::<()>().await;
        drop(running);
        Ok::<(), Fatal>(())
    };
    tokio::select! {
        left = leaving => {
            left?;
            if let Some(logs) = logs.get() {
                logs.flush(LAST_LINES);
            }
            Ok(())
        }
        failed = living => failed,
    }
}
