//! Watches: bookmarks, selectors, expiration, streamed lists.

use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use serde_json::json;

use crate::cluster::{Cluster, config_map};

fn described(event: &WatchEvent<ConfigMap>) -> String {
    let name = |map: &ConfigMap| map.metadata.name.clone().unwrap_or_default();
    match event {
        WatchEvent::Added(map) => format!("+{}", name(map)),
        WatchEvent::Modified(map) => format!("~{}", name(map)),
        WatchEvent::Deleted(map) => format!("-{}", name(map)),
        WatchEvent::Bookmark(_) => "bookmark".to_owned(),
        WatchEvent::Error(status) => format!("!{}", status.code),
    }
}

async fn next(stream: &mut (impl Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Unpin)) -> String {
    let event = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.expect("in time");
    described(&event.expect("not over").expect("no error"))
}

#[tokio::test]
async fn objects_that_start_or_cease_to_match_are_added_or_deleted() {
    let cluster = Cluster::start().await;
    let api = cluster.config_maps();
    let label = |value: &str| Patch::Merge(json!({"metadata": {"labels": {"tier": value}}}));
    api.create(&PostParams::default(), &config_map("a", "1")).await.expect("creates");
    let params = WatchParams::default().labels("tier=web");
    let revision = api.list(&Default::default()).await.expect("lists").metadata.resource_version.expect("has one");
    let mut watch = api.watch(&params, &revision).await.expect("begins").boxed();
    for value in ["web", "db", "web"] {
        api.patch("a", &PatchParams::default(), &label(value)).await.expect("patches");
    }
    api.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"key": "2"}}))).await.expect("patches");
    api.delete("a", &DeleteParams::default()).await.expect("deletes");
    let mut events = Vec::new();
    for _ in 0..5 {
        events.push(next(&mut watch).await);
    }
    assert_eq!(events, ["+a", "-a", "+a", "~a", "-a"]);
}

#[tokio::test]
async fn a_watch_from_an_old_revision_expires() {
    let cluster = Cluster::remembering(2).await;
    let api = cluster.config_maps();
    let revision = api.list(&Default::default()).await.expect("lists").metadata.resource_version.expect("has one");
    for name in ["a", "b", "c", "d"] {
        api.create(&PostParams::default(), &config_map(name, "1")).await.expect("creates");
    }
    // As in Kubernetes this is an event. A client of kube-rs that gets it as a response asks for the same revision forever.
    let watch = api.watch(&WatchParams::default(), &revision).await.expect("watches");
    assert_eq!(next(&mut watch.boxed()).await, "!410");
}

#[tokio::test]
async fn a_watch_ends_after_its_timeout_with_a_bookmark() {
    let cluster = Cluster::start().await;
    let api = cluster.config_maps();
    let revision = api.list(&Default::default()).await.expect("lists").metadata.resource_version.expect("has one");
    let watch = api.watch(&WatchParams::default().timeout(1), &revision).await.expect("begins");
    let events: Vec<_> =
        tokio::time::timeout(Duration::from_secs(5), watch.try_collect()).await.expect("ends").expect("well");
    assert_eq!(events.iter().map(described).collect::<Vec<_>>(), ["bookmark"]);
}

#[tokio::test]
async fn both_of_kube_rs_list_strategies_work() {
    let cluster = Cluster::start().await;
    let api = cluster.config_maps();
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &config_map(name, "1")).await.expect("creates");
    }
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = pin!(watcher(api.clone(), config));
        let mut seen = Vec::new();
        while let Some(event) =
            tokio::time::timeout(Duration::from_secs(5), events.try_next()).await.expect("in time").expect("no error")
        {
            match event {
                watcher::Event::InitApply(map) => seen.extend(map.metadata.name),
                watcher::Event::InitDone => break,
                _ => {}
            }
        }
        seen.sort();
        assert_eq!(seen, ["a", "b", "kube-root-ca.crt"]);
    }
}
