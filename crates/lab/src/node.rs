//! The node agent: runs the pods of a cluster as processes of this machine.
//!
//! One agent serves all nodes of its cluster; nodes are names. It runs in the cluster's network namespace. Each pod has
//! a task ([`worker`]), which creates the pod's sandbox ([`sandbox`]: namespaces held by a pause process, and a link to
//! the cluster's network) and its volumes, and then starts its containers in order, each in the pod's namespaces with a
//! file tree of its own (`net::process`). The task runs probes, restarts containers with growing backoff, and reports
//! their status to the API server. A Unix socket serves the API server's requests for commands in containers, logs,
//! port forwarding, and what the containers use ([`usage`]).
//!
//! Differences from a kubelet: images are not unpacked (an image `isthmus/<subcommand>` is this program, every other
//! container names a program of the host); all containers of a pod share its process namespace; a container's root user
//! may write to the host's files as far as the user of the lab may; the first restart waits 1 s instead of 10 s; probes
//! are more frequent until a container is ready. Resource limits are reported and not enforced.

use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio::sync::mpsc;

pub mod cluster;
pub mod logs;

mod container;
mod environment;
mod events;
mod exec;
mod fields;
mod host;
mod ignored;
mod kubernetes;
mod network;
mod nodes;
mod probe;
mod sandbox;
mod server;
mod service_account;
mod usage;
mod volumes;
mod worker;

use cluster::{ClusterApi, ObjectCache, PodRef};
use events::Events;
use exec::PodRegistry;
use host::Host;
pub use host::NodeSettings;
use kubernetes::{Kubernetes, PodEvent};
use network::PodAddresses;
use nodes::NodeFaults;
pub use nodes::{NodeFault, inject};
use usage::LatestUsage;
use worker::{PodMessage, PodWorker};

/// The node agent cannot run.
#[derive(Debug, thiserror::Error)]
#[error("the node agent cannot {action}: {source}")]
pub struct NodeError {
    action: String,
    #[source]
    source: io::Error,
}

/// The node agent. It receives pods from an API server ([`Agent::run`]) or from its caller ([`Agent::apply`]).
#[derive(Clone)]
pub struct Agent {
    host: Arc<Host>,
    running: Arc<std::sync::Mutex<HashMap<String, mpsc::UnboundedSender<PodMessage>>>>,
}

impl Agent {
    /// Creates an agent that reports to `cluster`. To be called in the cluster's network namespace, within an async
    /// runtime all of whose threads are in it.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created, or if unused pod addresses cannot be made unreachable.
    pub fn new(
        settings: NodeSettings,
        cluster: Arc<dyn ClusterApi>,
        objects: Arc<ObjectCache>,
    ) -> Result<Self, NodeError> {
        let failed = |action: String| move |source: io::Error| NodeError { action, source };
        std::fs::create_dir_all(settings.directory.join("pods"))
            .map_err(failed(format!("create {}", settings.directory.display())))?;
        let directory = settings.directory.canonicalize().map_err(failed("find its directory".into()))?;
        let settings = NodeSettings { directory, ..settings };
        network::refuse_unused(&settings.pod_networks)
            .map_err(|error| failed("make unused pod addresses unreachable".into())(io::Error::other(error)))?;
        let executable = std::env::current_exe().map_err(failed("find its own program".into()))?;
        let host = Host {
            addresses: PodAddresses::new(&settings.pod_networks),
            events: Events::start(cluster.clone()),
            settings,
            objects,
            cluster,
            pods: PodRegistry::default(),
            nodes: NodeFaults::default(),
            usage: LatestUsage::default(),
            executable,
        };
        Ok(Self { host: Arc::new(host), running: Arc::default() })
    }

    /// Runs the pods of a cluster, keeps its nodes ready and serves the socket, until cancelled. Waits for an API
    /// server that is unavailable.
    ///
    /// # Errors
    /// Returns an error if the agent cannot be created or the socket cannot be served.
    pub async fn run(settings: NodeSettings, client: Client) -> Result<(), NodeError> {
        let kubernetes = Kubernetes::new(client.clone());
        let objects = Arc::new(ObjectCache::default());
        let agent = Self::new(settings, Arc::new(kubernetes.clone()), objects.clone())?;
        let (sender, mut pods) = mpsc::channel(64);
        let follow = async {
            while let Some(event) = pods.recv().await {
                agent.note(event);
            }
        };
        tokio::select! {
            served = agent.serve() => served,
            () = kubernetes::watch_pods(client.clone(), sender) => Ok(()),
            () = kubernetes::watch_objects(client, objects) => Ok(()),
            () = kubernetes::keep_nodes(kubernetes, &agent.host.nodes, &agent.host.settings.host_addresses) => Ok(()),
            () = follow => Ok(()),
        }
    }

    /// Measures the usage of the pods, and serves exec, logs, port forwarding and the usage on the socket.
    ///
    /// # Errors
    /// Returns an error if the socket cannot be created.
    pub async fn serve(&self) -> Result<(), NodeError> {
        let path = self.host.settings.socket.clone();
        let served = tokio::select! {
            served = server::serve(self.host.clone()) => served,
            never = usage::measure(self.host.clone()) => match never {},
        };
        served.map_err(|source| NodeError { action: format!("serve {}", path.display()), source })
    }

    /// Receives the current state of a pod. A new pod is started if it has a node.
    pub fn apply(&self, pod: Pod) {
        let assigned =
            pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|node| !node.is_empty()));
        if !assigned {
            return;
        }
        let pod = service_account::mounted(pod);
        let uid = PodRef::of(&pod).uid;
        let mut running = self.running.lock().expect("no holder of the lock panics");
        if let Some(worker) = running.get(&uid) {
            let _ = worker.send(PodMessage::Pod(Box::new(pod)));
            return;
        }
        if ended_before(&pod) {
            return;
        }
        let (sender, worker) = PodWorker::spawn(self.host.clone(), pod);
        running.insert(uid.clone(), sender);
        let running = self.running.clone();
        tokio::spawn(async move {
            let _ = worker.await;
            running.lock().expect("no holder of the lock panics").remove(&uid);
        });
    }

    /// Receives the removal of a pod.
    pub fn remove(&self, uid: &str) {
        let running = self.running.lock().expect("no holder of the lock panics");
        if let Some(worker) = running.get(uid) {
            let _ = worker.send(PodMessage::Removed);
        }
    }

    /// Returns the number of pods that run here.
    pub fn pods(&self) -> usize {
        self.running.lock().expect("no holder of the lock panics").len()
    }

    fn note(&self, event: PodEvent) {
        match event {
            PodEvent::Now(pod) => self.apply(*pod),
            PodEvent::Gone(pod) => self.remove(&PodRef::of(&pod).uid),
            PodEvent::All(uids) => {
                let running = self.running.lock().expect("no holder of the lock panics");
                for (_, worker) in running.iter().filter(|(uid, _)| !uids.contains(*uid)) {
                    let _ = worker.send(PodMessage::Removed);
                }
            }
        }
    }
}

/// Reports whether a pod that is new here has ended already.
fn ended_before(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none()
}

/// Runs the hidden command [`net::process::ENTER`]. To be called before any thread starts.
pub fn enter() -> ExitCode {
    net::process::enter()
}

/// Runs the hidden command [`net::process::PAUSE`].
pub fn pause() -> ExitCode {
    net::process::pause()
}
