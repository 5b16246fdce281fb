//! What the server does by itself after each change: collects garbage, empties namespaces and definitions that are being deleted, fills
//! token Secrets, puts the cluster's CA into every namespace.
//!
//! Each duty is a function from everything that is kept to a list of actions; it is run again after every change until there is nothing
//! left to do. So no order of events can be missed, and each can be tested alone.

mod emptying;
mod garbage;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::admission::namespace;
use crate::api::Api;
use crate::object;
use crate::storage::{Everything, GroupResource};
use crate::strategy::prepare;
use crate::timestamp;
use crate::verbs::delete;

/// How long changes are gathered before they are looked at.
const GATHER: Duration = Duration::from_millis(20);

/// How long Events are kept, in seconds.
const EVENTS_LIVE: i64 = 3600;

/// Runs until told to stop.
pub(crate) async fn run(api: Arc<Api>, stop: CancellationToken) {
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    let mut changes = api.store.consequential_changes();
    loop {
        changes.mark_unchanged();
        step(&api);
        let changed = async {
            let changed = changes.changed().await;
            tokio::time::sleep(GATHER).await;
            changed
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changed => if changed.is_err() { return },
            _ = minutes.tick() => expire_events(&api),
        }
    }
}

/// One round of all duties.
fn step(api: &Api) {
    let (_, everything) = api.store.everything();
    garbage::collect(api, &everything);
    emptying::namespaces(api, &everything);
    emptying::definitions(api, &everything);
    tokens::fill(api, &everything);
    publish_ca(api, &everything);
}

/// Forgets old Events, as Kubernetes does.
fn expire_events(api: &Api) {
    let events = GroupResource::new("", "events");
    // Times of one form compare as text.
    let oldest = timestamp::from_now(-EVENTS_LIVE);
    for event in api.store.list(&events, None).1 {
        if object::text(&event, "/metadata/creationTimestamp") < oldest.as_str() {
            delete::on_own_behalf(api, &events, &event, delete::Propagation::Background);
        }
    }
}

/// Puts the cluster's CA into every namespace, as ConfigMap `kube-root-ca.crt`.
fn publish_ca(api: &Api, everything: &Everything) {
    let config_maps = GroupResource::new("", "configmaps");
    let name = crate::admission::ROOT_CA;
    for (resource, object) in everything {
        if &*resource.resource != "namespaces" || !resource.group.is_empty() || object::is_deleting(object) {
            continue;
        }
        let namespace = object::name(object);
        let data = json!({ "ca.crt": api.ca });
        match api.store.get(&config_maps, namespace, name) {
            None => {
                let Some(served) = api.served(&config_maps) else { return };
                let mut config_map = json!({
                    "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": name, "namespace": namespace }, "data": data,
                });
                prepare::identify(&mut config_map);
                if namespace::check_create(api, &served, &config_map).is_ok() {
                    drop(api.insert(&served, config_map));
                }
            }
            Some(there) if there.get("data") != Some(&data) && !object::is_deleting(&there) => {
                api.modify(&config_maps, namespace, name, |config_map| {
                    let mut changed = config_map.clone();
                    changed["data"] = data.clone();
                    Some(changed)
                });
            }
            Some(_) => {}
        }
    }
}
