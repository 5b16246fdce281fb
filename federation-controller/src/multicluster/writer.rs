//! Writes what one cluster is to have.
//!
//! The writer watches what the cluster has, so that what somebody else deletes or changes is written again, and a restarted
//! controller writes nothing that is there. Statuses of ServiceExports are read before they are written for the first time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::export::{MANAGED_BY, SLICE_MANAGED_BY_LABEL, ServiceImport};
use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::present::{Objects, PresentImport, PresentSlice};
use super::write::{Accepted, Done, Write, hash, perform};
use crate::clusters::Clusters;
use crate::clusters::trouble::{self, Trouble};
use crate::clusters::watch::{PAGE, Pause};
use crate::objects::{Key, Text};

/// The number of writes at a time.
const AT_A_TIME: usize = 4;
/// Time until what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Time between attempts while the credential does not permit them, or the kinds are not defined.
const REFUSED: Duration = Duration::from_secs(10);

/// How long watches use one token, which is valid for longer.
const WATCHES: Duration = Duration::from_secs(25 * 60);

/// What is reported of a cluster in which nothing may be written.
const SUBJECT: &str = "status of ServiceExports, ServiceImports and EndpointSlices";
/// What an administrator does about it.
const REMEDY: &str = "run `isthmus join` for the cluster again, which creates the account isthmus-writer";

/// The writer of one cluster.
pub(super) struct Writer {
    cluster: Text,
    clusters: Clusters,
    plans: watch::Receiver<Arc<Plan>>,
    /// The hashes of the statuses that exports have.
    statuses: HashMap<Key, u64>,
    /// What the API server made of the imports that were written. A definition of somebody else's may lack fields.
    accepted: HashMap<Key, Accepted>,
    imports: Objects<PresentImport>,
    slices: Objects<PresentSlice>,
    /// The generations of the slices that have what is wanted. What another generation has is not known.
    generations: HashMap<Key, i64>,
}

/// An event of one of the two watches.
enum Watched {
    Import(Box<Event<ServiceImport>>),
    Slice(Box<Event<PartialObjectMeta<EndpointSlice>>>),
}

impl Writer {
    pub(super) fn new(cluster: Text, clusters: Clusters, plans: watch::Receiver<Arc<Plan>>) -> Self {
        let (imports, slices) = (Objects::default(), Objects::default());
        let (statuses, accepted, generations) = (HashMap::new(), HashMap::new(), HashMap::new());
        Writer { cluster, clusters, plans, statuses, accepted, imports, slices, generations }
    }

    /// Writes until the controller stops.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.is_written_by_itself() {
                self.report(None);
                tokio::time::sleep(REFUSED).await;
                continue;
            }
            let why = match self.clusters.writer(&self.cluster).await {
                Ok(client) => {
                    let refused = self.follow(client).await;
                    if refused.is_some() {
                        self.clusters.forget_writer(&self.cluster);
                    }
                    refused
                }
                Err(why) => Some(why),
            };
            if let Some(why) = why {
                // Without exports, nothing is missing.
                let why = self.has_work().then(|| format!("{why}; {REMEDY}"));
                self.report(why);
                tokio::time::sleep(REFUSED).await;
            }
        }
    }

    fn is_written_by_itself(&self) -> bool {
        self.plans.borrow().clusters.get(&self.cluster).is_some_and(|plan| plan.written_by_itself)
    }

    /// Returns whether the cluster is to have anything.
    fn has_work(&self) -> bool {
        let plan = self.plans.borrow();
        plan.clusters.get(&self.cluster).is_some_and(|of| !of.exports.is_empty() || !of.imports.is_empty())
    }

    fn report(&self, why: Option<String>) {
        self.clusters.set_unwritten(&self.cluster, SUBJECT, why);
    }

    /// Watches and writes until the credential is refused, with the reason, or another one is due.
    async fn follow(&mut self, client: Client) -> Option<String> {
        (self.imports, self.slices) = (Objects::default(), Objects::default());
        let mut events = std::pin::pin!(watches(client));
        let until = Instant::now() + WATCHES;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return None,
                event = events.next() => match event? {
                    Ok(Watched::Import(event)) => self.imports.apply(*event, PresentImport::of),
                    Ok(Watched::Slice(event)) => self.slices.apply(*event, |slice| PresentSlice::of(&slice.metadata)),
                    Err(error) => match trouble::of_watch(&error) {
                        Trouble::Refused(why) => return Some(why),
                        Trouble::Missing => return Some("ServiceImport is not defined in the cluster".to_owned()),
                        trouble => tracing::debug!(cluster = %self.cluster, %trouble, "cannot watch; trying again"),
                    },
                },
                changed = self.plans.changed() => changed.ok()?,
                () = tokio::time::sleep(AGAIN) => {}
            }
            if !self.imports.complete || !self.slices.complete {
                continue;
            }
            if self.is_written_by_itself() {
                return None;
            }
            // The credential is replaced while its token is still valid.
            match self.clusters.writer(&self.cluster).await {
                Ok(client) => match self.write(&client).await {
                    None => self.report(None),
                    Some(why) => return Some(why),
                },
                Err(why) => return Some(why),
            }
        }
    }

    /// Writes the difference. Returns why that is refused.
    async fn write(&mut self, client: &Client) -> Option<String> {
        let writes = self.due();
        let mut results = stream::iter(writes).map(|write| perform(client, write)).buffer_unordered(AT_A_TIME);
        let mut refused = None;
        let mut done = Vec::new();
        while let Some(result) = results.next().await {
            match result {
                Ok(of) => done.push(of),
                Err(Trouble::Refused(why)) => refused = Some(why),
                // The object or its namespace is gone, and so is what was to be written with the next plan.
                Err(Trouble::Missing) => {}
                Err(trouble) => tracing::debug!(cluster = %self.cluster, %trouble, "not written; trying again"),
            }
        }
        drop(results);
        done.into_iter().for_each(|of| self.note(of));
        refused
    }

    fn note(&mut self, done: Done) {
        match done {
            Done::Import(key, accepted) => {
                self.imports.known.insert(key.clone(), accepted.made.clone());
                self.accepted.insert(key, *accepted);
            }
            Done::Slice(key, slice) => {
                self.generations.insert(key.clone(), slice.generation);
                self.slices.known.insert(key, slice);
            }
            Done::NoImport(key) => {
                self.imports.known.remove(&key);
                self.accepted.remove(&key);
            }
            Done::NoSlice(key) => drop(self.slices.known.remove(&key)),
            Done::ExportStatus(key, hash) => drop(self.statuses.insert(key, hash)),
        }
    }

    /// Returns what is to be written: first what is new, statuses last.
    fn due(&mut self) -> Vec<Write> {
        let plan = self.plans.borrow_and_update().clone();
        let Some(wanted) = plan.clusters.get(&self.cluster) else { return Vec::new() };
        let is_unknown = |cluster: &str| plan.unknown.contains(cluster);
        let mut writes = Vec::new();
        let mut statuses = Vec::new();
        for (key, import) in &wanted.imports {
            match self.imports.known.get(key) {
                None => writes.push(Write::Import(key.clone(), import.clone())),
                // Somebody else's.
                Some(present) if !present.ours => {}
                Some(present) if present.clusters.iter().any(|of| is_unknown(of)) => {}
                Some(present) if self.accepted.get(key).is_some_and(|of| of.has(present, import)) => {}
                Some(present) if !present.has_content(import) => {
                    writes.push(Write::Import(key.clone(), import.clone()))
                }
                Some(present) if !present.has_status(import) => {
                    statuses.push(Write::ImportStatus(key.clone(), import.clone(), Box::new(present.clone())));
                }
                Some(_) => {}
            }
        }
        for (key, slice) in &wanted.slices {
            let import = Key { namespace: key.namespace.clone(), name: slice.slice.service.clone() };
            let owner = match self.imports.known.get(&import) {
                Some(present) if present.ours => present.uid.clone(),
                Some(_) => None,
                // It is written first.
                None if wanted.imports.contains_key(&import) => continue,
                None => None,
            };
            let has = |present: &PresentSlice, generation: i64| {
                present.content.as_ref() == Some(&slice.content)
                    && present.owner == owner
                    && present.generation == generation
            };
            let is_present = self.slices.known.get(key).is_some_and(|present| {
                // Of a controller before this one, the digest alone is known.
                has(present, *self.generations.entry(key.clone()).or_insert(present.generation))
            });
            if !is_present {
                writes.push(Write::Slice(key.clone(), slice.clone(), owner));
            }
        }
        self.generations.retain(|key, _| wanted.slices.contains_key(key));
        let gone = self.imports.known.iter().filter(|(key, present)| {
            present.ours && !wanted.imports.contains_key(*key) && !present.clusters.iter().any(|of| is_unknown(of))
        });
        writes.extend(gone.map(|(key, _)| Write::DeleteImport(key.clone())));
        let gone = self
            .slices
            .known
            .iter()
            .filter(|(key, present)| !wanted.slices.contains_key(*key) && !is_unknown(&present.source));
        writes.extend(gone.map(|(key, _)| Write::DeleteSlice(key.clone())));
        writes.extend(statuses);
        self.statuses.retain(|key, _| wanted.exports.contains_key(key));
        // While an export of another cluster is unknown, a conflict with it is as well.
        let known = plan.unknown.is_empty();
        for (key, status) in wanted.exports.iter().filter(|_| known) {
            if self.statuses.get(key) != Some(&hash(status)) {
                writes.push(Write::ExportStatus(key.clone(), Box::new(status.clone())));
            }
        }
        writes
    }
}

/// Watches the ServiceImports, and the EndpointSlices of the controller.
fn watches(client: Client) -> impl Stream<Item = Result<Watched, watcher::Error>> {
    let imports = watcher(Api::<ServiceImport>::all(client.clone()), watcher::Config::default().page_size(PAGE));
    let labels = format!("{SLICE_MANAGED_BY_LABEL}={MANAGED_BY}");
    let config = watcher::Config::default().page_size(PAGE).labels(&labels);
    let slices = watcher(Api::<PartialObjectMeta<EndpointSlice>>::all(client), config);
    stream::select(
        imports.backoff(Pause::default()).map(|event| event.map(|event| Watched::Import(Box::new(event)))).boxed(),
        slices.backoff(Pause::default()).map(|event| event.map(|event| Watched::Slice(Box::new(event)))).boxed(),
    )
}
