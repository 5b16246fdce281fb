//! The server's own controllers: the garbage collector, the finalization of namespaces and definitions, the tokens of
//! token Secrets, and the cluster's CA in every namespace.
//!
//! Each controller computes its actions from all objects. The controllers run after every change until nothing is left
//! to do, so that they depend on no order of events and can be tested alone.

mod finalize;
mod garbage_collector;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::admission::namespace;
use crate::api::Api;
use crate::object;
use crate::storage::{AllObjects, GroupResource};
use crate::strategy::prepare;
use crate::timestamp;
use crate::verbs::delete;

/// Batching window: how long changes are collected before the controllers run.
const BATCHING_WINDOW: Duration = Duration::from_millis(20);

/// How long Events are kept, in seconds.
const EVENT_TTL_SECONDS: i64 = 3600;

/// Runs the controllers until `stop` is cancelled.
pub(crate) async fn run(api: Arc<Api>, stop: CancellationToken) {
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    let mut changes = api.store.consequential_changes();
    loop {
        changes.mark_unchanged();
        step(&api);
        let changed = async {
            let changed = changes.changed().await;
            tokio::time::sleep(BATCHING_WINDOW).await;
            changed
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changed => if changed.is_err() { return },
            _ = minutes.tick() => expire_events(&api),
        }
    }
}

/// Runs each controller once.
fn step(api: &Api) {
    let (_, objects) = api.store.all_objects();
    garbage_collector::collect(api, &objects);
    finalize::namespaces(api, &objects);
    finalize::definitions(api, &objects);
    tokens::run(api, &objects);
    publish_ca(api, &objects);
}

/// Deletes old Events, as Kubernetes does.
fn expire_events(api: &Api) {
    let events = GroupResource::new("", "events");
    // Timestamps of one format are ordered as text.
    let oldest = timestamp::from_now(-EVENT_TTL_SECONDS);
    for event in api.store.list(&events, None).1 {
        if object::text(&event, "/metadata/creationTimestamp") < oldest.as_str() {
            delete::by_server(api, &events, &event, delete::PropagationPolicy::Background);
        }
    }
}

/// Publishes the cluster's CA in every namespace, as ConfigMap `kube-root-ca.crt`.
fn publish_ca(api: &Api, objects: &AllObjects) {
    let config_maps = GroupResource::new("", "configmaps");
    let name = crate::admission::ROOT_CA;
    for (resource, object) in objects {
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
