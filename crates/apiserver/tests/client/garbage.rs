//! Deletion: owners, finalizers, namespaces, pods.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use serde_json::json;

use crate::cluster::{Cluster, config_map, eventually};

async fn family(api: &Api<ConfigMap>) {
    let owner = api.create(&PostParams::default(), &config_map("owner", "1")).await.expect("creates");
    let mut owned = config_map("owned", "1");
    owned.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        name: "owner".into(),
        uid: owner.metadata.uid.expect("has one"),
        block_owner_deletion: Some(true),
        controller: None,
    }]);
    api.create(&PostParams::default(), &owned).await.expect("creates");
}

fn policy(propagation_policy: PropagationPolicy) -> DeleteParams {
    DeleteParams { propagation_policy: Some(propagation_policy), ..DeleteParams::default() }
}

#[tokio::test]
async fn dependents_are_deleted_with_their_owner() {
    for propagation in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        let cluster = Cluster::start().await;
        let api = cluster.config_maps();
        family(&api).await;
        api.delete("owner", &policy(propagation)).await.expect("deletes");
        for name in ["owner", "owned"] {
            eventually("both are gone", async || api.get_opt(name).await.expect("answers").is_none()).await;
        }
    }
}

#[tokio::test]
async fn orphans_are_kept() {
    let cluster = Cluster::start().await;
    let api = cluster.config_maps();
    family(&api).await;
    api.delete("owner", &policy(PropagationPolicy::Orphan)).await.expect("deletes");
    eventually("the owner is gone", async || api.get_opt("owner").await.expect("answers").is_none()).await;
    assert_eq!(api.get("owned").await.expect("stays").metadata.owner_references, None);
}

#[tokio::test]
async fn an_object_with_finalizers_is_kept() {
    let cluster = Cluster::start().await;
    let api = cluster.config_maps();
    let mut map = config_map("a", "1");
    map.metadata.finalizers = Some(vec!["x.io/wait".into()]);
    api.create(&PostParams::default(), &map).await.expect("creates");
    api.delete("a", &DeleteParams::default()).await.expect("begins");
    assert!(api.get("a").await.expect("still there").metadata.deletion_timestamp.is_some());
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("a", &PatchParams::default(), &free).await.expect("patches");
    assert!(api.get_opt("a").await.expect("answers").is_none());
}

#[tokio::test]
async fn a_namespace_is_deleted_with_its_objects() {
    let cluster = Cluster::start().await;
    cluster.namespace("x").await;
    let inside: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "x");
    eventually("the CA is published", async || inside.get_opt("kube-root-ca.crt").await.expect("answers").is_some())
        .await;
    inside.create(&PostParams::default(), &config_map("a", "1")).await.expect("creates");
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("x", &DeleteParams::default()).await.expect("begins");
    eventually("the namespace is gone", async || namespaces.get_opt("x").await.expect("answers").is_none()).await;
    cluster.namespace("x").await;
    assert!(inside.get_opt("a").await.expect("answers").is_none());
}

#[tokio::test]
async fn a_pod_on_a_node_waits_for_the_node() {
    let cluster = Cluster::start().await;
    cluster.account("default").await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let pod = |name: &str, node: Option<&str>| -> Pod {
        let spec =
            json!({"nodeName": node, "terminationGracePeriodSeconds": 7, "containers": [{"name": "a", "image": "x"}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("is a Pod")
    };
    pods.create(&PostParams::default(), &pod("free", None)).await.expect("creates");
    pods.create(&PostParams::default(), &pod("bound", Some("n"))).await.expect("creates");
    for name in ["free", "bound"] {
        pods.delete(name, &DeleteParams::default()).await.expect("deletes");
    }
    assert!(pods.get_opt("free").await.expect("answers").is_none());
    let bound = pods.get("bound").await.expect("waits");
    assert_eq!(bound.metadata.deletion_grace_period_seconds, Some(7));
    // As the node agent does after stopping the pod.
    pods.delete("bound", &DeleteParams::default().grace_period(0)).await.expect("deletes");
    assert!(pods.get_opt("bound").await.expect("answers").is_none());
}
