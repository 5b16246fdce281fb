//! The watch on remote secrets in the own cluster's root namespace.

use std::collections::BTreeMap;

use api::names::{NETWORK_LABEL, REMOTE_SECRET_LABEL, REMOTE_SECRET_VALUE};
use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt as _};

use super::Supervisor;
use super::queue::Source;
use super::registry::{Action, Problem, Registry, RemoteSecret};
use super::watch::Pause;
use crate::objects::Text;
use crate::objects::event::Event;
use crate::objects::raw::SecretObject;

/// Watches the remote secrets and passes the resulting actions to the supervisor. Never returns.
pub(super) async fn follow(client: Client, root_namespace: String, own: Text, supervisor: Supervisor) {
    let config = watcher::Config::default().labels(&format!("{REMOTE_SECRET_LABEL}={REMOTE_SECRET_VALUE}"));
    let api = Api::<SecretObject>::namespaced(client, &root_namespace);
    let mut stream = watcher(api, config).backoff(Pause::default()).boxed();
    let mut registry = Registry::new(own);
    let mut listing: Option<BTreeMap<Text, RemoteSecret>> = None;
    // The problems of valid entries from which no client can be created, by cluster.
    let mut failed = BTreeMap::new();
    while let Some(item) = stream.next().await {
        let listed = matches!(item, Ok(watcher::Event::InitDone));
        let actions = match item {
            Ok(watcher::Event::Init) => {
                listing = Some(BTreeMap::new());
                continue;
            }
            Ok(watcher::Event::InitApply(secret)) => {
                let (name, seen) = seen(&root_namespace, secret);
                if let Some(listing) = &mut listing {
                    listing.insert(name, seen);
                }
                continue;
            }
            Ok(watcher::Event::InitDone) => registry.replace_all(listing.take().unwrap_or_default()),
            Ok(watcher::Event::Apply(secret)) => {
                let (name, seen) = seen(&root_namespace, secret);
                registry.upsert(name, seen)
            }
            Ok(watcher::Event::Delete(secret)) => registry.delete(&seen(&root_namespace, secret).0),
            Err(error) => {
                tracing::warn!(%error, namespace = root_namespace, "cannot watch remote secrets; trying again");
                continue;
            }
        };
        apply(&supervisor, &registry, actions, &mut failed).await;
        if listed {
            // The controller stops if the receiver is gone.
            let _ = supervisor.events.send(Source::Controller, Event::ClustersListed { named: registry.named() }).await;
        }
    }
}

/// Has the supervisor perform the actions, and publishes the problems of all secrets.
async fn apply(
    supervisor: &Supervisor,
    registry: &Registry,
    actions: Vec<Action>,
    failed: &mut BTreeMap<Text, Problem>,
) {
    for action in actions {
        let cluster = action.cluster().clone();
        match supervisor.act(action).await {
            Some(problem) => failed.insert(cluster, problem),
            None => failed.remove(&cluster),
        };
    }
    let problems: Vec<_> = registry.problems().iter().chain(failed.values()).cloned().collect();
    for problem in &problems {
        tracing::warn!(secret = problem.secret, cluster = problem.cluster, "remote secret: {}", problem.why);
    }
    supervisor.shared.set_problems(problems);
}

/// Returns the name and the content of a secret.
fn seen(namespace: &str, secret: SecretObject) -> (Text, RemoteSecret) {
    let name = format!("{namespace}/{}", secret.name_any()).into();
    let created = secret.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    let entries = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
    let annotations = secret.metadata.annotations.unwrap_or_default();
    let network = annotations.get(NETWORK_LABEL).map_or("", String::as_str).into();
    (name, RemoteSecret { created, network, entries })
}
