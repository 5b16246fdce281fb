//! The one writer: events into the index, results into the store, views onto the disk.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

use crate::discovery::Shared;
use crate::inventory::Index;
use crate::objects::event::{Event, Text};

/// Changes are put together for at most this long before they are told; the first after a pause is told at once.
///
/// Measured against: a rolling update of 100 pods causes some 400 events within seconds. At 50 ms a proxy gets at most 20
/// messages per second, while a single change still arrives within a few milliseconds.
const TICK: Duration = Duration::from_millis(50);

/// How often what only time decides is looked at.
const SLOW_TICK: Duration = Duration::from_secs(1);

/// How often changed views go to the disk. Losing the last seconds costs nothing: they are listed again.
const SAVE: Duration = Duration::from_secs(5);

/// Events taken in without a pause.
const BATCH: usize = 1024;

/// Runs until all senders of events are gone, or the controller stops.
pub async fn run(shared: Arc<Shared>, mut events: mpsc::Receiver<Event>, directory: Option<PathBuf>) {
    let mut slow = interval(SLOW_TICK);
    slow.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut views = Views { directory, changed: BTreeSet::new(), mesh_changed: false, saved: Instant::now() };
    // A remembered view is served from at once.
    let mut last = compile(&shared);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let dirty = shared.index().is_dirty();
        tokio::select! {
            received = events.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    views.save(&shared.index());
                    return;
                }
                let mut index = shared.index_mut();
                let now = SystemTime::now();
                for event in batch.drain(..) {
                    views.note(&event);
                    index.apply(event, now);
                }
            }
            () = shared.stop.cancelled() => {
                views.save(&shared.index());
                return;
            }
            () = sleep_until(last + TICK), if dirty => last = compile(&shared),
            _ = slow.tick() => {
                shared.index_mut().tick(SystemTime::now());
                // Becoming ready, or certain of a cluster, may change nothing else.
                last = compile(&shared);
                if views.saved.elapsed() >= SAVE {
                    views.save(&shared.index());
                }
            }
        }
    }
}

/// Compiles what is dirty and wakes the streams if anything differs. Returns when that was.
fn compile(shared: &Shared) -> Instant {
    let mut index = shared.index_mut();
    if !index.ready() {
        // Half a view is no view: what is not there yet would be taken for gone.
        return Instant::now();
    }
    let began = Instant::now();
    let compiled = index.compile();
    let unheard = index.unheard();
    let groups = compiled.len();
    let changed = shared.replace(compiled);
    drop(index);
    let mut store = shared.store_mut();
    let first = !store.ready();
    let moved = store.set_ready(unheard);
    let changes = store.changes();
    drop(store);
    if first {
        info!(resources = changed, "the first view is complete; serving it");
    }
    if moved {
        shared.changes.send_replace(changes);
    }
    if groups > 0 {
        debug!(groups, changed, took = ?began.elapsed(), "compiled");
        shared.metrics.compiled(groups, changed, began.elapsed());
    }
    Instant::now()
}

/// Which views on disk are behind.
struct Views {
    directory: Option<PathBuf>,
    changed: BTreeSet<Text>,
    mesh_changed: bool,
    saved: Instant,
}

impl Views {
    fn note(&mut self, event: &Event) {
        let Some(directory) = &self.directory else { return };
        match event {
            Event::Upsert { cluster, .. } | Event::Delete { cluster, .. } | Event::Listed { cluster, .. } => {
                if !self.changed.contains(cluster) {
                    self.changed.insert(cluster.clone());
                }
            }
            Event::ClusterRemoved { cluster } => {
                self.changed.remove(cluster);
                Index::forget(cluster, directory);
            }
            Event::Mesh(_) => self.mesh_changed = true,
            Event::ClusterAdded(_)
            | Event::ClustersListed
            | Event::Link { .. }
            | Event::Listing { .. }
            | Event::Trust(_) => {}
        }
    }

    fn save(&mut self, index: &Index) {
        self.saved = Instant::now();
        let Some(directory) = &self.directory else { return };
        for cluster in std::mem::take(&mut self.changed) {
            if let Err(error) = index.save(&cluster, directory) {
                warn!(%error, %cluster, "the view cannot be kept on disk; a restart during an outage would start without");
            }
        }
        if std::mem::take(&mut self.mesh_changed)
            && let Err(error) = index.save_mesh(directory)
        {
            warn!(%error, "the mesh's settings cannot be kept on disk");
        }
    }
}
