//! A sidecar that uses a few services of a large mesh: its memory must not grow with the other services.
//!
//! The control plane is the real one, with an API server. A sidecar receives what it subscribes to, and subscribes to what it
//! uses.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use net::namespace::mount;
use serde_json::{Value, json};

use super::{MIB, MemoryRecorder, MemorySize};
use crate::chain::{PortProtocol, address, await_status};
use crate::control_plane::cluster::{ApiClient, Cluster};
use crate::control_plane::controller::{Controller, DISCOVERY};
use crate::control_plane::objects::{self, CLUSTERS};
use crate::finding::Metric;
use crate::process::Process;
use crate::rig::Rig;
use crate::sidecar;

const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);
/// A DNS name in the controller's certificate.
const CONTROLLER: &str = "isthmus-controller.isthmus-system.svc";
const USER: Pod = Pod { name: "user", ip: Ipv4Addr::new(10, 244, 11, 1) };
const USED: Pod = Pod { name: "used", ip: Ipv4Addr::new(10, 244, 12, 1) };
/// The first port of [`USER`] that leads to a service; the others follow.
const FIRST: u16 = 20_000;
/// The deadline for steps that take a second on an idle machine.
const LONG: Duration = Duration::from_secs(60);

/// A pod, and its service account.
#[derive(Clone, Copy)]
struct Pod {
    name: &'static str,
    ip: Ipv4Addr,
}

/// Measures each size of mesh.
pub fn measure(recorder: &mut MemoryRecorder, rig: &Rig, size: MemorySize) -> Result<()> {
    find_controller(rig)?;
    let _server = sidecar::server(rig)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let cluster = runtime.block_on(Cluster::start(rig, "memory", API))?;
    let client = cluster.client();
    // In order: a pod needs its service account.
    for object in objects::base(0).into_iter().chain(pods()) {
        runtime.block_on(client.create(object))?;
    }
    let mut made = 0;
    for &services in size.services {
        runtime.block_on(client.create_all((made..services).flat_map(|service| objects(service, size.used))))?;
        made = services;
        let load = format!("{} services used of {services}", size.used);
        let (user, controller) = runtime.block_on(one(rig, &cluster, services, size)).with_context(|| load.clone())?;
        recorder.add(&load, "isthmus", Metric::cost("resident memory of the sidecar", "MiB"), user);
        recorder.add(&load, "isthmus", Metric::cost("resident memory of the controller", "MiB"), controller);
    }
    Ok(())
}

/// The resident memory of the sidecar and the controller, in MiB.
async fn one(rig: &Rig, cluster: &Cluster, services: usize, size: MemorySize) -> Result<(f64, f64)> {
    let client = cluster.client();
    let state = rig.directory().join(format!("state-of-{services}"));
    let controller = Controller::start(rig, &cluster.kubeconfig, &state, &format!("controller-of-{services}"))?;
    let root = rig.directory().join("mesh-root.pem");
    fs::write(&root, root_certificate(client).await?)?;

    let server = PortProtocol::Http1.server();
    let ingress = format!("{}={server}", SocketAddr::new(USED.ip.into(), server.port()));
    let _used = start(rig, client, USED, &root, &["--ingress", &ingress]).await?;
    let mut egress = Vec::new();
    for service in 0..size.used {
        let path = format!("/api/v1/namespaces/default/services/{}", objects::service_name(service));
        let object: Value = serde_json::from_str(&client.request(Method::GET, &path, &Value::Null).await?)?;
        let ip = object["spec"]["clusterIP"].as_str().context("a service has no address")?.to_owned();
        egress.push(format!("{}={ip}:80", entry(service)));
    }
    let mut user = start(rig, client, USER, &root, &["--egress", &egress.join(",")]).await?;
    for service in 0..size.used {
        await_status(entry(service), "/bytes/1024", 200, &mut user, rig)?;
    }
    tokio::time::sleep(size.rest).await;
    user.ensure_running(&rig.log(&user.name))?;
    Ok((user.resident()? as f64 / MIB, controller.resident()?.0 as f64 / MIB))
}

/// Maps the controller's DNS name to this machine, inside the sandbox.
fn find_controller(rig: &Rig) -> Result<()> {
    let hosts = rig.directory().join("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost\n{} {CONTROLLER}\n", DISCOVERY.ip()))?;
    Ok(mount::bind(&hosts, Path::new("/etc/hosts"))?)
}

/// The address of the user's listener for a service.
fn entry(service: usize) -> SocketAddr {
    let offset = u16::try_from(service).expect("a handful of services are used");
    SocketAddr::new(USER.ip.into(), FIRST + offset)
}

/// Waits for the root certificates that the controller publishes.
async fn root_certificate(client: &ApiClient) -> Result<String> {
    let begun = Instant::now();
    loop {
        let path = "/api/v1/namespaces/default/configmaps/istio-ca-root-cert";
        let published = client.request(Method::GET, path, &Value::Null).await;
        let parsed = published.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        if let Some(root) = parsed.as_ref().and_then(|map| map["data"]["root-cert.pem"].as_str()) {
            return Ok(root.to_owned());
        }
        ensure!(begun.elapsed() < LONG, "the controller publishes no roots: {parsed:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Starts a pod's sidecar with a token as the kubelet mounts it, and waits until it is ready.
async fn start(rig: &Rig, client: &ApiClient, pod: Pod, root: &Path, listeners: &[&str]) -> Result<Process> {
    let mut command = Command::new(&rig.isthmus);
    command.env_clear().arg("sidecar").arg("--no-capture").args(listeners);
    command.args(["--cluster", CLUSTERS[0], "--network", &objects::network(0)]);
    command.args(["--namespace", "default", "--pod", pod.name, "--ip", &pod.ip.to_string()]);
    command.args(["--concurrency", "1", "--dns-port", "0"]);
    command.args(["--discovery", &format!("{CONTROLLER}:{}", DISCOVERY.port())]);
    command.arg("--token").arg(token(rig, client, pod).await?).arg("--root").arg(root);
    for (option, port) in [
        ("--admin-address", 15000),
        ("--health-address", 15021),
        ("--metrics-address", 15090),
        ("--merged-metrics-address", 15020),
    ] {
        command.args([option, &address(pod.ip, port).to_string()]);
    }
    let mut process = Process::start(pod.name, command, &rig.log(pod.name))?;
    await_status(address(pod.ip, 15021), "/healthz/ready", 200, &mut process, rig)?;
    Ok(process)
}

async fn token(rig: &Rig, client: &ApiClient, pod: Pod) -> Result<PathBuf> {
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{}/token", pod.name);
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": ["istio-ca"], "expirationSeconds": 3600},
    });
    let answer: Value = serde_json::from_str(&client.request(Method::POST, &path, &request).await?)?;
    let file = rig.directory().join(format!("token-of-{}", pod.name));
    fs::write(&file, answer["status"]["token"].as_str().context("no token")?)?;
    Ok(file)
}

/// The two pods with their service accounts.
fn pods() -> Vec<(String, Value)> {
    let of = |pod: Pod| {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": pod.name}});
        let labels = json!({"app": pod.name, "security.istio.io/tlsMode": "istio"});
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.name, "labels": labels},
            "spec": {
                "serviceAccountName": pod.name, "nodeName": format!("{}-node-0", CLUSTERS[0]),
                "containers": [{"name": "app", "image": "registry.example/app:1.0"}],
            },
        });
        [
            ("/api/v1/namespaces/default/serviceaccounts".to_owned(), account),
            ("/api/v1/namespaces/default/pods".to_owned(), object),
        ]
    };
    [USER, USED].into_iter().flat_map(of).collect()
}

/// A service and its endpoint: the pod for services that are used, an address of its own for the others.
fn objects(service: usize, used: usize) -> [(String, Value); 2] {
    let name = objects::service_name(service);
    let port = PortProtocol::Http1.server().port();
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": port}]},
    });
    let mut endpoint = json!({"conditions": {"ready": true}, "nodeName": format!("{}-node-0", CLUSTERS[0])});
    if service < used {
        endpoint["addresses"] = json!([USED.ip]);
        endpoint["targetRef"] = json!({"kind": "Pod", "name": USED.name, "namespace": "default"});
    } else {
        endpoint["addresses"] = json!([format!("10.245.{}.{}", service >> 8, service & 255)]);
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-abcde"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}], "endpoints": [endpoint],
    });
    [
        ("/api/v1/namespaces/default/services".to_owned(), object),
        ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".to_owned(), slice),
    ]
}
