//! The clusters of the mesh: the controller's own, and every cluster with a remote secret.
//!
//! [`start`] watches the own cluster and the remote secrets, and keeps a link to each cluster (`link.rs`). The links send
//! [`Event`]s to the [`queue`]s, from which the pipeline takes them in turn. [`Clusters`] provides the client, the namespaces
//! and the link's state of each cluster.
//!
//! A remote secret is a Secret in the root namespace labelled `istio/multiCluster: "true"`. Each of its entries is a cluster.
//! An invalid entry is recorded ([`Problem`]) and affects no other. The loss of a cluster's API server removes nothing; only
//! the removal of its secret does, after a grace in which a secret that is created again changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame};
use kube::Client;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Serialize;
use tokio::sync::watch as channel;
use tower::BoxError;
use tower::util::MapResponseLayer;

mod claims;
mod link;
mod link_state;
mod mesh;
pub mod queue;
mod reads;
mod registry;
mod renewal;
mod secrets;
pub(crate) mod trouble;
pub(crate) mod watch;
mod without_effect;
mod writer;

#[cfg(test)]
mod tests;

pub use link_state::LinkState;
pub use registry::Problem;

use crate::objects::Text;
use crate::objects::event::{Cluster, Event};
use claims::{Authorities, Claims};
use link::{Link, Slot};
use queue::{Queues, Source};
use reads::Reads;
use registry::{Action, Entry};

/// Settings of the clusters.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster that the controller runs in.
    pub cluster: Text,
    /// The network of that cluster; empty: unknown.
    pub network: Text,
    /// The namespace of remote secrets and mesh-wide settings.
    pub root_namespace: String,
    /// The kubeconfig of the own cluster; `None`: the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// The interval of the heartbeat to each API server.
    pub heartbeat: Duration,
    /// The time from the deletion of a cluster's last remote secret to the cluster's removal.
    pub removal_grace: Duration,
}

/// A configuration error of the link to the own cluster. An outage is not an error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kubeconfig is invalid.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The error.
        source: kube::config::KubeconfigError,
    },
    /// The controller runs outside a pod and has no kubeconfig.
    #[error("no service account of a pod was found ({0}); outside a cluster, set --kubeconfig")]
    InCluster(kube::config::InClusterError),
    /// The client cannot be created.
    #[error("cannot create a client of the API server: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// The status of the link to a cluster.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The cluster.
    pub name: Text,
    /// Whether the controller runs in the cluster.
    pub own: bool,
    /// The API server.
    pub server: Text,
    /// The remote secret that the link uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Text>,
    /// The state.
    #[serde(flatten)]
    pub link: LinkState,
    /// When the link entered the state.
    pub since: SystemTime,
    /// When the server last answered; `None`: never.
    pub last_contact: Option<SystemTime>,
    /// The state of the link that will replace this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<LinkState>,
}

struct Contact {
    state: LinkState,
    since: SystemTime,
    last: Option<SystemTime>,
}

struct ManagedCluster {
    cluster: Cluster,
    client: Client,
    secret: Option<Text>,
    contact: Contact,
    replacement: Option<LinkState>,
    namespaces: channel::Sender<Arc<BTreeSet<Text>>>,
    slot: Arc<Mutex<Slot>>,
}

/// An entry of a remote secret.
#[derive(Clone)]
struct SecretEntry {
    /// `<namespace>/<name>`.
    secret: Text,
    /// The kubeconfig.
    bytes: Arc<[u8]>,
}

/// The state that links and [`Clusters`] share.
struct Shared {
    own: Text,
    known: Mutex<BTreeMap<Text, ManagedCluster>>,
    problems: Mutex<Vec<Problem>>,
    /// The entries that links use.
    written: Mutex<BTreeMap<Text, SecretEntry>>,
    /// The tokens that cannot be renewed, and why.
    expiring: Mutex<BTreeMap<Text, Problem>>,
    /// What is not written in clusters, and why.
    unwritten: Mutex<BTreeMap<(Text, &'static str), String>>,
    /// The clients that write in other clusters.
    writers: Mutex<BTreeMap<Text, writer::Held>>,
    /// Which API server each cluster has.
    claims: Claims,
    /// Whether the remote secrets have been read since the start.
    listed: AtomicBool,
    /// The number of changes of clusters and their clients.
    changes: channel::Sender<u64>,
}

/// The clusters of the mesh. Clones refer to the same clusters.
#[derive(Clone)]
pub struct Clusters {
    shared: Arc<Shared>,
    own_client: Client,
}

/// Starts to watch the own cluster, its remote secrets, and every cluster with a remote secret. Must be called within a
/// tokio runtime.
///
/// # Errors
/// [`StartError`] if the link to the own cluster is not configured. An unreachable API server is not an error.
pub async fn start(config: Config, events: Queues) -> Result<Clusters, StartError> {
    let (access, server) = own_access(config.kubeconfig.as_deref()).await?;
    let client = access.client.clone();
    let shared = Arc::new(Shared {
        own: config.cluster.clone(),
        known: Mutex::default(),
        problems: Mutex::default(),
        written: Mutex::default(),
        expiring: Mutex::default(),
        unwritten: Mutex::default(),
        writers: Mutex::default(),
        claims: Claims::default(),
        listed: AtomicBool::new(false),
        changes: channel::Sender::new(0),
    });
    let clusters = Clusters { shared: Arc::clone(&shared), own_client: client.clone() };
    let own = Cluster {
        name: config.cluster.clone(),
        own: true,
        network: config.network.clone(),
        server: server.into(),
        joined: 0,
    };
    let supervisor = Supervisor { shared, events: events.clone(), heartbeat: config.heartbeat };
    supervisor.begin(own, access, None).await;
    tokio::spawn(mesh::follow(client.clone(), config.root_namespace.clone(), events));
    tokio::spawn(without_effect::follow(client.clone(), supervisor.events.clone()));
    tokio::spawn(renewal::keep(client.clone(), Arc::clone(&supervisor.shared)));
    tokio::spawn(secrets::follow(client, config.root_namespace, config.cluster, config.removal_grace, supervisor));
    Ok(clusters)
}

async fn own_access(kubeconfig: Option<&std::path::Path>) -> Result<(Access, String), StartError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let wrap = |source| StartError::Kubeconfig { path: path.to_owned(), source };
            let file = Kubeconfig::read_from(path).map_err(wrap)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrap)?
        }
        None => kube::Config::incluster_env().map_err(StartError::InCluster)?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let server = config.cluster_url.to_string();
    let authorities = authorities(&config);
    let client = Client::try_from(config).map_err(|e| StartError::Client(Box::new(e)))?;
    Ok((Access { client, authorities, reads: Arc::new(Reads::unbounded()) }, server))
}

/// The timeout of a TCP connection to an API server. A server on another continent answers a SYN well within it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

impl Clusters {
    /// The cluster that the controller runs in.
    pub fn own(&self) -> &Text {
        &self.shared.own
    }

    /// The client of the own cluster.
    pub fn own_client(&self) -> &Client {
        &self.own_client
    }

    /// Returns the client of a cluster with its current credentials; `None` if the cluster does not exist.
    pub fn client(&self, cluster: &str) -> Option<Client> {
        self.shared.known().get(cluster).map(|known| known.client.clone())
    }

    /// Returns whether a cluster is joined; `None` while the remote secrets have not been read yet.
    pub fn is_joined(&self, cluster: &str) -> Option<bool> {
        // In this order: a cluster that is added meanwhile is found.
        let listed = self.shared.listed.load(Ordering::Acquire);
        let known = self.shared.known().contains_key(cluster);
        (known || listed).then_some(known)
    }

    /// Returns the names of all clusters, sorted.
    pub fn names(&self) -> Vec<Text> {
        self.shared.known().keys().cloned().collect()
    }

    /// Returns the namespaces of a cluster.
    pub fn namespaces(&self, cluster: &str) -> Option<channel::Receiver<Arc<BTreeSet<Text>>>> {
        self.shared.known().get(cluster).map(|known| known.namespaces.subscribe())
    }

    /// Returns a value that changes when a cluster is added or removed, or has another client.
    pub fn changes(&self) -> channel::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Returns the status of each link, sorted by cluster.
    pub fn statuses(&self) -> Vec<Status> {
        let known = self.shared.known();
        known
            .values()
            .map(|known| Status {
                name: known.cluster.name.clone(),
                own: known.cluster.own,
                server: known.cluster.server.clone(),
                secret: known.secret.clone(),
                link: known.contact.state.clone(),
                since: known.contact.since,
                last_contact: known.contact.last,
                replacement: known.replacement.clone(),
            })
            .collect()
    }

    /// Returns the entries of remote secrets with problems.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.shared.problems.lock().unwrap_or_else(PoisonError::into_inner).clone();
        problems.extend(self.shared.expiring.lock().unwrap_or_else(PoisonError::into_inner).values().cloned());
        let unwritten = self.shared.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.shared.known();
        problems.extend(unwritten.iter().filter_map(|((cluster, what), why)| {
            let secret = known.get(cluster)?.secret.as_deref().unwrap_or_default().to_owned();
            let why = format!("not written: {what}: {why}");
            Some(Problem { secret, cluster: cluster.to_string(), why, in_force: true })
        }));
        problems
    }

    /// Notes whether objects can be written in a cluster: `None`, or why not.
    pub(crate) fn set_unwritten(&self, cluster: &Text, what: &'static str, why: Option<String>) {
        let mut unwritten = self.shared.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(unwritten.insert((cluster.clone(), what), why)),
            None => drop(unwritten.remove(&(cluster.clone(), what))),
        }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Text, ManagedCluster>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writers(&self) -> MutexGuard<'_, BTreeMap<Text, writer::Held>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_contact(&self, cluster: &str, contact: Contact) {
        if let Some(known) = self.known().get_mut(cluster) {
            known.contact = contact;
        }
    }

    fn set_replacement(&self, cluster: &str, state: Option<LinkState>) {
        if let Some(known) = self.known().get_mut(cluster) {
            known.replacement = state;
        }
    }

    fn set_namespaces(&self, cluster: &str, namespaces: BTreeSet<Text>) {
        if let Some(known) = self.known().get(cluster) {
            known.namespaces.send_replace(Arc::new(namespaces));
        }
    }

    fn set_client(&self, cluster: &Cluster, client: Client) {
        if let Some(known) = self.known().get_mut(&cluster.name) {
            known.client = client;
            known.cluster = cluster.clone();
            known.replacement = None;
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn written(&self) -> MutexGuard<'_, BTreeMap<Text, SecretEntry>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_expiring(&self, cluster: &Text, problem: Option<Problem>) {
        let mut expiring = self.expiring.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => expiring.insert(cluster.clone(), problem),
            None => expiring.remove(cluster),
        };
    }

    fn set_problems(&self, problems: Vec<Problem>) {
        *self.problems.lock().unwrap_or_else(PoisonError::into_inner) = problems;
    }
}

/// Starts, replaces and ends links.
struct Supervisor {
    shared: Arc<Shared>,
    events: Queues,
    heartbeat: Duration,
}

impl Supervisor {
    /// Performs an action. Returns a problem if that is impossible.
    async fn act(&self, action: Action) -> Option<Problem> {
        match action {
            Action::Start(entry) | Action::Replace(entry) => {
                let Entry { cluster, secret, access, network, bytes, created } = entry;
                if self.is_in_use(&cluster, &secret, &network, &bytes) {
                    return None;
                }
                let access_to = match remote_client(&access.config).await {
                    Ok(access_to) => access_to,
                    Err(why) => {
                        return Some(Problem {
                            secret: secret.to_string(),
                            cluster: cluster.to_string(),
                            why: format!("cannot create a client from the kubeconfig: {why}"),
                            in_force: false,
                        });
                    }
                };
                let server = access.server.as_str().into();
                let cluster = Cluster { name: cluster, own: false, network, server, joined: created };
                let held = SecretEntry { secret: secret.clone(), bytes };
                self.shared.written().insert(cluster.name.clone(), held);
                if !self.replace(&cluster, &access_to, &secret) {
                    self.begin(cluster, access_to, Some(secret)).await;
                }
            }
            Action::Stop(cluster) => self.end(cluster).await,
        }
        None
    }

    /// Reports whether the cluster's link uses these credentials already: a secret that was deleted and created again. Notes
    /// the secret's name.
    fn is_in_use(&self, cluster: &Text, secret: &Text, network: &Text, bytes: &Arc<[u8]>) -> bool {
        let mut known = self.shared.known();
        let Some(known) = known.get_mut(cluster).filter(|known| known.cluster.network == *network) else {
            return false;
        };
        let mut written = self.shared.written();
        let Some(held) = written.get_mut(cluster).filter(|held| held.bytes == *bytes) else { return false };
        held.secret = secret.clone();
        known.secret = Some(secret.clone());
        true
    }

    /// Adds a cluster and starts its first link.
    async fn begin(&self, cluster: Cluster, access: Access, secret: Option<Text>) {
        tracing::info!(cluster = %cluster.name, server = %cluster.server, "watching");
        let slot = Arc::new(Mutex::new(Slot::default()));
        let known = ManagedCluster {
            cluster: cluster.clone(),
            client: access.client.clone(),
            secret,
            contact: Contact { state: LinkState::Connecting, since: SystemTime::now(), last: None },
            replacement: None,
            namespaces: channel::Sender::default(),
            slot: Arc::clone(&slot),
        };
        self.shared.known().insert(cluster.name.clone(), known);
        let _ = self.events.send(Source::Controller, Event::ClusterAdded(cluster.clone())).await;
        self.shared.changes.send_modify(|changes| *changes += 1);
        self.link(cluster, access, slot).start(false);
    }

    /// Starts a link that will replace the active one. Returns false if the cluster has none.
    fn replace(&self, cluster: &Cluster, access: &Access, secret: &Text) -> bool {
        let slot = {
            let mut known = self.shared.known();
            let Some(known) = known.get_mut(&cluster.name) else { return false };
            known.secret = Some(secret.clone());
            known.replacement = Some(LinkState::Connecting);
            Arc::clone(&known.slot)
        };
        tracing::info!(cluster = %cluster.name, server = %cluster.server, "credentials changed; starting a link that will replace the active one");
        self.link(cluster.clone(), access.clone(), slot).start(true);
        true
    }

    async fn end(&self, cluster: Text) {
        self.shared.written().remove(&cluster);
        self.shared.writers().remove(&cluster);
        let Some(known) = self.shared.known().remove(&cluster) else { return };
        let tasks = {
            let mut slot = known.slot.lock().unwrap_or_else(PoisonError::into_inner);
            [slot.active.take(), slot.pending.take()]
        };
        for task in tasks.into_iter().flatten() {
            task.abort();
            // After this, the link sends no event.
            let _ = task.await;
        }
        tracing::info!(%cluster, "the cluster has no remote secret any longer; removed");
        let _ = self.events.remove(cluster).await;
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    fn link(&self, cluster: Cluster, api_server: Access, slot: Arc<Mutex<Slot>>) -> Link {
        let (shared, events) = (Arc::clone(&self.shared), self.events.clone());
        Link { cluster, shared, events, slot, heartbeat: self.heartbeat, api_server }
    }
}

/// The access to an API server.
#[derive(Clone)]
struct Access {
    client: Client,
    /// The certificate authorities that verify it.
    authorities: Authorities,
    reads: Arc<Reads>,
}

fn authorities(config: &kube::Config) -> Authorities {
    config.root_cert.clone().unwrap_or_default().into()
}

async fn remote_client(config: &Kubeconfig) -> Result<Access, String> {
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config.clone(), &options).await;
    let mut config = config.map_err(|e| e.to_string())?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let authorities = authorities(&config);
    let builder = ClientBuilder::try_from(config).map_err(|e| e.to_string())?;
    let reads = Arc::new(Reads::bounded());
    let counted = reads.clone();
    let layer = MapResponseLayer::new(move |answer| bounded(answer, counted.clone()));
    Ok(Access { client: builder.with_layer(&layer).build(), authorities, reads })
}

/// What one answer of a remote API server may have in all. A page of a list, 250 objects, has some megabytes; a watch that
/// comes to more is begun again where it stood.
const MAX_ANSWER: usize = 32 << 20;

/// A server may be somebody else's: an answer without end must not become this process's memory.
fn bounded<B>(
    answer: http::Response<B>,
    reads: Arc<Reads>,
) -> http::Response<impl Body<Data = Bytes, Error = BoxError> + Send + use<B>>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let count = move |frame: Frame<Bytes>| {
        reads.count(frame.data_ref().map_or(0, Bytes::len));
        frame
    };
    answer.map(|body| Limited::new(body, MAX_ANSWER).map_frame(count))
}
