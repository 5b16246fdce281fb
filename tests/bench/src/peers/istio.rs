//! A pair of Envoys that istiod configures from the objects of a cluster: what Istio's users run, as far as a stock Envoy can.
//!
//! - Traffic is not captured: `Sidecar` objects give the client's Envoy a listener for all services of a port, and the server's one a
//!   listener that sends to loopback. Both carry the same filters as those for captured traffic.
//! - A stock Envoy lacks Istio's own filters, which istiod leaves out: peer metadata, its ALPN, and Istio's standard metrics. Envoy's own
//!   statistics are all on; Istio's bootstrap keeps few of them.
//! - Certificates are served by the rig instead of Istio's agent.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::chain::{Chain, LOCAL_SERVER, PortProtocol, address, await_refused, await_routed, await_status, status};
use crate::control_plane::cluster::{ApiClient, Cluster};
use crate::control_plane::objects::{self, CLUSTERS};
use crate::control_plane::pods::MeshPod;
use crate::control_plane::rules;
use crate::mesh::Mesh;
use crate::process::Process;
use crate::rig::Rig;
use crate::setup;

const CLIENT: MeshPod = MeshPod { name: "user", ip: Ipv4Addr::new(10, 244, 15, 1) };
/// The server's pod, which all services have as their endpoint.
pub const SERVER: MeshPod = MeshPod { name: "used", ip: Ipv4Addr::new(10, 244, 16, 1) };
const ISTIOD: Ipv4Addr = Ipv4Addr::new(10, 244, 17, 1);
const ADMIN: u16 = 15000;
const SECRETS: u16 = 15999;
const PORT: PortProtocol = PortProtocol::Http1;

/// The settings of the mesh: without an access log, ingress and Istio's own metrics.
const MESH: &str = r#"
accessLogFile: ""
trustDomain: cluster.local
rootNamespace: istio-system
defaultProviders: {}
enableTracing: false
ingressControllerMode: "OFF"
enableAutoMtls: true
"#;

/// Starts istiod and both Envoys, and waits until they carry requests for all services by their routes. Certificates are served while
/// the runtime is there.
pub async fn start(mesh: &Mesh, rig: &Rig, cluster: &Cluster, services: usize) -> Result<(Chain, Process)> {
    let client = cluster.client();
    for pod in [CLIENT, SERVER] {
        pod.create(client).await?;
    }
    configure(client).await?;
    let istiod = istiod(rig, cluster)?;
    for pod in [CLIENT, SERVER] {
        let secrets = certificates(mesh, rig, pod)?;
        tokio::spawn(conformance::secrets::serve(address(pod.ip, SECRETS), secrets, "client".to_owned()));
    }
    let mut inbound = envoy(rig, SERVER, "sidecar")?;
    let mut outbound = envoy(rig, CLIENT, "sidecar")?;
    for (process, pod) in [(&mut inbound, SERVER), (&mut outbound, CLIENT)] {
        await_status(address(pod.ip, ADMIN), "/ready", 200, process, rig)?;
    }
    for service in 0..services {
        let host = format!("{}:{}", objects::service_name(service), PORT.port());
        await_routed(PORT.at(CLIENT.ip), &host, rules::ROUTED, &mut outbound, rig)?;
    }
    let host = format!("{}:{}", objects::service_name(services - 1), PORT.port());
    await_refused(PORT.at(CLIENT.ip), &host, rules::REFUSED, &mut outbound, rig)?;
    let plain = status(PORT.at(SERVER.ip), "/");
    ensure!(plain.is_err(), "the server's Envoy answers a request without mutual TLS: {plain:?}");
    Ok((Chain { name: "istio", ip: CLIENT.ip, processes: vec![outbound, inbound] }, istiod))
}

/// Starts istiod and the Envoy of a pod that is a gateway. Certificates are served while the runtime is there.
pub async fn start_router(mesh: &Mesh, rig: &Rig, cluster: &Cluster, pod: MeshPod) -> Result<(Process, Process)> {
    let istiod = istiod(rig, cluster)?;
    let secrets = certificates(mesh, rig, pod)?;
    tokio::spawn(conformance::secrets::serve(address(pod.ip, SECRETS), secrets, "client".to_owned()));
    let mut router = envoy(rig, pod, "router")?;
    await_status(address(pod.ip, ADMIN), "/ready", 200, &mut router, rig)?;
    Ok((router, istiod))
}

/// Starts istiod, and waits until it is ready.
fn istiod(rig: &Rig, cluster: &Cluster) -> Result<Process> {
    let settings = rig.directory().join("istio-mesh.yaml");
    fs::write(&settings, MESH)?;
    let at = |port| address(ISTIOD, port);
    let mut command = Command::new(setup::istiod()?);
    command.envs(conformance::istio::ENVIRONMENT);
    command.args(["discovery", "--networksConfig", "/dev/null", "--registries", "Kubernetes", "--ctrlz_port", "0"]);
    command.args(["--httpsAddr=", "--secureGRPCAddr=", "--grpcAddr", &at(15010).to_string()]);
    command.args(["--httpAddr", &at(15080).to_string(), "--monitoringAddr", &at(15014).to_string()]);
    command.arg("--kubeconfig").arg(&cluster.kubeconfig).arg("--meshConfig").arg(settings);
    let mut istiod = Process::start("istiod", command, &rig.log("istiod"))?;
    await_status(at(15080), "/ready", 200, &mut istiod, rig)?;
    Ok(istiod)
}

/// Creates the listeners, and requires mutual TLS.
async fn configure(client: &ApiClient) -> Result<()> {
    let networking = "/apis/networking.istio.io/v1/namespaces/default/sidecars";
    let sidecar = |pod: MeshPod, ingress: Value, hosts: &str| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": pod.name},
            "spec": {
                "workloadSelector": {"labels": {"app": pod.name}}, "ingress": ingress,
                "egress": [{
                    "bind": pod.ip, "port": {"number": PORT.port(), "protocol": "HTTP", "name": "http"},
                    "captureMode": "NONE", "hosts": [hosts],
                }],
            },
        })
    };
    client.create((networking.to_owned(), sidecar(CLIENT, json!([]), "*/*"))).await?;
    let ingress = json!([{
        "bind": SERVER.ip, "port": {"number": PORT.port(), "protocol": "HTTP", "name": "http"},
        "captureMode": "NONE", "defaultEndpoint": LOCAL_SERVER,
    }]);
    let mut server = sidecar(SERVER, ingress, "./none.example");
    // Not the port of the listener above.
    server["spec"]["egress"][0]["port"]["number"] = json!(PortProtocol::Tcp.port());
    client.create((networking.to_owned(), server)).await?;
    let strict = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default"},
        "spec": {"mtls": {"mode": "STRICT"}},
    });
    client.create(("/apis/security.istio.io/v1/namespaces/istio-system/peerauthentications".to_owned(), strict)).await
}

/// A directory with a pod's certificate, under the names that the server of secrets expects.
fn certificates(mesh: &Mesh, rig: &Rig, pod: MeshPod) -> Result<PathBuf> {
    let directory = rig.directory().join(format!("istio-{}", pod.name));
    fs::create_dir_all(&directory)?;
    let files = mesh.certificate(pod.name)?;
    for (from, to) in [(files.chain, "client.pem"), (files.key, "client.key"), (files.root, "ca.pem")] {
        fs::copy(&from, directory.join(to)).with_context(|| from.display().to_string())?;
    }
    Ok(directory)
}

/// Starts the Envoy of a pod, as a proxy of this kind.
fn envoy(rig: &Rig, pod: MeshPod, kind: &str) -> Result<Process> {
    let MeshPod { name, ip } = pod;
    let metadata = json!({
        "NAMESPACE": "default", "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.30.0", "LABELS": pod.labels(),
        "INTERCEPTION_MODE": "NONE", "SERVICE_ACCOUNT": name, "NETWORK": objects::network(0),
    });
    let [admin, secrets] = [ADMIN, SECRETS].map(|port| address(ip, port));
    let istiod: SocketAddr = address(ISTIOD, 15010);
    let bootstrap = conformance::istio::bootstrap(&metadata, admin, istiod, secrets);
    let process = format!("istio-{name}");
    let file = rig.directory().join(format!("{process}.json"));
    fs::write(&file, serde_json::to_vec_pretty(&bootstrap)?)?;
    let mut command = Command::new(setup::peer("envoy")?);
    command.arg("--config-path").arg(file);
    command.args(["--service-node", &format!("{kind}~{ip}~{name}.default~default.svc.cluster.local")]);
    command.args(["--service-cluster", &format!("{name}.default"), "--service-zone", &format!("{}-a", CLUSTERS[0])]);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]);
    Process::start(&process, command, &rig.log(&process))
}
