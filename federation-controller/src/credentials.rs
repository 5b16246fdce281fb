//! Reading the Secrets of the servers of gateways, in the cluster and the namespace of the gateways.
//!
//! Secrets are watched in the namespaces of connected gateways whose Gateways name some, and in no other. The right is a
//! Role of the namespace; without it, the affected Gateways have a notice. Of what a namespace has, only the named Secrets
//! are kept. Private keys go to the gateways of the namespace, and neither to the snapshot nor to any log.

mod parse;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch as channel;
use tokio::task::JoinHandle;

use crate::clusters::Clusters;
use crate::clusters::queue::{Queues, Source};
use crate::clusters::trouble::{self, Trouble};
use crate::clusters::watch::Pause;
use crate::objects::event::Event;
use crate::objects::raw::SecretObject;
use crate::objects::{Key, SecretRead, Text};
use crate::pipeline::State;

/// How often the Secrets that Gateways name are looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// The number of objects in a page of a list. A Secret has up to 1 MiB.
const PAGE: u32 = 50;

/// What to do if a cluster does not permit reading Secrets.
const APPLY: &str =
    "apply a Role in it with get, list and watch of secrets, and bind it to the account that the controller has there";

/// A namespace of a cluster.
type SecretsNamespace = (Text, Text);

/// The names of Secrets.
type SecretNames = Arc<BTreeSet<Text>>;

/// Watches Secrets for as long as the controller runs.
pub(crate) async fn run(state: Arc<State>, events: Queues, clusters: Clusters) {
    let mut watches: BTreeMap<SecretsNamespace, SecretsWatch> = BTreeMap::new();
    let mut changes = clusters.changes();
    let mut generation = *changes.borrow_and_update();
    // The number of events with which the names were looked at last.
    let mut seen = 0;
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if !state.ready() {
            continue;
        }
        let now = *changes.borrow_and_update();
        if std::mem::replace(&mut generation, now) != now {
            // A cluster may have other credentials. What is known stays until the new watches have read.
            watches.clear();
        }
        let (at, wanted) = {
            let inventory = state.inventory();
            let at = inventory.events();
            if at == seen && !watches.is_empty() && watches.values().all(|watch| !watch.task.is_finished()) {
                continue;
            }
            (at, inventory.credential_names())
        };
        seen = at;
        watches.retain(|namespace, watch| wanted.contains_key(namespace) && !watch.task.is_finished());
        for (namespace, names) in wanted {
            let names: SecretNames = Arc::new(names);
            match watches.get(&namespace) {
                Some(watch) => {
                    watch.names.send_if_modified(|known| (*known != names).then(|| *known = names).is_some());
                }
                None => {
                    let Some(client) = clusters.client(&namespace.0) else { continue };
                    watches.insert(namespace.clone(), SecretsWatch::start(client, namespace, names, events.clone()));
                }
            }
        }
    }
}

/// The watch of the Secrets of a namespace.
struct SecretsWatch {
    names: channel::Sender<SecretNames>,
    task: JoinHandle<()>,
}

impl Drop for SecretsWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SecretsWatch {
    fn start(client: Client, namespace: SecretsNamespace, names: SecretNames, events: Queues) -> SecretsWatch {
        let (sender, receiver) = channel::channel(names);
        SecretsWatch { names: sender, task: tokio::spawn(follow(client, namespace, receiver, events)) }
    }
}

/// Follows the Secrets of a namespace. Ends when the watch does.
async fn follow(client: Client, of: SecretsNamespace, mut names: channel::Receiver<SecretNames>, events: Queues) {
    let (cluster, namespace) = of;
    let api = Api::<SecretObject>::namespaced(client, &namespace);
    let mut reader =
        Reader { events, cluster, namespace, wanted: SecretNames::default(), unseen: BTreeSet::new(), denied: false };
    loop {
        reader.wanted = names.borrow_and_update().clone();
        let config = watcher::Config::default().page_size(PAGE);
        let mut stream = watcher(api.clone(), config).backoff(Pause::default()).boxed();
        loop {
            let item = tokio::select! {
                item = stream.next() => item,
                changed = names.changed() => match changed {
                    // The list has the further ones.
                    Ok(()) => break,
                    Err(_) => return,
                },
            };
            match item {
                Some(Ok(event)) => reader.apply(event).await,
                Some(Err(error)) => reader.note(trouble::of_watch(&error)).await,
                None => return,
            }
        }
    }
}

/// What is read of a namespace.
struct Reader {
    events: Queues,
    cluster: Text,
    namespace: Text,
    wanted: SecretNames,
    /// The wanted ones that a list has not had yet.
    unseen: BTreeSet<Text>,
    /// Whether the cluster did not permit the last attempt.
    denied: bool,
}

impl Reader {
    async fn apply(&mut self, event: watcher::Event<SecretObject>) {
        match event {
            watcher::Event::Init => self.unseen.clone_from(&self.wanted),
            watcher::Event::InitApply(secret) | watcher::Event::Apply(secret) => {
                let name = Text::from(secret.name_any());
                if self.wanted.contains(&name) {
                    self.unseen.remove(&name);
                    self.send(name, parse::parse(&secret.data.unwrap_or_default())).await;
                }
            }
            watcher::Event::InitDone => {
                self.denied = false;
                for name in std::mem::take(&mut self.unseen) {
                    self.send(name, SecretRead::Missing).await;
                }
            }
            watcher::Event::Delete(secret) => {
                let name = Text::from(secret.name_any());
                if self.wanted.contains(&name) {
                    self.send(name, SecretRead::Missing).await;
                }
            }
        }
    }

    async fn note(&mut self, trouble: Trouble) {
        let (cluster, namespace) = (&self.cluster, &self.namespace);
        let why = match trouble {
            Trouble::Refused(why) => why,
            trouble => return tracing::debug!(%cluster, %namespace, %trouble, "the watch of Secrets was interrupted"),
        };
        if std::mem::replace(&mut self.denied, true) {
            return;
        }
        tracing::warn!(%cluster, %namespace, why, "not permitted to read the Secrets of gateways: {APPLY}");
        let text = format!("the cluster does not permit reading Secrets of namespace {namespace} ({why}); {APPLY}");
        for name in self.wanted.clone().iter() {
            self.send(name.clone(), SecretRead::Denied(text.clone())).await;
        }
    }

    async fn send(&self, name: Text, read: SecretRead) {
        let secret = Key { namespace: self.namespace.clone(), name };
        let event = Event::Credential { cluster: self.cluster.clone(), secret, read };
        // The controller stops if the receiver is gone, and this task with it.
        let _ = self.events.send(Source::Controller, event).await;
    }
}
