//! The link to one cluster's API server: the watches of all kinds, the heartbeat, and the state that follows from both.
//!
//! A link that replaces another, because the cluster's credentials changed, keeps its events until it has every list. Then it
//! ends the other link, sends the kept events, and continues. The lists show which objects were deleted in between, so
//! nothing is removed by the replacement, and credentials that do not work never end a working link.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{BoxFuture, join_all};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::claims::ApiServer;
use super::link_state::{Exclusion, LinkState, Machine, Signal};
use super::queue::{Queues, SendError, Source};
use super::reads::Pauses;
use super::trouble::{self, Trouble};
use super::watch::{Pause, Report, watch};
use super::{Access, Contact, Shared};
use crate::objects::event::{Cluster, Event};
use crate::objects::{self, KEPT, Kind, Object, Record, Text, for_each_kind};

/// The number of reports that wait between the watches and the queue.
const BACKLOG: usize = 256;

/// After a longer outage the watches start over, because connections may have ended without a packet. After a shorter one
/// they notice by themselves.
const SILENT_OUTAGE: Duration = Duration::from_secs(10);

/// The maximum length of a uid: those of Kubernetes have 36 characters.
const MAX_UID: usize = 128;

/// The links of one cluster: the active one, and the one that will replace it.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) active: Option<JoinHandle<()>>,
    pub(super) pending: Option<JoinHandle<()>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        for task in self.active.take().into_iter().chain(self.pending.take()) {
            task.abort();
        }
    }
}

/// A link.
pub(super) struct Link {
    pub(super) cluster: Cluster,
    pub(super) shared: Arc<Shared>,
    pub(super) events: Queues,
    pub(super) slot: Arc<Mutex<Slot>>,
    pub(super) heartbeat: Duration,
    pub(super) api_server: Access,
}

impl Link {
    /// Starts a cluster's first link, or one that replaces the active link when it has every list.
    pub(super) fn start(self, replaces: bool) {
        let slot = Arc::clone(&self.slot);
        // Locked until the task is stored, because the task takes itself from the slot when it becomes the active link.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let task = tokio::spawn(self.run(replaces));
        let entry = if replaces { &mut slot.pending } else { &mut slot.active };
        if let Some(before) = entry.replace(task) {
            before.abort();
        }
    }

    async fn run(self, replaces: bool) {
        let (out, reports) = mpsc::channel(BACKLOG);
        let restart = Notify::new();
        tokio::select! {
            () = self.watch_all(&out, &restart) => {}
            () = self.send_heartbeats(&out) => {}
            () = self.process(reports, &restart, replaces) => {}
        }
    }

    /// Watches every kind while the cluster has its API server for itself.
    async fn watch_all(&self, out: &mpsc::Sender<Report>, restart: &Notify) {
        let held = self.identify().await.map(|server| self.shared.claims.add(&self.cluster, server));
        let lost = || async {
            match &held {
                Some(held) => held.until_lost().await,
                None => std::future::pending().await,
            }
        };
        let mut pauses = Pauses::default();
        loop {
            if let Some((held, keeper)) = held.as_ref().and_then(|held| Some((held, held.keeper()?))) {
                let why = format!(
                    "its API server is that of cluster {keeper} (both have the same kube-system namespace): delete one of the two remote secrets"
                );
                if out.send(Report::Signal(Signal::Excluded(Exclusion::Duplicate(why)))).await.is_err() {
                    return;
                }
                held.until(None).await;
                if out.send(Report::Signal(Signal::Admitted)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                _ = join_all(self.watches(out)) => return,
                () = restart.notified() => {}
                () = self.events.until_relist(&self.cluster.name) => {}
                () = lost() => {}
                why = self.api_server.reads.until_exceeded() => {
                    let excluded = Signal::Excluded(Exclusion::OverBudget(why));
                    if out.send(Report::Signal(excluded)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pauses.next(Instant::now())).await;
                    self.api_server.reads.reset();
                    self.events.admit(&self.cluster.name);
                    if out.send(Report::Signal(Signal::Admitted)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Returns the identity of the API server; `None` if the server has none or does not permit reading it.
    async fn identify(&self) -> Option<ApiServer> {
        let namespaces = Api::<Namespace>::all(self.api_server.client.clone());
        let mut pause = Pause::default();
        loop {
            let error = match namespaces.get_metadata_opt("kube-system").await {
                Ok(namespace) => {
                    let uid = namespace?.metadata.uid.filter(|uid| uid.len() <= MAX_UID)?;
                    return Some(ApiServer { uid, authorities: self.api_server.authorities.clone() });
                }
                Err(error) => error,
            };
            match trouble::of(&error) {
                // The watches report what is wrong.
                Trouble::Refused(_) | Trouble::Missing => return None,
                // The heartbeat reports that the server is unreachable.
                Trouble::Restarts | Trouble::Failed(_) => {
                    tokio::time::sleep(pause.next().unwrap_or_default()).await;
                }
            }
        }
    }

    fn watches(&self, out: &mpsc::Sender<Report>) -> Vec<BoxFuture<'static, ()>> {
        macro_rules! watches {
            ($($collection:ident: $Record:ident, $change:ident;)+) => {
                [$((<objects::$Record as Record>::WATCHED, self.watch::<objects::$Record>(out)),)+]
            };
        }
        let role = self.cluster.role();
        let watches = for_each_kind!(watches).into_iter().filter(|(watched, _)| watched.includes(role));
        watches.map(|(_, watch)| watch).collect()
    }

    fn watch<T: Record>(&self, out: &mpsc::Sender<Report>) -> BoxFuture<'static, ()> {
        let Access { client, reads, .. } = self.api_server.clone();
        Box::pin(watch::<T>(client, self.cluster.name.clone(), reads, out.clone()))
    }

    async fn send_heartbeats(&self, out: &mpsc::Sender<Report>) {
        // Twice the interval, but at least a second.
        let timeout = (self.heartbeat * 2).max(Duration::from_secs(1));
        loop {
            let signal = match tokio::time::timeout(timeout, self.api_server.client.apiserver_version()).await {
                Ok(Ok(_)) => Signal::Answered,
                Ok(Err(error)) => match trouble::of(&error) {
                    Trouble::Refused(why) => Signal::Refused(why),
                    // The server answers. The watches find out what is wrong.
                    Trouble::Missing | Trouble::Restarts => Signal::Answered,
                    Trouble::Failed(why) => Signal::Unreachable(why),
                },
                Err(_) => Signal::Unreachable(format!("no answer within {} s", timeout.as_secs_f32())),
            };
            if out.send(Report::Signal(signal)).await.is_err() {
                return;
            }
            tokio::time::sleep(self.heartbeat.mul_f64(rand::random_range(0.9..1.1))).await;
        }
    }

    async fn process(&self, mut reports: mpsc::Receiver<Report>, restart: &Notify, replaces: bool) {
        let mut machine = Machine::new(self.cluster.role(), SystemTime::now());
        let mut namespaces = Namespaces::default();
        let mut kept = replaces.then(Vec::new);
        let mut kept_bytes = 0;
        if kept.is_none() {
            self.publish(&machine, true).await;
        }
        while let Some(report) = reports.recv().await {
            let now = SystemTime::now();
            match report {
                Report::Signal(Signal::Excluded(Exclusion::Duplicate(why))) if kept.is_none() => {
                    // Its objects are those of another cluster. An excluded cluster has none.
                    namespaces = Namespaces::default();
                    self.shared.set_namespaces(&self.cluster.name, BTreeSet::new());
                    let _ = self.events.remove(self.cluster.name.clone()).await;
                    let _ = self.events.send(Source::Controller, Event::ClusterAdded(self.cluster.clone())).await;
                    machine.on(Signal::Excluded(Exclusion::Duplicate(why)), now);
                    self.publish(&machine, true).await;
                }
                Report::Event(event) => {
                    let event = *event;
                    if namespaces.apply(&event) && kept.is_none() {
                        self.shared.set_namespaces(&self.cluster.name, namespaces.now.clone());
                    }
                    match &mut kept {
                        Some(kept) => {
                            if let Event::Upsert { object, .. } = &event {
                                kept_bytes += object.size();
                            }
                            if kept_bytes > KEPT {
                                (*kept, kept_bytes) = (Vec::new(), 0);
                                let why = format!("its objects take more than {} MiB", KEPT >> 20);
                                self.api_server.reads.exceed(why.into());
                            } else {
                                kept.push(event);
                            }
                        }
                        None => self.send(event).await,
                    }
                }
                Report::Signal(signal) => {
                    let (before, since) = (machine.state().clone(), machine.since());
                    let changed = machine.on(signal, now);
                    let back =
                        matches!(before, LinkState::Unreachable { .. }) && before.word() != machine.state().word();
                    if back && now.duration_since(since).is_ok_and(|outage| outage > SILENT_OUTAGE) {
                        restart.notify_one();
                    }
                    if kept.is_some() && machine.is_synced() {
                        let kept = kept.take().unwrap_or_default();
                        self.replace_active().await;
                        self.shared.set_namespaces(&self.cluster.name, namespaces.now.clone());
                        // The controller stops if the receiver is gone, and this task with it.
                        let _ = self.events.send(Source::Controller, Event::ClusterAdded(self.cluster.clone())).await;
                        for event in kept {
                            self.send(event).await;
                        }
                        self.publish(&machine, true).await;
                    } else if kept.is_some() {
                        self.shared.set_replacement(&self.cluster.name, Some(machine.state().clone()));
                    } else {
                        self.publish(&machine, changed).await;
                    }
                }
            }
        }
    }

    /// Ends the active link, and becomes the active one.
    async fn replace_active(&self) {
        let old = {
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            let own = slot.pending.take();
            std::mem::replace(&mut slot.active, own)
        };
        if let Some(old) = old {
            old.abort();
            // After this, the old link sends no event.
            let _ = old.await;
        }
        self.shared.set_client(&self.cluster, self.api_server.client.clone());
        let (cluster, server) = (&self.cluster.name, &self.cluster.server);
        tracing::info!(%cluster, %server, "the link with the new credentials is active");
    }

    async fn publish(&self, machine: &Machine, changed: bool) {
        let contact = Contact { state: machine.state().clone(), since: machine.since(), last: machine.last_contact() };
        self.shared.set_contact(&self.cluster.name, contact);
        if !changed {
            return;
        }
        let state = machine.state();
        let why = state.why().unwrap_or_default();
        tracing::info!(cluster = %self.cluster.name, state = state.word(), why, "link state changed");
        let (cluster, link, since) = (self.cluster.name.clone(), state.link(), machine.since());
        self.send(Event::Link { cluster, link, since }).await;
    }

    async fn send(&self, event: Event) {
        match self.events.send(Source::Objects(self.cluster.name.clone()), event).await {
            Err(SendError::Refused(why)) => self.api_server.reads.exceed(why),
            // The controller stops if the receiver is gone, and this task with it.
            Ok(()) | Err(SendError::Closed) => {}
        }
    }
}

/// The namespaces of the cluster.
#[derive(Default)]
struct Namespaces {
    now: BTreeSet<Text>,
    listing: Option<BTreeSet<Text>>,
}

impl Namespaces {
    /// Applies an event. Returns whether the set changed.
    fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Listing { kind: Kind::Namespace, .. } => {
                self.listing = Some(BTreeSet::new());
                false
            }
            Event::Listed { kind: Kind::Namespace, .. } => match self.listing.take() {
                Some(listed) if listed != self.now => {
                    self.now = listed;
                    true
                }
                _ => false,
            },
            Event::Upsert { object: Object::Namespace(namespace), .. } => match &mut self.listing {
                Some(listing) => {
                    listing.insert(namespace.name.clone());
                    false
                }
                None => self.now.insert(namespace.name.clone()),
            },
            Event::Delete { kind: Kind::Namespace, name, .. } => self.now.remove(name),
            _ => false,
        }
    }
}
