//! Pods with addresses of the sandbox, their services, and their sidecars, which the controller configures.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use net::namespace::mount;
use serde_json::{Value, json};

use super::cluster::ApiClient;
use super::controller::DISCOVERY;
use super::objects::{self, CLUSTERS};
use crate::chain::{address, await_status};
use crate::process::Process;
use crate::rig::Rig;

/// A DNS name in the controller's certificate.
const CONTROLLER: &str = "isthmus-controller.isthmus-system.svc";
/// The deadline for steps that take a second on an idle machine.
const LONG: Duration = Duration::from_secs(60);
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// A pod, and its service account.
#[derive(Clone, Copy, Debug)]
pub struct MeshPod {
    /// The name of both.
    pub name: &'static str,
    /// The pod's address.
    pub ip: Ipv4Addr,
}

/// Maps the controller's DNS name to this machine, inside the sandbox.
pub fn find_controller(rig: &Rig) -> Result<()> {
    let hosts = rig.directory().join("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost\n{} {CONTROLLER}\n", DISCOVERY.ip()))?;
    Ok(mount::bind(&hosts, Path::new("/etc/hosts"))?)
}

/// Waits until the controller publishes its root certificates, and writes them to a file.
pub async fn root_certificate(rig: &Rig, client: &ApiClient) -> Result<PathBuf> {
    let begun = Instant::now();
    loop {
        let path = "/api/v1/namespaces/default/configmaps/istio-ca-root-cert";
        let published = client.request(Method::GET, path, &Value::Null).await;
        let parsed = published.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        if let Some(root) = parsed.as_ref().and_then(|map| map["data"]["root-cert.pem"].as_str()) {
            let file = rig.directory().join("mesh-root.pem");
            fs::write(&file, root)?;
            return Ok(file);
        }
        ensure!(begun.elapsed() < LONG, "the controller publishes no roots: {parsed:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A service and its endpoint: a pod, or an address without one.
pub fn service(number: usize, port: u16, target: u16, pod: Option<MeshPod>) -> [(String, Value); 2] {
    let name = objects::service_name(number);
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": port, "targetPort": target}]},
    });
    let mut endpoint = json!({"conditions": {"ready": true}, "nodeName": format!("{}-node-0", CLUSTERS[0])});
    if let Some(pod) = pod {
        endpoint["addresses"] = json!([pod.ip]);
        endpoint["targetRef"] = json!({"kind": "Pod", "name": pod.name, "namespace": "default"});
    } else {
        endpoint["addresses"] = json!([format!("10.245.{}.{}", number >> 8, number & 255)]);
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-abcde"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": target, "protocol": "TCP"}], "endpoints": [endpoint],
    });
    [(SERVICES.to_owned(), object), ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".to_owned(), slice)]
}

/// The virtual address of a service.
pub async fn service_ip(client: &ApiClient, number: usize) -> Result<String> {
    let path = format!("{SERVICES}/{}", objects::service_name(number));
    let object: Value = serde_json::from_str(&client.request(Method::GET, &path, &Value::Null).await?)?;
    Ok(object["spec"]["clusterIP"].as_str().context("a service has no address")?.to_owned())
}

impl MeshPod {
    /// The pod's labels.
    pub fn labels(self) -> Value {
        json!({"app": self.name, "version": "v1", "track": "stable", "security.istio.io/tlsMode": "istio"})
    }

    /// Creates the service account and the pod, which is running and ready.
    pub async fn create(self, client: &ApiClient) -> Result<()> {
        self.create_with(self.labels(), client).await
    }

    /// Creates the service account and a pod that has no sidecar.
    pub async fn create_without_sidecar(self, client: &ApiClient) -> Result<()> {
        self.create_with(json!({"app": self.name}), client).await
    }

    async fn create_with(self, labels: Value, client: &ApiClient) -> Result<()> {
        let Self { name, ip } = self;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        client.create(("/api/v1/namespaces/default/serviceaccounts".to_owned(), account)).await?;
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "serviceAccountName": name, "nodeName": format!("{}-node-0", CLUSTERS[0]),
                "containers": [{"name": "app", "image": "registry.example/app:1.0"}],
            },
        });
        let pods = "/api/v1/namespaces/default/pods";
        client.create((pods.to_owned(), object)).await?;
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": ready}});
        client.send(Method::PATCH, &format!("{pods}/{name}/status"), "application/merge-patch+json", &status).await
    }

    /// Starts the pod's sidecar with a token as the kubelet mounts it, and waits until it is ready.
    pub async fn sidecar(self, rig: &Rig, client: &ApiClient, root: &Path, listeners: &[&str]) -> Result<Process> {
        let mut command = Command::new(&rig.isthmus);
        // This process's environment must not configure the sidecar.
        command.env_clear().arg("sidecar").arg("--no-capture").args(listeners);
        command.args(["--cluster", CLUSTERS[0], "--network", &objects::network(0)]);
        command.args(["--namespace", "default", "--pod", self.name, "--ip", &self.ip.to_string()]);
        command.args(["--concurrency", "1", "--dns-port", "0"]);
        command.args(["--discovery", &format!("{CONTROLLER}:{}", DISCOVERY.port())]);
        command.arg("--token").arg(self.token(rig, client).await?).arg("--root").arg(root);
        for (option, port) in [
            ("--admin-address", 15000),
            ("--health-address", 15021),
            ("--metrics-address", 15090),
            ("--merged-metrics-address", 15020),
        ] {
            command.args([option, &address(self.ip, port).to_string()]);
        }
        let mut process = Process::start(self.name, command, &rig.log(self.name))?;
        await_status(address(self.ip, 15021), "/healthz/ready", 200, &mut process, rig)?;
        Ok(process)
    }

    /// Starts the pod's router, and waits until it is ready.
    pub async fn router(self, rig: &Rig, client: &ApiClient, root: &Path) -> Result<Process> {
        let mut command = Command::new(&rig.isthmus);
        // This process's environment must not configure the router.
        command.env_clear().arg("router").args(["--cluster", CLUSTERS[0], "--network", &objects::network(0)]);
        command.args(["--namespace", "default", "--pod", self.name, "--ip", &self.ip.to_string(), "--workers", "1"]);
        command.args(["--discovery-address", &format!("{CONTROLLER}:{}", DISCOVERY.port())]);
        command.arg("--token-path").arg(self.token(rig, client).await?).arg("--root-path").arg(root);
        for (option, port) in [("--admin-address", 15000), ("--health-address", 15021), ("--metrics-address", 15090)] {
            command.args([option, &address(self.ip, port).to_string()]);
        }
        let mut process = Process::start(self.name, command, &rig.log(self.name))?;
        await_status(address(self.ip, 15021), "/healthz/ready", 200, &mut process, rig)?;
        Ok(process)
    }

    /// The option of a sidecar that listens at a port of the pod, and sends to `to`.
    pub fn way(self, port: u16, to: &str) -> String {
        format!("{}={to}", SocketAddr::new(self.ip.into(), port))
    }

    async fn token(self, rig: &Rig, client: &ApiClient) -> Result<PathBuf> {
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{}/token", self.name);
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": ["istio-ca"], "expirationSeconds": 3600},
        });
        let answer: Value = serde_json::from_str(&client.request(Method::POST, &path, &request).await?)?;
        let file = rig.directory().join(format!("token-of-{}", self.name));
        fs::write(&file, answer["status"]["token"].as_str().context("no token")?)?;
        Ok(file)
    }
}
