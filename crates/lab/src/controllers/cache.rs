//! The view of a cluster that its controllers share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Number of deleted objects that are remembered, so that a late watch event does not restore one.
const REMEMBERED: usize = 4096;
/// Longest delay between attempts to watch. A lab's API server is on this machine.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Namespace and name. The namespace of a cluster-scoped object is empty.
pub type ObjectKey = (String, String);

/// The objects of one kind.
#[derive(Debug)]
pub struct Cache<K> {
    state: Mutex<CacheState<K>>,
}

#[derive(Debug)]
struct CacheState<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    deleted: VecDeque<String>,
    listed: bool,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { state: Mutex::new(CacheState { objects: BTreeMap::new(), deleted: VecDeque::new(), listed: false }) }
    }
}

impl<K: Resource<DynamicType = ()>> Cache<K> {
    fn state(&self) -> MutexGuard<'_, CacheState<K>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns every object, ordered by namespace and name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.state().objects.values().cloned().collect()
    }

    /// Returns one object.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.state().objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Stores `object` unless a newer version is stored. Returns whether it was stored.
    pub fn put(&self, object: K) -> bool {
        let mut state = self.state();
        let meta = object.meta();
        if meta.uid.as_ref().is_some_and(|uid| state.deleted.contains(uid)) {
            return false;
        }
        let key = key_of(&object);
        if let Some(known) = state.objects.get(&key)
            && known.meta().uid == meta.uid
            && version_of(known.as_ref()) >= version_of(&object)
        {
            return false;
        }
        state.objects.insert(key, Arc::new(object));
        true
    }

    /// Stores the expected result of the caller's own request, at the stored version. The next event about the object
    /// replaces it.
    pub fn assume(&self, object: K) {
        let mut state = self.state();
        let key = key_of(&object);
        if state.objects.get(&key).is_some_and(|known| version_of(known.as_ref()) == version_of(&object)) {
            state.objects.insert(key, Arc::new(object));
        }
    }

    /// Removes `object`, also against late events.
    pub fn remove(&self, object: &K) {
        let mut state = self.state();
        let key = key_of(object);
        if state.objects.get(&key).is_some_and(|known| known.meta().uid == object.meta().uid) {
            state.objects.remove(&key);
        }
        if let Some(uid) = object.meta().uid.clone() {
            state.deleted.push_back(uid);
            if state.deleted.len() > REMEMBERED {
                state.deleted.pop_front();
            }
        }
    }

    /// Replaces the objects with a new list. Objects that were written since stay if they are newer.
    fn replace(&self, objects: Vec<K>) {
        let fresh: std::collections::BTreeSet<ObjectKey> = objects.iter().map(key_of).collect();
        {
            let mut state = self.state();
            state.objects.retain(|key, _| fresh.contains(key));
            state.listed = true;
        }
        for object in objects {
            self.put(object);
        }
    }
}

fn key_of<K: Resource<DynamicType = ()>>(object: &K) -> ObjectKey {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Resource versions of the lab's API server are growing numbers (KEP-5504 promises the same of Kubernetes).
fn version_of<K: Resource<DynamicType = ()>>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The objects that controllers look at.
#[derive(Debug)]
pub struct ClusterView {
    /// Deployments.
    pub deployments: Cache<Deployment>,
    /// ReplicaSets.
    pub replica_sets: Cache<ReplicaSet>,
    /// Pods.
    pub pods: Cache<Pod>,
    /// Services.
    pub services: Cache<Service>,
    /// EndpointSlices.
    pub slices: Cache<EndpointSlice>,
    /// Nodes.
    pub nodes: Cache<Node>,
    /// Namespaces.
    pub namespaces: Cache<Namespace>,
    /// Service accounts.
    pub service_accounts: Cache<ServiceAccount>,
    changed: watch::Sender<u64>,
    synced: watch::Sender<usize>,
}

/// Number of kinds that are watched.
const KINDS: usize = 8;

impl Default for ClusterView {
    fn default() -> Self {
        Self {
            deployments: Cache::default(),
            replica_sets: Cache::default(),
            pods: Cache::default(),
            services: Cache::default(),
            slices: Cache::default(),
            nodes: Cache::default(),
            namespaces: Cache::default(),
            service_accounts: Cache::default(),
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
        tasks.spawn(follow(Api::all(client.clone()), view.clone(), |view| &view.deployments));
        tasks.spawn(follow(Api::all(client.clone()), view.clone(), |view| &view.replica_sets));
        tasks.spawn(follow(Api::all(client.clone()), view.clone(), |view| &view.pods));
        tasks.spawn(follow(Api::all(client.clone()), view.clone(), |view| &view.services));
        tasks.spawn(follow(Api::all(client.clone()), view.clone(), |view| &view.slices));
        tasks.spawn(follow(Api::all(client.clone()), view.clone(), |view| &view.nodes));
        tasks.spawn(follow(Api::all(client.clone()), view.clone(), |view| &view.namespaces));
        tasks.spawn(follow(Api::all(client.clone()), view.clone(), |view| &view.service_accounts));
        (view, tasks)
    }

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
                let first = !cache.state().listed;
                cache.replace(std::mem::take(&mut listing));
                if first {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, version: u64) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some("a".into());
        pod.metadata.namespace = Some("default".into());
        pod.metadata.uid = Some(uid.into());
        pod.metadata.resource_version = Some(version.to_string());
        pod
    }

    fn version(cache: &Cache<Pod>) -> Option<u64> {
        cache.get("default", "a").map(|pod| version_of(pod.as_ref()))
    }

    #[test]
    fn newer_wins_whatever_the_order() {
        let cache = Cache::default();
        assert!(cache.put(pod("1", 7)));
        assert!(!cache.put(pod("1", 6)), "a late event is older than what was written");
        assert_eq!(version(&cache), Some(7));
        assert!(cache.put(pod("1", 8)));
        assert_eq!(version(&cache), Some(8));
    }

    #[test]
    fn deleted_stays_deleted_but_its_name_can_come_back() {
        let cache = Cache::default();
        cache.put(pod("1", 7));
        cache.remove(&pod("1", 8));
        assert!(!cache.put(pod("1", 7)));
        assert_eq!(version(&cache), None);
        assert!(cache.put(pod("2", 9)));
        cache.remove(&pod("1", 8));
        assert_eq!(version(&cache), Some(9), "the deletion of another object of the name changes nothing");
    }

    #[test]
    fn a_new_list_removes_missing_objects() {
        let cache = Cache::default();
        cache.put(pod("1", 7));
        cache.replace(Vec::new());
        assert_eq!(version(&cache), None);
    }
}
