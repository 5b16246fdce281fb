//! A sidecar that uses a few services of a large mesh: its memory must not grow with the other services, nor with their routes and
//! policies.
//!
//! The control plane is the real one, with an API server. A sidecar receives what it subscribes to, and subscribes to what it
//! uses.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};

use super::{MIB, MemoryRecorder, MemorySize};
use crate::chain::{PortProtocol, await_routed, await_status};
use crate::control_plane::cluster::Cluster;
use crate::control_plane::controller::Controller;
use crate::control_plane::pods::{self, MeshPod};
use crate::control_plane::{objects, rules};
use crate::finding::Metric;
use crate::rig::Rig;
use crate::sidecar;

const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);
const USER: MeshPod = MeshPod { name: "user", ip: Ipv4Addr::new(10, 244, 11, 1) };
const USED: MeshPod = MeshPod { name: "used", ip: Ipv4Addr::new(10, 244, 12, 1) };
/// The first port of [`USER`] that leads to a service; the others follow.
const FIRST: u16 = 20_000;

/// Measures each size of mesh, the largest one also with rules.
pub fn measure(recorder: &mut MemoryRecorder, rig: &Rig, size: MemorySize) -> Result<()> {
    pods::find_controller(rig)?;
    let _server = sidecar::server(rig)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let cluster = runtime.block_on(Cluster::start(rig, "memory", API))?;
    let client = cluster.client();
    // In order: a pod needs its service account.
    for object in objects::base(0) {
        runtime.block_on(client.create(object))?;
    }
    for pod in [USER, USED] {
        runtime.block_on(pod.create(client))?;
    }
    let port = PortProtocol::Http1.server().port();
    let mut made = 0;
    let mut one = |services: usize, has_rules: bool| {
        let rules = if has_rules { ", each with a VirtualService and a DestinationRule" } else { "" };
        let load = format!("{} services used of {services}{rules}", size.used);
        let measured = MeasuredSidecar { rig, cluster: &cluster, services, has_rules, size };
        let (user, controller) = runtime.block_on(measured.resident()).with_context(|| load.clone())?;
        recorder.add(&load, "isthmus", Metric::cost("resident memory of the sidecar", "MiB"), user);
        recorder.add(&load, "isthmus", Metric::cost("resident memory of the controller", "MiB"), controller);
        anyhow::Ok(())
    };
    for &services in size.services {
        // Services that nothing uses have an address of their own.
        let of = |number: usize| pods::service(number, 80, port, (number < size.used).then_some(USED));
        runtime.block_on(client.create_all((made..services).flat_map(of)))?;
        made = services;
        one(services, false)?;
    }
    runtime.block_on(client.create_all((0..made).flat_map(rules::both)))?;
    one(made, true)
}

struct MeasuredSidecar<'a> {
    rig: &'a Rig,
    cluster: &'a Cluster,
    services: usize,
    has_rules: bool,
    size: MemorySize,
}

impl MeasuredSidecar<'_> {
    /// The resident memory of the sidecar and the controller, in MiB.
    async fn resident(&self) -> Result<(f64, f64)> {
        let Self { rig, cluster, services, has_rules, size } = *self;
        let client = cluster.client();
        let log = format!("controller-of-{services}{}", if has_rules { "-with-rules" } else { "" });
        let state = rig.directory().join(format!("state-of-{log}"));
        let controller = Controller::start(rig, &cluster.kubeconfig, &state, &log)?;
        let root = pods::root_certificate(rig, client).await?;

        let server = PortProtocol::Http1.server();
        let ingress = USED.way(server.port(), &server.to_string());
        let _used = USED.sidecar(rig, client, &root, &["--ingress", &ingress]).await?;
        let mut egress = Vec::new();
        for service in 0..size.used {
            egress.push(USER.way(port_of(service), &format!("{}:80", pods::service_ip(client, service).await?)));
        }
        let mut user = USER.sidecar(rig, client, &root, &["--egress", &egress.join(",")]).await?;
        for service in 0..size.used {
            let entry = SocketAddr::new(USER.ip.into(), port_of(service));
            if has_rules {
                await_routed(entry, &objects::service_name(service), rules::ROUTED, &mut user, rig)?;
            } else {
                await_status(entry, "/bytes/1024", 200, &mut user, rig)?;
            }
        }
        tokio::time::sleep(size.rest).await;
        user.ensure_running(&rig.log(&user.name))?;
        Ok((user.resident()? as f64 / MIB, controller.resident()?.0 as f64 / MIB))
    }
}

/// The port of the user's listener for a service.
fn port_of(service: usize) -> u16 {
    FIRST + u16::try_from(service).expect("a handful of services are used")
}
