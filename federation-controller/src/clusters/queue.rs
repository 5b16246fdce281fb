//! The queues of events: one for each source, served in turn.
//!
//! A cluster that changes much fills its own queue, waits there, and delays no other cluster. The queue of the controller
//! itself is served first: it has the events that add and remove clusters, which come before the events of their objects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

use crate::objects::Text;
use crate::objects::event::Event;

/// The number of events that wait in one queue. The first list of ten thousand pods waits in its watch, not in memory.
const CAPACITY: usize = 1024;

/// The number of events that are taken from one queue before the next one.
const PER_TURN: usize = 64;

/// The number of events that are taken at once.
const BATCH: usize = 1024;

/// The source of an event.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    /// The controller: clusters, mesh-wide settings, the trust bundle.
    Controller,
    /// The objects of a cluster.
    Objects(Text),
    /// The proxies of a cluster.
    Proxies(Text),
}

/// Why an event is not queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The receiver is gone: the controller stops.
    #[error("the pipeline has stopped")]
    Closed,
    /// The pipeline does not read the cluster's objects, for this reason, until [`Queues::admit`].
    #[error("{0}")]
    Refused(Text),
}

/// Creates the queues.
pub fn queues() -> (Queues, Receiver) {
    let shared = Arc::new(Shared::default());
    (Queues { shared: shared.clone() }, Receiver { shared, last: Source::Controller })
}

/// The sending side of the queues. Clones send to the same queues.
#[derive(Clone, Debug)]
pub struct Queues {
    shared: Arc<Shared>,
}

/// The receiving side of the queues.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    /// The source from which events were last taken.
    last: Source,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when an event is queued.
    queued: Notify,
    /// Notified when lists are to be repeated.
    relist: Notify,
}

#[derive(Debug, Default)]
struct State {
    queues: BTreeMap<Source, Queue>,
    /// The clusters whose objects are not read, each with the reason.
    refused: BTreeMap<Text, Text>,
    /// The clusters whose lists are to be repeated.
    relists: BTreeSet<Text>,
    closed: bool,
}

impl State {
    /// Returns why no event of a source is queued, if so.
    fn refusal(&self, source: &Source) -> Option<SendError> {
        match source {
            _ if self.closed => Some(SendError::Closed),
            Source::Objects(cluster) => self.refused.get(cluster).cloned().map(SendError::Refused),
            _ => None,
        }
    }

    /// Drops the events of a cluster's objects that wait.
    fn drop_objects(&mut self, cluster: &Text) {
        if let Some(queue) = self.queues.get_mut(&Source::Objects(cluster.clone())) {
            let dropped = queue.events.len();
            queue.events.clear();
            queue.places.add_permits(dropped);
        }
    }
}

#[derive(Debug)]
struct Queue {
    events: VecDeque<Event>,
    /// The free places.
    places: Arc<Semaphore>,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { events: VecDeque::new(), places: Arc::new(Semaphore::new(CAPACITY)) }
    }
}

impl Queue {
    fn take(&mut self, limit: usize, batch: &mut Vec<Event>) {
        let count = self.events.len().min(limit);
        batch.extend(self.events.drain(..count));
        self.places.add_permits(count);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// Queues an event. Waits while the queue of its source is full.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the receiver is gone.
    pub async fn send(&self, source: Source, event: Event) -> Result<(), SendError> {
        let places = {
            let mut state = self.shared.state();
            if let Some(refusal) = state.refusal(&source) {
                return Err(refusal);
            }
            let queue = match state.queues.get_mut(&source) {
                Some(queue) => queue,
                None => state.queues.entry(source.clone()).or_default(),
            };
            if let Ok(place) = queue.places.try_acquire() {
                place.forget();
                queue.events.push_back(event);
                self.shared.queued.notify_one();
                return Ok(());
            }
            queue.places.clone()
        };
        places.acquire().await.map_err(|_| SendError::Closed)?.forget();
        let mut state = self.shared.state();
        let refusal = state.refusal(&source);
        let queue = state.queues.entry(source).or_default();
        if let Some(refusal) = refusal {
            queue.places.add_permits(1);
            return Err(refusal);
        }
        queue.events.push_back(event);
        drop(state);
        self.shared.queued.notify_one();
        Ok(())
    }

    /// Removes a cluster: the events of its objects that wait are dropped. The cluster's link must have ended.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the receiver is gone.
    pub async fn remove(&self, cluster: Text) -> Result<(), SendError> {
        {
            let mut state = self.shared.state();
            state.drop_objects(&cluster);
            state.refused.remove(&cluster);
            state.relists.remove(&cluster);
        }
        self.send(Source::Controller, Event::ClusterRemoved { cluster }).await
    }
}

impl Queues {
    /// Has the pipeline read a cluster's objects again.
    pub fn admit(&self, cluster: &Text) {
        self.shared.state().refused.remove(cluster);
    }

    /// Waits until the pipeline asks for all lists of a cluster again.
    pub async fn until_relist(&self, cluster: &Text) {
        loop {
            let mut asked = std::pin::pin!(self.shared.relist.notified());
            asked.as_mut().enable();
            if self.shared.state().relists.remove(cluster) {
                return;
            }
            asked.await;
        }
    }
}

impl Receiver {
    /// Reads no objects of a cluster until [`Queues::admit`]: those that wait are dropped, and senders get the reason.
    pub fn refuse(&self, cluster: Text, why: Text) {
        let mut state = self.shared.state();
        state.drop_objects(&cluster);
        state.refused.insert(cluster, why);
    }

    /// Asks for all lists of a cluster again.
    pub fn relist(&self, cluster: Text) {
        self.shared.state().relists.insert(cluster);
        self.shared.relist.notify_waiters();
    }

    /// Takes a batch of events: the controller's own first, then a bounded number from each other queue in turn. Waits
    /// until there is an event.
    pub async fn receive(&mut self, batch: &mut Vec<Event>) {
        loop {
            self.take(batch);
            if !batch.is_empty() {
                return;
            }
            self.shared.queued.notified().await;
        }
    }

    /// Takes a batch of the events that are queued now.
    pub fn take(&mut self, batch: &mut Vec<Event>) {
        let shared = self.shared.clone();
        let mut state = shared.state();
        if let Some(queue) = state.queues.get_mut(&Source::Controller) {
            queue.take(BATCH, batch);
        }
        loop {
            let (before, last) = (batch.len(), self.last.clone());
            self.take_turns(state.queues.range_mut((Bound::Excluded(&last), Bound::Unbounded)), batch);
            self.take_turns(state.queues.range_mut(..=&last), batch);
            if batch.len() == before || batch.len() >= BATCH {
                break;
            }
        }
        // A sender holds the places of its queue until its event is queued.
        state.queues.retain(|_, queue| !queue.events.is_empty() || Arc::strong_count(&queue.places) > 1);
    }

    fn take_turns<'a>(&mut self, turns: impl Iterator<Item = (&'a Source, &'a mut Queue)>, batch: &mut Vec<Event>) {
        for (source, queue) in turns.filter(|(source, _)| **source != Source::Controller) {
            if batch.len() >= BATCH {
                return;
            }
            queue.take(PER_TURN.min(BATCH - batch.len()), batch);
            self.last = source.clone();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        state.queues.values().for_each(|queue| queue.places.close());
        state.queues.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Kind;

    #[tokio::test]
    async fn lists_are_repeated_once_when_the_pipeline_asks_for_it() {
        let (queues, receiver) = queues();
        let (east, west): (Text, Text) = ("east".into(), "west".into());
        let waits = tokio::spawn({
            let (queues, east) = (queues.clone(), east.clone());
            async move { queues.until_relist(&east).await }
        });
        tokio::task::yield_now().await;
        receiver.relist(west.clone());
        tokio::task::yield_now().await;
        assert!(!waits.is_finished(), "another cluster's");
        receiver.relist(east.clone());
        waits.await.unwrap();
        queues.until_relist(&west).await;
        let again = tokio::time::timeout(std::time::Duration::from_millis(10), queues.until_relist(&east));
        assert!(again.await.is_err(), "it was taken");
    }

    fn listing(cluster: &str) -> (Source, Event) {
        let cluster: Text = cluster.into();
        (Source::Objects(cluster.clone()), Event::Listing { cluster, kind: Kind::Pod })
    }

    fn listed() -> Event {
        Event::ClustersListed { named: Default::default() }
    }

    fn cluster_of(event: &Event) -> &str {
        match event {
            Event::Listing { cluster, .. } | Event::ClusterRemoved { cluster } => cluster,
            _ => "controller",
        }
    }

    #[tokio::test]
    async fn a_busy_cluster_does_not_delay_the_others() {
        let (queues, mut receiver) = queues();
        for _ in 0..CAPACITY {
            let (source, event) = listing("busy");
            queues.send(source, event).await.unwrap();
        }
        let waiting = tokio::spawn({
            let queues = queues.clone();
            async move {
                let (source, event) = listing("busy");
                queues.send(source, event).await
            }
        });
        for _ in 0..3 {
            let (source, event) = listing("quiet");
            queues.send(source, event).await.unwrap();
        }
        queues.send(Source::Controller, listed()).await.unwrap();
        let mut batch = Vec::new();
        receiver.receive(&mut batch).await;
        assert!(matches!(batch[0], Event::ClustersListed { .. }));
        let clusters: Vec<&str> = batch.iter().map(cluster_of).collect();
        assert_eq!(batch.len(), BATCH);
        // In turns: the quiet cluster waits for one turn of the busy one at most.
        let last = clusters.iter().rposition(|of| *of == "quiet").unwrap();
        assert!(last <= 1 + PER_TURN + 3, "{last}");
        assert_eq!(clusters.iter().filter(|of| **of == "quiet").count(), 3);
        // Its sender waited for a place.
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_refused_cluster_waits_for_nothing_until_it_is_admitted() {
        let (queues, mut receiver) = queues();
        for _ in 0..CAPACITY {
            let (source, event) = listing("rogue");
            queues.send(source, event).await.unwrap();
        }
        let waiting = tokio::spawn({
            let queues = queues.clone();
            async move {
                let (source, event) = listing("rogue");
                queues.send(source, event).await
            }
        });
        tokio::task::yield_now().await;
        receiver.refuse("rogue".into(), "too much".into());
        let refused = Err(SendError::Refused("too much".into()));
        assert_eq!(waiting.await.unwrap(), refused);
        let (source, event) = listing("rogue");
        assert_eq!(queues.send(source, event).await, refused);
        let (source, event) = listing("quiet");
        queues.send(source, event).await.unwrap();
        let mut batch = Vec::new();
        receiver.take(&mut batch);
        assert_eq!(batch.iter().map(cluster_of).collect::<Vec<_>>(), ["quiet"]);
        queues.admit(&"rogue".into());
        for _ in 0..CAPACITY {
            let (source, event) = listing("rogue");
            queues.send(source, event).await.unwrap();
        }
    }

    #[tokio::test]
    async fn events_of_one_source_stay_in_order_and_removed_clusters_have_none() {
        let (queues, mut receiver) = queues();
        for kind in [Kind::Pod, Kind::Node] {
            let cluster: Text = "west".into();
            queues.send(Source::Objects(cluster.clone()), Event::Listed { cluster, kind }).await.unwrap();
        }
        let (source, event) = listing("east");
        queues.send(source, event).await.unwrap();
        queues.remove("east".into()).await.unwrap();
        let mut batch = Vec::new();
        receiver.take(&mut batch);
        let kinds: Vec<Kind> = batch
            .iter()
            .filter_map(|of| if let Event::Listed { kind, .. } = of { Some(*kind) } else { None })
            .collect();
        assert_eq!(kinds, [Kind::Pod, Kind::Node]);
        assert_eq!(batch.iter().map(cluster_of).filter(|of| *of == "east").count(), 1, "the removal alone");
        drop(receiver);
        assert_eq!(queues.send(Source::Controller, listed()).await, Err(SendError::Closed));
    }
}
