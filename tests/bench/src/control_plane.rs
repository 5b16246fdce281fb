//! The controller with a mesh of two clusters and many proxies: how soon a change is in use, and what it all costs.
//!
//! The controller is the real process; the API servers are the embedded one, a process each; the proxies are streams of the
//! real client in this process. Everything is made through the API servers, as people do it.

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
use controller::{Controller, Known};
use objects::CLUSTERS;
use streams::{Deaf, Signers, Streams};

const DAY: Duration = Duration::from_secs(86_400);
/// For whatever should be a matter of seconds; the machine may be busy.
const LONG: Duration = Duration::from_secs(120);

/// How to measure it.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Changes per second.
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Leave out the mesh of ten times as many endpoints.
    #[arg(long)]
    small: bool,
}

/// How large a mesh.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Services, each of them in every cluster and exported from there.
    services: usize,
    /// Pods of a service in one cluster.
    pods: usize,
    /// The same, when it has grown.
    grown: usize,
    /// Delta streams.
    streams: usize,
    /// Services that one of them uses.
    used: usize,
    /// How long changes go on.
    seconds: u32,
    /// Seconds until resident memory is read, also of the process without objects. The controller checks every 5 s whether it is idle, and
    /// returns memory after one such interval with almost no work.
    rest: u32,
}

impl Size {
    fn of(rig: &Rig) -> Self {
        match rig.quick {
            true => Self { services: 20, pods: 5, grown: 10, streams: 10, used: 5, seconds: 1, rest: 1 },
            false => Self { services: 1000, pods: 5, grown: 50, streams: 200, used: 10, seconds: 10, rest: 25 },
        }
    }

    /// The most pods that a service ever has in a cluster.
    fn most_pods(&self) -> usize {
        self.grown.max(self.pods)
    }

    fn endpoints(&self, pods: usize) -> usize {
        self.services * pods * CLUSTERS.len()
    }

    fn known(&self, pods: usize) -> Known {
        Known { services: self.services, endpoints: self.services * pods }
    }
}

/// Measures all of it.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(options, rig, Size::of(rig)))
}

/// Measures a mesh of 200 services and 2,000 endpoints with 50 proxies, in less than a minute.
pub fn run_small(rig: &Rig) -> Result<Vec<Finding>> {
    let small = Size { services: 200, pods: 5, grown: 5, streams: 50, used: 10, seconds: 8, rest: 8 };
    let size = if rig.quick { Size::of(rig) } else { small };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(&Options { rate: 20, small: true }, rig, size))
}

/// A mesh that is being measured.
struct Mesh<'a> {
    rig: &'a Rig,
    size: Size,
    clusters: Vec<Cluster>,
    signers: Signers,
    recorder: Recorder,
    load: String,
    starts: usize,
    /// Of each cluster, the uids of the services' ReplicaSets.
    owners: Vec<Vec<String>>,
    /// Of each service, whether its first endpoint is ready.
    ready: Vec<bool>,
}

async fn measure(options: &Options, rig: &Rig, size: Size) -> Result<Vec<Finding>> {
    let mut mesh = Mesh::new(rig, size).await?;
    let idle = mesh.start()?;
    idle.knows(Known { services: 0, endpoints: 0 }, LONG).await?;
    let empty = idle.settled(size.rest).await?;
    mesh.found(Metric::cost("resident memory without objects", "MiB"), mebibytes(empty.0));

    let began = Instant::now();
    mesh.load().await?;
    eprintln!("control-plane: made {} endpoints in {:.1?}", size.endpoints(size.pods), began.elapsed());
    idle.knows(size.known(size.pods), LONG).await?;
    let loaded = idle.settled(size.rest).await?;
    mesh.memory("after watching them appear", size.pods, empty, loaded);
    idle.stop()?;
    let controller = mesh.cold_start(size.pods, empty).await?;

    let (streams, controller) = mesh.streams(options, controller).await?;
    mesh.deaf(options, &controller, &streams).await?;
    drop(streams);
    if options.small {
        return Ok(mesh.recorder.findings());
    }

    let began = Instant::now();
    mesh.grow().await?;
    eprintln!("control-plane: grown to {} endpoints in {:.1?}", size.endpoints(size.grown), began.elapsed());
    mesh.describe(size.grown);
    controller.knows(size.known(size.grown), LONG).await?;
    let grown = controller.settled(size.rest).await?;
    mesh.memory("after watching them appear", size.grown, empty, grown);
    controller.stop()?;
    mesh.cold_start(size.grown, empty).await?.stop()?;
    Ok(mesh.recorder.findings())
}

impl<'a> Mesh<'a> {
    /// Two clusters that know of each other, with nothing in them.
    async fn new(rig: &'a Rig, size: Size) -> Result<Self> {
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
        let Size { services, streams, .. } = self.size;
        let endpoints = self.size.endpoints(pods);
        self.load =
            format!("{services} services, {endpoints} endpoints in {} clusters, {streams} streams", CLUSTERS.len());
    }

    /// A controller that remembers nothing.
    fn start(&mut self) -> Result<Controller> {
        self.starts += 1;
        let state = self.rig.directory().join(format!("state-{}", self.starts));
        Controller::start(self.rig, &self.clusters[0].kubeconfig, &state, &format!("controller-{}", self.starts))
    }

    /// The same controller again, with what it remembers.
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
        self.found(
            Metric::cost(&format!("the same without the program's own pages, {when}"), "bytes"),
            beyond(now.1, empty.1),
        );
    }

    async fn load(&mut self) -> Result<()> {
        let size = self.size;
        let Size { services, pods, .. } = size;
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
        let Size { services, pods, grown, .. } = size;
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

    /// A new controller that finds all objects there.
    async fn cold_start(&mut self, pods: usize, empty: (u64, u64)) -> Result<Controller> {
        let controller = self.start()?;
        let took = controller.knows(self.size.known(pods), LONG).await?;
        let used = controller.usage()?.cpu;
        self.found(Metric::cost("time from start until all is known", "ms"), millis(took));
        self.found(Metric::cost("CPU from start until all is known", "ms"), millis(used));
        let settled = controller.settled(self.size.rest).await?;
        self.memory("after a start", pods, empty, settled);
        Ok(controller)
    }

    /// All that is measured with streams open.
    async fn streams(&mut self, options: &Options, controller: Controller) -> Result<(Streams, Controller)> {
        let size = self.size;
        let before = controller.usage()?;
        let resident = controller.resident()?.0;
        let began = Instant::now();
        let streams = Streams::open(&self.signers, &size)?;
        streams.in_sync(LONG).await?;
        self.found(Metric::cost("all streams connect: until in sync", "ms"), millis(began.elapsed()));
        let used = (controller.usage()? - before).cpu;
        self.found(Metric::cost("all streams connect: controller's CPU", "ms"), millis(used));
        self.found(
            Metric::cost("all streams connect: bytes received", "KiB"),
            streams.received.bytes() as f64 / 1024.0,
        );
        let each = (controller.resident()?.0 as f64 - resident as f64) / size.streams as f64 / 1024.0;
        self.found(Metric::cost("resident memory per stream", "KiB"), each);
        // Until states are written and what was late has come.
        tokio::time::sleep(Duration::from_secs(if self.rig.quick { 1 } else { 6 })).await;

        self.changes(options, &controller, &streams).await?;

        let (before, bytes, began) = (controller.usage()?, streams.received.bytes(), Instant::now());
        streams.reconnect();
        streams.in_sync(LONG).await?;
        self.found(Metric::cost("all streams reconnect: until in sync", "ms"), millis(began.elapsed()));
        self.found(
            Metric::cost("all streams reconnect: controller's CPU", "ms"),
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
        let told = streams.arrivals.take().len() as f64;
        self.found(Metric::cost("controller restarts: endpoints told again", ""), told);
        controller.knows(size.known(size.pods), LONG).await?;
        Ok((streams, controller))
    }

    /// Endpoints change at a steady rate.
    async fn changes(&mut self, options: &Options, controller: &Controller, streams: &Streams) -> Result<()> {
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
            self.found(Metric::cost("arrivals that never came", ""), made.missed as f64);
            self.found(Metric::cost("controller's CPU per change", "µs"), spent * 1e6 / made.changes as f64);
            self.found(Metric::cost("bytes received by all streams per change", "bytes"), bytes);
        }
        self.found(Metric::cost("controller's CPU with streams and no changes", "% of a core"), idle_cpu * 100.0);
        Ok(())
    }

    /// Has the first endpoint of one service after the other stop or begin to be ready, in alternating clusters.
    async fn change(&mut self, rate: u32, streams: &Streams) -> Result<Made> {
        let changes = (self.size.seconds * rate) as usize;
        let period = Duration::from_secs(1) / rate;
        streams.arrivals.take();
        let mut told = Vec::new();
        let mut ticks = tokio::time::interval(period);
        for change in 0..changes {
            ticks.tick().await;
            // At full size each service is changed once, so that whatever arrives of it is this change.
            let (service, cluster) = (change % self.size.services, change % CLUSTERS.len());
            let ready = !self.ready[service];
            self.clusters[cluster].client().set_ready(&objects::slice_path(service), ready).await?;
            self.ready[service] = ready;
            told.push((service, cluster, Instant::now()));
        }
        // A lost one is one that took longer than this.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let arrivals = streams.arrivals.take();
        let mut made = Made { changes, took: Vec::new(), missed: 0 };
        for (service, cluster, at) in told {
            let of = arrivals.iter().filter(|arrival| arrival.service == service && arrival.cluster == cluster);
            let mut streams_reached = std::collections::BTreeSet::new();
            for arrival in of {
                if streams_reached.insert(arrival.stream) {
                    // It may arrive before the one who made the change hears of it.
                    made.took.push(arrival.at.saturating_duration_since(at));
                }
            }
            made.missed += streams.users(service) - streams_reached.len().min(streams.users(service));
        }
        Ok(made)
    }

    /// A stream that asks for everything and reads nothing, while things change.
    async fn deaf(&mut self, options: &Options, controller: &Controller, streams: &Streams) -> Result<()> {
        let deaf = Deaf::open(&self.signers, &self.size).await.context("the stream that does not read")?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = controller.resident()?.0;
        // Nothing is stuck for longer than the controller allows.
        let made = self.change(options.rate * 5, streams).await?;
        let after = controller.resident()?.0;
        drop(deaf);
        let growth = after as f64 - before as f64;
        self.found(
            Metric::cost(&format!("growth in {} changes beside a stream that does not read", made.changes), "KiB"),
            growth / 1024.0,
        );
        Ok(())
    }
}

/// What became of some changes.
struct Made {
    changes: usize,
    /// For each stream that uses the service, how long it took.
    took: Vec<Duration>,
    /// Streams that were never told.
    missed: usize,
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
