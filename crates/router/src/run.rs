//! The process: options in, exit code out.

use std::cell::OnceCell;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proxy::report::AccessLogFiles;
use runtime::admin::Admin;
use runtime::admission::{Admission, Limits};
use runtime::enrol;
use runtime::options::GatewayOptions;
use runtime::readiness::Readiness;
use runtime::{control, drain, workers as threads};
use telemetry::istio::register_build;
use telemetry::metrics::Registry;
use tokio::task::LocalSet;
use wire::name::Role;

use crate::pages;
use crate::workers::{self, RouterSetup};

/// How long a connection may take to complete its handshake and the head of a request, as nginx's `client_header_timeout`.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the last lines of the access log may take to be written.
const LOG_FLUSH: Duration = Duration::from_millis(200);

/// Runs a gateway until it is asked to stop.
pub fn run(options: GatewayOptions) -> ExitCode {
    if let Err(error) = telemetry::logging::init(&options.log, options.log_json) {
        eprintln!("isthmus router: {error}");
        return ExitCode::from(2);
    }
    let running = async move { LocalSet::new().run_until(run_router(options)).await };
    match control::run(running).map_err(anyhow::Error::from).and_then(|ended| ended) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isthmus router: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the gateway: serve health checks, enrol, receive listeners, accept, drain.
async fn run_router(options: GatewayOptions) -> anyhow::Result<()> {
    let files = net::socket::raise_open_files_limit().context("cannot raise the limit of open files")?;
    let (registry, readiness) = (Registry::new(), Readiness::new());
    register_build(&registry, "router");
    let (signal, watch, drained) = drain::channel();
    let (has_identity, has_listeners) = (readiness.needs("certificate"), readiness.needs("listeners"));
    let (shown, logs) = (pages::Shown::default(), OnceCell::<AccessLogFiles>::new());
    let admin = Admin::new("router", registry.clone(), readiness.clone(), signal.clone());
    let admin = Arc::new(pages::add(admin, &shown));
    admin.clone().serve(options.addresses()).context("cannot serve the admin endpoint")?;

    let times = options.drain_times();
    let draining = control::drain_on_shutdown(&readiness, &signal, drained, times, None::<std::future::Ready<()>>);
    let running = async {
        let enrolled = enrol::start(options.enrolment(), &registry).await;
        admin.identify(enrolled.identity.clone());
        has_identity.done();

        let setup = RouterSetup {
            node: options.node(Role::Router),
            network: options.network.as_str().into(),
            identity: enrolled.identity.clone(),
            workers: threads::count(Some(options.workers), usize::MAX),
            admission: Admission::new(limits(files, threads::memory_limit())),
            registry: registry.clone(),
            drain: watch,
        };
        let mut router = workers::start(setup, move || enrolled.channel()).context("cannot start workers")?;
        // The cells are empty: they are set here only.
        let _ = shown.config.set(router.config.clone());
        let _ = shown.mesh.set(router.published.clone());
        let _ = logs.set(router.logs.clone());
        router.opened().await;
        has_listeners.done();
        tracing::info!(cluster = %options.cluster, pod = %options.pod, "ready");
        control::reclaim_when_idle();
        std::future::pending::<()>().await;
        drop(router);
        Ok(())
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

/// Returns the limits for a limit of open files and of memory.
fn limits(files: u64, memory: Option<u64>) -> Limits {
    /// For admin connections, discovery and logs.
    const RESERVED_FILES: u64 = 512;
    /// A connection takes one file, and one on its behalf two.
    const FILES: u64 = 3;
    /// The memory if it has no limit.
    const MEMORY: u64 = 1 << 30;
    /// The memory of an idle connection with TLS, with a margin.
    const CONNECTION: u64 = 64 << 10;
    /// The buffers of a request that neither side reads: the head or body on both sides, and a copy for retries.
    const REQUEST: u64 = 128 << 10;
    /// Many times what an incomplete head or handshake takes.
    const PENDING: u64 = 256 << 10;
    /// The part of the memory that bytes may take which the next hop does not take.
    const BUFFERED: u64 = 16;
    let (memory, by_files) = (memory.unwrap_or(MEMORY), files.saturating_sub(RESERVED_FILES) / FILES);
    let at_most = |bytes: u64, most: u32| (memory / bytes).min(by_files).clamp(16, most.into()) as u32;
    Limits {
        connections: at_most(CONNECTION, 65_536),
        pending: at_most(PENDING, 4096),
        dialled: at_most(REQUEST, 32_768),
        buffered: memory / BUFFERED,
        deadline: HEAD_TIMEOUT,
    }
}
