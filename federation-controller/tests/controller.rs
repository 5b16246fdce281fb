//! Tests of the controller as a process, with two real API servers and a proxy that enrols with a token and subscribes.
//!
//! A scaled service reaches the proxy within a second. A lost API server removes nothing and its age is shown. A
//! deleted remote secret removes its cluster, and a new one adds it again. A restart during an outage starts with the
//! last snapshot.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use identity::{Authority, Constraints};
use isthmus_federation_controller::debug::{ClustersPage, ProxyRow};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use runtime::enrol::{self, Controller, Enrolled};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wire::Kind;
use wire::client::{Outcome, Subscriber};
use wire::delta::{Body, Rejected, Update};
use wire::discovery::{Endpoint, RouteTable};
use wire::name::Node;

const DAY: Duration = Duration::from_secs(86_400);
const SERVER: &str = "isthmus-controller.isthmus-system.svc";

/// A cluster: an API server that can be stopped.
struct Cluster {
    client: Client,
    kubeconfig: String,
    stop: CancellationToken,
}

impl Cluster {
    async fn start() -> Cluster {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (options, kubeconfig) = apiserver::Options::for_tests(vec![listener]).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(apiserver::Server::new(options).unwrap().run(stop.clone()));
        let parsed = Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await.unwrap();
        Cluster { client: Client::try_from(config).unwrap(), kubeconfig, stop }
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> Value {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&body).unwrap())
            .unwrap();
        self.client.request(request).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    async fn create(&self, path: &str, object: Value) -> Value {
        self.send("POST", path, object).await
    }

    async fn delete(&self, path: &str) {
        self.send("DELETE", path, json!({})).await;
    }

    async fn secret(&self, name: &str, labels: Value, data: BTreeMap<String, String>) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}, "stringData": data,
        });
        self.create("/api/v1/namespaces/istio-system/secrets", secret).await;
    }

    /// Creates the namespaces, with the network, and the CRD of exports.
    async fn base(&self, network: &str) {
        for (name, labels) in
            [("istio-system", json!({"topology.istio.io/network": network})), ("isthmus-system", json!({}))]
        {
            let namespace =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
            self.create("/api/v1/namespaces", namespace).await;
        }
        self.define("multicluster.x-k8s.io", "v1alpha1", "ServiceExport").await;
    }

    /// Creates a CRD without a schema.
    async fn define(&self, group: &str, version: &str, kind: &str) {
        let singular = kind.to_lowercase();
        let plural = format!("{singular}s");
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let version =
            json!({"name": version, "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}});
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {
                "group": group, "scope": "Namespaced", "names": {"plural": plural, "singular": singular, "kind": kind},
                "versions": [version],
            },
        });
        self.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd).await;
    }

    async fn workload(&self, service: &str, ips: &[&str]) {
        let service_object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": service},
            "spec": {"selector": {"app": service}, "ports": [{"name": "http", "port": 9080}]},
        });
        self.create("/api/v1/namespaces/default/services", service_object).await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": service}});
        self.create("/api/v1/namespaces/default/serviceaccounts", account).await;
        for ip in ips {
            self.pod(service, ip).await;
        }
        self.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice(service, ips)).await;
    }

    async fn pod(&self, service: &str, ip: &str) {
        let name = format!("{service}-{}", ip.replace('.', "-"));
        let labels = json!({"app": service, "security.istio.io/tlsMode": "istio"});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"serviceAccountName": service, "containers": [{"name": "app", "image": "app"}]},
        });
        self.create("/api/v1/namespaces/default/pods", pod).await;
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        self.merge(&format!("/api/v1/namespaces/default/pods/{name}/status"), &status).await;
    }

    async fn merge(&self, path: &str, patch: &Value) {
        let request = http::Request::builder()
            .method("PATCH")
            .uri(path)
            .header("content-type", "application/merge-patch+json")
            .body(serde_json::to_vec(patch).unwrap())
            .unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    async fn set_endpoints(&self, service: &str, ips: &[&str]) {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{service}-1");
        self.send("PUT", &path, slice(service, ips)).await;
    }

    async fn export(&self, service: &str) {
        let export = json!({
            "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceExport", "metadata": {"name": service},
        });
        self.create("/apis/multicluster.x-k8s.io/v1alpha1/namespaces/default/serviceexports", export).await;
    }

    async fn token(&self, account: &str) -> String {
        self.token_for(account, "istio-ca").await
    }

    async fn token_for(&self, account: &str, audience: &str) -> String {
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
        let spec = json!({"audiences": [audience], "expirationSeconds": 3600});
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        self.create(&path, request).await["status"]["token"].as_str().unwrap().to_owned()
    }
}

fn slice(service: &str, ips: &[&str]) -> Value {
    let endpoints: Vec<Value> = ips
        .iter()
        .map(|ip| {
            let name = format!("{service}-{}", ip.replace('.', "-"));
            json!({
                "addresses": [ip], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": name, "namespace": "default"},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    })
}

/// The process of the controller. Dropping the handle kills it.
struct Process {
    child: Child,
    discovery: SocketAddr,
    monitoring: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Process {
    fn start(west: &Path, state: &Path, ports: Option<&Process>) -> Process {
        let (discovery, monitoring) = match ports {
            Some(before) => (before.discovery, before.monitoring),
            None => (free_port(), free_port()),
        };
        let child = Command::new(env!("CARGO_BIN_EXE_isthmus-federation-controller"))
            .args(["--cluster", "west", "--network", "net-west", "--log", "info"])
            .args(["--heartbeat", "0.2", "--removal-grace", "0.2"])
            .arg("--kubeconfig")
            .arg(west)
            .arg("--state-dir")
            .arg(state)
            .args(["--discovery-listen", &discovery.to_string(), "--monitoring-listen", &monitoring.to_string()])
            .args(["--webhook-listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Process { child, discovery, monitoring }
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(self.monitoring).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    async fn ready(&self) {
        wait("the controller is ready", Duration::from_secs(20), async || {
            self.get("/ready").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    async fn clusters(&self) -> ClustersPage {
        serde_json::from_str(&self.get("/debug/clusters").await.unwrap().1).unwrap()
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    async fn stop(mut self) -> Process {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(5), "the controller does not stop after SIGTERM");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(self.child.wait().unwrap().success());
        println!("stopped within {:?}", began.elapsed());
        self
    }
}

async fn wait(what: &str, within: Duration, holds: impl AsyncFn() -> bool) -> Duration {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < within, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = began.elapsed();
    println!("{what}: {took:?}");
    took
}

/// The store of a proxy, which keeps endpoints and routes.
#[derive(Clone, Default)]
struct Seen {
    endpoints: Arc<Mutex<BTreeMap<String, Endpoint>>>,
    tables: Arc<Mutex<BTreeMap<String, RouteTable>>>,
}

impl wire::client::Store for Seen {
    fn apply(&mut self, update: Update) -> Result<(), Rejected> {
        let (mut endpoints, mut tables) = (self.endpoints.lock().unwrap(), self.tables.lock().unwrap());
        for name in &update.removed {
            match update.kind {
                Kind::RouteTable => drop(tables.remove(name)),
                _ => drop(endpoints.remove(name)),
            }
        }
        for changed in update.changed {
            match changed.body {
                Body::Endpoint(endpoint) => drop(endpoints.insert(changed.name, endpoint)),
                Body::RouteTable(table) => drop(tables.insert(changed.name, table)),
                _ => {}
            }
        }
        Ok(())
    }
}

struct Proxy {
    subscriber: Subscriber,
    seen: Seen,
    enrolled: Enrolled,
}

impl Proxy {
    async fn start(process: &Process, directory: &Path, token: &str, roots: &str, cluster: &str, pod: &str) -> Proxy {
        let (token_path, root_path) = (directory.join(format!("{pod}.token")), directory.join("roots.pem"));
        std::fs::write(&token_path, token).unwrap();
        std::fs::write(&root_path, roots).unwrap();
        let controller: Controller = process.discovery.to_string().parse().unwrap();
        let mut options = enrol::Options::new(controller.named(SERVER).unwrap(), cluster);
        (options.token_path, options.root_path) = (token_path, root_path);
        let enrolled = enrol::start(options, &telemetry::metrics::Registry::new()).await;
        let node: Node = format!("sidecar~10.244.0.9~{pod}.default~{cluster}").parse().unwrap();
        let (seen, connector) = (Seen::default(), enrolled.connector());
        let connect = move || std::future::ready(Ok::<_, std::convert::Infallible>(connector.channel()));
        let (subscriber, discovery) = wire::client::discovery(&node, seen.clone(), connect, Default::default());
        tokio::spawn(discovery.run());
        Proxy { subscriber, seen, enrolled }
    }

    /// Returns the total weight of the received endpoints of each cluster.
    fn weights(&self) -> BTreeMap<String, u32> {
        let mut weights = BTreeMap::new();
        for endpoint in self.seen.endpoints.lock().unwrap().values() {
            *weights.entry(endpoint.cluster.clone()).or_default() += endpoint.weight;
        }
        weights
    }

    async fn sees(&self, what: &str, expected: &[(&str, u32)], within: Duration) -> Duration {
        let expected = expected.iter().map(|(cluster, weight)| (cluster.to_string(), *weight)).collect();
        wait(what, within, async || self.weights() == expected).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_form_a_mesh_through_changes_and_outages() {
    let directory = tempfile::tempdir().unwrap();
    let (west, east) = (Cluster::start().await, Cluster::start().await);
    west.base("net-west").await;
    east.base("net-east").await;
    let root = Authority::self_signed_root("mesh", DAY).unwrap();
    let intermediate = |cluster| root.intermediate_for(cluster, &Constraints::default(), DAY).unwrap();
    west.secret("cacerts", json!({}), intermediate("west").to_cacerts().to_entries()).await;
    west.secret("cacerts-east", json!({}), intermediate("east").to_cacerts().to_entries()).await;
    west.workload("reviews", &["10.244.0.1", "10.244.0.2"]).await;
    west.workload("frontend", &["10.244.0.9"]).await;
    east.workload("reviews", &["10.244.0.1"]).await;
    // A name is shared by the clusters that export it.
    west.export("reviews").await;
    east.export("reviews").await;

    let kubeconfig = directory.path().join("west.kubeconfig");
    std::fs::write(&kubeconfig, &west.kubeconfig).unwrap();
    let state = directory.path().join("state");
    let process = Process::start(&kubeconfig, &state, None);
    process.ready().await;
    println!("resident with one cluster: {} KiB", process.resident_kib());

    let token = west.token("frontend").await;
    let proxy =
        Proxy::start(&process, directory.path(), &token, &root.roots_pem(), "west", "frontend-10-244-0-9").await;
    assert_eq!(proxy.enrolled.identity.id().to_string(), "spiffe://cluster.local/ns/default/sa/frontend");
    let soon = Duration::from_secs(5);
    let own = proxy.subscriber.demand(Kind::Workload, "west/default/frontend-10-244-0-9", soon).await;
    assert_eq!(own, Outcome::Present);
    let reviews = "reviews.default.svc.cluster.local@net-west";
    assert_eq!(proxy.subscriber.demand(Kind::Endpoint, reviews, soon).await, Outcome::Present);
    assert_eq!(proxy.weights(), BTreeMap::from([("west".into(), 2)]));

    let remote = || BTreeMap::from([("east".to_owned(), east.kubeconfig.clone())]);
    west.secret("istio-remote-secret-east", json!({"istio/multiCluster": "true"}), remote()).await;
    proxy.sees("east joins", &[("west", 2), ("east", 1)], soon).await;
    east.pod("reviews", "10.244.0.7").await;
    east.set_endpoints("reviews", &["10.244.0.1", "10.244.0.7"]).await;
    let took = proxy.sees("east is scaled up", &[("west", 2), ("east", 2)], soon).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    west.set_endpoints("reviews", &[]).await;
    let took = proxy.sees("west is scaled down", &[("east", 2)], soon).await;
    assert!(took < Duration::from_secs(1), "{took:?}");

    let rows =
        async || -> Vec<ProxyRow> { serde_json::from_str(&process.get("/debug/proxies").await.unwrap().1).unwrap() };
    wait("the proxy has acknowledged every push", soon, async || rows().await.first().is_some_and(|row| row.acked))
        .await;
    let rows = rows().await;
    assert_eq!((rows.len(), &*rows[0].cluster, rows[0].rejected), (1, "west", 0));
    assert!(rows[0].certificate_expires_in_s.is_some_and(|left| left > 80_000));
    println!("{:#?}", process.clusters().await);

    // The secret is deleted and created again.
    west.delete("/api/v1/namespaces/istio-system/secrets/istio-remote-secret-east").await;
    proxy.sees("the secret is deleted", &[], soon).await;
    west.secret("istio-remote-secret-east", json!({"istio/multiCluster": "true"}), remote()).await;
    proxy.sees("the secret is created again", &[("east", 2)], soon).await;
    // The controller writes its snapshot every few seconds and when it stops.
    let process = process.stop().await;
    assert_eq!(proxy.weights(), BTreeMap::from([("east".into(), 2)]), "stopping the controller removes nothing");

    // East's API server stops, and the controller starts without it.
    east.stop.cancel();
    let process = {
        let before = process;
        Process::start(&kubeconfig, &state, Some(&before))
    };
    process.ready().await;
    wait("east's link is down", soon, async || {
        let page = process.clusters().await;
        let east = page.clusters.iter().find(|row| row.name == "east");
        east.is_some_and(|row| row.link == "unreachable" && row.why.is_some() && row.heard_age_ms.is_some())
    })
    .await;
    // An answer to a new subscription shows that the stream is open again and all resources have been compared.
    let after =
        proxy.subscriber.demand(Kind::Service, "frontend.default.svc.cluster.local", Duration::from_secs(20)).await;
    assert_eq!(after, Outcome::Present);
    assert_eq!(proxy.weights(), BTreeMap::from([("east".into(), 2)]), "losing an API server removes nothing");
    let page = process.clusters().await;
    let row = page.clusters.iter().find(|row| row.name == "east").unwrap();
    assert_eq!((row.services, row.exported, row.endpoints, row.synced), (1, 1, 2, false));
    println!("{row:#?}\nresident: {} KiB", process.resident_kib());
    let metrics = process.get("/metrics").await.unwrap().1;
    assert!(metrics.contains("isthmus_controller_managed_clusters{cluster_type=\"remote\"} 1"), "{metrics}");
    assert!(process.resident_kib() < 60 * 1024, "the limit is 60 MiB");
    west.delete("/api/v1/namespaces/istio-system/secrets/istio-remote-secret-east").await;
    proxy.sees("the secret of a lost cluster is deleted", &[], soon).await;
    process.stop().await;
    west.stop.cancel();
}

/// A canary: the routes reach a proxy when they are applied and when they change, and their status says what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_routing_reach_a_proxy_and_have_a_status() {
    const HOST: &str = "reviews.default.svc.cluster.local";
    const SERVICES: &str = "/apis/networking.istio.io/v1/namespaces/default/virtualservices";
    const RULES: &str = "/apis/networking.istio.io/v1/namespaces/default/destinationrules";
    let directory = tempfile::tempdir().unwrap();
    let west = Cluster::start().await;
    west.base("net-west").await;
    for kind in ["VirtualService", "DestinationRule"] {
        west.define("networking.istio.io", "v1", kind).await;
    }
    let root = Authority::self_signed_root("mesh", DAY).unwrap();
    let intermediate = root.intermediate_for("west", &Constraints::default(), DAY).unwrap();
    west.secret("cacerts", json!({}), intermediate.to_cacerts().to_entries()).await;
    west.workload("reviews", &["10.244.0.1"]).await;
    west.workload("frontend", &["10.244.0.9"]).await;
    let kubeconfig = directory.path().join("west.kubeconfig");
    std::fs::write(&kubeconfig, &west.kubeconfig).unwrap();
    let process = Process::start(&kubeconfig, &directory.path().join("state"), None);
    process.ready().await;
    let token = west.token("frontend").await;
    let roots = root.roots_pem();
    let proxy = Proxy::start(&process, directory.path(), &token, &roots, "west", "frontend-10-244-0-9").await;
    let soon = Duration::from_secs(5);
    assert_eq!(proxy.subscriber.demand(Kind::RouteTable, HOST, soon).await, Outcome::Absent);

    let routes = |weights: &[u32]| {
        let to = |(index, weight)| json!({"destination": {"host": "reviews", "subset": format!("v{index}")}, "weight": weight});
        let route: Vec<Value> = (1..).zip(weights).map(to).collect();
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "reviews"},
            "spec": {"hosts": ["reviews"], "http": [{"route": route}]},
        })
    };
    let weights = || -> Vec<u32> {
        let tables = proxy.seen.tables.lock().unwrap();
        let Some(action) = tables.get(HOST).and_then(|table| table.http.first()?.action.as_ref()) else {
            return vec![];
        };
        match action {
            wire::discovery::http_route::Action::Forward(forward) => {
                forward.destinations.iter().map(|to| to.weight).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    west.create(SERVICES, routes(&[90, 10])).await;
    let took = wait("the routes arrive", soon, async || weights() == [90, 10]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let service = format!("{SERVICES}/reviews");
    let status = async || west.send("GET", &service, Value::Null).await["status"].clone();
    wait("the status says that the subsets are missing", 3 * soon, async || {
        let status = status().await;
        status["conditions"][0]["status"] == "True"
            && status["validationMessages"].to_string().contains("no DestinationRule for")
    })
    .await;
    let subset = |name: &str| json!({"name": name, "labels": {"version": name}});
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "reviews"},
        "spec": {"host": "reviews", "subsets": [subset("v1"), subset("v2")]},
    });
    west.create(RULES, rule).await;
    wait("the status says that nothing is wrong", 3 * soon, async || {
        status().await["validationMessages"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
    west.merge(&service, &json!({"spec": routes(&[50, 50])["spec"]})).await;
    let took = wait("the routes change", soon, async || weights() == [50, 50]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    // An invalid version, stored while no webhook refuses it, changes nothing.
    let mut invalid = routes(&[1, 2])["spec"].clone();
    invalid["http"][0]["timeout"] = json!("0s");
    west.merge(&service, &json!({"spec": invalid})).await;
    wait("the status says that the version is invalid", 3 * soon, async || {
        status().await["conditions"][0]["reason"] == "Invalid"
    })
    .await;
    assert_eq!(weights(), [50, 50]);
    west.delete(&service).await;
    wait("the routes are gone", soon, async || weights().is_empty()).await;
    process.stop().await;
    west.stop.cancel();
}

/// Real API servers review the tokens here; `ca::tests` covers every refusal with fake ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_accepted_only_for_its_own_cluster_and_audience() {
    let directory = tempfile::tempdir().unwrap();
    let (west, east) = (Cluster::start().await, Cluster::start().await);
    let root = Authority::self_signed_root("mesh", DAY).unwrap();
    let intermediate = |cluster| root.intermediate_for(cluster, &Constraints::default(), DAY).unwrap();
    for (cluster, network) in [(&west, "net-west"), (&east, "net-east")] {
        cluster.base(network).await;
        cluster.workload("frontend", &["10.244.0.9"]).await;
    }
    west.secret("cacerts", json!({}), intermediate("west").to_cacerts().to_entries()).await;
    west.secret("cacerts-east", json!({}), intermediate("east").to_cacerts().to_entries()).await;
    let remote = BTreeMap::from([("east".to_owned(), east.kubeconfig.clone())]);
    west.secret("istio-remote-secret-east", json!({"istio/multiCluster": "true"}), remote).await;
    let kubeconfig = directory.path().join("west.kubeconfig");
    std::fs::write(&kubeconfig, &west.kubeconfig).unwrap();
    let process = Process::start(&kubeconfig, &directory.path().join("state"), None);
    process.ready().await;

    let (wests, easts) = (west.token("frontend").await, east.token("frontend").await);
    let other_audience = east.token_for("frontend", "https://elsewhere.example").await;
    // A signed token whose claims were changed: the account of another workload.
    let (head, rest) = easts.split_once('.').unwrap();
    let forged = format!("{head}.{}", rest.replacen(['e', 'A'], "f", 1));
    let roots = root.roots_pem();
    for (token, cluster, reason) in [
        (&wests, "east", "token_rejected"),
        (&easts, "west", "token_rejected"),
        (&other_audience, "east", "token_rejected"),
        (&forged, "east", "token_rejected"),
        (&easts, "south", "unknown_cluster"),
    ] {
        let refused = format!("isthmus_certificate_refusals_total{{reason=\"{reason}\"}}");
        let count = async || -> u64 {
            let text = process.get("/metrics").await.unwrap().1;
            let line = text.lines().find_map(|line| line.strip_prefix(&*refused));
            line.map_or(0, |count| count.trim().parse().unwrap())
        };
        let before = count().await;
        let enrolment = Proxy::start(&process, directory.path(), token, &roots, cluster, "frontend-10-244-0-9");
        assert!(tokio::time::timeout(Duration::from_millis(700), enrolment).await.is_err(), "{cluster} {reason}");
        assert!(count().await > before, "{cluster}: the refusal is not counted as {reason}");
    }
    for (token, cluster) in [(&wests, "west"), (&easts, "east")] {
        let enrolment = Proxy::start(&process, directory.path(), token, &roots, cluster, "frontend-10-244-0-9");
        let proxy = tokio::time::timeout(Duration::from_secs(5), enrolment).await.expect("a valid token is accepted");
        let peer = identity::peer_of(proxy.enrolled.identity.credential().chain(), &proxy.enrolled.identity.trust());
        assert_eq!(peer.unwrap().id.service_account(), "frontend");
    }
    process.stop().await;
    west.stop.cancel();
    east.stop.cancel();
}
