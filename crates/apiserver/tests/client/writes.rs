//! Writes: conflicts, patches and managed fields.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, config_map, rejection};

#[tokio::test]
async fn a_stale_update_is_a_conflict() {
    let cluster = Cluster::start().await;
    let api = cluster.config_maps();
    let first = api.create(&PostParams::default(), &config_map("a", "1")).await.expect("creates");
    let mut second = first.clone();
    second.data = config_map("a", "2").data;
    api.replace("a", &PostParams::default(), &second).await.expect("replaces");
    let (code, reason, message) = rejection(api.replace("a", &PostParams::default(), &second).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let (code, reason, message) = rejection(api.create(&PostParams::default(), &first_again()).await);
    assert_eq!((code, reason.as_str(), message.as_str()), (409, "AlreadyExists", "configmaps \"a\" already exists"));
}

fn first_again() -> ConfigMap {
    config_map("a", "1")
}

#[tokio::test]
async fn concurrent_patches_are_all_applied() {
    let cluster = Cluster::start().await;
    let api = cluster.config_maps();
    api.create(&PostParams::default(), &config_map("a", "0")).await.expect("creates");
    let patches = (0..20).map(|n| {
        let api = api.clone();
        async move {
            let patch = Patch::Merge(json!({"data": {format!("k{n}"): "1"}}));
            api.patch("a", &PatchParams::default(), &patch).await
        }
    });
    for result in futures_util::future::join_all(patches).await {
        result.expect("patches");
    }
    assert_eq!(api.get("a").await.expect("there").data.expect("has data").len(), 21);
}

#[tokio::test]
async fn an_update_without_changes_keeps_the_revision() {
    let cluster = Cluster::start().await;
    let api = cluster.config_maps();
    let first = api.create(&PostParams::default(), &config_map("a", "1")).await.expect("creates");
    let patch = Patch::Merge(json!({"data": {"key": "1"}}));
    let second = api.patch("a", &PatchParams::default(), &patch).await.expect("patches");
    assert_eq!(first.metadata.resource_version, second.metadata.resource_version);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry, &config_map("b", "1")).await.expect("would create");
    assert!(api.get_opt("b").await.expect("answers").is_none());
}

fn deployment(replicas: Option<i32>, image: &str) -> Value {
    let mut deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": image}]}},
        },
    });
    if let Some(replicas) = replicas {
        deployment["spec"]["replicas"] = json!(replicas);
    }
    deployment
}

#[tokio::test]
async fn managers_share_an_object_by_server_side_apply() {
    let cluster = Cluster::start().await;
    let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), "default");
    let by = |who: &str| PatchParams::apply(who);
    let first = api.patch("web", &by("me"), &Patch::Apply(deployment(Some(2), "a"))).await.expect("applies");
    assert_eq!(first.metadata.generation, Some(1));
    // Another manager adds a container, which is merged by name.
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}});
    let second = api.patch("web", &by("you"), &Patch::Apply(other)).await.expect("applies");
    assert_eq!(second.spec.expect("has one").template.spec.expect("has one").containers.len(), 2);
    // Another manager changes the replicas, which is a conflict for the first manager.
    api.patch_scale("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 5}})))
        .await
        .expect("scales");
    let (code, reason, message) = rejection(api.patch("web", &by("me"), &Patch::Apply(deployment(Some(2), "a"))).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.contains(".spec.replicas"), "{message}");
    // Without replicas in its configuration there is no conflict, and they are kept.
    let third = api.patch("web", &by("me"), &Patch::Apply(deployment(None, "b"))).await.expect("applies");
    let spec = third.spec.expect("has one");
    assert_eq!(spec.replicas, Some(5));
    assert_eq!(spec.template.spec.expect("has one").containers.len(), 2);
    let forced = api.patch("web", &by("me").force(), &Patch::Apply(deployment(Some(1), "b"))).await.expect("applies");
    assert_eq!(forced.spec.expect("has one").replicas, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_that_apply_a_new_object_at_the_same_time_share_it() {
    let cluster = Cluster::start().await;
    let mut applied = tokio::task::JoinSet::new();
    for (name, manager) in (0..32).flat_map(|name| (0..8).map(move |manager| (name, manager))) {
        let api = cluster.config_maps();
        applied.spawn(async move {
            let (name, manager) = (format!("shared-{name}"), format!("manager-{manager}"));
            let data = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {(&*manager): "here"}});
            api.patch(&name, &PatchParams::apply(&manager), &Patch::Apply(data)).await.expect("applies");
        });
    }
    while let Some(applied) = applied.join_next().await {
        applied.expect("does not panic");
    }
    for name in 0..32 {
        let map = cluster.config_maps().get(&format!("shared-{name}")).await.expect("exists");
        assert_eq!(map.data.map(|data| data.len()), Some(8), "shared-{name}");
    }
}

#[tokio::test]
async fn invalid_requests_have_a_status() {
    let cluster = Cluster::start().await;
    let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), "default");
    let mut wrong = deployment(Some(-1), "a");
    wrong["spec"]["selector"] = json!({"matchLabels": {"app": "other"}});
    let (code, reason, message) = rejection(api.patch("web", &PatchParams::apply("me"), &Patch::Apply(wrong)).await);
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.starts_with("Deployment.apps \"web\" is invalid: ["), "{message}");
    let elsewhere: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "nowhere");
    let (code, _, message) = rejection(elsewhere.create(&PostParams::default(), &config_map("a", "1")).await);
    assert_eq!((code, message.as_str()), (404, "namespaces \"nowhere\" not found"));
    let large = config_map("a", &"x".repeat(4 << 20));
    assert_eq!(rejection(cluster.config_maps().create(&PostParams::default(), &large).await).0, 413);
    let request =
        http::Request::post("/api/v1/namespaces/default/configmaps").header("content-type", "application/json");
    let broken = request.body(b"{\"kind\":".to_vec()).expect("legal");
    assert_eq!(rejection(cluster.client.request::<Value>(broken).await).0, 400);
}

#[tokio::test]
async fn services_are_assigned_addresses() {
    let cluster = Cluster::start().await;
    let api: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
    let service = |name: &str, spec: Value| -> Service {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("is a Service")
    };
    let create = async |name: &str, spec: Value| api.create(&PostParams::default(), &service(name, spec)).await;
    let ports = json!([{"port": 80}]);
    let mut addresses = Vec::new();
    for name in ["a", "b", "c"] {
        let created = create(name, json!({"ports": ports})).await.expect("creates");
        addresses.extend(created.spec.expect("has one").cluster_ip);
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3);
    create("dns", json!({"clusterIP": "10.96.0.10", "ports": ports})).await.expect("free");
    assert_eq!(rejection(create("other", json!({"clusterIP": "10.96.0.10", "ports": ports})).await).0, 422);
    let headless = create("headless", json!({"clusterIP": "None", "ports": ports})).await.expect("creates");
    assert_eq!(headless.spec.expect("has one").cluster_ip.as_deref(), Some("None"));
    let balanced = create("lb", json!({"type": "LoadBalancer", "ports": ports})).await.expect("creates");
    assert!(balanced.spec.expect("has one").ports.expect("has some")[0].node_port.is_some());
}
