//! The pipeline: events to the inventory, changes to resources, resources to streams, snapshots to disk.
//!
//! ```text
//! queues ─► inventory ─► compile ─► publish ─► streams
//!               └─► snapshot
//! ```
//!
//! [`run`] is the only writer of the [`State`], on a thread of its own. Everything else reads: streams the published
//! resources, debug pages and metrics both.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clusters::queue::Receiver;
use crate::compile::Compiler;
use crate::compile::resource::{Compiled, CompiledService};
use crate::inventory::{Group, Inventory, ObjectNotice};
use crate::leases::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::objects::Text;
use crate::objects::event::Event;
use crate::publish::{Store, snapshot};

/// The batching window: changes are compiled and pushed at most this often. The first change after a pause is pushed at
/// once.
///
/// A rolling update of 100 pods causes some 400 events within seconds. At 50 ms a proxy receives at most 20 messages a
/// second, and a single change still arrives within a few milliseconds.
const WINDOW: Duration = Duration::from_millis(50);

/// The number of groups that are compiled at once. Between two turns, events are applied and streams read.
const GROUPS: usize = 1024;

/// How often changes by the passing of time are looked for.
const TICK: Duration = Duration::from_secs(1);

/// How often changed clusters are written to the snapshot. A restart lists changes since then again.
const SNAPSHOT: Duration = Duration::from_secs(5);

/// The state that the pipeline writes and the rest of the controller reads.
#[derive(Debug)]
pub struct State {
    inventory: RwLock<Inventory>,
    store: RwLock<Store>,
    changes: watch::Sender<u64>,
    /// The number of batches of events that were applied to the inventory, written with its lock held.
    applied: AtomicU64,
    /// Those of them whose resources are published.
    published: watch::Sender<u64>,
    /// The ServiceExports of which no ServiceEntry is kept in a cluster that they name.
    unwritten_exports: Mutex<BTreeSet<ObjectNotice>>,
    /// The words of proxies about their paths to other clusters.
    pub mailbox: Mailbox,
    /// The controller's counters.
    pub metrics: Metrics,
    /// Cancelled when the controller stops.
    pub stop: CancellationToken,
}

impl State {
    /// Creates the state of an inventory without events, or with those of the snapshot.
    pub fn new(inventory: Inventory, metrics: Metrics) -> Arc<Self> {
        Arc::new(State {
            inventory: RwLock::new(inventory),
            store: RwLock::new(Store::default()),
            changes: watch::Sender::new(0),
            applied: AtomicU64::new(0),
            published: watch::Sender::new(0),
            unwritten_exports: Mutex::default(),
            mailbox: Mailbox::default(),
            metrics,
            stop: CancellationToken::new(),
        })
    }

    /// Locks the inventory for reading.
    pub fn inventory(&self) -> RwLockReadGuard<'_, Inventory> {
        // After a panic of the writer the state is at worst behind, and pushing it is better than pushing nothing.
        self.inventory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the published resources for reading.
    pub fn store(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the notices about ServiceExports of which no ServiceEntry is kept in a cluster that they name.
    pub(crate) fn unwritten_exports(&self) -> BTreeSet<ObjectNotice> {
        self.unwritten_exports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces these notices.
    pub(crate) fn set_unwritten_exports(&self, notices: BTreeSet<ObjectNotice>) {
        *self.unwritten_exports.lock().unwrap_or_else(PoisonError::into_inner) = notices;
    }

    /// Returns whether resources are published.
    pub fn ready(&self) -> bool {
        self.store().ready()
    }

    /// Returns the number of changes, which increases when resources change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Reads the inventory, and waits until all that it had then is published. Returns what was read, and the number of
    /// changes with which it was published.
    pub async fn read_published<T>(&self, read: impl FnOnce(&Inventory) -> T) -> (T, u64) {
        let (found, applied) = {
            let inventory = self.inventory();
            (read(&inventory), self.applied.load(Ordering::Relaxed))
        };
        let mut published = self.published.subscribe();
        // The sender lives as long as this state.
        let _ = published.wait_for(|published| *published >= applied).await;
        let changes = self.store().changes();
        (found, changes)
    }

    fn inventory_mut(&self) -> RwLockWriteGuard<'_, Inventory> {
        self.inventory.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_mut(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the pipeline until the controller stops. Without a directory there is no snapshot.
pub async fn run(state: Arc<State>, mut events: Receiver, directory: Option<PathBuf>) {
    let mut pipeline = Pipeline::new(state.clone(), directory);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The objects of the snapshot are compiled at once.
    let mut next = pipeline.compile();
    let mut batch = Vec::new();
    loop {
        let changed = state.inventory().has_changes();
        tokio::select! {
            () = state.stop.cancelled() => break,
            () = events.receive(&mut batch) => pipeline.apply(&mut batch),
            () = sleep_until(next), if changed => next = pipeline.compile(),
            _ = tick.tick() => next = pipeline.tick(&events),
        }
        pipeline.exclude(&events);
    }
    events.take(&mut batch);
    pipeline.apply(&mut batch);
    pipeline.snapshots.write_last(&state).await;
}

struct Pipeline {
    state: Arc<State>,
    compiler: Compiler,
    /// The clusters whose resources are not all published.
    incomplete: HashSet<Text>,
    snapshots: Snapshots,
    /// The number of the last transition of a lease that was logged.
    transitions: u64,
}

impl Pipeline {
    fn new(state: Arc<State>, directory: Option<PathBuf>) -> Self {
        let (compiler, snapshots) = (Compiler::default(), Snapshots::new(directory));
        Pipeline { state, compiler, incomplete: HashSet::new(), snapshots, transitions: 0 }
    }

    /// Applies events. The workload of a proxy that connected is published before the others of the batching window,
    /// because the proxy waits for it.
    fn apply(&mut self, batch: &mut Vec<Event>) {
        let now = SystemTime::now();
        let mut connected: Vec<(Group, oneshot::Sender<()>)> = Vec::new();
        let mut inventory = self.state.inventory_mut();
        for mut event in batch.drain(..) {
            self.snapshots.note(&event);
            if let Event::ProxyConnected { cluster, pod, published, .. } = &mut event {
                let published = std::mem::replace(published, oneshot::channel().0);
                connected.push((Group::Workload(cluster.clone(), pod.clone()), published));
            }
            inventory.apply(event, now);
        }
        self.state.applied.fetch_add(1, Ordering::Relaxed);
        let groups: Vec<Group> = match inventory.ready() {
            true => connected.iter().map(|(group, _)| group).filter(|of| inventory.take_change(of)).cloned().collect(),
            false => Vec::new(),
        };
        drop(inventory);
        self.publish(groups);
        for (_, published) in connected {
            // The stream may have ended.
            let _ = published.send(());
        }
    }

    /// Reads no more of clusters that have come beyond a budget.
    fn exclude(&mut self, events: &Receiver) {
        if !self.state.inventory().any_exceeded() {
            return;
        }
        for (cluster, why) in self.state.inventory_mut().take_exceeded() {
            warn!(%cluster, %why, "the cluster is beyond a budget; not reading it");
            events.refuse(cluster, why);
        }
    }

    /// Looks for changes by the passing of time. Returns when changes are compiled next.
    fn tick(&mut self, events: &Receiver) -> Instant {
        let now = SystemTime::now();
        let words = self.state.mailbox.take();
        let mut inventory = self.state.inventory_mut();
        for ((cluster, pod, account), words) in words {
            inventory.hear(&cluster, &pod, &account, words, now);
        }
        inventory.tick(now);
        for cluster in inventory.take_relists(now) {
            info!(%cluster, "a list was unexpectedly empty; listing again");
            events.relist(cluster);
        }
        let transitions = inventory.leases().transitions_after(self.transitions);
        self.snapshots.leases |= inventory.leases().are_running() || !transitions.is_empty();
        drop(inventory);
        for (number, transition) in transitions {
            self.transitions = number;
            info!(cluster = %transition.cluster, state = transition.to.word(), "{}", transition.message);
        }
        self.compiler.purge();
        // The first complete lists of a cluster may change nothing but what is complete.
        let next = self.compile();
        self.snapshots.write_due(&self.state);
        next
    }

    /// Compiles and publishes changes, once the controller's own cluster is known: of a part of its objects, streams would
    /// take the rest for deleted. Returns when changes are compiled next.
    fn compile(&mut self) -> Instant {
        let mut inventory = self.state.inventory_mut();
        if !inventory.ready() {
            return Instant::now() + WINDOW;
        }
        let first = !self.state.ready();
        let groups = inventory.take_changes(if first { usize::MAX } else { GROUPS });
        let applied = self.state.applied.load(Ordering::Relaxed);
        let mut incomplete = inventory.incomplete();
        let more = inventory.has_changes();
        drop(inventory);
        if more {
            // The lists of a cluster are complete before all of its resources are published. Until they are, streams must
            // not take the missing ones for deleted.
            incomplete.extend(self.incomplete.drain());
        }
        self.incomplete.clone_from(&incomplete);
        let changed = self.publish(groups);
        let mut store = self.state.store_mut();
        let moved = store.set_ready(incomplete);
        let changes = store.changes();
        drop(store);
        if first {
            info!(resources = changed, "the controller's own cluster is known; serving resources");
        }
        if moved {
            self.state.changes.send_replace(changes);
        }
        if !more {
            self.state.published.send_if_modified(|published| std::mem::replace(published, applied) != applied);
        }
        if more { Instant::now() } else { Instant::now() + WINDOW }
    }

    /// Charges clusters for the endpoints that were compiled.
    fn charge<'a>(&self, services: impl Iterator<Item = &'a CompiledService>) {
        let mut units: BTreeMap<Text, u64> = BTreeMap::new();
        for service in services {
            // The endpoints of a cluster are neighbours.
            for endpoints in service.endpoints.chunk_by(|a, b| Arc::ptr_eq(&a.fields().cluster, &b.fields().cluster)) {
                *units.entry(endpoints[0].fields().cluster.clone()).or_default() += endpoints.len() as u64;
            }
        }
        let mut inventory = self.state.inventory_mut();
        units.into_iter().for_each(|(cluster, units)| inventory.charge(&cluster, units, SystemTime::now()));
    }

    /// Keeps the exports of services that have no effect.
    fn keep_refused_exports(&self, compiled: &mut [(Compiled, Group)]) {
        let services = compiled.iter_mut().filter(|(_, group)| matches!(group, Group::Service(_)));
        let refused = services.map(|(compiled, group)| (group, std::mem::take(&mut compiled.refused_exports)));
        let mut inventory = self.state.inventory_mut();
        refused.for_each(|(group, refused)| inventory.set_refused_exports(group, refused));
    }

    /// Keeps the notices about rules of routing and Gateways.
    fn keep_notices(&self, compiled: &mut [(Compiled, Group)]) {
        let rules = compiled.iter_mut().filter(|(_, group)| group.has_notices());
        let mut rules = rules.map(|(compiled, group)| (group, std::mem::take(&mut compiled.notices))).peekable();
        if rules.peek().is_some() {
            let mut inventory = self.state.inventory_mut();
            rules.for_each(|(group, notices)| inventory.set_rule_notices(group, notices));
        }
    }

    /// Compiles groups, publishes their resources, and wakes the streams if any differs. Returns the number of changed
    /// resources.
    fn publish(&mut self, groups: Vec<Group>) -> usize {
        if groups.is_empty() {
            return 0;
        }
        let (began, count) = (Instant::now(), groups.len());
        // This thread is the only writer, so nothing waits for this lock.
        let inventory = self.state.inventory();
        let mut compiled: Vec<_> =
            groups.into_iter().map(|group| (self.compiler.compile(&inventory, &group), group)).collect();
        drop(inventory);
        self.charge(compiled.iter().filter_map(|(compiled, _)| compiled.service.as_ref()));
        self.keep_notices(&mut compiled);
        self.keep_refused_exports(&mut compiled);
        let mut store = self.state.store_mut();
        let changed = compiled.into_iter().map(|(compiled, group)| store.replace(group, compiled)).sum();
        if self.state.changes.receiver_count() == 0 {
            store.forget_changes();
        }
        let changes = store.changes();
        drop(store);
        if changed > 0 {
            self.state.changes.send_replace(changes);
        }
        debug!(groups = count, changed, took = ?began.elapsed(), "compiled");
        self.state.metrics.compiled(count, changed, began.elapsed());
        changed
    }
}

/// The snapshot's files that are out of date.
struct Snapshots {
    directory: Option<PathBuf>,
    clusters: BTreeSet<Text>,
    mesh: bool,
    keys: bool,
    leases: bool,
    last: Instant,
    /// The thread that writes the last files.
    writing: Option<JoinHandle<()>>,
}

impl Snapshots {
    fn new(directory: Option<PathBuf>) -> Self {
        Snapshots {
            directory,
            clusters: BTreeSet::new(),
            mesh: false,
            keys: false,
            leases: false,
            last: Instant::now(),
            writing: None,
        }
    }

    fn note(&mut self, event: &Event) {
        let Some(directory) = &self.directory else { return };
        match event {
            Event::Upsert { cluster, .. } | Event::Delete { cluster, .. } | Event::Listed { cluster, .. }
                if !self.clusters.contains(cluster) =>
            {
                self.clusters.insert(cluster.clone());
            }
            Event::ClusterRemoved { cluster } => {
                self.clusters.remove(cluster);
                snapshot::remove(directory, cluster);
            }
            Event::Mesh(_) => self.mesh = true,
            Event::Keys { .. } => self.keys = true,
            _ => {}
        }
    }

    /// Writes the files that are out of date, if the last ones were written long enough ago.
    fn write_due(&mut self, state: &State) {
        let busy = self.writing.as_ref().is_some_and(|writing| !writing.is_finished());
        if self.last.elapsed() >= SNAPSHOT && !busy {
            self.write(state);
        }
    }

    /// Writes the files that are out of date, and waits until they are on disk.
    async fn write_last(&mut self, state: &State) {
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        self.write(state);
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
    }

    fn write(&mut self, state: &State) {
        self.last = Instant::now();
        let Some(directory) = &self.directory else { return };
        let files = self.encode(directory, &state.inventory());
        self.clusters.clear();
        (self.mesh, self.keys, self.leases) = (false, false, false);
        if files.is_empty() {
            return;
        }
        self.writing = Some(tokio::task::spawn_blocking(move || {
            for file in files {
                if let Err(error) = file.write() {
                    warn!(%error, "the snapshot was not written; a restart during an outage would start without it");
                }
            }
        }));
    }

    fn encode(&self, directory: &Path, inventory: &Inventory) -> Vec<snapshot::File> {
        let clusters = self.clusters.iter().filter_map(|name| inventory.cluster(name));
        let files = clusters.filter_map(|cluster| snapshot::File::of_cluster(directory, cluster));
        let mesh = self.mesh.then(|| snapshot::File::of_mesh(directory, inventory.mesh()));
        let keys = self.keys.then(|| snapshot::File::of_keys(directory, inventory.all_keys()));
        let leases = self.leases.then(|| snapshot::File::of_leases(directory, inventory.leases()));
        files.chain(mesh).chain(keys).chain(leases).collect()
    }
}

#[cfg(test)]
mod tests;
