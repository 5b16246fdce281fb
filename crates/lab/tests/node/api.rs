//! The agent as a client of the real API server: it runs the API server's pods and reports to it.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use apiserver::{Options, Server};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use lab::node::{Agent, NodeSettings};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

pub(super) const TESTS: &[harness::Test] = &[("api::pods_of_the_api_server_run", pods_of_the_api_server_run)];

async fn until<T, Fut: Future<Output = Option<T>>>(what: &str, mut get: impl FnMut() -> Fut) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = get().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn apply(client: &Client, path: &str, object: Value) {
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.body(serde_json::to_vec(&object).unwrap()).unwrap();
    client.request::<Value>(request).await.unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn pods_of_the_api_server_run() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let kept = tempfile::tempdir().unwrap();
        let socket = kept.path().join("node.sock");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mut options, kubeconfig) = Options::for_tests(vec![listener]).unwrap();
        options.node_socket = Some(socket.clone());
        let stop = CancellationToken::new();
        let server = tokio::spawn(Server::new(options).unwrap().run(stop.clone()));
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let settings = NodeSettings {
            directory: kept.path().to_owned(),
            socket,
            host_addresses: vec!["203.0.113.1".parse::<IpAddr>().unwrap()],
            pod_networks: vec!["10.244.0.0/16".parse().unwrap()],
            dns_address: "10.96.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            api: SocketAddr::new("10.96.0.1".parse().unwrap(), address.port()),
        };
        let agent = tokio::spawn(Agent::run(settings, client.clone()));

        apply(&client, "/api/v1/nodes", json!({"metadata": {"name": "west-a"}})).await;
        let ca = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "certificate"}});
        let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(client.clone(), "default");
        let ca = serde_json::from_value(ca).unwrap();
        let _ = maps.create(&PostParams::default(), &ca).await;
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        let account = json!({"metadata": {"name": "default"}});
        let request = http::Request::post(accounts).body(serde_json::to_vec(&account).unwrap()).unwrap();
        let _ = client.request::<Value>(request).await;
        drive(&client).await;
        stop.cancel();
        agent.abort();
        server.abort();
    });
}

async fn drive(client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    until("the node is ready", || async {
        let node = nodes.get("west-a").await.ok()?;
        let conditions = node.status?.conditions?;
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True").then_some(())
    })
    .await;

    let script =
        "echo hello from $ME; cut -d. -f2 /var/run/secrets/kubernetes.io/serviceaccount/token | wc -c; sleep 60";
    apply(
        client,
        "/api/v1/namespaces/default/pods",
        json!({
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {"nodeName": "west-a", "terminationGracePeriodSeconds": 2, "containers": [{
                "name": "main", "image": "any", "command": ["sh", "-c", script],
                "env": [{"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]},
        }),
    )
    .await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod = until("the pod is ready", || async {
        let pod = pods.get("web").await.ok()?;
        let ready = pod.status.as_ref()?.conditions.as_ref()?.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        ready.then_some(pod)
    })
    .await;
    assert!(pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap().starts_with("10.244.0."));
    let log = until("the log", || async {
        let log = pods.logs("web", &LogParams::default()).await.ok()?;
        (log.lines().count() == 2).then_some(log)
    })
    .await;
    assert!(log.starts_with("hello from web\n"), "{log}");
    let length: usize = log.lines().nth(1).unwrap().trim().parse().unwrap();
    assert!(length > 100, "a token of the API server is mounted: {log}");

    let mut exec = pods.exec("web", ["sh", "-c", "echo from exec $ME"], &AttachParams::default()).await.unwrap();
    let mut output = String::new();
    exec.stdout().unwrap().read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "from exec web\n");
    let status = exec.take_status().unwrap().await.unwrap();
    assert_eq!(status.status.as_deref(), Some("Success"));

    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    until("the event", || async {
        let events = events.list(&ListParams::default()).await.ok()?;
        events.items.iter().any(|event| event.reason.as_deref() == Some("Started")).then_some(())
    })
    .await;

    let patch = json!({"metadata": {"labels": {"changed": "yes"}}});
    pods.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    // The shell ends at once, so that the pod may be gone by the next request.
    let terminating = pods.delete("web", &DeleteParams::default()).await.unwrap().left().expect("a pod");
    assert!(terminating.metadata.deletion_timestamp.is_some(), "it ends gracefully");
    until("the pod is gone", || async { pods.get_opt("web").await.ok()?.is_none().then_some(()) }).await;
    assert!(nodes.get("west-a").await.unwrap().name_any() == "west-a");
}
