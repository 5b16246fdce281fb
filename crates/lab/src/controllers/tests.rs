//! All controllers together, with the real API server. The test makes pods ready.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;

mod workloads;

/// A cluster without a node agent.
struct Cluster {
    client: Client,
    _stop: tokio_util::sync::DropGuard,
    _tasks: JoinSet<()>,
}

impl Cluster {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let (options, kubeconfig) = apiserver::Options::for_tests(vec![listener]).expect("keys");
        let server = apiserver::Server::new(options).expect("a server");
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone()));
        let client = crate::orchestration::clients::client(&kubeconfig).await.expect("a client");
        for (name, zone) in [("n-a", "a"), ("n-b", "b")] {
            let node = json!({"metadata": {"name": name, "labels": {scheduler::ZONE: zone}}});
            create::<Node>(&Api::all(client.clone()), node).await;
        }
        let (view, mut tasks) = ClusterView::follow(&client);
        let load_balancers = vec!["203.0.113.10".parse().expect("an address")];
        let settings = ControllerSettings { load_balancers };
        tasks.spawn(run(client.clone(), view, settings));
        Self { client, _stop: stop.drop_guard(), _tasks: tasks }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Makes every pod ready that has a node, as a node agent would.
    async fn make_ready(&self) {
        let pods = self.api::<Pod>();
        for (index, pod) in list(&pods).await.iter().enumerate() {
            let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            if placed && pod_state::ready_since(pod).is_none() {
                let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
                let status = json!({"status": {"phase": "Running", "podIP": format!("10.244.0.{}", index + 2), "conditions": ready}});
                let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await;
            }
        }
    }

    /// Removes pods that are being deleted, as a node agent would when they have ended.
    async fn finish_deleted(&self) {
        for pod in list(&self.api::<Pod>()).await.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
            let now = kube::api::DeleteParams::default().grace_period(0);
            let _ = self.api::<Pod>().delete(&pod.name_any(), &now).await;
        }
    }
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("created");
}

async fn list<K: Clone + DeserializeOwned + std::fmt::Debug>(api: &Api<K>) -> Vec<K> {
    api.list(&ListParams::default()).await.expect("listed").items
}

/// Waits until `holds` returns a value, and panics with `what` after a deadline.
async fn eventually<T, Fut: Future<Output = Option<T>>>(what: &str, mut holds: impl FnMut() -> Fut) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = holds().await {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{what}: not within 5 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn web(image: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_deployment_to_endpoints_and_back() {
    let cluster = Cluster::start().await;
    eventually("the default service account", || async {
        cluster.api::<ServiceAccount>().get_opt("default").await.expect("asked")
    })
    .await;
    let deployments = cluster.api::<Deployment>();
    create(&deployments, web("one", 2)).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {
        "type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    create::<Service>(&cluster.api(), service).await;

    let nodes = eventually("pods on both nodes", || async {
        let pods = list(&cluster.api::<Pod>()).await;
        let mut nodes: Vec<String> = pods.into_iter().filter_map(|pod| pod.spec?.node_name).collect();
        nodes.sort();
        (nodes.len() == 2).then_some(nodes)
    })
    .await;
    assert_eq!(nodes, ["n-a", "n-b"]);
    let available = |wanted: i32| {
        let (cluster, deployments) = (&cluster, &deployments);
        move || async move {
            cluster.make_ready().await;
            let status = deployments.get("web").await.expect("asked").status?;
            let complete = status.available_replicas == Some(wanted)
                && status.updated_replicas == Some(wanted)
                && status.replicas == Some(wanted);
            complete.then_some(())
        }
    };
    eventually("two available", available(2)).await;
    let ready_endpoints = |wanted: usize| {
        let slices = cluster.api::<EndpointSlice>();
        move || {
            let slices = slices.clone();
            async move {
                let slices = list(&slices).await;
                let own = slices
                    .iter()
                    .filter(|slice| slice.labels().get(endpoint_slice::SERVICE_NAME).is_some_and(|name| name == "web"));
                let ready = own.flat_map(|slice| &slice.endpoints).filter(|endpoint| {
                    endpoint.zone.is_some() && endpoint.conditions.as_ref().is_some_and(|c| c.ready == Some(true))
                });
                (ready.count() == wanted).then_some(())
            }
        }
    };
    eventually("two endpoints", ready_endpoints(2)).await;
    let service = eventually("an address", || async {
        let service = cluster.api::<Service>().get("web").await.expect("asked");
        (!load_balancer::addresses_of(&service).is_empty()).then_some(service)
    })
    .await;
    assert_eq!(load_balancer::addresses_of(&service), [std::net::IpAddr::from([203, 0, 113, 10])]);

    // Nothing else happens in the cluster now: the new size alone must start the controller.
    let begin = Instant::now();
    let size = json!({"spec": {"replicas": 3}});
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(size)).await.expect("scaled");
    eventually("a third pod", || async { (list(&cluster.api::<Pod>()).await.len() == 3).then_some(()) }).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    eventually("three available", available(3)).await;

    let image = Patch::Merge(web("two", 3));
    deployments.patch("web", &PatchParams::default(), &image).await.expect("changed");
    eventually("a rollout", || async {
        cluster.finish_deleted().await;
        let done = available(3)().await;
        let pods = list(&cluster.api::<Pod>()).await;
        let new = pods
            .iter()
            .filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.containers[0].image.as_deref() == Some("two")));
        done.filter(|()| new.count() == 3 && pods.len() == 3)
    })
    .await;
    eventually("three endpoints", ready_endpoints(3)).await;
}

/// A restart, then no pods, then two, each while the previous change is in progress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_that_change_during_a_rollout() {
    let cluster = Cluster::start().await;
    let deployments = cluster.api::<Deployment>();
    create(&deployments, web("one", 2)).await;
    let pods = || async { list(&cluster.api::<Pod>()).await };
    let living = || async {
        let living = pods().await.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        living.count()
    };
    eventually("two pods", || async { (pods().await.len() == 2).then_some(()) }).await;
    cluster.make_ready().await;
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(web("two", 2))).await.expect("changed");
    for (replicas, wanted) in [(0, 0), (2, 2), (0, 0), (1, 1)] {
        let begin = Instant::now();
        let size = json!({"spec": {"replicas": replicas}});
        deployments.patch("web", &PatchParams::default(), &Patch::Merge(size)).await.expect("scaled");
        eventually("pods of the new size", || async { (living().await == wanted).then_some(()) }).await;
        assert!(begin.elapsed() < Duration::from_secs(1), "{replicas}: {:?}", begin.elapsed());
    }
}
