//! A federation of many clusters: what a change, a churning cluster, and a cluster that joins or is lost cost the others.
//!
//! Each cluster has services of its own, and exports a few that other clusters have as well. The proxies of all clusters use those.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use http::Method;
use serde_json::{Value, json};

use super::cluster::{ApiClient, Cluster};
use super::controller::Controller;
use super::objects::{self, cluster_name};
use super::streams::{DiscoveryStreams, Signers};
use super::{MeshSize, Options, mebibytes, millis};
use crate::finding::{Finding, Metric, Recorder};
use crate::rig::Rig;

/// The deadline for steps that take half a minute on an idle machine.
const LONGER: Duration = Duration::from_secs(300);
/// An update that takes longer than this counts as missed.
const MISSED: Duration = Duration::from_secs(3);
/// The time in which a controller has done all that follows from a cluster that joins, or is removed: it waits five seconds before it
/// takes a deleted secret for a removed cluster.
const DONE: Duration = Duration::from_secs(10);

/// The size of the federation.
#[derive(Clone, Copy, Debug)]
struct FederationSize {
    /// The clusters, the exported services, which every `groups`th cluster has, the pods of a service, and the proxies.
    mesh: MeshSize,
    /// The number of groups of clusters that export the same services.
    groups: usize,
    /// The number of services that a cluster does not export.
    own: usize,
    /// The changes of the churning cluster, each second.
    churn: usize,
}

impl FederationSize {
    fn of(rig: &Rig) -> Self {
        let mesh = |clusters, services, pods, streams, seconds, rest| MeshSize {
            clusters,
            services,
            pods,
            grown: pods,
            streams,
            used: 10.min(services),
            seconds,
            rest,
        };
        match rig.quick {
            true => Self { mesh: mesh(4, 4, 2, 8, 1, 1), groups: 2, own: 3, churn: 100 },
            false => Self { mesh: mesh(50, 100, 10, 100, 10, 25), groups: 10, own: 90, churn: 1000 },
        }
    }

    /// The exported services of a cluster.
    fn exported(self, cluster: usize) -> impl Iterator<Item = usize> {
        (cluster % self.groups..self.mesh.services).step_by(self.groups)
    }

    /// The other services of a cluster.
    fn unexported(self, cluster: usize) -> impl Iterator<Item = usize> {
        let first = self.mesh.services + cluster * self.own;
        first..first + self.own
    }

    /// The number of services of a cluster.
    fn services_of_each(self) -> usize {
        self.mesh.services / self.groups + self.own
    }

    fn describe(self) -> String {
        let MeshSize { clusters, pods, streams, services, .. } = self.mesh;
        let services_of_all = clusters * self.services_of_each();
        let exports = clusters * services / self.groups;
        let endpoints = services_of_all * pods;
        format!(
            "{clusters} clusters, {services_of_all} services, {exports} exported, {endpoints} endpoints, {streams} streams"
        )
    }
}

/// A running federation.
struct Federation {
    size: FederationSize,
    clusters: Vec<Cluster>,
    recorder: Recorder,
    load: String,
}

/// Measures the federation.
pub(super) async fn measure(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let size = FederationSize::of(rig);
    let signers = Signers::new(size.mesh.clusters)?;
    let began = Instant::now();
    let mut federation = Federation::new(rig, size, &signers).await?;
    eprintln!("control-plane: made {} in {:.1?}", federation.load, began.elapsed());

    let state = tempfile::Builder::new().prefix("federation-").tempdir_in(rig.directory())?;
    let controller = Controller::start(rig, &federation.clusters[0].kubeconfig, state.path(), "controller-federation")?;
    let took = federation.wait_for(&controller, size.mesh.clusters).await?;
    federation.found("time from start until in sync", "ms", millis(took));
    let streams = DiscoveryStreams::open(&signers, &size.mesh)?;
    streams.in_sync(LONGER).await?;
    let resident = controller.settled(size.mesh.rest).await?.0;
    federation.found("resident memory of the controller", "MiB", mebibytes(resident));

    let alone = federation.change(options.rate, &streams).await?;
    federation.report("", &alone);
    federation.join_and_lose(&controller, &streams).await?;

    let churning = Churn::start(federation.clusters[size.mesh.clusters - 1].client().clone(), size);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let beside = federation.change(options.rate, &streams).await;
    let rate = churning.stop().await;
    let beside = beside?;
    federation.found("changes of the churning cluster", "/s", rate);
    federation.report(" beside a churning cluster", &beside);
    let delay = beside.quantile(0.5).saturating_sub(alone.quantile(0.5));
    federation.found("delay by a churning cluster, median", "ms", millis(delay));
    controller.stop()?;
    Ok(federation.recorder.findings())
}

impl Federation {
    async fn new(rig: &Rig, size: FederationSize, signers: &Signers) -> Result<Self> {
        let mut clusters = Vec::new();
        for number in 0..size.mesh.clusters {
            let address = format!("127.0.0.1:{}", 6443 + number).parse()?;
            clusters.push(Cluster::start(rig, &format!("federation-{}", cluster_name(number)), address).await?);
        }
        let federation = Self { size, clusters, recorder: Recorder::new("control-plane"), load: size.describe() };
        let primary = federation.clusters[0].client();
        for number in 0..size.mesh.clusters {
            federation.fill(number).await.with_context(|| cluster_name(number))?;
            let authority =
                if number == 0 { "cacerts".to_owned() } else { format!("cacerts-{}", cluster_name(number)) };
            primary.create(objects::secret(&authority, &json!({}), &signers.secret(number))).await?;
            if number > 0 {
                primary.create(federation.remote_secret(number)?).await?;
            }
        }
        Ok(federation)
    }

    /// Creates the objects of a cluster.
    async fn fill(&self, cluster: usize) -> Result<()> {
        let (size, client) = (self.size, self.clusters[cluster].client());
        for object in objects::base(cluster).into_iter().chain([objects::gateway(cluster)]) {
            client.create(object).await?;
        }
        let all: Vec<usize> = size.exported(cluster).chain(size.unexported(cluster)).collect();
        let owners = client.create_owners(all.iter().map(|service| objects::replica_set(*service))).await?;
        client.create_all(size.exported(cluster).flat_map(objects::service)).await?;
        client.create_all(size.unexported(cluster).flat_map(objects::unexported)).await?;
        let pods = all.iter().zip(&owners).flat_map(|(service, owner)| {
            (0..size.mesh.pods).map(move |pod| objects::pod(cluster, *service, pod, owner))
        });
        client.create_all(pods).await?;
        client.create_all(all.iter().map(|service| objects::slice(cluster, *service, size.mesh.pods, &size.mesh))).await
    }

    fn remote_secret(&self, cluster: usize) -> Result<(String, Value)> {
        let name = cluster_name(cluster);
        let kubeconfig = std::fs::read_to_string(&self.clusters[cluster].kubeconfig)?;
        let labels = json!({"istio/multiCluster": "true"});
        Ok(objects::secret(&format!("istio-remote-secret-{name}"), &labels, &json!({ &*name: kubeconfig })))
    }

    /// Waits until the controller knows all services of this number of clusters.
    async fn wait_for(&self, controller: &Controller, clusters: usize) -> Result<Duration> {
        let (each, pods) = (self.size.services_of_each(), self.size.mesh.pods);
        let what = format!("{clusters} clusters with {each} services each");
        let all = |rows: &[super::controller::ClusterState]| {
            // The first endpoint of some services is not ready.
            let is_known = |row: &&super::controller::ClusterState| {
                row.synced && row.services == each && row.endpoints + each >= each * pods
            };
            rows.len() == clusters && rows.iter().filter(is_known).count() == clusters
        };
        controller.wait_until(&what, LONGER, all).await
    }

    fn found(&mut self, name: &str, unit: &'static str, value: f64) {
        eprintln!("control-plane: {name} {value:.3} {unit}");
        self.recorder.add(&self.load, "isthmus", Metric::cost(name, unit), value);
    }

    fn report(&mut self, when: &str, times: &Times) {
        self.found(&format!("change to arrival{when}, p50"), "ms", millis(times.quantile(0.5)));
        self.found(&format!("change to arrival{when}, p99"), "ms", millis(times.quantile(0.99)));
        self.found(&format!("missed arrivals{when}"), "", times.missed as f64);
    }

    /// Toggles the readiness of one exported service's first endpoint after the other, each in one of its clusters, but not in the
    /// last cluster.
    async fn change(&self, rate: u32, streams: &DiscoveryStreams) -> Result<Times> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        let (shared, groups) = (self.size.mesh.services, self.size.groups);
        streams.arrivals.take();
        let mut changed = Vec::new();
        let mut unready = BTreeSet::new();
        for change in 0..(self.size.mesh.seconds * rate) as usize {
            ticks.tick().await;
            let service = change % shared;
            // The clusters of the service, in turn.
            let of_service = (service % groups..self.size.mesh.clusters - 1).step_by(groups);
            let cluster =
                of_service.clone().nth(change / shared % of_service.count()).context("a cluster of the service")?;
            let ready = !unready.insert((service, cluster)) && unready.remove(&(service, cluster));
            self.clusters[cluster].client().set_ready(&objects::slice_path(service), ready).await?;
            changed.push((service, cluster, Instant::now()));
        }
        tokio::time::sleep(MISSED).await;
        for (service, cluster) in unready {
            self.clusters[cluster].client().set_ready(&objects::slice_path(service), true).await?;
        }
        let arrivals = streams.arrivals.take();
        let mut times = Times::default();
        for (service, cluster, at) in changed {
            let mut reached = BTreeSet::new();
            let of = arrivals.iter().filter(|arrival| (arrival.service, arrival.cluster) == (service, cluster));
            for arrival in of.filter(|arrival| arrival.at + Duration::from_millis(5) >= at) {
                if reached.insert(arrival.stream) {
                    times.took.push(arrival.at.saturating_duration_since(at));
                }
            }
            times.missed += streams.users(service).saturating_sub(reached.len());
        }
        times.took.sort_unstable();
        Ok(times)
    }

    /// Measures the CPU that the controller needs when the last cluster is removed, and when it joins again, beyond what it needs
    /// in the same time at rest. Nobody reads its pages meanwhile.
    async fn join_and_lose(&mut self, controller: &Controller, streams: &DiscoveryStreams) -> Result<()> {
        let clusters = self.size.mesh.clusters;
        let (path, secret) = self.remote_secret(clusters - 1)?;
        let named = format!("{path}/istio-remote-secret-{}", cluster_name(clusters - 1));
        let primary = self.clusters[0].client().clone();

        let before = controller.usage()?;
        tokio::time::sleep(DONE).await;
        let at_rest = (controller.usage()? - before).cpu;
        self.found("at rest for ten seconds: CPU of the controller", "ms", millis(at_rest));

        let before = controller.usage()?;
        primary.request(Method::DELETE, &named, &Value::Null).await?;
        tokio::time::sleep(DONE).await;
        let removed = (controller.usage()? - before).cpu.saturating_sub(at_rest);
        // The proxies of the cluster are not served any longer.
        self.wait_for(controller, clusters - 1).await?;
        self.found("a cluster is removed: CPU of the controller", "ms", millis(removed));

        let before = controller.usage()?;
        primary.create((path, secret)).await?;
        tokio::time::sleep(DONE).await;
        let joined = (controller.usage()? - before).cpu.saturating_sub(at_rest);
        self.wait_for(controller, clusters).await?;
        streams.in_sync(LONGER).await?;
        self.found("a cluster joins: CPU of the controller", "ms", millis(joined));
        Ok(())
    }
}

/// The times from changes until streams had them.
#[derive(Debug, Default)]
struct Times {
    /// In ascending order.
    took: Vec<Duration>,
    missed: usize,
}

impl Times {
    fn quantile(&self, quantile: f64) -> Duration {
        self.took.get((self.took.len() as f64 * quantile) as usize).copied().unwrap_or_default()
    }
}

/// A cluster whose endpoints change all the time.
struct Churn {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    began: Instant,
    task: tokio::task::JoinHandle<()>,
}

impl Churn {
    /// The time between bursts of changes.
    const TICK: Duration = Duration::from_millis(20);

    fn start(client: ApiClient, size: FederationSize) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&made));
        let cluster = size.mesh.clusters - 1;
        let services: Vec<usize> = size.exported(cluster).chain(size.unexported(cluster)).collect();
        let each = size.churn / (1000 / Self::TICK.as_millis() as usize);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Self::TICK);
            let mut next = 0;
            while !stopped.load(Relaxed) {
                ticks.tick().await;
                let burst = (next..next + each).map(|number| {
                    let (round, service) = (number / services.len(), services[number % services.len()]);
                    let (client, path) = (client.clone(), objects::slice_path(service));
                    async move { client.set_ready(&path, round % 2 == 1).await }
                });
                let done = futures_util::future::join_all(burst).await;
                counted.fetch_add(done.iter().filter(|done| done.is_ok()).count(), Relaxed);
                next += each;
            }
        });
        Self { stop, made, began: Instant::now(), task }
    }

    /// Ends the changes, and returns how many there were in a second.
    async fn stop(self) -> f64 {
        self.stop.store(true, Relaxed);
        let took = self.began.elapsed().as_secs_f64();
        // A panic of the task is a failure of its changes, which the rate shows.
        let _ = self.task.await;
        self.made.load(Relaxed) as f64 / took
    }
}
