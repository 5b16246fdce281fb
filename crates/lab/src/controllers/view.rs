//! The view of a cluster that its controllers share.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cache::Cache;

/// Longest delay between attempts to watch. A lab's API server is on this machine.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Declares the view: a field and a watch for each kind.
macro_rules! view {
    ($($(#[$doc:meta])+ $field:ident: $kind:ty,)+) => {
        /// The objects that controllers look at.
        #[derive(Debug)]
        pub struct ClusterView {
            $($(#[$doc])+ pub $field: Cache<$kind>,)+
            changed: watch::Sender<u64>,
            synced: watch::Sender<usize>,
        }

        /// Number of kinds that are watched.
        const KINDS: usize = [$(stringify!($field)),+].len();

        impl Default for ClusterView {
            fn default() -> Self {
                Self {
                    $($field: Cache::default(),)+
                    changed: watch::Sender::new(0),
                    synced: watch::Sender::new(0),
                }
            }
        }

        impl ClusterView {
            /// Creates a view that follows the cluster of `client` until the tasks are dropped.
            #[must_use]
            pub fn follow(client: &Client) -> (Arc<Self>, JoinSet<()>) {
                let view = Arc::new(Self::default());
                let mut tasks = JoinSet::new();
                $(tasks.spawn(follow(Api::all(client.clone()), view.clone(), |view| &view.$field));)+
                (view, tasks)
            }
        }
    };
}

view! {
    /// Deployments.
    deployments: Deployment,
    /// ReplicaSets.
    replica_sets: ReplicaSet,
    /// StatefulSets.
    stateful_sets: StatefulSet,
    /// DaemonSets.
    daemon_sets: DaemonSet,
    /// Templates of StatefulSets and DaemonSets, the current one and earlier ones.
    revisions: ControllerRevision,
    /// Jobs.
    jobs: Job,
    /// CronJobs.
    cron_jobs: CronJob,
    /// Pods.
    pods: Pod,
    /// Services.
    services: Service,
    /// EndpointSlices.
    slices: EndpointSlice,
    /// Endpoints.
    endpoints: Endpoints,
    /// Nodes.
    nodes: Node,
    /// Namespaces.
    namespaces: Namespace,
    /// Service accounts.
    service_accounts: ServiceAccount,
}

impl ClusterView {
    /// Returns a receiver of changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Signals a change.
    pub fn touch(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits until every kind has been listed.
    pub async fn synced(&self) {
        // The sender lives as long as the view, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|kinds| *kinds >= KINDS).await;
    }
}

async fn follow<K>(api: Api<K>, view: Arc<ClusterView>, cache: impl Fn(&ClusterView) -> &Cache<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
    let mut listing = Vec::new();
    let mut pause = Duration::from_millis(20);
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(kind = %K::kind(&()), %error, "a watch is interrupted");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
                continue;
            }
        };
        pause = Duration::from_millis(20);
        let cache = cache(&view);
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(object) => listing.push(object),
            Event::InitDone => {
                if cache.replace(std::mem::take(&mut listing)) {
                    view.synced.send_modify(|kinds| *kinds += 1);
                }
                view.touch();
            }
            Event::Apply(object) => {
                // The event of a controller's own write is a change to the other controllers.
                cache.put(object);
                view.touch();
            }
            Event::Delete(object) => {
                cache.remove(&object);
                view.touch();
            }
        }
    }
}
