//! The controller with a mesh of two clusters and many proxies: propagation of changes, CPU, memory.
//!
//! The controller is the real process, the API servers are embedded ones in processes of their own, and the proxies are
//! streams of the real discovery client in this process. All objects are created through the API servers, as users do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::finding::{Finding, Metric, Recorder};
use crate::rig::Rig;

pub mod cluster;
pub mod controller;
pub mod objects;
mod streams;
mod wire_count;

use cluster::Cluster;
use controller::{Controller, ExpectedState};
use objects::CLUSTERS;
use streams::{DiscoveryStreams, Signers, StalledStream};

const DAY: Duration = Duration::from_secs(86_400);
/// The deadline for steps that take seconds on an idle machine.
const LONG: Duration = Duration::from_secs(120);

/// Options of `control-plane`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Endpoint changes per second
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Leave out the mesh with ten times as many endpoints
    #[arg(long)]
    small: bool,
}

/// The size of a mesh.
#[derive(Clone, Copy, Debug)]
pub struct MeshSize {
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
            true => Self { services: 20, pods: 5, grown: 10, streams: 10, used: 5, seconds: 1, rest: 1 },
            false => Self { services: 1000, pods: 5, grown: 50, streams: 200, used: 10, seconds: 10, rest: 25 },
        }
    }

    /// The largest number of a service's pods in one cluster.
    fn most_pods(&self) -> usize {
        self.grown.max(self.pods)
    }

    fn endpoints(&self, pods: usize) -> usize {
        self.services * pods * CLUSTERS.len()
    }

    fn known(&self, pods: usize) -> ExpectedState {
        ExpectedState { services: self.services, endpoints: self.services * pods }
    }
}

/// Runs the scenario.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(options, rig, MeshSize::of(rig)))
}

/// Measures a mesh of 200 services and 2,000 endpoints with 50 proxies, in less than a minute.
pub fn run_small(rig: &Rig) -> Result<Vec<Finding>> {
    let small = MeshSize { services: 200, pods: 5, grown: 5, streams: 50, used: 10, seconds: 8, rest: 8 };
    let size = if rig.quick { MeshSize::of(rig) } else { small };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&Options { rate: 20, small: true }, rig, size))
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
        let signers = Signers::new()?;
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
        let state = self.rig.directory().join(format!("state-{}", self.starts));
        Controller::start(self.rig, &self.clusters[0].kubeconfig, &state, &format!("controller-{}", self.starts))
    }

    /// Starts the last controller again, with its saved state.
    fn start_again(&self) -> Result<Controller> {
        let state = self.rig.directory().join(format!("state-{}", self.starts));
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

    /// Measures with open streams.
    async fn streams(&mut self, options: &Options, controller: Controller) -> Result<(DiscoveryStreams, Controller)> {
        let size = self.size;
        let before = controller.usage()?;
        let resident = controller.resident()?.0;
        let began = Instant::now();
        let streams = DiscoveryStreams::open(&self.signers, &size)?;
        streams.in_sync(LONG).await?;
        self.found(Metric::cost("all streams connect: until in sync", "ms"), millis(began.elapsed()));
        let used = (controller.usage()? - before).cpu;
        self.found(Metric::cost("all streams connect: CPU of the controller", "ms"), millis(used));
        self.found(
            Metric::cost("all streams connect: bytes received", "KiB"),
            streams.received.bytes() as f64 / 1024.0,
        );
        let each = (controller.resident()?.0 as f64 - resident as f64) / size.streams as f64 / 1024.0;
        self.found(Metric::cost("resident memory per stream", "KiB"), each);
        // State is saved and late updates arrive meanwhile.
        tokio::time::sleep(Duration::from_secs(if self.rig.quick { 1 } else { 6 })).await;

        self.changes(options, &controller, &streams).await?;

        let (before, bytes, began) = (controller.usage()?, streams.received.bytes(), Instant::now());
        streams.reconnect();
        streams.in_sync(LONG).await?;
        self.found(Metric::cost("all streams reconnect: until in sync", "ms"), millis(began.elapsed()));
        self.found(
            Metric::cost("all streams reconnect: CPU of the controller", "ms"),
            millis((controller.usage()? - before).cpu),
        );
        let received = (streams.received.bytes() - bytes) as f64 / 1024.0;
        self.found(Metric::cost("all streams reconnect: bytes received", "KiB"), received);

        let (bytes, began) = (streams.received.bytes(), Instant::now());
        streams.arrivals.take();
        controller.stop()?;
        let controller = self.start_again()?;
        streams.in_sync(LONG).await?;
        self.found(Metric::cost("controller restarts: until all streams are in sync", "ms"), millis(began.elapsed()));
        let received = (streams.received.bytes() - bytes) as f64 / 1024.0;
        self.found(Metric::cost("controller restarts: bytes received", "KiB"), received);
        let pushed = streams.arrivals.take().len() as f64;
        self.found(Metric::cost("controller restarts: endpoints pushed again", ""), pushed);
        controller.wait_for(size.known(size.pods), LONG).await?;
        Ok((streams, controller))
    }

    /// Measures while endpoints change at a steady rate.
    async fn changes(&mut self, options: &Options, controller: &Controller, streams: &DiscoveryStreams) -> Result<()> {
        let idle = Duration::from_secs(if self.rig.quick { 1 } else { 3 });
        let before = controller.usage()?;
        tokio::time::sleep(idle).await;
        let idle_cpu = (controller.usage()? - before).cpu.as_secs_f64() / idle.as_secs_f64();
        let p50 = format!("change to arrival, p50 ({}/s in turn in each cluster)", options.rate);
        for _ in 0..if self.rig.quick { 1 } else { self.rig.turns } {
            let (used, received, began) = (controller.usage()?, streams.received.bytes(), Instant::now());
            let made = self.change(options.rate, streams).await?;
            let spent = (controller.usage()? - used).cpu.as_secs_f64() - idle_cpu * began.elapsed().as_secs_f64();
            let bytes = (streams.received.bytes() - received) as f64 / made.changes as f64;
            let mut took = made.took;
            took.sort_unstable();
            let at = |quantile: f64| took.get((took.len() as f64 * quantile) as usize).copied().unwrap_or_default();
            self.found(Metric::cost(&p50, "ms"), millis(at(0.5)));
            self.found(Metric::cost("change to arrival, p99", "ms"), millis(at(0.99)));
            let longest = millis(took.last().copied().unwrap_or_default());
            self.found(Metric::cost("change to arrival, longest", "ms"), longest);
            self.found(Metric::cost("missed arrivals", ""), made.missed as f64);
            self.found(Metric::cost("CPU of the controller per change", "µs"), spent * 1e6 / made.changes as f64);
            self.found(Metric::cost("bytes received by all streams per change", "bytes"), bytes);
        }
        self.found(Metric::cost("CPU of the controller with streams and no changes", "% of a core"), idle_cpu * 100.0);
        Ok(())
    }

    /// Toggles the readiness of one service's first endpoint after the other, in alternating clusters.
    async fn change(&mut self, rate: u32, streams: &DiscoveryStreams) -> Result<Changes> {
        let changes = (self.size.seconds * rate) as usize;
        let period = Duration::from_secs(1) / rate;
        streams.arrivals.take();
        let mut changed = Vec::new();
        let mut ticks = tokio::time::interval(period);
        for change in 0..changes {
            ticks.tick().await;
            // At full size each service changes once, so any arrival of it is this change.
            let (service, cluster) = (change % self.size.services, change % CLUSTERS.len());
            let ready = !self.ready[service];
            self.clusters[cluster].client().set_ready(&objects::slice_path(service), ready).await?;
            self.ready[service] = ready;
            changed.push((service, cluster, Instant::now()));
        }
        // An update that takes longer than this counts as missed.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let arrivals = streams.arrivals.take();
        let mut made = Changes { changes, took: Vec::new(), missed: 0 };
        for (service, cluster, at) in changed {
            let of = arrivals.iter().filter(|arrival| arrival.service == service && arrival.cluster == cluster);
            let mut streams_reached = std::collections::BTreeSet::new();
            for arrival in of {
                if streams_reached.insert(arrival.stream) {
                    // An update may arrive before the response to the request that made the change.
                    made.took.push(arrival.at.saturating_duration_since(at));
                }
            }
            made.missed += streams.users(service) - streams_reached.len().min(streams.users(service));
        }
        Ok(made)
    }

    /// Measures changes beside a stream that subscribes to everything and reads nothing.
    async fn stalled(&mut self, options: &Options, controller: &Controller, streams: &DiscoveryStreams) -> Result<()> {
        let stalled = StalledStream::open(&self.signers, &self.size).await.context("opening the stalled stream")?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = controller.resident()?.0;
        // The changes take less time than the controller allows a stream to stall.
        let made = self.change(options.rate * 5, streams).await?;
        let after = controller.resident()?.0;
        drop(stalled);
        let growth = after as f64 - before as f64;
        self.found(
            Metric::cost(&format!("memory growth in {} changes beside a stalled stream", made.changes), "KiB"),
            growth / 1024.0,
        );
        Ok(())
    }
}

/// The result of some changes.
struct Changes {
    changes: usize,
    /// The latency of each update at each stream that uses the service.
    took: Vec<Duration>,
    /// The number of updates that did not arrive.
    missed: usize,
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
