//! An ingress gateway: requests beside an Envoy that istiod configures, and what many hosts with certificates cost.
//!
//! For requests, each system has a cluster of its own with the same objects: a Gateway, and a VirtualService with five routes for each of
//! ten hosts. Requests go to the last host, on its fourth route, and from the gateway to a server without a sidecar.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::chain::{Chain, PortProtocol, await_routed};
use crate::control_plane::cluster::Cluster;
use crate::control_plane::controller::Controller;
use crate::control_plane::pods::{self, MeshPod};
use crate::control_plane::{objects, rules};
use crate::finding::{Finding, Recorder};
use crate::mesh::Mesh;
use crate::peers::istio;
use crate::process::Process;
use crate::rig::Rig;
use crate::setup;
use crate::sidecar::measure::SidecarBench;
use crate::sidecar::{self, rows};

mod hosts;

/// The number of hosts of the part with requests.
const HOSTS: usize = 10;
/// The last of them.
const AUTHORITY: &str = "s9.example.com";
const PORT: PortProtocol = PortProtocol::Http1;
const OURS: MeshPod = MeshPod { name: "ingress", ip: Ipv4Addr::new(10, 244, 18, 1) };
const THEIRS: MeshPod = MeshPod { name: "ingress", ip: Ipv4Addr::new(10, 244, 19, 1) };
/// The server's pod, which has no sidecar and answers at the address of the rig's server.
const SERVER: MeshPod = MeshPod { name: "plain", ip: crate::chain::SERVER };

/// Options of `ingress`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Measure these parts only
    #[arg(long, value_delimiter = ',')]
    only: Vec<IngressPart>,
    /// Length of each window in seconds [default: 1.4]
    #[arg(long)]
    seconds: Option<f64>,
}

/// A part of the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum IngressPart {
    /// Requests, beside Envoy.
    Requests,
    /// A thousand hosts with certificates.
    Hosts,
}

/// Runs the scenario. Istio is left out if a part of it is not installed.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut findings = Vec::new();
    if wanted(IngressPart::Requests) {
        findings.extend(requests(options, rig).context("requests")?);
    }
    if wanted(IngressPart::Hosts) {
        findings.extend(hosts::run(rig).context("hosts")?);
    }
    Ok(findings)
}

fn requests(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    pods::find_controller(rig)?;
    let _server = sidecar::server(rig)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (ours, _controller, _cluster) = runtime.block_on(ours(rig)).context("isthmus")?;
    let mut chains = vec![ours, Chain::none()];
    let missing = [setup::istiod(), setup::peer("envoy")].into_iter().find_map(Result::err);
    let _istio = match missing {
        Some(missing) => {
            eprintln!("ingress: istio is left out: {missing:#}");
            None
        }
        None => {
            let mesh = Mesh::start(rig.directory())?;
            let (chain, istiod, cluster) = runtime.block_on(theirs(&mesh, rig)).context("istio")?;
            chains.insert(1, chain);
            Some((istiod, cluster))
        }
    };
    let (recorder, seconds) = (Recorder::new("ingress"), options.seconds);
    let mut bench = SidecarBench { rig, chains, recorder, authority: AUTHORITY, seconds };
    for mut row in rows::budgeted() {
        row.counts_calls = false;
        if rig.quick {
            (row.closed, row.open) = (0.25, 0.25);
        }
        bench.row(row).with_context(|| row.shape.to_string())?;
    }
    Ok(bench.recorder.findings())
}

/// A cluster with the services, the Gateway and its routes. All services are the same pod.
async fn cluster(rig: &Rig, name: &str, port: u16, pod: MeshPod) -> Result<Cluster> {
    let cluster = Cluster::start(rig, name, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await?;
    let client = cluster.client();
    for object in objects::base(0) {
        client.create(object).await?;
    }
    SERVER.create_without_sidecar(client).await?;
    let services = |service| pods::service(service, PORT.port(), PORT.port(), Some(SERVER));
    client.create_all((0..HOSTS).flat_map(services)).await?;
    client.create(gateway(pod)).await?;
    pod.create(client).await?;
    client.create_all((0..HOSTS).map(routes)).await?;
    Ok(cluster)
}

/// The Gateway, which listens at the address of a pod: all pods are in one network namespace.
fn gateway(pod: MeshPod) -> (String, Value) {
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "ingress"},
        "spec": {
            "selector": {"app": "ingress"},
            "servers": [{
                "port": {"number": PORT.port(), "name": "http", "protocol": "HTTP"}, "bind": pod.ip,
                "hosts": ["*.example.com"],
            }],
        },
    });
    ("/apis/networking.istio.io/v1/namespaces/default/gateways".to_owned(), object)
}

/// The routes of a service without its subsets, for a host of the gateway.
fn routes(service: usize) -> (String, Value) {
    let (path, mut object) = rules::virtual_service(service, "bytes");
    object["spec"]["hosts"] = json!([format!("{}.example.com", objects::service_name(service))]);
    object["spec"]["gateways"] = json!(["ingress"]);
    let to = json!([{"destination": {"host": objects::hostname(service), "port": {"number": PORT.port()}}}]);
    for route in object["spec"]["http"].as_array_mut().into_iter().flatten() {
        route["route"] = to.clone();
    }
    (path, object)
}

async fn ours(rig: &Rig) -> Result<(Chain, Controller, Cluster)> {
    let cluster = cluster(rig, "ingress-isthmus", 6445, OURS).await?;
    let client = cluster.client();
    let state = rig.directory().join("state-of-ingress");
    let controller = Controller::start(rig, &cluster.kubeconfig, &state, "controller-of-ingress")?;
    let root = pods::root_certificate(rig, client).await?;
    let mut router = OURS.router(rig, client, &root).await?;
    await_hosts(OURS.ip, &mut router, rig)?;
    Ok((Chain { name: "isthmus", ip: OURS.ip, processes: vec![router] }, controller, cluster))
}

async fn theirs(mesh: &Mesh, rig: &Rig) -> Result<(Chain, Process, Cluster)> {
    let cluster = cluster(rig, "ingress-istio", 6446, THEIRS).await?;
    let (mut envoy, istiod) = istio::start_router(mesh, rig, &cluster, THEIRS).await?;
    await_hosts(THEIRS.ip, &mut envoy, rig)?;
    Ok((Chain { name: "istio", ip: THEIRS.ip, processes: vec![envoy] }, istiod, cluster))
}

fn await_hosts(ip: Ipv4Addr, gateway: &mut Process, rig: &Rig) -> Result<()> {
    for service in 0..HOSTS {
        let host = format!("{}.example.com", objects::service_name(service));
        await_routed(PORT.at(ip), &host, rules::ROUTED, gateway, rig)?;
    }
    Ok(())
}
