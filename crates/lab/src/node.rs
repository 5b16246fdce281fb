//! The node agent: runs the pods of a cluster as processes of this machine.
//!
//! One agent serves all nodes of its cluster; nodes are names. It lives in the cluster's network namespace. Per pod
//! there is a task ([`worker`]) which makes the pod's sandbox ([`sandbox`]: namespaces held by a pause process, a link
//! to the cluster's network), its volumes, and then starts its containers in order, each in the pod's namespaces with a
//! file tree of its own (`net::process`). It watches over them with probes, restarts them with growing pauses, and
//! tells the API server where they stand. Commands in containers, logs and port forwarding are served on a Unix
//! socket, where the API server asks for them.
//!
//! What is different from a kubelet: images are not unpacked (an image `isthmus/<subcommand>` is this program, any
//! other container names a program of the host); all containers of a pod share its process namespace; a container's
//! root may write to the host's files as far as the user who runs the lab may; restarts begin with a pause of 1 s
//! instead of 10 s; probes are more eager until a container is ready. Resource limits are told, not enforced.

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
mod volumes;
mod worker;

use cluster::{Cluster, Objects, PodRef};
use events::Events;
use exec::Pods;
use host::Host;
pub use host::Settings;
use kubernetes::{Kubernetes, PodEvent};
use network::Addresses;
use nodes::Nodes;
pub use nodes::{Fault, order};
pub(crate) use probe::anyone;
use worker::{Message, Worker};

/// The agent could not go on.
#[derive(Debug, thiserror::Error)]
#[error("the node agent cannot {action}: {source}")]
pub struct NodeError {
    action: String,
    #[source]
    source: io::Error,
}

/// Runs pods; told of them by [`Agent::run`] from an API server, or by hand.
#[derive(Clone)]
pub struct Agent {
    host: Arc<Host>,
    running: Arc<std::sync::Mutex<HashMap<String, mpsc::UnboundedSender<Message>>>>,
}

impl Agent {
    /// An agent that tells `cluster` of its pods. Must be made in the cluster's network namespace and within an async
    /// runtime all of whose threads are in it.
    ///
    /// # Errors
    /// When the directory cannot be made, or unused pod addresses cannot be routed to nowhere.
    pub fn new(settings: Settings, cluster: Arc<dyn Cluster>, objects: Arc<Objects>) -> Result<Self, NodeError> {
        let failed = |action: String| move |source: io::Error| NodeError { action, source };
        std::fs::create_dir_all(settings.directory.join("pods"))
            .map_err(failed(format!("make {}", settings.directory.display())))?;
        let directory = settings.directory.canonicalize().map_err(failed("find its directory".into()))?;
        let settings = Settings { directory, ..settings };
        network::refuse_unused(settings.pod_network)
            .map_err(|error| failed("route unused pod addresses".into())(io::Error::other(error)))?;
        let executable = std::env::current_exe().map_err(failed("find its own program".into()))?;
        let host = Host {
            addresses: Addresses::new(settings.pod_network),
            events: Events::start(cluster.clone()),
            settings,
            objects,
            cluster,
            pods: Pods::default(),
            nodes: Nodes::default(),
            executable,
        };
        Ok(Self { host: Arc::new(host), running: Arc::default() })
    }

    /// Runs the pods of a cluster, keeps its nodes ready and serves the socket, until cancelled.
    ///
    /// # Errors
    /// When the agent cannot be made or the socket cannot be served. An API server that is away is waited for.
    pub async fn run(settings: Settings, client: Client) -> Result<(), NodeError> {
        let kubernetes = Kubernetes::new(client.clone());
        let objects = Arc::new(Objects::default());
        let agent = Self::new(settings, Arc::new(kubernetes.clone()), objects.clone())?;
        let (sender, mut pods) = mpsc::channel(64);
        let address = agent.host.settings.host_address;
        let follow = async {
            while let Some(event) = pods.recv().await {
                agent.note(event);
            }
        };
        tokio::select! {
            served = agent.serve() => served,
            () = kubernetes::watch_pods(client.clone(), sender) => Ok(()),
            () = kubernetes::watch_objects(client, objects) => Ok(()),
            () = kubernetes::keep_nodes(kubernetes, &agent.host.nodes, address) => Ok(()),
            () = follow => Ok(()),
        }
    }

    /// Serves exec, logs and port forwarding on the socket.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn serve(&self) -> Result<(), NodeError> {
        let path = self.host.settings.socket.clone();
        server::serve(self.host.clone())
            .await
            .map_err(|source| NodeError { action: format!("serve {}", path.display()), source })
    }

    /// Takes note of a pod as the API server has it now; it is started if it has a node and is new.
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
            let _ = worker.send(Message::Pod(Box::new(pod)));
            return;
        }
        if ended_before(&pod) {
            return;
        }
        let (sender, worker) = Worker::spawn(self.host.clone(), pod);
        running.insert(uid.clone(), sender);
        let running = self.running.clone();
        tokio::spawn(async move {
            let _ = worker.await;
            running.lock().expect("no holder of the lock panics").remove(&uid);
        });
    }

    /// Takes note that the API server has a pod no more.
    pub fn remove(&self, uid: &str) {
        let running = self.running.lock().expect("no holder of the lock panics");
        if let Some(worker) = running.get(uid) {
            let _ = worker.send(Message::Removed);
        }
    }

    /// How many pods run here.
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
                    let _ = worker.send(Message::Removed);
                }
            }
        }
    }
}

/// Whether a pod that is new here has ended already.
fn ended_before(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none()
}

/// The hidden command [`net::process::ENTER`]. Must come before any thread is started.
pub fn enter() -> ExitCode {
    net::process::enter()
}

/// The hidden command [`net::process::PAUSE`].
pub fn pause() -> ExitCode {
    net::process::pause()
}
