//! One link to one cluster's API server: all its watches, its heartbeat, and what becomes of both.
//!
//! A link that replaces another (the cluster's credentials changed) keeps what it learns to itself until it has every
//! list; then it ends the old one, hands over what it kept, and goes on live. The lists say by themselves what vanished in
//! between, so nothing is wiped, and credentials that do not work never end a link that does.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use kube::Client;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::link_state::{LinkState, Machine, Signal};
use super::trouble::{self, Trouble};
use super::watch::{Noticed, follow};
use super::{Contact, Shared};
use crate::objects::event::{Cluster, Event, Kind, Object, Text};
use crate::objects::records::{NamespaceObject, NodeObject, PodObject, ServiceObject, SliceObject};

/// What watches may run ahead of the index by.
const BACKLOG: usize = 256;
/// An outage longer than this may have cut connections without a word; the watches then start over. Below it they notice
/// by themselves.
const SILENT_CUT: Duration = Duration::from_secs(10);

/// The links of one cluster: the one in force, and the one that is to replace it.
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

/// Everything a link needs.
pub(super) struct Link {
    pub(super) cluster: Cluster,
    pub(super) client: Client,
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) slot: Arc<Mutex<Slot>>,
    pub(super) heartbeat: Duration,
}

impl Link {
    /// Begins a cluster's first link, or one that replaces the link in force once it knows everything.
    pub(super) fn start(self, replaces: bool) {
        let slot = Arc::clone(&self.slot);
        // Held while the task is stored: it looks for itself there when it takes over.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let task = tokio::spawn(self.run(replaces));
        let place = if replaces { &mut slot.pending } else { &mut slot.active };
        if let Some(before) = place.replace(task) {
            before.abort();
        }
    }

    async fn run(self, replaces: bool) {
        let (out, noticed) = mpsc::channel(BACKLOG);
        let restart = Notify::new();
        tokio::select! {
            () = self.watch_all(&out, &restart) => {}
            () = self.beat(&out) => {}
            () = self.pump(noticed, &restart, replaces) => {}
        }
    }

    async fn watch_all(&self, out: &mpsc::Sender<Noticed>, restart: &Notify) {
        loop {
            let (client, name) = (|| self.client.clone(), || self.cluster.name.clone());
            let all = async {
                tokio::join!(
                    follow::<NamespaceObject>(client(), name(), out.clone()),
                    follow::<NodeObject>(client(), name(), out.clone()),
                    follow::<ServiceObject>(client(), name(), out.clone()),
                    follow::<SliceObject>(client(), name(), out.clone()),
                    follow::<PodObject>(client(), name(), out.clone()),
                    follow::<api::export::ServiceExport>(client(), name(), out.clone()),
                    follow::<api::gateway::Gateway>(client(), name(), out.clone()),
                )
            };
            tokio::select! {
                _ = all => return,
                () = restart.notified() => {}
            }
        }
    }

    async fn beat(&self, out: &mpsc::Sender<Noticed>) {
        // An answer is worth waiting for twice as long as there is between two questions, but at least a second.
        let patience = (self.heartbeat * 2).max(Duration::from_secs(1));
        loop {
            let signal = match tokio::time::timeout(patience, self.client.apiserver_version()).await {
                Ok(Ok(_)) => Signal::Answered,
                Ok(Err(error)) => match trouble::of(&error) {
                    Trouble::Refused(why) => Signal::Refused(why),
                    // It answers; what it answers is the watches' business.
                    Trouble::Missing | Trouble::Restarts => Signal::Answered,
                    Trouble::Failed(why) => Signal::Unreachable(why),
                },
                Err(_) => Signal::Unreachable(format!("no answer within {} s", patience.as_secs_f32())),
            };
            if out.send(Noticed::Signal(signal)).await.is_err() {
                return;
            }
            tokio::time::sleep(self.heartbeat.mul_f64(rand::random_range(0.9..1.1))).await;
        }
    }

    async fn pump(&self, mut noticed: mpsc::Receiver<Noticed>, restart: &Notify, replaces: bool) {
        let mut machine = Machine::new(SystemTime::now());
        let mut namespaces = Namespaces::default();
        let mut kept = replaces.then(Vec::new);
        if kept.is_none() {
            self.publish(&machine, true).await;
        }
        while let Some(noticed) = noticed.recv().await {
            let now = SystemTime::now();
            match noticed {
                Noticed::Event(event) => {
                    if namespaces.follow(&event) && kept.is_none() {
                        self.shared.set_namespaces(&self.cluster.name, namespaces.now.clone());
                    }
                    match &mut kept {
                        Some(kept) => kept.push(event),
                        None => self.tell(event).await,
                    }
                }
                Noticed::Signal(signal) => {
                    let (before, since) = (machine.state().clone(), machine.since());
                    let changed = machine.on(signal, now);
                    let back =
                        matches!(before, LinkState::Unreachable { .. }) && before.word() != machine.state().word();
                    if back && now.duration_since(since).is_ok_and(|outage| outage > SILENT_CUT) {
                        restart.notify_one();
                    }
                    if kept.is_some() && machine.is_synced() {
                        let kept = kept.take().unwrap_or_default();
                        self.take_over().await;
                        self.shared.set_namespaces(&self.cluster.name, namespaces.now.clone());
                        self.tell(Event::ClusterAdded(self.cluster.clone())).await;
                        for event in kept {
                            self.tell(event).await;
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

    /// Ends the link in force, and is the one in force from here on.
    async fn take_over(&self) {
        let old = {
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            let own = slot.pending.take();
            std::mem::replace(&mut slot.active, own)
        };
        if let Some(old) = old {
            old.abort();
            // Awaited, so that no event of its comes after ours.
            let _ = old.await;
        }
        self.shared.set_client(&self.cluster, self.client.clone());
        tracing::info!(cluster = %self.cluster.name, server = %self.cluster.server, "the link with the new credentials took over");
    }

    async fn publish(&self, machine: &Machine, changed: bool) {
        let contact = Contact { state: machine.state().clone(), since: machine.since(), last: machine.last_contact() };
        self.shared.set_contact(&self.cluster.name, contact);
        if !changed {
            return;
        }
        tracing::info!(cluster = %self.cluster.name, state = machine.state().word(), "link {:?}", machine.state());
        let (cluster, link, since) = (self.cluster.name.clone(), machine.state().link(), machine.since());
        self.tell(Event::Link { cluster, link, since }).await;
    }

    async fn tell(&self, event: Event) {
        // Nobody listens only when the controller ends, and this task with it.
        let _ = self.events.send(event).await;
    }
}

/// The cluster's namespaces as its watch tells them.
#[derive(Default)]
struct Namespaces {
    now: BTreeSet<Text>,
    listing: Option<BTreeSet<Text>>,
}

impl Namespaces {
    /// True where the set changed.
    fn follow(&mut self, event: &Event) -> bool {
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
