//! Sidecars as the controller sees them: streams of the real discovery client, each with the subscriptions of one pod.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use identity::{Authority, Identity, SpiffeId, Trust};
use tokio::sync::Notify;
use wire::Kind;
use wire::client::{Outcome, Subscriber};
use wire::delta::{Body, Rejected, Update};
use wire::envoy::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use wire::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node as EnvoyNode};
use wire::name::{self, Node};

use super::objects::{cluster_name, cluster_of, hostname, network, service_of};
use super::wire_count::{Received, channel};
use super::{DAY, MeshSize};

/// The clusters' intermediates, which sign an identity for each stream.
#[derive(Debug)]
pub struct Signers {
    root: Authority,
    intermediates: Vec<Authority>,
}

impl Signers {
    /// Creates a root and an intermediate for each cluster.
    pub fn new(clusters: usize) -> Result<Self> {
        let root = Authority::self_signed_root("mesh", DAY)?;
        let intermediate =
            |cluster| root.intermediate_for(&cluster_name(cluster), &identity::Constraints::default(), DAY);
        let intermediates = (0..clusters).map(intermediate).collect::<Result<_, _>>()?;
        Ok(Self { root, intermediates })
    }

    /// The entries of a cluster's `cacerts` Secret.
    pub fn secret(&self, cluster: usize) -> serde_json::Value {
        serde_json::json!(self.intermediates[cluster].to_cacerts().to_entries())
    }

    fn identity(&self, cluster: usize, account: &str) -> Result<Identity> {
        let id = SpiffeId::new("cluster.local", "default", account)?;
        let credential = self.intermediates[cluster].credential(&id, &[], DAY)?;
        Ok(Identity::new(credential, Trust::new("cluster.local", self.root.roots().to_vec(), [])?))
    }
}

/// The arrival of an endpoint at a stream.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The stream's number.
    pub stream: usize,
    /// The service's number.
    pub service: usize,
    /// The number of the endpoint's cluster.
    pub cluster: usize,
    /// The time.
    pub at: Instant,
}

/// The arrival of a service's routes, or of a policy, at a stream.
#[derive(Clone, Debug)]
pub struct NamedArrival {
    /// The stream's number.
    pub stream: usize,
    /// The names of the routes, or the policy's namespace and name.
    pub names: Vec<String>,
    /// The time.
    pub at: Instant,
}

/// All arrivals at all streams.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<Mutex<(Vec<Arrival>, Vec<NamedArrival>)>>);

impl Arrivals {
    /// Removes and returns the arrivals of endpoints since the last call.
    pub fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut self.lock().0)
    }

    /// Removes and returns the arrivals of routes and policies since the last call.
    pub fn take_named(&self) -> Vec<NamedArrival> {
        std::mem::take(&mut self.lock().1)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<Arrival>, Vec<NamedArrival>)> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

/// A stream's store: it records arrivals. The client decodes updates, and subscribes to the policies of its workload, as in every proxy.
struct ArrivalStore {
    stream: usize,
    arrivals: Arrivals,
    subscriber: Arc<OnceLock<Subscriber>>,
}

impl wire::client::Store for ArrivalStore {
    fn apply(&mut self, update: Update) -> Result<(), Rejected> {
        let at = Instant::now();
        let endpoints = update.changed.iter().filter_map(|changed| match &changed.body {
            Body::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        });
        let arrivals = endpoints.filter_map(|endpoint| {
            let cluster = cluster_of(&endpoint.cluster)?;
            Some(Arrival { stream: self.stream, service: service_of(&endpoint.service)?, cluster, at })
        });
        let named = update.changed.iter().filter_map(|changed| {
            let names = match &changed.body {
                Body::RouteTable(table) => table.http.iter().map(|route| route.name.clone()).collect(),
                Body::AuthorizationPolicy(policy) => vec![policy.name.clone()],
                _ => return None,
            };
            Some(NamedArrival { stream: self.stream, names, at })
        });
        let workloads = update.changed.iter().filter_map(|changed| match &changed.body {
            Body::Workload(workload) => Some(workload),
            _ => None,
        });
        for policy in workloads.flat_map(|workload| &workload.authorization_policies) {
            if let Some(subscriber) = self.subscriber.get() {
                subscriber.subscribe(Kind::AuthorizationPolicy, &**policy);
            }
        }
        let mut all = self.arrivals.lock();
        all.0.extend(arrivals);
        all.1.extend(named);
        Ok(())
    }
}

/// One open stream.
#[derive(Debug)]
struct DiscoveryStream {
    cluster: usize,
    services: BTreeSet<usize>,
    subscriber: Subscriber,
}

/// All streams.
#[derive(Debug)]
pub struct DiscoveryStreams {
    all: Vec<DiscoveryStream>,
    /// The bytes that all streams received.
    pub received: Received,
    /// The arrivals at all streams.
    pub arrivals: Arrivals,
    probes: AtomicUsize,
}

impl DiscoveryStreams {
    /// Opens the streams, as many in each cluster. Each has the subscriptions of a sidecar that uses `size.used` services.
    pub fn open(signers: &Signers, size: &MeshSize) -> Result<Self> {
        let (received, arrivals) = (Received::default(), Arrivals::default());
        let mut all = Vec::new();
        for number in 0..size.streams {
            let cluster = number % size.clusters;
            let own = number % size.services;
            let identity = signers.identity(cluster, &super::objects::service_name(own))?;
            let pod = super::objects::pod_name(own, number / size.services);
            let node = node(cluster, number, &pod)?;
            let (received, arrivals) = (received.clone(), arrivals.clone());
            let counted = received.clone();
            let connect = move || std::future::ready(channel(&identity, &counted));
            let own_subscriber = Arc::new(OnceLock::new());
            let view = ArrivalStore { stream: number, arrivals, subscriber: Arc::clone(&own_subscriber) };
            let (subscriber, discovery) = wire::client::discovery(&node, view, connect, Default::default());
            let _ = own_subscriber.set(subscriber.clone());
            tokio::spawn(discovery.run());
            let services: BTreeSet<usize> =
                (0..size.used).map(|use_of| (number * 31 + use_of * 97) % size.services).collect();
            for (kind, wanted) in wanted(size.clusters, cluster, &pod, &services) {
                subscriber.subscribe(kind, wanted);
            }
            all.push(DiscoveryStream { cluster, services, subscriber });
        }
        Ok(Self { all, received, arrivals, probes: AtomicUsize::new(0) })
    }

    /// Waits until every stream has all present resources: it subscribes to a new name, whose response follows the others.
    pub async fn in_sync(&self, within: Duration) -> Result<()> {
        let probes = self.probes.fetch_add(1, Relaxed);
        let answers = self.all.iter().map(|stream| {
            let nothing = name::endpoints(&format!("none{probes}.none.svc.cluster.local"), &network(stream.cluster));
            stream.subscriber.demand(Kind::Endpoint, nothing, within)
        });
        for (number, answer) in futures_util::future::join_all(answers).await.into_iter().enumerate() {
            ensure!(answer == Outcome::Absent, "stream {number} is not in sync within {within:?}: {answer:?}");
        }
        Ok(())
    }

    /// Closes all connections; each stream opens a new one.
    pub fn reconnect(&self) {
        self.all.iter().for_each(|stream| stream.subscriber.reconnect());
    }

    /// Adds a service to those that each stream uses.
    pub fn use_service(&self, service: usize) {
        for stream in &self.all {
            for (kind, name) in of_service(stream.cluster, service) {
                stream.subscriber.subscribe(kind, name);
            }
        }
    }

    /// The number of streams.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The number of streams that use a service.
    pub fn users(&self, service: usize) -> usize {
        self.all.iter().filter(|stream| stream.services.contains(&service)).count()
    }
}

fn node(cluster: usize, number: usize, pod: &str) -> Result<Node> {
    let id = format!("sidecar~10.9.{}.{}~{pod}.default~{}", number / 256, number % 256, cluster_name(cluster));
    id.parse().context("a node id")
}

/// The subscriptions of a sidecar.
fn wanted(clusters: usize, cluster: usize, pod: &str, services: &BTreeSet<usize>) -> Vec<(Kind, String)> {
    let own = name::workload(&cluster_name(cluster), "default", pod);
    let mut all = vec![
        (Kind::Trust, name::MESH.to_owned()),
        (Kind::MeshConfig, name::MESH.to_owned()),
        (Kind::Workload, own),
        (Kind::PeerAuthentication, name::MESH.to_owned()),
    ];
    all.extend((0..clusters).map(|cluster| (Kind::NetworkGateway, network(cluster))));
    all.extend(services.iter().flat_map(|service| of_service(cluster, *service)));
    all
}

/// The subscriptions of a sidecar that uses a service.
fn of_service(cluster: usize, service: usize) -> [(Kind, String); 4] {
    let endpoints = name::endpoints(&hostname(service), &network(cluster));
    let rules = [Kind::DestinationPolicy, Kind::RouteTable].map(|kind| (kind, hostname(service)));
    let [policy, routes] = rules;
    [(Kind::Service, hostname(service)), (Kind::Endpoint, endpoints), policy, routes]
}

/// A stream that subscribes to everything and then reads nothing.
#[derive(Debug)]
pub struct StalledStream {
    stop: Arc<Notify>,
}

impl StalledStream {
    /// Opens the stream.
    pub async fn open(signers: &Signers, size: &MeshSize) -> Result<Self> {
        let identity = signers.identity(0, "stalled")?;
        let all: BTreeSet<usize> = (0..size.services).collect();
        let channel = channel(&identity, &Received::default())?;
        let (requests, outbox) = tokio::sync::mpsc::channel(16);
        let mut first = true;
        for kind in [Kind::Service, Kind::Endpoint] {
            let names = wanted(size.clusters, 0, "stalled-1", &all)
                .into_iter()
                .filter(|(of, _)| *of == kind)
                .map(|(_, name)| name);
            let node = node(0, 65_000, "stalled-1")?.to_string();
            let request = DeltaDiscoveryRequest {
                node: first.then(|| EnvoyNode { id: node, ..Default::default() }),
                type_url: kind.url().into(),
                resource_names_subscribe: names.collect(),
                ..Default::default()
            };
            first = false;
            requests.send(request).await.context("the stream's requests")?;
        }
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let outbox = tokio_stream::wrappers::ReceiverStream::new(outbox);
        let responses: tonic::Streaming<DeltaDiscoveryResponse> =
            service.delta_aggregated_resources(outbox).await?.into_inner();
        tokio::spawn(async move {
            stopped.notified().await;
            // Kept open until now and never polled.
            drop((requests, responses));
        });
        Ok(Self { stop })
    }
}

impl Drop for StalledStream {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}
