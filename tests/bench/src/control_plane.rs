//! The controller with a mesh of two clusters and many proxies: propagation of changes, CPU, memory.
//!
//! The controller is the real process, the API servers are embedded ones in processes of their own, and the proxies are
//! streams of the real discovery client in this process. All objects are created through the API servers, as users do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::finding::{Finding, Metric, Recorder};
use crate::rig::Rig;

mod changes;
pub mod cluster;
pub mod controller;
mod federation;
mod named;
pub mod objects;
pub mod pods;
mod policies;
mod routes;
pub mod rules;
mod streams;
mod wire_count;

use cluster::Cluster;
use controller::{Controller, ExpectedState};
use objects::CLUSTERS;
use streams::Signers;

const DAY: Duration = Duration::from_secs(86_400);
/// The deadline for steps that take seconds on an idle machine.
const LONG: Duration = Duration::from_secs(120);

/// Options of `control-plane`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Endpoint changes per second
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Leave out the mesh with ten times as many endpoints
    #[arg(long)]
    small: bool,
    /// Measure these parts only
    #[arg(long, value_delimiter = ',')]
    only: Vec<ControlPlanePart>,
}

/// A part of the scenario, with a mesh of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ControlPlanePart {
    /// Endpoints: memory, changes, restarts.
    Endpoints,
    /// Changes of routes.
    Routes,
    /// New policies.
    Policies,
    /// Fifty clusters.
    Federation,
}

/// The size of a mesh.
#[derive(Clone, Copy, Debug)]
pub struct MeshSize {
    /// The number of clusters.
    clusters: usize,
    /// The number of services, each in every cluster and exported there.
    services: usize,
    /// The number of a service's pods in one cluster.
    pods: usize,
    /// The number of a service's pods in one cluster after the mesh has grown.
    grown: usize,
    /// The number of discovery streams.
    streams: usize,
    /// The number of services that each stream uses.
    used: usize,
    /// The duration of changes.
    seconds: u32,
    /// The time in seconds before resident memory is read, also of the process without objects. The controller checks every 5 s
    /// whether it is idle, and returns memory after one such interval with almost no work.
    rest: u32,
}

impl MeshSize {
    fn of(rig: &Rig) -> Self {
        match rig.quick {
            true => Self { clusters: 2, services: 20, pods: 5, grown: 10, streams: 10, used: 5, seconds: 1, rest: 1 },
            false => {
                Self { clusters: 2, services: 1000, pods: 5, grown: 50, streams: 200, used: 10, seconds: 10, rest: 25 }
            }
        }
    }

    /// The largest number of a service's pods in one cluster.
    fn most_pods(&self) -> usize {
        self.grown.max(self.pods)
    }

    fn endpoints(&self, pods: usize) -> usize {
        self.services * pods * self.clusters
    }

    fn known(&self, pods: usize) -> ExpectedState {
        ExpectedState { services: self.services, endpoints: self.services * pods }
    }
}

/// Runs the scenario.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let (size, mut findings) = (MeshSize::of(rig), Vec::new());
    if wanted(ControlPlanePart::Endpoints) {
        findings = runtime.block_on(measure(options, rig, size)).context("endpoints")?;
    }
    if wanted(ControlPlanePart::Routes) {
        findings.extend(runtime.block_on(routes::measure(rig, size)).context("routes")?);
    }
    if wanted(ControlPlanePart::Policies) {
        findings.extend(runtime.block_on(policies::measure(rig, size)).context("policies")?);
    }
    if wanted(ControlPlanePart::Federation) {
        findings.extend(runtime.block_on(federation::measure(options, rig)).context("federation")?);
    }
    Ok(findings)
}

/// Measures a mesh of 200 services and 2,000 endpoints with 50 proxies, in less than a minute.
pub fn run_small(rig: &Rig) -> Result<Vec<Finding>> {
    let small = MeshSize { clusters: 2, services: 200, pods: 5, grown: 5, streams: 50, used: 10, seconds: 8, rest: 8 };
    let size = if rig.quick { MeshSize::of(rig) } else { small };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&Options { rate: 20, small: true, only: Vec::new() }, rig, size))
}

/// The measured mesh.
struct MeasuredMesh<'a> {
    rig: &'a Rig,
    size: MeshSize,
    clusters: Vec<Cluster>,
    signers: Signers,
    recorder: Recorder,
    load: String,
    starts: usize,
    /// The directory of the controllers' state.
    state: PathBuf,
    /// The UIDs of the services' ReplicaSets, for each cluster.
    owners: Vec<Vec<String>>,
    /// Whether a service's first endpoint is ready, for each service.
    ready: Vec<bool>,
}

async fn measure(options: &Options, rig: &Rig, size: MeshSize) -> Result<Vec<Finding>> {
    let mut mesh = MeasuredMesh::new(rig, size).await?;
    let idle = mesh.start()?;
    idle.wait_for(ExpectedState { services: 0, endpoints: 0 }, LONG).await?;
    let empty = idle.settled(size.rest).await?;
    mesh.found(Metric::cost("resident memory without objects", "MiB"), mebibytes(empty.0));

    let began = Instant::now();
    mesh.load().await?;
    eprintln!("control-plane: made {} endpoints in {:.1?}", size.endpoints(size.pods), began.elapsed());
    idle.wait_for(size.known(size.pods), LONG).await?;
    let loaded = idle.settled(size.rest).await?;
    mesh.memory("after endpoints were added", size.pods, empty, loaded);
    idle.stop()?;
    let controller = mesh.cold_start(size.pods, empty).await?;

    let (streams, controller) = mesh.streams(options, controller).await?;
    mesh.stalled(options, &controller, &streams).await?;
    drop(streams);
    if options.small {
        return Ok(mesh.recorder.findings());
    }

    let began = Instant::now();
    mesh.grow().await?;
    eprintln!("control-plane: grown to {} endpoints in {:.1?}", size.endpoints(size.grown), began.elapsed());
    mesh.describe(size.grown);
    controller.wait_for(size.known(size.grown), LONG).await?;
    let grown = controller.settled(size.rest).await?;
    mesh.memory("after endpoints were added", size.grown, empty, grown);
    controller.stop()?;
    mesh.cold_start(size.grown, empty).await?.stop()?;
    Ok(mesh.recorder.findings())
}

impl<'a> MeasuredMesh<'a> {
    /// Starts two clusters without services. The first one has a remote secret for the second one.
    async fn new(rig: &'a Rig, size: MeshSize) -> Result<Self> {
        let mut clusters = Vec::new();
        for (number, name) in CLUSTERS.iter().enumerate() {
            let address = format!("127.0.0.1:{}", 6443 + number).parse()?;
            clusters.push(Cluster::start(rig, name, address).await?);
        }
        let signers = Signers::new(size.clusters)?;
        for (number, cluster) in clusters.iter().enumerate() {
            for object in objects::base(number).into_iter().chain([objects::gateway(number)]) {
                cluster.client().create(object).await?;
            }
        }
        let none = serde_json::json!({});
        let primary = clusters[0].client();
        primary.create(objects::secret("cacerts", &none, &signers.secret(0))).await?;
        for (number, name) in CLUSTERS.iter().enumerate().skip(1) {
            primary.create(objects::secret(&format!("cacerts-{name}"), &none, &signers.secret(number))).await?;
            let kubeconfig = std::fs::read_to_string(&clusters[number].kubeconfig)?;
            let labels = serde_json::json!({"istio/multiCluster": "true"});
            let data = serde_json::json!({ *name: kubeconfig });
            primary.create(objects::secret(&format!("istio-remote-secret-{name}"), &labels, &data)).await?;
        }
        let mut mesh = Self {
            rig,
            size,
            clusters,
            signers,
            recorder: Recorder::new("control-plane"),
            load: String::new(),
            starts: 0,
            state: tempfile::Builder::new().prefix("state-").tempdir_in(rig.directory())?.keep(),
            owners: Vec::new(),
            ready: vec![true; size.services],
        };
        mesh.describe(size.pods);
        Ok(mesh)
    }

    fn describe(&mut self, pods: usize) {
        let MeshSize { services, streams, .. } = self.size;
        let endpoints = self.size.endpoints(pods);
        self.load =
            format!("{services} services, {endpoints} endpoints in {} clusters, {streams} streams", CLUSTERS.len());
    }

    /// Starts a controller without saved state.
    fn start(&mut self) -> Result<Controller> {
        self.starts += 1;
        let state = self.state.join(self.starts.to_string());
        Controller::start(self.rig, &self.clusters[0].kubeconfig, &state, &format!("controller-{}", self.starts))
    }

    /// Starts the last controller again, with its saved state.
    fn start_again(&self) -> Result<Controller> {
        let state = self.state.join(self.starts.to_string());
        Controller::start(self.rig, &self.clusters[0].kubeconfig, &state, &format!("controller-{}-again", self.starts))
    }

    fn found(&mut self, metric: Metric, value: f64) {
        eprintln!("control-plane: {} {value:.3} {}", metric.name, metric.unit);
        self.recorder.add(&self.load, "isthmus", metric, value);
    }

    fn memory(&mut self, when: &str, pods: usize, empty: (u64, u64), now: (u64, u64)) {
        let endpoints = self.size.endpoints(pods) as f64;
        let beyond = |now: u64, empty: u64| (now as f64 - empty as f64) / endpoints;
        self.found(Metric::cost(&format!("resident memory {when}"), "MiB"), mebibytes(now.0));
        self.found(Metric::cost(&format!("resident memory per endpoint {when}"), "bytes"), beyond(now.0, empty.0));
        self.found(Metric::cost(&format!("anonymous memory per endpoint {when}"), "bytes"), beyond(now.1, empty.1));
    }

    async fn load(&mut self) -> Result<()> {
        let size = self.size;
        let MeshSize { services, pods, .. } = size;
        for cluster in &self.clusters {
            self.owners.push(cluster.client().create_owners((0..services).map(objects::replica_set)).await?);
        }
        let owners = &self.owners;
        let making = self.clusters.iter().enumerate().map(|(number, cluster)| async move {
            cluster.client().create_all((0..services).flat_map(objects::service)).await?;
            let of =
                |service: usize| (0..pods).map(move |pod| objects::pod(number, service, pod, &owners[number][service]));
            let all = (0..services).flat_map(of);
            cluster.client().create_all(all).await?;
            let slices = (0..services).map(|service| objects::slice(number, service, pods, &size));
            cluster.client().create_all(slices).await
        });
        futures_util::future::try_join_all(making).await?;
        Ok(())
    }

    async fn grow(&mut self) -> Result<()> {
        let size = self.size;
        let MeshSize { services, pods, grown, .. } = size;
        self.ready = vec![true; services];
        let owners = &self.owners;
        let making = self.clusters.iter().enumerate().map(|(number, cluster)| async move {
            let more = |service: usize| {
                (pods..grown).map(move |pod| objects::pod(number, service, pod, &owners[number][service]))
            };
            cluster.client().create_all((0..services).flat_map(more)).await?;
            let slices = (0..services).map(|service| {
                let (_, object) = objects::slice(number, service, grown, &size);
                (objects::slice_path(service), object)
            });
            cluster.client().replace_all(slices).await
        });
        futures_util::future::try_join_all(making).await?;
        Ok(())
    }

    /// Starts a controller after all objects exist.
    async fn cold_start(&mut self, pods: usize, empty: (u64, u64)) -> Result<Controller> {
        let controller = self.start()?;
        let took = controller.wait_for(self.size.known(pods), LONG).await?;
        let used = controller.usage()?.cpu;
        self.found(Metric::cost("time from start until in sync", "ms"), millis(took));
        self.found(Metric::cost("CPU from start until in sync", "ms"), millis(used));
        let settled = controller.settled(self.size.rest).await?;
        self.memory("after a start", pods, empty, settled);
        Ok(controller)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
