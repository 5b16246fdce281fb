//! What sidecars would be to the controller: streams of the real client, each with what one pod uses.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
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

use super::objects::{CLUSTERS, hostname, network, service_of};
use super::wire_count::{Received, channel};
use super::{DAY, Size};

/// Signing certificates of the clusters, and an identity for each stream.
#[derive(Debug)]
pub struct Signers {
    root: Authority,
    intermediates: Vec<Authority>,
}

impl Signers {
    /// New ones.
    pub fn new() -> Result<Self> {
        let root = Authority::self_signed_root("mesh", DAY)?;
        let intermediate = |cluster: &&str| root.intermediate_for(cluster, &identity::Constraints::default(), DAY);
        let intermediates = CLUSTERS.iter().map(intermediate).collect::<Result<_, _>>()?;
        Ok(Self { root, intermediates })
    }

    /// The entries of a cluster's Secret.
    pub fn secret(&self, cluster: usize) -> serde_json::Value {
        serde_json::json!(self.intermediates[cluster].to_cacerts().to_entries())
    }

    fn identity(&self, cluster: usize, account: &str) -> Result<Identity> {
        let id = SpiffeId::new("cluster.local", "default", account)?;
        let credential = self.intermediates[cluster].credential(&id, &[], DAY)?;
        Ok(Identity::new(credential, Trust::new("cluster.local", self.root.roots().to_vec(), [])?))
    }
}

/// That something of a service arrived at a stream.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The stream's number.
    pub stream: usize,
    /// The service's number.
    pub service: usize,
    /// The cluster whose endpoint it is.
    pub cluster: usize,
    /// When.
    pub at: Instant,
}

/// All arrivals at all streams.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<Mutex<Vec<Arrival>>>);

impl Arrivals {
    /// Those since the last time.
    pub fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics while holding it"))
    }
}

/// A stream's view: it decodes, as every proxy does, and notes what came.
struct View {
    stream: usize,
    arrivals: Arrivals,
}

impl wire::client::Store for View {
    fn apply(&mut self, update: Update) -> Result<(), Rejected> {
        let at = Instant::now();
        let endpoints = update.changed.iter().filter_map(|changed| match &changed.body {
            Body::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        });
        let arrivals = endpoints.filter_map(|endpoint| {
            let cluster = CLUSTERS.iter().position(|cluster| *cluster == endpoint.cluster)?;
            Some(Arrival { stream: self.stream, service: service_of(&endpoint.service)?, cluster, at })
        });
        self.arrivals.0.lock().expect("nobody panics while holding it").extend(arrivals);
        Ok(())
    }
}

/// One stream.
#[derive(Debug)]
struct Stream {
    cluster: usize,
    services: BTreeSet<usize>,
    subscriber: Subscriber,
}

/// All streams.
#[derive(Debug)]
pub struct Streams {
    all: Vec<Stream>,
    /// What came over all of them.
    pub received: Received,
    /// What arrived.
    pub arrivals: Arrivals,
    questions: AtomicUsize,
}

impl Streams {
    /// Opens them, half in each cluster. Each wants what a sidecar wants that uses `size.used` services.
    pub fn open(signers: &Signers, size: &Size) -> Result<Self> {
        let (received, arrivals) = (Received::default(), Arrivals::default());
        let mut all = Vec::new();
        for number in 0..size.streams {
            let cluster = number % CLUSTERS.len();
            let own = number % size.services;
            let identity = signers.identity(cluster, &super::objects::service_name(own))?;
            let pod = super::objects::pod_name(own, number / size.services);
            let node = node(cluster, number, &pod)?;
            let (received, arrivals) = (received.clone(), arrivals.clone());
            let counted = received.clone();
            let connect = move || std::future::ready(channel(&identity, &counted));
            let view = View { stream: number, arrivals };
            let (subscriber, discovery) = wire::client::discovery(&node, view, connect, Default::default());
            tokio::spawn(discovery.run());
            let services: BTreeSet<usize> =
                (0..size.used).map(|use_of| (number * 31 + use_of * 97) % size.services).collect();
            for (kind, wanted) in wanted(cluster, &pod, &services) {
                subscriber.subscribe(kind, wanted);
            }
            all.push(Stream { cluster, services, subscriber });
        }
        Ok(Self { all, received, arrivals, questions: AtomicUsize::new(0) })
    }

    /// Waits until every stream has been told all there is: asks for one more, new name, which is answered after the rest.
    pub async fn in_sync(&self, within: Duration) -> Result<()> {
        let question = self.questions.fetch_add(1, Relaxed);
        let answers = self.all.iter().map(|stream| {
            let nothing = name::endpoints(&format!("none{question}.none.svc.cluster.local"), &network(stream.cluster));
            stream.subscriber.demand(Kind::Endpoint, nothing, within)
        });
        for (number, answer) in futures_util::future::join_all(answers).await.into_iter().enumerate() {
            ensure!(answer == Outcome::Absent, "stream {number} is not in sync within {within:?}: {answer:?}");
        }
        Ok(())
    }

    /// Has all of them open new connections.
    pub fn reconnect(&self) {
        self.all.iter().for_each(|stream| stream.subscriber.reconnect());
    }

    /// How many use a service.
    pub fn users(&self, service: usize) -> usize {
        self.all.iter().filter(|stream| stream.services.contains(&service)).count()
    }
}

fn node(cluster: usize, number: usize, pod: &str) -> Result<Node> {
    let id = format!("sidecar~10.9.{}.{}~{pod}.default~{}", number / 256, number % 256, CLUSTERS[cluster]);
    id.parse().context("a node id")
}

/// What a sidecar subscribes to.
fn wanted(cluster: usize, pod: &str, services: &BTreeSet<usize>) -> Vec<(Kind, String)> {
    let own = name::workload(CLUSTERS[cluster], "default", pod);
    let mut all = vec![
        (Kind::Trust, name::MESH.to_owned()),
        (Kind::MeshConfig, name::MESH.to_owned()),
        (Kind::Workload, own),
        (Kind::PeerAuthentication, name::MESH.to_owned()),
    ];
    all.extend((0..CLUSTERS.len()).map(|cluster| (Kind::NetworkGateway, network(cluster))));
    for service in services {
        all.push((Kind::Service, hostname(*service)));
        all.push((Kind::Endpoint, name::endpoints(&hostname(*service), &network(cluster))));
    }
    all
}

/// A stream that asks for everything and then reads nothing.
#[derive(Debug)]
pub struct Deaf {
    stop: Arc<Notify>,
}

impl Deaf {
    /// Opens it.
    pub async fn open(signers: &Signers, size: &Size) -> Result<Self> {
        let identity = signers.identity(0, "deaf")?;
        let all: BTreeSet<usize> = (0..size.services).collect();
        let channel = channel(&identity, &Received::default())?;
        let (requests, outbox) = tokio::sync::mpsc::channel(16);
        let mut first = true;
        for kind in [Kind::Service, Kind::Endpoint] {
            let names = wanted(0, "deaf-1", &all).into_iter().filter(|(of, _)| *of == kind).map(|(_, name)| name);
            let node = node(0, 65_000, "deaf-1")?.to_string();
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
            // Held until now and never polled.
            drop((requests, responses));
        });
        Ok(Self { stop })
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}
