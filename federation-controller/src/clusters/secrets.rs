//! The watch on remote secrets in the own cluster's root namespace.
//!
//! A cluster whose last secret is deleted leaves after a grace ([`Leaving`]). Until then nothing changes, so a secret that
//! is deleted and created again, as by tools that replace objects, costs nothing. The clusters of the snapshot that no
//! secret names any more have the same grace from the start of the controller.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::names::{NETWORK_LABEL, REMOTE_SECRET_LABEL, REMOTE_SECRET_VALUE};
use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::Instant;

use super::Supervisor;
use super::queue::Source;
use super::registry::{Action, Problem, Registry, RemoteSecret};
use super::watch::Pause;
use crate::objects::Text;
use crate::objects::event::Event;
use crate::objects::raw::SecretObject;

/// Watches the remote secrets and passes the resulting actions to the supervisor. Never returns.
pub(super) async fn follow(client: Client, root_namespace: String, own: Text, grace: Duration, supervisor: Supervisor) {
    let config = watcher::Config::default().labels(&format!("{REMOTE_SECRET_LABEL}={REMOTE_SECRET_VALUE}"));
    let api = Api::<SecretObject>::namespaced(client, &root_namespace);
    let mut stream = watcher(api, config).backoff(Pause::default()).boxed();
    let mut registry = Registry::new(own);
    let mut listing: Option<BTreeMap<Text, RemoteSecret>> = None;
    // The problems of valid entries from which no client can be created, by cluster.
    let mut failed = BTreeMap::new();
    let mut leaving = Leaving { grace, clusters: BTreeMap::new() };
    // When the clusters of the snapshot that no secret names are removed.
    let mut forget: Option<Instant> = None;
    loop {
        let next = leaving.next().into_iter().chain(forget).min();
        let item = tokio::select! {
            item = stream.next() => item,
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let now = Instant::now();
                for cluster in leaving.take_due(now) {
                    supervisor.end(cluster).await;
                }
                if forget.take_if(|at| *at <= now).is_some() {
                    // The controller stops if the receiver is gone.
                    let listed = Event::ClustersListed { named: registry.named() };
                    let _ = supervisor.events.send(Source::Controller, listed).await;
                }
                publish_problems(&supervisor, &registry, &leaving, &failed);
                continue;
            }
        };
        let Some(item) = item else { return };
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
        for action in actions {
            let cluster = action.cluster().clone();
            match action {
                Action::Stop(cluster) => {
                    failed.remove(&cluster);
                    leaving.begin(cluster, Instant::now());
                }
                other => {
                    leaving.end(&cluster);
                    match supervisor.act(other).await {
                        Some(problem) => failed.insert(cluster, problem),
                        None => failed.remove(&cluster),
                    };
                }
            }
        }
        if listed && !supervisor.shared.listed.swap(true, Ordering::AcqRel) {
            forget = Some(Instant::now() + grace);
        }
        publish_problems(&supervisor, &registry, &leaving, &failed);
    }
}

/// The clusters whose last remote secret is deleted, and when each is removed.
struct Leaving {
    grace: Duration,
    clusters: BTreeMap<Text, Instant>,
}

impl Leaving {
    fn begin(&mut self, cluster: Text, now: Instant) {
        tracing::info!(%cluster, grace_s = self.grace.as_secs_f32(), "the cluster has no remote secret any longer");
        self.clusters.entry(cluster).or_insert(now + self.grace);
    }

    fn end(&mut self, cluster: &str) {
        if self.clusters.remove(cluster).is_some() {
            tracing::info!(cluster, "the cluster has a remote secret again, and stays");
        }
    }

    fn next(&self) -> Option<Instant> {
        self.clusters.values().min().copied()
    }

    fn take_due(&mut self, now: Instant) -> Vec<Text> {
        let due: Vec<Text> = self.clusters.iter().filter(|(_, at)| **at <= now).map(|(of, _)| of.clone()).collect();
        self.clusters.retain(|_, at| *at > now);
        due
    }

    fn problems(&self) -> impl Iterator<Item = Problem> {
        let why = format!(
            "its remote secret is deleted: it is removed {} s after that, unless a remote secret names it again",
            self.grace.as_secs_f32()
        );
        self.clusters.keys().map(move |cluster| Problem {
            secret: String::new(),
            cluster: cluster.to_string(),
            why: why.clone(),
            in_force: true,
        })
    }
}

/// Publishes the problems of all secrets.
fn publish_problems(supervisor: &Supervisor, registry: &Registry, leaving: &Leaving, failed: &BTreeMap<Text, Problem>) {
    let found = registry.problems().iter().chain(failed.values()).cloned();
    let problems: Vec<_> = found.chain(leaving.problems()).collect();
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
