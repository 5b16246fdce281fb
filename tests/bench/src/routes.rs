//! Requests through two sidecars with the routes and policies of ten services, which users write as VirtualServices and
//! DestinationRules. Our pair, with our controller, is compared with a pair of Envoys that istiod configures.
//!
//! Each pair has a cluster of its own with the same objects: [`rules`] has the routes, retries, time limits and outlier detection.
//! Requests go to one of the services, on its fourth route; before, one to each service shows that its routes are in force. The server's
//! AuthorizationPolicy allows them by the client's identity, method and path; before, a request for another path shows that it is in force.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};

use crate::chain::{Chain, LOCAL_SERVER, PortProtocol, address, answer, await_refused, await_routed};
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

/// The number of services.
const SERVICES: usize = 10;
/// The last of them.
const AUTHORITY: &str = "s9:9080";
const PORT: PortProtocol = PortProtocol::Http1;
const CLIENT: MeshPod = MeshPod { name: "user", ip: Ipv4Addr::new(10, 244, 13, 1) };
const SERVER: MeshPod = MeshPod { name: "used", ip: Ipv4Addr::new(10, 244, 14, 1) };

/// Options of `routes`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Length of each window in seconds [default: 1.4]
    #[arg(long)]
    seconds: Option<f64>,
}

/// Runs the scenario. Istio is left out if a part of it is not installed.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    pods::find_controller(rig)?;
    let _server = sidecar::server(rig)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (ours, _controller, _cluster) = runtime.block_on(ours(rig)).context("isthmus")?;
    let mut chains = vec![ours, Chain::none()];
    let missing = [setup::istiod(), setup::peer("envoy")].into_iter().find_map(Result::err);
    let _istio = match missing {
        Some(missing) => {
            eprintln!("routes: istio is left out: {missing:#}");
            None
        }
        None => {
            let mesh = Mesh::start(rig.directory())?;
            let (chain, istiod, cluster) = runtime.block_on(theirs(&mesh, rig)).context("istio")?;
            chains.insert(1, chain);
            Some((istiod, cluster))
        }
    };
    let (recorder, seconds) = (Recorder::new("routes"), options.seconds);
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

/// A cluster with the services and their rules. All services are the same pod.
async fn cluster(rig: &Rig, name: &str, port: u16, server: MeshPod) -> Result<Cluster> {
    let cluster = Cluster::start(rig, name, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await?;
    let client = cluster.client();
    for object in objects::base(0) {
        client.create(object).await?;
    }
    let of = |service| {
        pods::service(service, PORT.port(), PORT.port(), Some(server)).into_iter().chain(rules::both(service))
    };
    client.create_all((0..SERVICES).flat_map(of)).await?;
    client.create(rules::allow(server.name, CLIENT.name)).await?;
    Ok(cluster)
}

async fn ours(rig: &Rig) -> Result<(Chain, Controller, Cluster)> {
    let cluster = cluster(rig, "routes-isthmus", 6443, SERVER).await?;
    let client = cluster.client();
    for pod in [CLIENT, SERVER] {
        pod.create(client).await?;
    }
    let state = rig.directory().join("state-of-routes");
    let controller = Controller::start(rig, &cluster.kubeconfig, &state, "controller-of-routes")?;
    let root = pods::root_certificate(rig, client).await?;
    let ingress = SERVER.way(PORT.port(), &LOCAL_SERVER.to_string());
    let inbound = SERVER.sidecar(rig, client, &root, &["--ingress", &ingress]).await?;
    // The host of a request decides, as behind the listener of Istio's sidecar.
    let first = pods::service_ip(client, 0).await?;
    let egress = CLIENT.way(PORT.port(), &format!("{first}:{}", PORT.port()));
    let mut outbound = CLIENT.sidecar(rig, client, &root, &["--egress", &egress]).await?;
    for service in 0..SERVICES {
        let host = format!("{}:{}", objects::service_name(service), PORT.port());
        await_routed(PORT.at(CLIENT.ip), &host, rules::ROUTED, &mut outbound, rig)?;
    }
    await_refused(PORT.at(CLIENT.ip), AUTHORITY, rules::REFUSED, &mut outbound, rig)?;
    let metrics = answer(address(SERVER.ip, 15090), "metrics", "/stats/prometheus")?;
    ensure!(metrics.contains("connection_security_policy=\"mutual_tls\""), "requests are not sent by mutual TLS");
    Ok((Chain { name: "isthmus", ip: CLIENT.ip, processes: vec![outbound, inbound] }, controller, cluster))
}

async fn theirs(mesh: &Mesh, rig: &Rig) -> Result<(Chain, Process, Cluster)> {
    let cluster = cluster(rig, "routes-istio", 6444, istio::SERVER).await?;
    let (chain, istiod) = istio::start(mesh, rig, &cluster, SERVICES).await?;
    Ok((chain, istiod, cluster))
}
