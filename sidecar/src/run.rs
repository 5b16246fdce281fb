//! The process: options in, exit code out.

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use runtime::admin::{Addresses, Admin, Application};
use runtime::enrol::{self, Controller};
use runtime::readiness::Readiness;
use runtime::{control, drain, workers};
use telemetry::metrics::Registry;
use tokio::task::LocalSet;
use wire::name::{Node, Role};

use crate::options::{Init, Mode, Options, any};
use crate::proxy::{self, Setup};
use crate::{dns, pages};

/// Workers that a sidecar has at most unless told otherwise: it lives beside what it serves.
const AT_MOST: usize = 2;
/// For the last lines of the access log to be written.
const LAST_LINES: std::time::Duration = std::time::Duration::from_millis(200);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("{0}")]
    Log(#[from] telemetry::logging::LevelError),
    #[error("{0}")]
    Controller(String),
    #[error("the pod's name is not known; set POD_NAME")]
    NoName,
    #[error("cannot listen on port {port}: {error}")]
    Listen { port: u16, error: io::Error },
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
        dns_port: Some(options.dns_port),
        exclude_inbound_ports: init.exclude_inbound_ports,
        exclude_outbound_ports: init.exclude_outbound_ports,
        exclude_outbound_cidrs: init.exclude_outbound_cidrs,
        ..net::firewall::Capture::default()
    })?;
    println!(
        "traffic of this pod goes to ports {} (out), {} (in) and {} (DNS)",
        options.outbound_port, options.inbound_port, options.dns_port
    );
    Ok(())
}

fn serve(options: Options) -> Result<(), Fatal> {
    telemetry::logging::init(&options.log, options.log_json)?;
    if options.pod.is_empty() {
        return Err(Fatal::NoName);
    }
    let controller = options
        .discovery
        .parse::<Controller>()
        .map_err(|error| Fatal::Controller(error.to_string()))?
        .marked(net::PROXY_MARK);
    net::socket::raise_open_files_limit()?;
    let count = workers::count(options.concurrency, AT_MOST);
    // Before anything else: another proxy here, or a missing right, shows at once.
    let outbound = listen(options.outbound_port, count)?;
    let inbound = listen(options.inbound_port, count)?;
    control::run(async move { LocalSet::new().run_until(live(options, controller, outbound, inbound)).await })?
}

fn listen(port: u16, count: usize) -> Result<Vec<TcpListener>, Fatal> {
    let ipv4 = (std::net::Ipv4Addr::UNSPECIFIED, port).into();
    net::socket::listen_shared(any(port), count, BACKLOG)
        .or_else(|error| match error.kind() {
            // A machine without IPv6.
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported => {
                net::socket::listen_shared(ipv4, count, BACKLOG)
            }
            _ => Err(error),
        })
        .map_err(|error| Fatal::Listen { port, error })
}

/// The control thread, from enrolment to the last connection's end.
async fn live(
    options: Options,
    controller: Controller,
    outbound: Vec<TcpListener>,
    inbound: Vec<TcpListener>,
) -> Result<(), Fatal> {
    let registry = Registry::new();
    telemetry::istio::tell_build(&registry, "proxy");
    let readiness = Readiness::new();
    let (signal, watch, drained) = drain::channel();
    let (has_identity, has_inbound) = (readiness.needs("identity"), readiness.needs("inbound configuration"));

    let (known, logs) = (pages::Known::default(), std::cell::OnceCell::new());
    let admin = pages::add(Admin::new("sidecar", registry.clone(), readiness.clone(), signal.clone()), &known)
        .application(Application::from_environment(Some(net::PROXY_MARK)));
    let admin = Arc::new(admin);
    admin.clone().serve(Addresses::default())?;

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

        let running = proxy::start(
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
                outbound,
                inbound,
                destination: Arc::new(net::original_destination),
                mark: Some(net::PROXY_MARK),
                registry: registry.clone(),
                drain: watch,
            },
            move || enrolled.channel(),
        )?;
        // Set once: this is the only place.
        let _ = known.set(running.shared.clone());
        let _ = logs.set(running.logs.clone());
        let names =
            dns::Names::new(options.network.as_str().into(), running.shared.clone(), running.subscriber.clone());
        dns::serve(names, options.dns_port, Some(net::PROXY_MARK)).await?;
        running.knows_itself().await;
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
